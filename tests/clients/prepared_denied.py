# A denied statement through Parse, twice, with good statements between, on one connection.
import sys
import psycopg

host, port, user, database = sys.argv[1:5]
with psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True, prepare_threshold=0) as c:
    for _ in range(2):
        try:
            c.execute("delete from customers where id = %s", [1])
        except psycopg.Error as error:
            print(error.sqlstate)
        print(c.execute("select count(*) from customers where id > %s", [0]).fetchone()[0])
