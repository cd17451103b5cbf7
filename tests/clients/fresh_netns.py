# Makes COUNT network namespaces at the same time, and in each, as the first thing that ever happens there, connects and
# logs in as USER-<number>. Prints `milliseconds-to-connect milliseconds-to-log-in` for each, or what went wrong.
import ctypes, fcntl, os, socket, struct, sys, time

host, port, user, database, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
wave = int(sys.argv[6]) if len(sys.argv) > 6 else count
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def visit(number):
    if libc.unshare(CLONE_NEWNET):
        return "unshare: " + os.strerror(ctypes.get_errno())
    with socket.socket() as loopback:
        fcntl.ioctl(loopback, 0x8914, struct.pack("16sH14x", b"lo", 1))
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        s = socket.socket(family)
        s.settimeout(20)
        started = time.monotonic()
        s.connect((host, port))
        connected = time.monotonic()
        words = ["user", f"{user}-{number}", "database", database]
        body = struct.pack("!i", 196608) + b"".join(word.encode() + b"\0" for word in words) + b"\0"
        s.sendall(struct.pack("!i", len(body) + 4) + body)
        answer = b""
        while not (len(answer) >= 6 and answer[-6:-1] == b"Z\0\0\0\5"):
            more = s.recv(65536)
            if not more or answer[:1] == b"E":
                return f"refused: {(answer + more)!r}"
            answer += more
        ready = time.monotonic()
        s.close()
        return f"{(connected - started) * 1000:.1f} {(ready - started) * 1000:.1f}"
    except OSError as error:
        return f"failed: {error}"


for first in range(0, count, wave):
    children = []
    for number in range(first, min(first + wave, count)):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write, visit(number).encode())
            os._exit(0)
        os.close(write)
        children.append((pid, read))
    for pid, read in children:
        print(os.read(read, 4096).decode(), flush=True)
        os.close(read)
        os.waitpid(pid, 0)
