# The same questions by one driver in one way: what it makes of the answers, a line each.
import asyncio, sys

host, port, user, database, driver, way = sys.argv[1:7]
ZOO = (
    "select 1::int2, -2::int4, 3::int8, 1.5::float4, -2.25::float8, 12345.678::numeric, true, 'text'::text, 'v'::varchar, "
    "'c'::char(3), '\\x00ff'::bytea, date '2024-02-29', time '12:34:56.789', timestamptz '2024-02-29 12:00:00+00', "
    "interval '1 day 2 hours', 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '{\"a\": [1, null]}'::jsonb, "
    "array[1, null, 3], array['a', 'b,c'], null::text, ''"
)
QUESTIONS = [
    ZOO,
    "select id, customer_id, item, cents, placed from orders order by id",
    "select id, name, email, card, country, born, notes from customers order by id",
]


def show(rows):
    for row in rows:
        print(*(value.hex() if isinstance(value, (bytes, memoryview)) else repr(value) for value in row), sep="\t")


def psycopg():
    import psycopg

    with psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True) as c:
        for sql in QUESTIONS:
            for prepare in (False, True):
                show(c.execute(sql, prepare=prepare, binary=way == "binary").fetchall())


def psycopg2():
    import psycopg2

    c = psycopg2.connect(host=host, port=port, user=user, dbname=database)
    q = c.cursor()
    for sql in QUESTIONS:
        q.execute(sql)
        show(q.fetchall())


async def asyncpg():
    import asyncpg

    # Without a cache every statement is unnamed and new.
    cache = 100 if way == "named" else 0
    c = await asyncpg.connect(
        host=host, port=int(port), user=user, database=database, statement_cache_size=cache, ssl=False
    )
    for sql in QUESTIONS:
        for _ in range(2):
            show(await c.fetch(sql))
    await c.close()


asyncio.run(asyncpg()) if driver == "asyncpg" else globals()[driver]()
