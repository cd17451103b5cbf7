import io
import psycopg2

c = psycopg2.connect(host=host, port=port, user=user, dbname=database)
q = c.cursor()


def one(sql, *values):
    q.execute(sql, values)
    return q.fetchone()


said = [one("select count(*) from customers where id > %s", 0)[0]]
said.append({row(one(ROW + "%s", 1)) for _ in range(12)}.pop())
said.append(order(one(ORDER + "%s", 5)))
try:
    one("truncate customers")
except psycopg2.Error as error:
    said.append(error.pgcode)
c.rollback()
said.append(one("select count(*) from orders")[0])
out = io.StringIO()
q.copy_expert(COPY_OUT, out)
said.append(row(out.getvalue().split()))
q.copy_expert("copy scratch (word) from stdin", io.StringIO("driver-psycopg2\n" * 1000))
said.append(one("select count(*) from scratch where word = %s", "driver-psycopg2")[0])
c.rollback()
say(*said)
