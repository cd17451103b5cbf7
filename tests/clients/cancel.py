# "ask" leaves its cancel key in a file and then asks something long; "cancel" waits for the key and uses it.
import os, socket, struct, sys, time

host, port, user, database, what, path = sys.argv[1], int(sys.argv[2]), *sys.argv[3:7]
s = socket.create_connection((host, port), timeout=15)


def packet(body):
    return struct.pack("!i", len(body) + 4) + body


if what == "cancel":
    for _ in range(500):
        if os.path.exists(path):
            break
        time.sleep(0.01)
    s.sendall(packet(struct.pack("!i", 80877102) + open(path, "rb").read()))
    print("closed" if s.recv(1) == b"" else "answered")
    sys.exit()
body = struct.pack("!i", 196608) + b"".join(part.encode() + b"\0" for part in ("user", user, "database", database, ""))
s.sendall(packet(body))
data = b""


def message():
    global data
    while len(data) < 5 or len(data) < 1 + struct.unpack("!i", data[1:5])[0]:
        data += s.recv(65536)
    end = 1 + struct.unpack("!i", data[1:5])[0]
    kind, body, data = data[:1], data[5:end], data[end:]
    return kind, body


while (read := message())[0] != b"K":
    pass
sql = b"select count(*) from generate_series(1, 3000000)\0"
while message()[0] != b"Z":
    pass
s.sendall(b"Q" + packet(sql))
open(path + ".new", "wb").write(read[1])
os.rename(path + ".new", path)
while (read := message())[0] not in (b"D", b"E"):
    pass
print(read[1][6:].decode() if read[0] == b"D" else read[1])
