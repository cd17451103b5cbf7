"""Connects again and again, as a client of PostgreSQL that says it is `prober`, until a file appears.

What answers tells them apart: the agent lets a governed client in without a password (authentication 0), the server
itself asks for one or refuses. Prints how often each was seen, and the first few errors.
"""
import collections, os, socket, struct, sys, time

host, port, user, database, stop = sys.argv[1:6]
pause = float(sys.argv[6]) if len(sys.argv) > 6 else 0.0
seen, errors = collections.Counter(), []


def message(text):
    body = struct.pack("!i", 196608) + text.encode() + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def read(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError("closed after %r" % data)
        data += part
    return data


def probe():
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(message("user\0%s\0database\0%s\0" % (user, database)))
        kind, length = struct.unpack("!ci", read(connection, 5))
        body = read(connection, length - 4)
        if kind == b"R" and struct.unpack("!i", body[:4])[0] == 0:
            connection.sendall(b"X\0\0\0\4")
            return "served"
        if kind == b"R":
            return "direct"
        text = body.decode(errors="replace")
        return "refused: " + text if "prober" not in text else "direct"


while not os.path.exists(stop):
    try:
        outcome = probe()
    except ConnectionRefusedError:
        outcome = "reset"
    except PermissionError:
        outcome = "eperm"
    except Exception as error:
        outcome = "error: %r" % error
    seen[outcome.split(":")[0]] += 1
    if outcome not in ("served", "reset", "eperm") and len(errors) < 5:
        errors.append(outcome)
    time.sleep(pause)
for name in ("served", "direct", "refused", "reset", "eperm", "error"):
    print(name, seen[name])
for error in errors:
    print("#", error)
