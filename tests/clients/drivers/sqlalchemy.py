from sqlalchemy import MetaData, create_engine, func, select, text
from sqlalchemy.exc import ProgrammingError

engine = create_engine(f"postgresql+psycopg2://{user}@{host}:{port}/{database}")
meta = MetaData()
# Reads the catalogue: columns, keys, indexes, constraints, comments.
meta.reflect(engine, only=["customers", "orders", "scratch"])
customers, orders, scratch = (meta.tables[name] for name in ("customers", "orders", "scratch"))
assert [fk.column.table.name for fk in orders.foreign_keys] == ["customers"]
with engine.connect() as c:
    said = [c.execute(select(func.count()).where(customers.c.id > 0)).scalar()]
    t = customers.c
    query = select(t.id, t.name, t.email, t.card, t.born).where(t.id == 1)
    said.append({row(c.execute(query).one()) for _ in range(12)}.pop())
    t = orders.c
    said.append(order(c.execute(select(t.id, t.customer_id, t.cents, t.placed, t.item).where(t.id == 5)).one()))
    try:
        c.execute(text("truncate customers"))
    except ProgrammingError as error:
        said.append(error.orig.pgcode)
    c.rollback() if hasattr(c, "rollback") else c.execute(text("rollback"))
    said.append(c.execute(select(func.count()).select_from(orders)).scalar())
    said.append("-")
    with c.begin_nested() if c.in_transaction() else c.begin() as inner:
        c.execute(scratch.insert(), [{"word": "driver-sqlalchemy"}] * 1000)
        said.append(c.execute(select(func.count()).where(scratch.c.word == "driver-sqlalchemy")).scalar())
        inner.rollback()
say(*said)
