"""Listens without ever having said on which port, until the kernel hands out the agent's; then waits for somebody else's
connection. Arguments: the listener's port, seconds to wait, a file to make when it listens."""
import socket, sys

wanted, patience, ready = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
held = []
# As many sockets as there are ports to be had; whoever starts this sees to it that they are few.
for _ in range(1000):
    sock = socket.socket()
    sock.settimeout(patience)
    try:
        sock.listen()
    except OSError as error:
        print("cannot listen:", error)
        break
    held.append(sock)
    if sock.getsockname()[1] == wanted:
        break
ports = [sock.getsockname()[1] for sock in held]
print("listening at", ports[-3:])
open(ready, "w").close()
stolen = 0
if wanted in ports:
    print("has the port")
    try:
        client, peer = held[ports.index(wanted)].accept()
        stolen += 1
        print("stole", client.recv(100))
    except TimeoutError:
        pass
print("stolen:", stolen)
