"""Connections that ask until they are cut off, and keep every byte they were sent after the login in a file each.
Arguments: host, port, user, database, folder, connections, queries of each (0: until it is cut off; -1: and again,
under another name, until there is a file `stop` beside the folder), style."""
import os, socket, struct, sys, threading, time

host, port, user, database, folder = sys.argv[1:6]
connections, queries = int(sys.argv[6]), int(sys.argv[7])
style = sys.argv[8]


def message(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body


def texts(n):
    """A short row, rows that compress, many rows, an error, something denied."""
    kinds = [
        f"select {n}, 'told-{n}'",
        f"select g, repeat('x', 200) from generate_series(1, {n % 50}) g",
        f"select g, md5(g::text) from generate_series(1, {n * 37 % 900}) g",
        "select name, email, card from customers",
        "select 1/0",
        "drop table customers",
    ]
    return kinds[n % len(kinds)]


def ask(n):
    sql = texts(n).encode() + b"\0"
    if style == "simple" or n % 2:
        return message(b"Q", sql)
    bind = b"\0\0" + b"\0\0" + b"\0\0" + b"\0\0"
    return message(b"P", b"\0" + sql + b"\0\0") + message(b"B", bind) + message(b"D", b"P\0") + message(b"E", b"\0" + b"\0" * 4) + message(b"S", b"")


def ready(seen, at):
    """Where the next ReadyForQuery ends, or None."""
    while len(seen) - at >= 5:
        total = 1 + struct.unpack("!i", seen[at + 1 : at + 5])[0]
        if len(seen) - at < total:
            return None
        at += total
        if seen[at - total : at - total + 1] == b"Z":
            return at
    return None


def serve(number, name):
    out = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        with socket.create_connection((host, int(port)), 10) as s:
            s.settimeout(15)
            words = b"user\0" + name.encode() + b"\0database\0" + database.encode() + b"\0\0"
            s.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
            seen, at = b"", None
            while at is None:
                part = s.recv(65536)
                if not part:
                    return
                seen += part
                at = ready(seen, 0)
            os.write(out, seen[at:])
            seen, n = seen[at:], number
            while queries <= 0 or n < queries + number:
                n += 1
                s.sendall(ask(n))
                while True:
                    at = ready(seen, 0)
                    if at is not None:
                        seen = seen[at:]
                        break
                    part = s.recv(65536)
                    if not part:
                        return
                    os.write(out, part)
                    seen += part
            s.sendall(message(b"X", b""))
            while part := s.recv(65536):
                os.write(out, part)
    except OSError:
        pass
    finally:
        os.close(out)


def go_on(number):
    turn = 0
    while not os.path.exists(os.path.join(folder, "..", "stop")):
        serve(number, f"{user}-{number}-{turn}")
        turn += 1
        time.sleep(0.01)


def once(number):
    serve(number, f"{user}-{number}")


work = go_on if queries < 0 else once
threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
