import datetime, sys
import psycopg

host, port, user, database, sql = sys.argv[1:6]
with psycopg.connect(host=host, port=port, user=user, dbname=database) as c:
    for binary in (False, True):
        q = c.cursor(binary=binary)
        name, born, cents, placed = q.execute(sql).fetchone()
        assert isinstance(born, datetime.date) and isinstance(cents, int), (born, cents)
        print(name, born, cents, placed.astimezone(datetime.timezone.utc).date())
    # Prepared, with the formats asked for at each execution.
    q = c.cursor(binary=True)
    for _ in range(8):
        row = q.execute(sql, prepare=True).fetchone()
    print(row[0], row[1], row[2], row[3].astimezone(datetime.timezone.utc).date())
