# What Django's own commands do with a database: what `inspectdb` makes of its tables; with `migrate` as well, the tables of
# two of its applications, made and looked at.
import io, sys

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection

host, port, user, database, *what = sys.argv[1:]
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "HOST": host, "PORT": port, "USER": user, "NAME": database}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()
out = io.StringIO()
if "migrate" in what:
    call_command("migrate", verbosity=0)
    call_command("showmigrations", stdout=out, no_color=True)
    call_command("inspectdb", "auth_user", "django_migrations", stdout=out)
else:
    call_command("inspectdb", include_views=True, include_partitions=True, stdout=out)
    with connection.cursor() as cursor:
        print(connection.introspection.get_sequences(cursor, "users"))
print(out.getvalue())
print("done")
