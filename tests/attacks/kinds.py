"""Sockets of other kinds than TCP and UDP."""
from common import *
from packets import *

IPPROTO_SCTP, IPPROTO_DCCP, IPPROTO_SMC = 132, 33, 256
SOCK_DCCP, AF_SMC, AF_TIPC, AF_RDS = 6, 43, 30, 21


def make(*kind):
    """The socket, or what to say when there is none."""
    try:
        return socket.socket(*kind)
    except OSError as error:
        what = name(error)
        missing = what in ("EPROTONOSUPPORT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT")
        print(("unsupported " if missing else "refused ") + what)
        sys.exit()


def stream(*kind):
    return dial(V4, make(*kind))


def raw_v4():
    """A SYN made by hand, IP header included."""
    sock = make(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.sendto(ip(source_for(V4), V4, syn(source_for(V4), V4)), (V4, 0))
    return "sent"


def raw_tcp():
    """A SYN made by hand, the IP header the kernel's."""
    sock = make(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    sock.sendto(syn(source_for(V4), V4), (V4, 0))
    return "sent"


def raw_v6():
    sock = make(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)
    sock.sendto(syn(source_for(V6), V6), (V6, 0))
    return "sent"


def raw_spoofed():
    """A SYN with the source address of somebody else."""
    sock = make(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.sendto(ip("10.66.0.9", V4, syn("10.66.0.9", V4)), (V4, 0))
    return "sent"


def vsock():
    """Past the network altogether, to this machine itself: where something listens there, it is no TCP."""
    try:
        sock = socket.socket(40, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE)
        sock.connect((1, PORT))
    except OSError as error:
        return "unsupported " + name(error)
    return ask(sock)


main({
    "vsock": vsock,
    "raw-v4": raw_v4,
    "raw-tcp": raw_tcp,
    "raw-v6": raw_v6,
    "raw-spoofed": raw_spoofed,
    "raw-pod": raw_v4,
    "sctp": lambda: stream(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP),
    "sctp-seqpacket": lambda: stream(socket.AF_INET, socket.SOCK_SEQPACKET, IPPROTO_SCTP),
    "dccp": lambda: stream(socket.AF_INET, SOCK_DCCP, IPPROTO_DCCP),
    "smc": lambda: stream(AF_SMC, socket.SOCK_STREAM, 0),
    "smc-inet": lambda: stream(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SMC),
    "tipc": lambda: stream(AF_TIPC, socket.SOCK_STREAM, 0),
    "rds": lambda: stream(AF_RDS, socket.SOCK_SEQPACKET, 0),
})
