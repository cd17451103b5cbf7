# Asks for GSS encryption as libpq does when it has a ticket, then goes on in clear on the same connection.
import socket, struct, sys

host, port, user, database = sys.argv[1:5]
s = socket.create_connection((host, int(port)), timeout=10)
s.sendall(struct.pack("!ii", 8, 80877104))
answer = s.recv(1).decode()
body = struct.pack("!i", 196608) + b"user\0" + user.encode() + b"\0database\0" + database.encode() + b"\0\0"
s.sendall(struct.pack("!i", len(body) + 4) + body)
print(answer, s.recv(1).decode())
