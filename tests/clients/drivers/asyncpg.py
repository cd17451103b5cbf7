import asyncio, io
import asyncpg


async def main():
    c = await asyncpg.connect(host=host, port=int(port), user=user, database=database)
    said = [await c.fetchval("select count(*) from customers where id > $1", 0)]
    prepared = await c.prepare(ROW + "$1")
    said.append({row(await prepared.fetchrow(1)) for _ in range(12)}.pop())
    said.append(order(await c.fetchrow(ORDER + "$1", 5)))
    try:
        async with c.transaction():
            await c.execute("truncate customers")
    except asyncpg.PostgresError as error:
        said.append(error.sqlstate)
    said.append(await c.fetchval("select count(*) from orders"))
    out = io.BytesIO()
    await c.copy_from_query("select id, email from customers where id < 3 order by id", output=out)
    said.append(row(out.getvalue().decode().split()))
    transaction = c.transaction()
    await transaction.start()
    # Binary COPY, with types looked up in the catalogue first.
    await c.copy_records_to_table("scratch", records=[("driver-asyncpg",)] * 1000, columns=["word"])
    said.append(await c.fetchval("select count(*) from scratch where word = $1", "driver-asyncpg"))
    await transaction.rollback()
    await c.close()
    say(*said)


asyncio.run(main())
