# Names that SQL and the protocol share, in raw messages. Each line printed is one step: tags, first cells, SQLSTATE.
import socket, struct, sys

host, port, user, database, scenario = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]


def message(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


def q(sql):
    return message(b"Q", sql.encode() + b"\0")


def p(name, sql):
    return message(b"P", name.encode() + b"\0" + sql.encode() + b"\0\0\0")


def b(portal, statement, binary=False):
    formats = struct.pack("!hh", 1, 1) if binary else struct.pack("!h", 0)
    return message(b"B", portal.encode() + b"\0" + statement.encode() + b"\0\0\0\0\0" + formats)


def d(kind, name):
    return message(b"D", (kind + name).encode() + b"\0")


def e(portal, rows=0):
    return message(b"E", portal.encode() + b"\0" + struct.pack("!i", rows))


def c(kind, name):
    return message(b"C", (kind + name).encode() + b"\0")


S = message(b"S")


class Session:
    def __init__(self):
        body = struct.pack("!i", 196608)
        for key, value in {"user": user, "database": database}.items():
            body += key.encode() + b"\0" + value.encode() + b"\0"
        self.socket = socket.create_connection((host, port), timeout=10)
        self.socket.sendall(struct.pack("!i", len(body) + 5) + body + b"\0")
        self.data = b""
        self.read(1)

    def read(self, readies):
        said = []
        while readies:
            while len(self.data) < 5 or len(self.data) < 1 + struct.unpack("!i", self.data[1:5])[0]:
                more = self.socket.recv(65536)
                if not more:
                    return said + ["closed"]
                self.data += more
            end = 1 + struct.unpack("!i", self.data[1:5])[0]
            kind, body, self.data = self.data[:1], self.data[5:end], self.data[end:]
            if kind == b"D":
                said.append(self.cells(body))
            elif kind == b"E":
                said.append(next(f[1:].decode() for f in body.split(b"\0") if f[:1] == b"C"))
            elif kind in b"CIs":
                said.append(body[:-1].decode() if kind == b"C" else kind.decode())
            readies -= kind == b"Z"
        return said

    def cells(self, body):
        cells, at = [], 2
        for _ in range(struct.unpack("!h", body[:2])[0]):
            length = struct.unpack("!i", body[at : at + 4])[0]
            cells.append("null" if length < 0 else body[at + 4 : at + 4 + length].decode(errors="replace"))
            at += 4 + max(length, 0)
        return ",".join(cells)

    def step(self, *messages):
        data = b"".join(messages)
        self.socket.sendall(data)
        print(" | ".join(self.read(sum(m[:1] in b"QS" for m in messages))))


s = Session()
ID = "select id::text from customers where id = 1"
MAIL = "select email from customers where id = 1"
if scenario == "prepare":
    s.step(q(f"prepare p as {MAIL}"))
    s.step(q("execute p"))
    s.step(p("", "execute p"), b("", ""), e(""), S)  # no Describe
    s.step(p("", "execute p"), d("S", ""), b("", "", True), d("P", ""), e(""), S)
    s.step(b("", "p"), e(""), S)  # the protocol binds what SQL prepared
    s.step(p("x", MAIL), S)
    s.step(q("execute x"))  # and the other way round
    s.step(q(f"prepare p as {ID}"))  # refused by the server: p stays what it is
    s.step(q("execute p"))
    s.step(p("p", ID), S)  # so is this
    s.step(q("execute p"))
    s.step(q(f"deallocate p; prepare p as {ID}; execute p; deallocate p; prepare p as {MAIL}; execute p"))
    s.step(q("execute p"))
    s.step(q(f"deallocate p; prepare p as {ID}; select 1/0; prepare z as {MAIL}"))
    s.step(q("execute p"))
    s.step(q("execute z"))
    s.step(q("deallocate all"))
    s.step(q("execute p"))
    s.step(q("execute x"))
    # Sent in one go: each has to wait for what its name comes to.
    s.step(q(f"prepare p as {ID}"), q("execute p"), q("deallocate p"), q(f"prepare p as {MAIL}"), q("execute p"))
    s.step(c("S", "p"), p("p", ID), b("", "p"), e(""), p("", "execute p"), b("", ""), e(""), S)
elif scenario == "cursor":
    ALL = "select email, id from customers order by id"
    s.step(q("begin"))
    s.step(q(f"declare c cursor for {ALL}"))
    s.step(q("fetch 2 from c"))
    s.step(q("move 1 in c"))
    s.step(p("f", "fetch 1 from c"), d("S", "f"), b("", "f"), e(""), S)
    s.step(q("close c"), q("declare c cursor for select id, email from customers order by id"))
    s.step(b("", "f"), e(""), S)  # the statement is the same, what its name stands for is not
    s.step(b("", "f"), e(""), p("", "close c"), b("x", ""), e("x"), p("", f"declare c cursor for {ALL}"), b("y", ""),
           e("y"), b("", "f"), e(""), S)  # all in one group
    s.step(q("commit"))
    s.step(q("fetch 1 from c"))
    s.step(q(f"declare h cursor with hold for {ALL}"), q("fetch 1 from h"))
    s.step(q("begin"), q("rollback"), q("fetch backward 1 from h"), q("fetch 2 from h"), q("close h"), q("fetch h"))
    s.step(q(f"begin; declare b binary cursor for {ALL}; fetch 1 from b; rollback"))
    s.step(q("begin"))
    s.step(p("m", MAIL), b("portal", "m"), S)
    s.step(q("fetch all from portal"))  # a portal of the protocol is a cursor, too
    s.step(q(f"declare d cursor for {ALL}"), e("d", 1), S)
    s.step(q("update orders set item = item where current of d"))
    s.step(q("rollback"))
elif scenario == "unknown":
    s.step(q("execute nothing"))
    s.step(q("begin"), q("fetch 1 from nothing"))
    s.step(q("rollback"), q("deallocate nothing"), q("close nothing"))
    s.step(q("prepare w as insert into customers (id) values ($1)"))
    s.step(q("execute w(7)"))
    s.step(q("prepare m as select id from customers where email = $1"))
    s.step(p("k", "copy customers to stdout"), S)
    s.step(q("execute k"))
elif scenario == "half-close":
    s.socket.sendall(q("select email from customers where id = 1") + q("select count(*), 'slow'::text from generate_series(1, 3000000)"))
    s.socket.shutdown(socket.SHUT_WR)
    print(" | ".join(s.read(3)))
    s = Session()
    s.socket.sendall(q("insert into scratch (word) values ('half')") + q("copy scratch (word) from stdin"))
    s.socket.sendall(message(b"d", b"half\n"))
    s.socket.shutdown(socket.SHUT_WR)
    print(" | ".join(s.read(3)))
    s = Session()
    s.socket.sendall(p("", "insert into scratch (word) values ('half')") + b("", "") + e(""))
    s.socket.shutdown(socket.SHUT_WR)
    print(" | ".join(s.read(1)))
elif scenario == "no-sync":
    # Group two waits for group one; the server keeps its answers to group two until it is told to flush.
    s.step(p("a", MAIL), S, p("", ID), b("", ""), e(""), b("", "a"), e(""), S)
