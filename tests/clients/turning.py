# Asks the same again and again, and says each answer that is not the one before, until it is masked and stays so.
import os, sys, time
import psycopg2

host, port, user, database, ready, turned = sys.argv[1:7]
c = psycopg2.connect(host=host, port=port, user=user, dbname=database)
c.autocommit = True
q = c.cursor()
last, masked = None, 0
for _ in range(3000):
    q.execute("select who from turning where id = 1")
    who = q.fetchone()[0]
    if who != last:
        print(who)
        last = who
    open(ready, "w").close()
    masked = masked + 1 if who == "***" else 0
    if masked == 20:
        break
    time.sleep(0.01)
