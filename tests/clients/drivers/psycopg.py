import psycopg

said = []
with psycopg.connect(host=host, port=port, user=user, dbname=database) as c:
    for binary in (False, True):
        q = c.cursor(binary=binary)

        def one(sql, *values):
            return q.execute(sql, values).fetchone()

        said = [one("select count(*) from customers where id > %s", 0)[0]]
        said.append({row(one(ROW + "%s", 1)) for _ in range(12)}.pop())
        said.append(order(one(ORDER + "%s", 5)))
        try:
            one("truncate customers")
        except psycopg.Error as error:
            said.append(error.sqlstate)
        c.rollback()
        said.append(one("select count(*) from orders")[0])
        with q.copy(COPY_OUT) as copy:
            said.append(row(b"".join(copy).decode().split()))
        with q.copy("copy scratch (word) from stdin") as copy:
            for _ in range(1000):
                copy.write_row(["driver-psycopg"])
        said.append(one("select count(*) from scratch where word = %s", "driver-psycopg")[0])
        c.rollback()
    # Pipeline mode: everything is sent before anything is read; the denied one takes its group with it.
    with c.pipeline():
        first = c.execute("select count(*) from orders")
        masked = c.execute("select email from customers where id = 1")
        assert (first.fetchone(), masked.fetchone()) == ((40,), ("***",))
    c.rollback()
say(*said)
