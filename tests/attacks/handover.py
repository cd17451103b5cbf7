"""Sockets that come from another process, over a unix socket (SCM_RIGHTS).

As an attack: asks the accomplice for one and uses it. As the accomplice (`handover.py --accomplice PATH V4 PORT KIND`):
makes one for everybody who asks; KIND is `connected` or `unconnected`.
"""
import os, socket, sys

if sys.argv[1] == "--accomplice":
    path, address, port, kind = sys.argv[2:6]
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o666)
    server.listen()
    client, _ = server.accept()
    sock = socket.socket()
    sock.settimeout(2)
    if kind == "connected":
        sock.connect((address, int(port)))
    socket.send_fds(client, [b"x"], [sock.fileno()])
    client.recv(1)
    sys.exit()

from common import *


def receive():
    client = socket.socket(socket.AF_UNIX)
    client.connect(os.environ["ACCOMPLICE"])
    _, descriptors, _, _ = socket.recv_fds(client, 1, 1)
    return client, socket.socket(fileno=descriptors[0])


def unconnected():
    client, sock = receive()
    said = dial(V4, sock)
    client.send(b"x")
    return said


def connected():
    client, sock = receive()
    said = ask(sock)
    client.send(b"x")
    return said


main({"passed-socket": unconnected, "passed-session": connected})
