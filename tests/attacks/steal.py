"""Listens without ever having said on which port, until the kernel hands out the agent's; then waits for somebody else's
connection. Arguments: the listener's port, seconds to wait, a file to make when it listens."""
import socket, sys

wanted, patience, ready = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
held = []
SOL_IP, IP_LOCAL_PORT_RANGE = 0, 51
for _ in range(20000):
    sock = socket.socket()
    try:
        # Nothing but that port (Linux 6.3). Elsewhere it takes as many sockets as there are ports.
        sock.setsockopt(SOL_IP, IP_LOCAL_PORT_RANGE, wanted << 16 | wanted)
    except OSError:
        pass
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
