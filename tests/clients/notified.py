import select, sys, time
import psycopg2

host, port, user, database = sys.argv[1:5]
where = dict(host=host, port=port, user=user, dbname=database)
a, b = psycopg2.connect(**where), psycopg2.connect(**where)
a.autocommit = b.autocommit = True
a.cursor().execute("listen news")
time.sleep(0.3)
b.cursor().execute("select pg_notify('news', 'hello')")
assert select.select([a], [], [], 1) != ([], [], []), "nothing within a second"
a.poll()
for note in a.notifies:
    print(note.channel, note.payload)
