# INSERT, a denied statement, INSERT, then one Sync: an implicit transaction that must vanish as a whole.
import sys
import psycopg

host, port, user, database = sys.argv[1:5]
with psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True) as c:
    try:
        with c.pipeline():
            c.execute("insert into scratch (word) values (%s)", ["pipe-1"])
            c.execute("drop table orders")
            c.execute("insert into scratch (word) values (%s)", ["pipe-2"])
    except psycopg.errors.InsufficientPrivilege as error:
        print(error.sqlstate)
    print("alive", c.execute("select 1").fetchone()[0])
