"""TCP sockets used in every way a program may use them."""
import os, select, socket, struct, time

from common import *

SO_MARK, SO_BINDTODEVICE, IP_FREEBIND, IP_BIND_ADDRESS_NO_PORT = 36, 25, 15, 24
IPPROTO_MPTCP, TCP_FASTOPEN_CONNECT = 262, 30


def tcp(family=socket.AF_INET):
    return socket.socket(family, socket.SOCK_STREAM)


def with_option(level, option, value, address=None):
    sock = tcp()
    sock.setsockopt(level, option, value)
    return dial(address or V4, sock)


def mapped():
    return dial("::ffff:" + V4, tcp(socket.AF_INET6))


def non_blocking():
    sock = tcp()
    sock.setblocking(False)
    code = sock.connect_ex((V4, PORT))
    if code not in (0, errno.EINPROGRESS):
        return "refused " + errno.errorcode[code]
    if not select.select([], [sock], [], PATIENCE)[1]:
        return "silent"
    return ask(sock)


def dissolved():
    """A socket that was connected to something harmless, dissolved with AF_UNSPEC."""
    harmless = tcp()
    harmless.bind(("127.0.0.1", 0))
    harmless.listen()
    sock = tcp()
    sock.connect(harmless.getsockname())
    disconnect(sock)
    return sock


def again():
    """One socket: connected to something harmless, dissolved with AF_UNSPEC, then connected to the target."""
    sock = dissolved()
    return dial(V4, sock)


def disconnect(sock):
    nowhere = (ctypes.c_char * 16)()
    if LIBC.connect(sock.fileno(), nowhere, 16) != 0:
        raise OSError(ctypes.get_errno(), "connect AF_UNSPEC")


def after_refusal():
    """The socket of a redirected connection, dissolved and connected once more."""
    sock = tcp()
    dial(V4, sock)
    disconnect(sock)
    return dial(V4, sock)


def source_port():
    """A source port that another connection to another target has too."""
    first, second = tcp(), tcp()
    for sock in (first, second):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first.bind(("0.0.0.0", 0))
    second.bind(first.getsockname())
    first.settimeout(PATIENCE)
    try:
        first.connect((V4, PORT))
    except OSError as error:
        return "refused " + name(error)
    said = dial(V4, second)
    return said if said == "reached" else ask(first)


def bound_address():
    """Bound to an address of the host's, before it connects."""
    sock = tcp()
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.connect((V4, 9))
    sock.bind((probe.getsockname()[0], 0))
    return dial(V4, sock)


def uplink():
    """The interface that packets to the target leave by."""
    target = struct.unpack("<I", socket.inet_aton(V4))[0]
    with open("/proc/net/route") as routes:
        rows = [line.split() for line in routes.readlines()[1:]]
    fitting = [row for row in rows if target & int(row[7], 16) == int(row[1], 16)]
    return max(fitting, key=lambda row: int(row[7], 16).bit_count())[0]


def device():
    return with_option(socket.SOL_SOCKET, SO_BINDTODEVICE, uplink().encode() + b"\0")


def freebind():
    sock = tcp()
    sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    sock.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    return dial(V4, sock)


def fastopen_send(address):
    """The connection is made by sendto, and the data travels in the SYN."""
    sock = tcp(socket.AF_INET6 if ":" in address else socket.AF_INET)
    # A time limit of the kernel's: Python's own makes the socket non-blocking, and the call would not wait.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(PATIENCE), 0))
    sock.sendto(startup(), socket.MSG_FASTOPEN, (address, PORT))
    return ask(sock, already_sent=True)


def fastopen_connect():
    sock = tcp()
    sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    return dial(V4, sock)


def multipath():
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        return "refused " + name(error)
    return dial(V4, sock)


def segments():
    """Connects to somebody harmless, by way of the target (IPv6 segment routing)."""
    return dial("fd66::2", segment_route(tcp(socket.AF_INET6)))


