"""Datagrams to the target: UDP, and what QUIC would be made of, in every form the socket calls allow."""
from common import *

IPPROTO_UDPLITE, UDP_SEGMENT, SOL_UDP = 136, 103, 17
SYS_SENDMMSG = 307


def udp(family=socket.AF_INET):
    return socket.socket(family, socket.SOCK_DGRAM)


def send_to(address, sock, data=b"hello", flags=0):
    sock.sendto(data, flags, (address, PORT))
    return hear(sock)


def connected(address, sock):
    sock.connect((address, PORT))
    sock.send(b"hello")
    return hear(sock)


def quic():
    """The long header of a QUIC Initial packet, padded to what the protocol wants."""
    initial = bytes([0xC3, 0, 0, 0, 1, 8]) + os.urandom(8) + b"\0\0" + b"\x44\x9e"
    return send_to(V4, udp(), initial.ljust(1200, b"\0"))


def raw_address(family, address):
    port = struct.pack("!H", PORT)
    return struct.pack("=H", family) + port + socket.inet_aton(address) + bytes(8)


def send_address(sock, address):
    """sendto(2) with an address Python would not make."""
    sent = LIBC.sendto(sock.fileno(), b"hello", 5, 0, address, len(address))
    if sent < 0:
        raise OSError(ctypes.get_errno(), "sendto")
    return hear(sock)


def v4_on_v6():
    """An AF_INET address on an AF_INET6 socket."""
    return send_address(udp(socket.AF_INET6), raw_address(socket.AF_INET, V4))


def unspecified_family():
    """AF_UNSPEC in place of AF_INET: UDP takes it for IPv4."""
    return send_address(udp(), raw_address(socket.AF_UNSPEC, V4))


def many_at_once():
    """sendmmsg: the first message goes to a host that is nobody's target, the second to the target."""
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]

    class Header(ctypes.Structure):
        _fields_ = [("name", ctypes.c_char_p), ("name_length", ctypes.c_uint), ("vector", ctypes.POINTER(Vector)),
                    ("vectors", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                    ("flags", ctypes.c_int), ("sent", ctypes.c_uint), ("pad", ctypes.c_uint)]

    vector = Vector(b"hello", 5)
    addresses = [raw_address(socket.AF_INET, address) for address in ("10.66.0.2", V4)]
    headers = (Header * 2)(*[Header(address, 16, ctypes.pointer(vector), 1) for address in addresses])
    sock = udp()
    sent = syscall(SYS_SENDMMSG, sock.fileno(), ctypes.byref(headers), 2, 0)
    return hear(sock) if sent == 2 else "refused EPERM"


def segmented():
    """One send that the kernel cuts into many datagrams (UDP GSO)."""
    sock = udp()
    sock.setsockopt(SOL_UDP, UDP_SEGMENT, 100)
    return send_to(V4, sock, b"x" * 1000)


def corked():
    """Two sends that leave as one datagram; the second names nobody."""
    sock = udp()
    sock.sendto(b"hel", socket.MSG_MORE, (V4, PORT))
    sock.sendto(b"lo", (V4, PORT))
    return hear(sock)


def reconnected():
    """Connected to something harmless, then sent elsewhere by name."""
    sock = udp()
    sock.connect(("10.66.0.2", 9))
    return send_to(V4, sock)


def lite():
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, IPPROTO_UDPLITE)
    except OSError as error:
        return "unsupported " + name(error)
    return send_to(V4, sock)


def segments():
    """A datagram for somebody harmless, by way of the target."""
    segment_route(sock := udp(socket.AF_INET6)).sendto(b"hello", ("fd66::2", PORT))
    return "sent"


def flipped():
    """The address is changed while the kernel reads it, between a harmless one and the target."""
    flip(udp(), lambda sock, address: LIBC.sendto(sock.fileno(), b"hello", 5, 0, address, 16))
    return send_to(V4, udp())


main({
    "udp-srh": segments,
    "udp-flip": flipped,
    "udp": lambda: send_to(V4, udp()),
    "dead-udp": lambda: send_to(V4, udp()),
    "udp-v6": lambda: send_to(V6, udp(socket.AF_INET6)),
    "udp-connected": lambda: connected(V4, udp()),
    "udp-connected6": lambda: connected(V6, udp(socket.AF_INET6)),
    "udp-mapped": lambda: send_to("::ffff:" + V4, udp(socket.AF_INET6)),
    "udp-mapped-con": lambda: connected("::ffff:" + V4, udp(socket.AF_INET6)),
    "udp-v4-on-v6": v4_on_v6,
    "udp-unspec": unspecified_family,
    "udp-sendmmsg": many_at_once,
    "udp-segmented": segmented,
    "udp-corked": corked,
    "udp-reconnected": reconnected,
    "udp-pod": lambda: send_to(V4, udp()),
    "udplite": lite,
    "quic": quic,
})
