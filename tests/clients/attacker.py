"""Root in a container who wants to the server past the agent, in every way it has, again and again until a file appears.

Usage: SERVER-V4 SERVER-V6 PORT DATABASE STOP GATEWAY-MAC SOURCE-V4

Connects as `prober` (see prober.py: what answers tells agent and server apart), sends datagrams, makes segments by hand in
a raw socket and in frames written to the device, past the queues too, and pulls at what holds the gate: the bpf file
system, cgroups, the bpf system call. Prints how often each met what.
"""
import collections, ctypes, errno, fcntl, os, socket, struct, sys, time

v4, v6, port, database, stop, gateway, source = sys.argv[1:8]
port = int(port)
seen = collections.Counter()
libc = ctypes.CDLL(None, use_errno=True)


def message(text):
    body = struct.pack("!i", 196608) + text.encode() + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def read(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def tcp(host):
    with socket.create_connection((host, port), timeout=3) as connection:
        connection.sendall(message("user\0prober\0database\0%s\0" % database))
        kind, length = struct.unpack("!ci", read(connection, 5))
        body = read(connection, length - 4)
        if kind == b"R" and struct.unpack("!i", body[:4])[0] == 0:
            connection.sendall(b"X\0\0\0\4")
            return "served"
        return "direct" if kind == b"R" or b"prober" in body else "refused"


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn():
    ends = socket.inet_aton(source) + socket.inet_aton(v4)
    segment = struct.pack("!HHIIBBHHH", 50000 + os.getpid() % 10000, port, 1, 0, 5 << 4, 2, 64240, 0, 0)
    pseudo = ends + struct.pack("!BBH", 0, 6, len(segment))
    segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + segment


def datagram():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (v4, port))
    return "sent"


def raw():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        s.sendto(syn(), (v4, 0))
    return "sent"


def frame(past_the_queues):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as s:
        s.bind(("eth0", 0))
        s.setsockopt(263, 20, past_the_queues)
        own = fcntl.ioctl(s, 0x8927, struct.pack("16s24x", b"eth0"))[18:24]
        s.send(bytes.fromhex(gateway.replace(":", "")) + own + struct.pack("!H", 0x0800) + syn())
    return "sent"


def unmount():
    if libc.umount2(b"/sys/fs/bpf", 2):
        raise OSError(ctypes.get_errno(), "umount2")
    return "done"


def write(path):
    with open(path, "w") as file:
        file.write("0")
    return "done"


def pin():
    os.mkdir("/sys/fs/bpf/mine")
    return "done"


def next_program():
    buffer = ctypes.create_string_buffer(128)
    if libc.syscall(321 if os.uname().machine == "x86_64" else 280, 11, buffer, 128) < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return "done"


attempts = {
    "tcp": lambda: tcp(v4),
    "tcp6": lambda: tcp(v6),
    "udp": datagram,
    "raw": raw,
    "frame": lambda: frame(0),
    "frame-bypass": lambda: frame(1),
    "umount": unmount,
    "pin": pin,
    "move": lambda: write("/sys/fs/cgroup/cgroup.procs"),
    "bpf": next_program,
}
while not os.path.exists(stop):
    for name, attempt in attempts.items():
        try:
            outcome = attempt()
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, "TIMEOUT")
        except EOFError:
            outcome = "closed"
        seen[name, outcome] += 1
    time.sleep(0.01)
for (name, outcome), count in sorted(seen.items()):
    print(name, outcome, count)
