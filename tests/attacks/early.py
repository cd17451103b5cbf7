"""Sockets made and connected before there was an agent, used after it came.

The file that a sixth argument names stands for that moment: each technique gets ready, says so by a file beside it, waits
for the file, and then attacks. Without the argument it attacks at once.
"""
import time

from common import *
from packets import *

GO = sys.argv[6] if len(sys.argv) > 6 else None


def wait():
    if not GO:
        return
    # The others get ready meanwhile, one after the other, and the agent starts: that is not this attack's time.
    signal.alarm(10 * LIMIT)
    open(f"{GO}.{NAME}", "w").close()
    while not os.path.exists(GO):
        time.sleep(0.01)
    signal.alarm(LIMIT)


def stream(address):
    """A connection that stands already."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(ANSWER)
    sock.connect((address, PORT))
    if sock.recv(100) != BANNER:
        return "closed"
    wait()
    try:
        sock.sendall(startup())
        return "reached" if sock.recv(100) else "closed"
    except TimeoutError:
        return "silent"
    except OSError as error:
        return "refused " + name(error)


def datagram():
    """A connected datagram socket: no hook sees its sends."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((V4, PORT))
    wait()
    sock.send(b"hello")
    return hear(sock)


def corked():
    """A datagram begun before, finished after."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.sendto(b"hel", socket.MSG_MORE, (V4, PORT))
    wait()
    sock.setsockopt(17, 1, 0)  # UDP_CORK off: the datagram leaves
    return hear(sock)


def unconnected():
    """A stream socket made before, connected after: as any other."""
    sock = socket.socket()
    wait()
    return dial(V4, sock)


def multipath():
    """A Multipath TCP socket made before, when it was allowed, and connected after."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    wait()
    return dial(V4, sock)


def raw(family, packets):
    """Packets made by hand, through a raw socket that was made when it could be."""
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    wait()
    said = "sent"
    for packet in packets():
        try:
            sock.sendto(packet, (V6 if family == socket.AF_INET6 else V4, 0))
        except OSError as error:
            said = "refused " + name(error)
    return said


def raw4(packets):
    return lambda: raw(socket.AF_INET, packets)


def raw6(packets):
    return lambda: raw(socket.AF_INET6, packets)


main({
    "early-tcp": lambda: stream(V4),
    "early-tcp-v6": lambda: stream(V6),
    "early-pod": lambda: stream(V4),
    "early-pod-udp": datagram,
    "early-udp": datagram,
    "early-cork": corked,
    "early-socket": unconnected,
    "early-mptcp": multipath,
    "early-raw": raw4(lambda: [ip(source_for(V4), V4, syn(source_for(V4), V4))]),
    "early-raw-opts": raw4(lambda: [ip(source_for(V4), V4, syn(source_for(V4), V4), options=b"\1" * 8)]),
    "early-raw-spoof": raw4(lambda: [ip("10.66.0.9", V4, syn("10.66.0.9", V4))]),
    "early-raw-udp": raw4(lambda: [ip(source_for(V4), V4, udp_datagram(), protocol=17)]),
    "early-raw-sctp": raw4(lambda: [ip(source_for(V4), V4, struct.pack("!HHII", 5, PORT, 0, 0), protocol=132)]),
    "early-fragments": raw4(fragments),
    "early-tiny": raw4(tiny_fragments),
    "early-lsrr": raw4(lambda: [source_routed(default_gateway())]),
    "early-raw-v6": raw6(lambda: [ip6(6, syn(source_for(V6), V6))]),
    "early-hop-by-hop": raw6(lambda: [ip6(0, extension(6) + syn(source_for(V6), V6))]),
    "early-extensions": raw6(lambda: [ip6(60, extension(60) + extension(60) + extension(6) + syn(source_for(V6), V6))]),
    "early-deep": raw6(lambda: [ip6(60, extension(60) * 12 + extension(6) + syn(source_for(V6), V6))]),
    "early-fragment6": raw6(fragments6),
    "early-tiny6": raw6(tiny_fragments6),
    "early-routing": raw6(lambda: [ip6(43, routing(6) + syn(source_for(V6), V6))]),
})
