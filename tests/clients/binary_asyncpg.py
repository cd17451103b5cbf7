import asyncio, sys
import asyncpg

host, port, user, database = sys.argv[1:5]


async def main():
    c = await asyncpg.connect(host=host, port=int(port), user=user, database=database)
    rows = await c.fetch("select id, name, email, card, born from customers where id <= $1 order by id", 2)
    for row in rows:
        print(*row.values())
    await c.close()


asyncio.run(main())
