# What every driver's program does and says, one word after the other; each driver's file gives the steps.
import datetime, decimal, sys

host, port, user, database = sys.argv[1:5]
ROW = "select id, name, email, card, born from customers where id = "
ORDER = "select id, customer_id, cents, placed, item from orders where id = "
COPY_OUT = "copy (select id, email from customers where id < 3 order by id) to stdout"
ALL = "select id, email, name from customers order by id"


def row(values):
    return " ".join("null" if value is None else str(value) for value in values)


def order(values):
    # The types a driver makes of int4, int8, timestamptz and text.
    id, customer, cents, placed, item = values
    assert isinstance(placed, datetime.datetime) and placed.tzinfo, placed
    assert all(isinstance(n, (int, decimal.Decimal)) for n in (id, customer, cents)), values
    return f"{id} {customer} {cents} {item}"


def say(*words):
    print(" | ".join(str(word) for word in words))
