import sys
import psycopg

host, port, user, database = sys.argv[1:5]
with psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True) as c:
    with c.cursor(binary=True) as rows:
        rows.execute("select id, name, email, card, born from customers where id <= %s order by id", [2])
        for row in rows:
            print(*row)
