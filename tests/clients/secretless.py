# Logs in over a bare socket and prints every byte it was sent up to the first ReadyForQuery; then logs in with a
# driver that has a password to offer, and stays until the file appears.
import os, socket, struct, sys, time
import psycopg2

host, port, user, database, stop = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
s = socket.create_connection((host, port), timeout=20)
body = struct.pack("!i", 196608) + b"".join(part.encode() + b"\0" for part in ("user", user, "database", database, ""))
s.sendall(struct.pack("!i", len(body) + 4) + body)
seen = b""
while not seen.endswith(b"Z\0\0\0\x05I"):
    seen += s.recv(65536)
print(seen.hex())
c = psycopg2.connect(host=host, port=port, user=user, dbname=database, password="dummy-7c1f")
q = c.cursor()
q.execute("select 'here I stay'")
for _ in range(3000):
    if os.path.exists(stop):
        break
    time.sleep(0.01)
