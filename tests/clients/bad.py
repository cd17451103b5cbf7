# Speaks the protocol badly, one scenario per run. "ok" on the last line means the other side behaved:
# it answered, refused or hung up, and never hung.
import random, socket, struct, sys, time

host, port, user, database, scenario = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
rng = random.Random(20260101)


def connect():
    s = socket.create_connection((host, port), timeout=10)
    s.settimeout(20)
    return s


def send(s, data):
    # The other side may have hung up on us already, which is an answer.
    try:
        s.sendall(data)
    except OSError:
        pass


def no_more(s):
    # The other side may have hung up on us already.
    try:
        s.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def read_all(s, limit=1 << 22):
    # Until the other side hangs up. A time-out is a failure: it hung.
    data = b""
    while len(data) < limit:
        try:
            more = s.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            break
        if not more:
            break
        data += more
    return data


def startup(version=196608, **parameters):
    body = struct.pack("!i", version)
    for name, value in {"user": user, "database": database, **parameters}.items():
        body += name.encode() + b"\0" + value.encode() + b"\0"
    body += b"\0"
    return struct.pack("!i", len(body) + 4) + body


def message(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


def query(sql):
    return message(b"Q", sql.encode() + b"\0")


def read_until(s, kinds):
    # Reads messages until one of `kinds`; gives them all.
    data, found = b"", []
    while True:
        while len(data) >= 5:
            length = struct.unpack("!i", data[1:5])[0]
            if len(data) < 1 + length:
                break
            kind, body, data = data[:1], data[5 : 1 + length], data[1 + length :]
            found.append((kind, body))
            if kind in kinds:
                return found
        try:
            more = s.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return found
        if not more:
            return found
        data += more


def login(**parameters):
    s = connect()
    s.sendall(startup(**parameters))
    found = read_until(s, b"Z")
    assert found and found[-1][0] == b"Z", found
    return s


def sqlstate(found):
    for kind, body in found:
        if kind == b"E":
            return next(field[1:].decode() for field in body.split(b"\0") if field[:1] == b"C")


def alive(s):
    s.sendall(query("select 42"))
    found = read_until(s, b"Z")
    assert any(kind == b"D" and b"42" in body for kind, body in found), found


def random_startup():
    for n in range(300):
        s = connect()
        send(s, rng.randbytes(rng.randrange(1, 4000)))
        no_more(s)
        read_all(s)


def random_session():
    for n in range(100):
        s = login()
        send(s, rng.randbytes(rng.randrange(1, 4000)))
        no_more(s)
        read_all(s)
    # Random bodies in whole messages of every type there is and is not.
    for kind in range(256):
        s = login()
        send(s, message(bytes([kind]), rng.randbytes(rng.randrange(0, 200))) + message(b"S"))
        no_more(s)
        read_all(s)


def truncated_startup():
    whole = startup()
    for end in range(len(whole)):
        s = connect()
        send(s, whole[:end])
        no_more(s)
        assert b"Z" != read_all(s)[-6:-5]


def truncated_query():
    whole = query("insert into scratch (word) values ('truncated')")
    for end in range(1, len(whole)):
        s = login()
        send(s, whole[:end])
        no_more(s)
        read_all(s)
    s = login()
    s.sendall(query("select count(*) from scratch where word = 'truncated'"))
    found = read_until(s, b"Z")
    assert any(kind == b"D" and body.endswith(b"0") for kind, body in found), found


def oversized_startup():
    for length in [-1, 0, 1, 4, 7, 10_001, 1 << 20, 1 << 30, (1 << 31) - 1, -(1 << 31)]:
        s = connect()
        send(s, struct.pack("!ii", length, 196608) + b"user\0" + b"x" * 20_000)
        answer = read_all(s)
        assert b"R" != answer[:1], (length, answer)


def oversized_message():
    for kind in b"QPBEDCFdpXH":
        for length in [-1, 0, 3, (1 << 31) - 1, -(1 << 31)]:
            s = login()
            send(s, bytes([kind]) + struct.pack("!i", length) + b"x" * 5000)
            no_more(s)
            read_all(s)
    # A query that really is large: taken and answered, or refused; never kept without bound.
    s = login()
    started = time.time()
    send(s, message(b"Q", b"select '" + b"x" * (256 << 20) + b"'\0"))
    read_until(s, b"ZE")
    assert time.time() - started < 60


def misplaced():
    empty_bind = b"\0\0" + struct.pack("!hhh", 0, 0, 0)
    for data in [
        message(b"d", b"rows"),
        message(b"c"),
        message(b"f", b"no\0"),
        message(b"p", b"password\0"),
        message(b"E", b"nowhere\0" + struct.pack("!i", 0)),
        message(b"B", empty_bind),
        message(b"B", b"\0nosuch\0" + struct.pack("!hhh", 0, 0, 0)),
        message(b"D", b"Snosuch\0"),
        message(b"D", b"X\0"),
        message(b"C", b"Snosuch\0"),
        message(b"P", b"\0select 1\0" + struct.pack("!h", 32767)),
        message(b"P", b"\0select 1\0" + struct.pack("!h", -1)),
        message(b"P", b"no terminator"),
        message(b"Q", b"select 1"),
        message(b"Q", b""),
        message(b"Q", b"select 1\0select 2\0"),
        message(b"B", b"\0\0" + struct.pack("!hh", 0, 32767)),
        message(b"B", b"\0\0" + struct.pack("!hhi", 0, 1, 1 << 30)),
        message(b"S", b"more"),
        message(b"X", b"more"),
    ]:
        s = login()
        send(s, data + message(b"S"))
        no_more(s)
        read_all(s)
    # The server's own answer to a bad Bind, and the connection goes on after Sync.
    s = login()
    s.sendall(message(b"B", b"\0nosuch\0" + struct.pack("!hhh", 0, 0, 0)) + message(b"S"))
    found = read_until(s, b"Z")
    assert sqlstate(found) == "26000", found
    alive(s)
    # An empty query has an answer of its own.
    s.sendall(query(""))
    found = read_until(s, b"Z")
    assert any(kind == b"I" for kind, _ in found), found
    alive(s)


def fastpath():
    s = login()
    # lo_creat(-1), oid 957
    send(s, message(b"F", struct.pack("!ihhi4sh", 957, 0, 1, 4, b"\xff" * 4, 1)))
    found = read_until(s, b"Z")
    assert sqlstate(found) is not None, found
    assert not any(kind == b"V" for kind, _ in found), found


def replication():
    for value in ["true", "database", "1", "on", "yes"]:
        s = connect()
        s.sendall(startup(replication=value))
        found = read_until(s, b"Z")
        assert sqlstate(found) is not None, (value, found)


def versions():
    for version in [0, 1, 2 << 16, 4 << 16, 99 << 16, 1234 << 16 | 5000, 80877101]:
        s = connect()
        send(s, startup(version=version))
        no_more(s)
        answer = read_all(s)
        assert answer[:1] in (b"", b"E"), (version, answer)
    # A newer minor version is negotiated down, as the server does it.
    s = connect()
    s.sendall(startup(version=3 << 16 | 2, **{"_pq_.invented": "1"}))
    found = read_until(s, b"Z")
    assert found[0][0] == b"v" and found[-1][0] == b"Z", found
    alive(s)


def startup_options():
    for parameters in [
        {"options": "-c role=postgres"},
        {"options": "-c session_authorization=postgres"},
        {"role": "postgres"},
        {"session_authorization": "postgres"},
        {"options": "-c log_statement=none"},
    ]:
        s = connect()
        s.sendall(startup(**parameters))
        found = read_until(s, b"Z")
        assert found and found[-1][0] == b"E" and b"42501" in found[-1][1], (parameters, found)


def slowly():
    s = connect()
    for byte in startup():
        s.sendall(bytes([byte]))
        time.sleep(0.005)
    read_until(s, b"Z")
    for byte in query("select 42"):
        s.sendall(bytes([byte]))
        time.sleep(0.005)
    found = read_until(s, b"Z")
    assert any(kind == b"D" for kind, body in found), found


def at_once():
    # Startup, query and goodbye in one packet, before any answer.
    s = connect()
    s.sendall(startup() + query("select 42") + query("select email from customers where id = 1") + message(b"X"))
    data = read_all(s)
    assert b"42" in data and b"***" in data and b"ada.quill" not in data, data


def never_reads():
    held = []
    for n in range(4):
        s = login()
        s.sendall(query("select repeat('x', 100000) from generate_series(1, 100000)"))
        held.append(s)
    # Queries pile up behind answers nobody takes; the other side stops reading rather than keep them all.
    s = login()
    s.settimeout(5)
    try:
        for _ in range(200):
            s.sendall(query("select repeat('y', 100000) /* " + "z" * 1_000_000 + " */"))
    except OSError:
        pass
    time.sleep(2)


def encoding():
    for sql in [b"select '\xff\xfe'", b"select '\xc3'", b"select id from customers where email\xff = 'x'"]:
        s = login()
        s.sendall(message(b"Q", sql + b"\0"))
        found = read_until(s, b"Z")
        assert sqlstate(found), (sql, found)
    s = login()
    # In these encodings the second byte of a character can be a backslash or a quote.
    for name in ["SJIS", "BIG5", "GBK", "GB18030", "JOHAB", "UHC", "SHIFT_JIS_2004"]:
        c = connect()
        c.sendall(startup(client_encoding=name))
        found = read_until(c, b"Z")
        if found and found[-1][0] == b"Z":
            c.sendall(message(b"Q", b"select '\x95' || email || '\x5c' from customers where '\x95\x5c' <> ''\0"))
            answer = read_until(c, b"Z")
            assert not any(kind == b"D" for kind, body in answer), (name, answer)
        s.sendall(query(f"set client_encoding to '{name}'"))
        assert sqlstate(read_until(s, b"Z")), name
    alive(s)


def false_cancel():
    s = login()
    s.sendall(query("select count(*) from generate_series(1, 3000000)"))
    for n in range(200):
        c = connect()
        c.sendall(struct.pack("!iiiI", 16, 80877102, rng.randrange(1, 1 << 22), rng.getrandbits(32)))
        assert read_all(c) == b"", "a cancel request has no answer"
    found = read_until(s, b"Z")
    assert sqlstate(found) is None, found
    alive(s)


def keeps():
    # Prepares statement after statement, each as long as a message may be, and the end of it is an error, not the agent's.
    s = login()
    text = b"SELECT '" + b"x" * (30 << 20) + b"'\0"
    for number in range(12):
        send(s, message(b"P", b"s%d\0" % number + text + b"\0\0") + message(b"S"))
        found = read_until(s, b"Z")
        if sqlstate(found):
            break
    assert sqlstate(found) == "54000" and number > 2, (number, found)
    # What is given back makes room.
    for given in (message(b"C", b"Ss0\0"), message(b"P", b"again\0" + text + b"\0\0")):
        send(s, given + message(b"S"))
        found = read_until(s, b"Z")
        assert not sqlstate(found), found
    alive(s)


globals()[scenario]()
print("ok")
