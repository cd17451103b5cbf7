# Transaction status as libpq sees it, around denials.
import sys
import psycopg
from psycopg.pq import TransactionStatus as T

host, port, user, database = sys.argv[1:5]
with psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True) as c:
    status = lambda: c.pgconn.transaction_status
    try:
        c.execute("drop table orders")
    except psycopg.Error:
        print(f"after denial: INERROR={status() == T.INERROR} IDLE={status() == T.IDLE}")
    c.execute("begin")
    try:
        c.execute("drop table orders")
    except psycopg.Error:
        print(f"inside: INERROR={status() == T.INERROR}")
    try:
        c.execute("select 1")
    except psycopg.Error as error:
        print(error.sqlstate)
    c.execute("rollback")
    print(f"after rollback: IDLE={status() == T.IDLE}")
