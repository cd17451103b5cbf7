# The same rows in five ways; each must decode by the types of its columns.
import sys
import psycopg

host, port, user, database = sys.argv[1:5]
sql = "select mail, card, pan, said, tags, note from notes order by id"
with psycopg.connect(host=host, port=port, user=user, dbname=database) as c:
    for binary in (False, True):
        for prepare in (False, True):
            for row in c.execute(sql, prepare=prepare, binary=binary):
                print(row)
    with c.cursor("named") as q:
        q.itersize = 1
        for row in q.execute(sql):
            print(row)
