"""Statements on masked tables while another session changes the schema under them.

Prints a line for each: its name, then the error's code, `ended`, or the values that came back.
"""
import socket, struct, sys, time

host, port, user, database = sys.argv[1:5]
ROW = "UPDATE log SET n = n WHERE m = 'name1'"
OUTER = "SELECT (SELECT token FROM other LIMIT 1) FROM users LIMIT 1"
AWAY, BACK = "ALTER TABLE other RENAME COLUMN token TO gone", "ALTER TABLE other RENAME COLUMN gone TO token"


def message(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body


def query(sql):
    return message(b"Q", sql.encode() + b"\0")


def extended(sql):
    parse = message(b"P", b"\0" + sql.encode() + b"\0\0\0")
    return parse + message(b"B", b"\0\0\0\0\0\0\0\0") + message(b"E", b"\0\0\0\0\0")


class Session:
    def __init__(self):
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        body = struct.pack("!i", 196608) + f"user\0{user}\0database\0{database}\0\0".encode()
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        self.file = self.socket.makefile("rb")
        self.answers(1)
        self.run("SET statement_timeout = 0")

    def send(self, *messages):
        self.socket.sendall(b"".join(messages))

    def answers(self, count):
        """What each of so many exchanges came to."""
        said, all_said = [], []
        while len(all_said) < count:
            head = self.file.read(5)
            if len(head) < 5:
                return all_said + ["ended"]
            body = self.file.read(struct.unpack("!i", head[1:])[0] - 4)
            if head[:1] == b"E":
                fields = dict((part[:1], part[1:].decode()) for part in body.split(b"\0") if part)
                said.append(fields[b"C"])
            elif head[:1] == b"D":
                length = struct.unpack("!i", body[2:6])[0]
                said.append("NULL" if length < 0 else body[6 : 6 + length].decode())
            elif head[:1] == b"Z":
                all_said.append(" ".join(said) or "done")
                said = []
        return all_said

    def run(self, *texts):
        for sql in texts:
            self.send(query(sql))
            last = self.answers(1)[-1]
        return last


one = Session()
print("before:", one.run(OUTER))

# The change waits for nothing; the other session would wait for its lock, and see what was committed.
other = Session()
one.run("BEGIN", AWAY)
print("while it changes:", other.run(OUTER))
print("beside it:", other.run("SELECT id FROM users ORDER BY id LIMIT 1"))
one.run("COMMIT", BACK)
print("after it:", other.run(OUTER))

# Decided on before the change, and looked at by the server after it: in front of it waits a write for a row's lock.
for name, behind in (("behind a wait", query(ROW) + query(OUTER)), ("in a group", None)):
    other.run("BEGIN", ROW)
    late = Session()
    late.send(behind or extended(ROW) + extended(OUTER) + message(b"S", b""))
    deadline = time.monotonic() + 60
    while one.run("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0" and time.monotonic() < deadline:
        time.sleep(0.02)
    one.run(AWAY)
    other.run("COMMIT")
    print(f"{name}:", late.answers(2 if behind else 1)[-1])
    one.run(BACK)

# What is changed goes by another name than what is read, or by none that the statement says.
for name, read, made, changed in (
    ("schemas that change places", "s1.t", ("CREATE SCHEMA s1", "CREATE SCHEMA s2",
     "CREATE TABLE s1.t AS SELECT 'plain'::text AS token", "CREATE TABLE s2.t AS SELECT 1 AS x"),
     ("ALTER SCHEMA s1 RENAME TO s3", "ALTER SCHEMA s2 RENAME TO s1")),
    ("a schema dropped and made", "s4.t", ("CREATE SCHEMA s4", "CREATE TABLE s4.t AS SELECT 'plain'::text AS token"),
     ("DROP SCHEMA s4 CASCADE", "CREATE SCHEMA s4", "CREATE TABLE s4.t AS SELECT 1 AS x")),
    ("what CASCADE took along", "above", ("CREATE TABLE below AS SELECT 'plain'::text AS token",
     "CREATE VIEW above AS SELECT token FROM below"), ("DROP TABLE below CASCADE", "CREATE VIEW above AS SELECT 1 AS x")),
    ("a column of a parent", "heir", ("CREATE TABLE elder (token text)", "CREATE TABLE heir () INHERITS (elder)",
     "INSERT INTO heir VALUES ('plain')"), ("ALTER TABLE elder RENAME COLUMN token TO gone",)),
    ("a table in front", "front", ("CREATE TABLE public.front AS SELECT 'plain'::text AS token",),
     ("CREATE TABLE app.front AS SELECT 1 AS x",)),
):
    outer = OUTER.replace("FROM other", f"FROM {read}")
    for sql in made:
        one.run(sql)
    before = one.run(outer)
    other.run("BEGIN", ROW)
    late = Session()
    late.send(query(ROW) + query(outer))
    deadline = time.monotonic() + 60
    while one.run("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0" and time.monotonic() < deadline:
        time.sleep(0.02)
    for sql in changed:
        one.run(sql)
    other.run("COMMIT")
    print(f"{name}: {before},", late.answers(2)[-1])
