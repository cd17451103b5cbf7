# The same small program on both generations of the driver: read, read masked, be denied, roll back, go on.
import importlib, sys

host, port, user, database, name = sys.argv[1:6]
driver = importlib.import_module(name)
c = driver.connect(host=host, port=port, user=user, dbname=database)
cursor = c.cursor()
said = []
cursor.execute("select count(*) from customers where id > %s", (0,))
said.append(cursor.fetchone()[0])
cursor.execute("select name, email from customers where id = %s", (1,))
said += cursor.fetchone()
try:
    cursor.execute("truncate customers")
except driver.Error as error:
    said.append(getattr(error, "pgcode", None) or error.sqlstate)
c.rollback()
said.append("rolled back")
cursor.execute("select count(*) from customers")
said.append(cursor.fetchone()[0])
c.commit()
c.close()
print(*said)
