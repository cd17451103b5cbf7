"""What every attack needs: where to aim, a name in the record, and one line at the end that says what came of it.

Arguments: the technique, an IPv4 and an IPv6 address of the target, the protected port, the listener's port.

The last line printed is one of
  reached          the witness behind the target answered
  answered TEXT    somebody else did: the agent, with its refusal
  closed           the connection was made, and ended without a word
  refused ERRNO    a system call said no
  silent           no answer in time
  unsupported ERRNO  this kernel has no such socket or option
"""
import ctypes, errno, os, signal, socket, struct, sys

from machine import SLOWNESS

NAME, V4, V6, PORT, LISTEN = sys.argv[1:4] + [int(port) for port in sys.argv[4:6]]
BANNER = b"WITNESS\n"
# How long an attack waits to be connected: one lost SYN is sent again after a second. What is refused is refused at
# once; what is dropped never answers, so that all of this is spent.
PATIENCE = 2 + SLOWNESS / 2
# How long it waits for the first word of whoever it is connected to, on a machine that may be busy.
ANSWER = 4 * SLOWNESS
# After so many seconds it ends, whatever it is doing.
LIMIT = 15 * SLOWNESS

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.prctl(15, NAME.encode(), 0, 0, 0)  # PR_SET_NAME
signal.alarm(LIMIT)


def startup():
    """A PostgreSQL startup message: what makes the agent say who it is talking to."""
    body = struct.pack("!i", 196608) + b"user\0" + NAME.encode() + b"\0database\0shop\0\0"
    return struct.pack("!i", len(body) + 4) + body


def ask(sock, already_sent=False):
    """What a connected socket is told."""
    sock.settimeout(ANSWER)
    try:
        if not already_sent:
            sock.sendall(startup())
        answer = sock.recv(4096)
    except TimeoutError:
        return "silent"
    except OSError as error:
        return "refused " + name(error)
    if answer.startswith(BANNER):
        return "reached"
    if not answer:
        return "closed"
    fields = {part[:1]: part[1:].decode(errors="replace") for part in answer[5:].split(b"\0")}
    return f"answered {fields.get(b'S')} {fields.get(b'C')}"


def dial(address, sock=None, port=None):
    """Connects and asks."""
    if sock is None:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(PATIENCE)
    try:
        sock.connect((address, port or PORT))
    except TimeoutError:
        return "silent"
    except OSError as error:
        return "refused " + name(error)
    return ask(sock)


def hear(sock):
    """What a datagram socket is answered; sending is not an answer."""
    sock.settimeout(PATIENCE)
    try:
        return "reached" if sock.recv(4096) == BANNER else "answered"
    except TimeoutError:
        return "silent"
    except OSError as error:
        return "refused " + name(error)


def name(error):
    return errno.errorcode.get(error.errno, str(error))


def main(techniques):
    """Runs the technique of that name; `pod-` before it says who runs it, not what."""
    try:
        said = techniques[NAME.removeprefix("pod-")]()
    except OSError as error:
        said = "refused " + name(error)
    print(said, flush=True)


def flip(sock, call):
    """Calls with an address that another thread changes all the time, between a harmless one and the target."""
    import threading
    harmless, target = (struct.pack("=H", 2) + struct.pack("!H", PORT) + socket.inet_aton(address) + bytes(8)
                        for address in ("127.0.0.9", V4))
    address, stop = (ctypes.c_char * 16).from_buffer(bytearray(harmless)), threading.Event()

    def change():
        while not stop.is_set():
            ctypes.memmove(address, target, 16)
            ctypes.memmove(address, harmless, 16)

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    for _ in range(300):
        call(sock, address)
    stop.set()
    thread.join()


def segment_route(sock):
    """From now on what this IPv6 socket sends goes to the target first, and from there to whom it is addressed."""
    IPV6_RTHDR, SEGMENTS = 57, 4
    header = bytes([0, 4, SEGMENTS, 1, 1, 0, 0, 0]) + bytes(16) + socket.inet_pton(socket.AF_INET6, V6)
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, header)
    return sock


def syscall(number, *arguments):
    """A system call by number; raises OSError."""
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
