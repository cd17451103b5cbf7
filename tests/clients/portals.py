# asyncpg's cursors bind a portal and fetch it in pieces: Execute with a row limit, PortalSuspended, Execute again.
import asyncio, sys
import asyncpg

host, port, user, database = sys.argv[1:5]


async def main():
    c = await asyncpg.connect(host=host, port=int(port), user=user, database=database)
    said = []
    async with c.transaction():
        cursor = await c.cursor("select email from customers order by id")
        while rows := await cursor.fetch(2):
            said += [len(rows), *{row["email"] for row in rows}]
    print(*said)
    await c.close()


asyncio.run(main())
