# What is answered to startup packets of other versions: the version in force, the length of the cancel key, and what
# NegotiateProtocolVersion said.
import socket, struct, sys

host, port, user, database = sys.argv[1], int(sys.argv[2]), *sys.argv[3:5]


def ask(minor, **options):
    body = struct.pack("!hh", 3, minor)
    for name, value in {"user": user, "database": database, **options}.items():
        body += name.encode() + b"\0" + value.encode() + b"\0"
    s = socket.create_connection((host, port), timeout=10)
    s.sendall(struct.pack("!i", len(body) + 5) + body + b"\0")
    data, version, said, key = b"", f"3.{minor}", "-", 0
    while True:
        while len(data) < 5 or len(data) < 1 + struct.unpack("!i", data[1:5])[0]:
            data += s.recv(65536)
        end = 1 + struct.unpack("!i", data[1:5])[0]
        kind, body, data = data[:1], data[5:end], data[end:]
        if kind == b"v":
            version = "%d.%d" % struct.unpack("!hh", body[:4])
            said = " ".join([version, *filter(None, body[8:].decode().split("\0"))])
        elif kind == b"K":
            key = len(body) - 4
        elif kind == b"Z":
            return print(version, key, said)


ask(0)
ask(2)
ask(9999)
ask(0, **{"_pq_.x": "1"})
