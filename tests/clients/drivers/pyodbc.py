# psqlODBC, the driver behind most office programs and many ETL tools.
import pyodbc

c = pyodbc.connect(
    f"Driver=/usr/lib/x86_64-linux-gnu/odbc/psqlodbcw.so;Server={host};Port={port};Uid={user};Database={database}"
)
q = c.cursor()


def one(sql, *values):
    return q.execute(sql, *values).fetchone()


said = [one("select count(*) from customers where id > ?", 0)[0]]
said.append({row(one(ROW + "?", 1)) for _ in range(12)}.pop())
a = one(ORDER + "?", 5)
said.append(f"{a[0]} {a[1]} {a[2]} {a[4]}")
try:
    one("truncate customers")
except pyodbc.Error as error:
    said.append(error.args[0])
c.rollback()
said.append(one("select count(*) from orders")[0])
said.append("-")
q.executemany("insert into scratch (word) values (?)", [("driver-pyodbc",)] * 1000)
said.append(one("select count(*) from scratch where word = ?", "driver-pyodbc")[0])
c.rollback()
assert {t.table_name for t in q.tables(tableType="TABLE")} >= {"customers", "orders"}
say(*said)
