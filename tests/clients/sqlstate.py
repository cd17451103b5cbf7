# Speaks the startup message and one simple query, and prints the first error as `severity sqlstate message`,
# or OK, or CLOSED when the other side hangs up without a word, or ERROR_ON_CONNECT.
import socket, struct, sys

host, port, user, database, sql = sys.argv[1:6]
try:
    s = socket.create_connection((host, int(port)), timeout=10)
except OSError as error:
    print("ERROR_ON_CONNECT", error)
    sys.exit()
s.settimeout(10)
buffer = b""


def message():
    global buffer
    while len(buffer) < 5 or len(buffer) < 1 + struct.unpack("!i", buffer[1:5])[0]:
        try:
            more = s.recv(65536)
        except OSError as error:
            print("CLOSED", error)
            sys.exit()
        if not more:
            print("CLOSED")
            sys.exit()
        buffer += more
    end = 1 + struct.unpack("!i", buffer[1:5])[0]
    kind, body, buffer = buffer[:1], buffer[5:end], buffer[end:]
    return kind, body


def until_ready():
    while True:
        kind, body = message()
        if kind == b"E":
            fields = {f[:1]: f[1:].decode() for f in body.split(b"\0") if f}
            print(fields[b"S"], fields[b"C"], fields[b"M"])
            sys.exit()
        if kind == b"Z":
            return


body = struct.pack("!i", 196608) + b"user\0" + user.encode() + b"\0database\0" + database.encode() + b"\0\0"
s.sendall(struct.pack("!i", len(body) + 4) + body)
until_ready()
query = sql.encode() + b"\0"
s.sendall(b"Q" + struct.pack("!i", len(query) + 4) + query)
until_ready()
print("OK")
