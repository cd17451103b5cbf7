"""Sockets of other kinds than TCP and UDP."""
from common import *

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


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def source_for(address):
    """The address of ours that the kernel would take."""
    probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    probe.connect((address, 9))
    return probe.getsockname()[0]


def syn(source, target):
    """The first segment of a connection."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, target)
    header = struct.pack("!HHIIBBHHH", 40000 + os.getpid() % 20000, PORT, 1, 0, 5 << 4, 2, 64240, 0, 0)
    pseudo = ends + struct.pack("!IHBB", len(header), 0, 0, 6) if family == socket.AF_INET6 else \
        ends + struct.pack("!BBH", 0, 6, len(header))
    return header[:16] + struct.pack("!H", checksum(pseudo + header)) + header[18:]


def ip(source, target, payload, fragment=0, options=b"", protocol=6):
    """An IPv4 packet, header and all."""
    words = 5 + len(options) // 4
    header = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), 4711, fragment, 64, protocol, 0,
                         socket.inet_aton(source), socket.inet_aton(target)) + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


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


main({
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
