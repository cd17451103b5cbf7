# py-postgresql: Python all through, with binary values, cursors, and COPY as iterators.
import postgresql, postgresql.exceptions

db = postgresql.open(host=host, port=int(port), user=user, database=database)
said = [db.query.first("select count(*) from customers where id > $1", 0)]
prepared = db.prepare(ROW + "$1")
said.append({row(prepared(1)[0]) for _ in range(12)}.pop())
said.append(order(db.prepare(ORDER + "$1").first(5)))
try:
    with db.xact():
        db.execute("truncate customers")
        raise AssertionError("it truncates")
except postgresql.exceptions.Error as error:
    said.append(error.code)
said.append(db.query.first("select count(*) from orders"))
said.append(row(b"".join(b"".join(rows) for rows in db.prepare(COPY_OUT).chunks()).decode().split()))
transaction = db.xact()
transaction.start()
db.prepare("copy scratch (word) from stdin").load_rows([b"driver-py-postgresql\n"] * 1000)
said.append(db.query.first("select count(*) from scratch where word = $1", "driver-py-postgresql"))
transaction.rollback()
with db.xact():
    cursor = db.prepare(ALL).declare()
    assert [values["email"] for values in cursor.read(2) + cursor.read()] == ["***"] * 5
db.close()
say(*said)
