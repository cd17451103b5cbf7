import django
from django.conf import settings

backend = {"ENGINE": "django.db.backends.postgresql", "HOST": host, "PORT": port, "USER": user, "NAME": database}
settings.configure(DATABASES={"default": backend}, USE_TZ=True)
django.setup()
from django.db import DatabaseError, connection, models, transaction


class Customer(models.Model):
    name, email, country = models.TextField(), models.TextField(), models.CharField(max_length=2)
    card, born = models.CharField(max_length=19), models.DateField()

    class Meta:
        app_label, managed, db_table = "shop", False, "customers"


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.PROTECT)
    item, cents, placed = models.TextField(), models.BigIntegerField(), models.DateTimeField()

    class Meta:
        app_label, managed, db_table = "shop", False, "orders"


class Scratch(models.Model):
    word, at = models.TextField(), models.DateTimeField(null=True)

    class Meta:
        app_label, managed, db_table = "shop", False, "scratch"


said = [Customer.objects.filter(id__gt=0).count()]
one = lambda: Customer.objects.get(id=1)
said.append({row((a.id, a.name, a.email, a.card, a.born)) for a in (one() for _ in range(12))}.pop())
a = Order.objects.select_related("customer").get(id=5)
assert a.customer.email == "***"
said.append(order((a.id, a.customer_id, a.cents, a.placed, a.item)))
try:
    with transaction.atomic():
        connection.cursor().execute("truncate customers")
except DatabaseError as error:
    said.append(error.__cause__.pgcode)
said.append(Order.objects.count())
said.append("-")
with transaction.atomic():
    # INSERT ... RETURNING, savepoints, a rollback.
    Scratch.objects.bulk_create([Scratch(word="driver-django") for _ in range(1000)])
    said.append(Scratch.objects.filter(word="driver-django").count())
    transaction.set_rollback(True)
assert "customers" in connection.introspection.table_names()
say(*said)
