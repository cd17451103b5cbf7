# Named cursors, as drivers and ORMs use them for results that do not fit into memory.
import sys
import django, psycopg, psycopg2, sqlalchemy
from django.conf import settings

host, port, user, database = sys.argv[1:5]
where = {"host": host, "port": port, "user": user, "dbname": database}
sql, said = "select id, email from customers order by id", []


def seen(rows):
    said.extend([len(rows), *{email for _, email in rows}])


for driver in (psycopg2, psycopg):
    with driver.connect(**where) as c, c.cursor("named") as rows:
        rows.itersize = 2
        rows.execute(sql)
        seen(list(rows))
engine = sqlalchemy.create_engine(f"postgresql+psycopg2://{user}@{host}:{port}/{database}")
with engine.connect().execution_options(stream_results=True) as c:
    seen(list(c.execute(sqlalchemy.text(sql))))
backend = {"ENGINE": "django.db.backends.postgresql", "HOST": host, "PORT": port, "USER": user, "NAME": database}
settings.configure(DATABASES={"default": backend})
django.setup()
from django.db import models


class Customer(models.Model):
    email = models.TextField()

    class Meta:
        app_label, managed, db_table = "shop", False, "customers"


seen([(c.id, c.email) for c in Customer.objects.order_by("id").iterator(chunk_size=2)])
print(*said)
