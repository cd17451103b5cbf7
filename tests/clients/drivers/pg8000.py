import io
import pg8000

c = pg8000.connect(host=host, port=int(port), user=user, database=database)
q = c.cursor()


def one(sql, *values):
    q.execute(sql, values)
    return q.fetchone()


said = [one("select count(*) from customers where id > %s", 0)[0]]
said.append({row(one(ROW + "%s", 1)) for _ in range(12)}.pop())
said.append(order(one(ORDER + "%s", 5)))
try:
    one("truncate customers")
except pg8000.ProgrammingError as error:
    said.append(error.args[0]["C"] if isinstance(error.args[0], dict) else error.args[2])
c.rollback()
said.append(one("select count(*) from orders")[0])
out = io.BytesIO()
q.execute(COPY_OUT, stream=out)
said.append(row(out.getvalue().decode().split()))
q.execute("copy scratch (word) from stdin", stream=io.BytesIO(b"driver-pg8000\n" * 1000))
said.append(one("select count(*) from scratch where word = %s", "driver-pg8000")[0])
c.rollback()
say(*said)
