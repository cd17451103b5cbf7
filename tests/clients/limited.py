import sys
import psycopg

host, port, user, database = sys.argv[1:5]
said = []
MANY = "select id from orders where id > %s"


def code(run):
    try:
        run()
    except psycopg.Error as error:
        return error.sqlstate
    return "served"


with psycopg.connect(host=host, port=port, user=user, dbname=database) as c:
    said.append(code(lambda: c.execute(MANY, [0])))
    c.rollback()
    said.append(code(lambda: c.cursor(binary=True).execute(MANY, [0], prepare=True)))
    said.append(code(lambda: c.execute("select 1")))
    c.rollback()
    said.append(c.execute("select 1").fetchone()[0])

    def pipelined():
        with c.pipeline():
            c.execute("select 1")
            many = c.execute(MANY, [0])
            many.fetchall()

    try:
        said.append(code(pipelined))
    except Exception as error:
        said.append(type(error).__name__)
    c.rollback()
    said.append(len(c.execute("select id from orders where id <= %s", [10]).fetchall()))
    said.append(c.execute("select 1").fetchone()[0])
print(*said)