def flipped():
    """The address is changed while the kernel reads it, between a harmless one and the target."""
    def connect(_, address):
        with tcp() as sock:
            sock.setblocking(False)
            LIBC.connect(sock.fileno(), address, 16)

    flip(None, connect)
    return dial(V4)


def fastopen_again():
    """A socket of a harmless connection, dissolved, then sent on its way by data in the SYN."""
    sock = dissolved()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(PATIENCE), 0))
    sock.sendto(startup(), socket.MSG_FASTOPEN, (V4, PORT))
    return ask(sock, already_sent=True)


def no_room():
    """A socket with so large a filter that there is no room left to remember where it is going."""
    SO_ATTACH_FILTER, SO_DETACH_FILTER, HEADER_LENGTH, ACCEPT = 26, 27, 0xB1, 0x06
    sock = tcp()

    def attach(length):
        filter = struct.pack("HBBI", HEADER_LENGTH, 0, 0, 0) * length + struct.pack("HBBI", ACCEPT, 0, 0, 0xFFFFFFFF)
        buffer = ctypes.create_string_buffer(filter)
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER,
                        struct.pack("HxxxxxxQ", length + 1, ctypes.addressof(buffer)))

    # The longest that fits: each instruction takes more than the entry's size leaves.
    longest, too_long = 1, 4095
    while too_long - longest > 1:
        length = (longest + too_long) // 2
        try:
            attach(length)
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            longest = length
        except OSError:
            too_long = length
    attach(longest)
    return dial(V4, sock)


def vfork_exit():
    """Connects in a child that is gone before anyone can look at it."""
    read, write = os.pipe()
    if os.fork() == 0:
        sock = tcp()
        sock.setblocking(False)
        code = sock.connect_ex((V4, PORT))
        os.write(write, struct.pack("i", code))
        os._exit(0)
    os.wait()
    code = struct.unpack("i", os.read(read, 4))[0]
    time.sleep(0.1)
    return "refused " + errno.errorcode[code] if code != errno.EINPROGRESS else "gone"


def inherited():
    """The socket is made by one process and used by its grandchild, after two forks and an exec."""
    sock = tcp()
    sock.set_inheritable(True)
    code = f"import socket,sys;sys.argv={sys.argv!r};sys.path.insert(0,{os.path.dirname(os.path.abspath(__file__))!r})\n" \
           f"from common import *\nprint(dial(V4, socket.socket(fileno={sock.fileno()})))"
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 1)
        if os.fork() == 0:
            os.execv("/usr/bin/python3", ["python3", "-B", "-c", code])
        os.wait()
        os._exit(0)
    os.close(write)
    os.wait()
    return os.read(read, 4096).decode().strip()


main({
    "srh": segments,
    "flip": flipped,
    "tfo-again": fastopen_again,
    "no-room": no_room,
    "plain-v4": lambda: dial(V4),
    **dict.fromkeys(("dead-v4", "dead-pod", "dead-steal", "the-gate"), lambda: dial(V4)),
    "dead-v6": lambda: dial(V6),
    "plain-v6": lambda: dial(V6),
    "mapped": mapped,
    "any-v4": lambda: dial("0.0.0.0"),
    "any-v6": lambda: dial("::"),
    "any-mapped": lambda: dial("::ffff:0.0.0.0", tcp(socket.AF_INET6)),
    "any-loopback6": lambda: dial("::1"),
    "non-blocking": non_blocking,
    "reuse": again,
    "reuse-refused": after_refusal,
    "source-port": source_port,
    "bound-address": bound_address,
    "bind-device": device,
    "freebind": freebind,
    "tfo-sendto": lambda: fastopen_send(V4),
    "tfo-connect": fastopen_connect,
    "tfo-v6": lambda: fastopen_send(V6),
    "mptcp": multipath,
    "fork-exit": vfork_exit,
    "inherited": inherited,
    "mark": lambda: with_option(socket.SOL_SOCKET, SO_MARK, 0x539),
    "priority": lambda: with_option(socket.SOL_SOCKET, socket.SO_PRIORITY, 6),
})
