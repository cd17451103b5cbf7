# Makes COUNT non-blocking connects, AT_ONCE at a time, to the destinations in turn, and aborts every seventh at once.
# Prints for each `port destination outcome`: `aborted`, `answered` (an error of PostgreSQL's), or what went wrong.
import errno, random, select, socket, struct, sys

count, at_once, port = (int(word) for word in sys.argv[1:4])
destinations = sys.argv[4:]
body = struct.pack("!i", 196608) + b"user\0storm\0database\0shop\0\0"
startup = struct.pack("!i", len(body) + 4) + body
random.seed(4711)
poll = select.epoll()
open_sockets = {}
started = 0


def finish(descriptor, outcome):
    s, own, destination, _ = open_sockets.pop(descriptor)
    poll.unregister(descriptor)
    s.close()
    print(own, destination, outcome)


def start(destination):
    s = socket.socket(socket.AF_INET6 if ":" in destination else socket.AF_INET)
    s.setblocking(False)
    error = s.connect_ex((destination, port))
    own = s.getsockname()[1]
    if error not in (0, errno.EINPROGRESS):
        print(own, destination, "connect", errno.errorcode[error])
        s.close()
        return
    if random.random() < 0.15:
        if random.random() < 0.5:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        print(own, destination, "aborted")
        return
    open_sockets[s.fileno()] = [s, own, destination, "connecting"]
    poll.register(s.fileno(), select.EPOLLOUT)


def advance(descriptor):
    entry = open_sockets[descriptor]
    s, _, destination, state = entry
    try:
        if state == "connecting":
            error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                return finish(descriptor, "error " + errno.errorcode[error])
            if s.getpeername()[:2] != (destination, port):
                return finish(descriptor, f"peer {s.getpeername()}")
            s.send(startup)
            entry[3] = "waiting"
            poll.modify(descriptor, select.EPOLLIN)
        else:
            answer = s.recv(4096)
            finish(descriptor, "answered" if answer[:1] == b"E" and b"28000" in answer else f"unanswered {answer!r}")
    except OSError as error:
        finish(descriptor, "failed " + errno.errorcode[error.errno])


while started < count or open_sockets:
    while started < count and len(open_sockets) < at_once:
        start(destinations[started % len(destinations)])
        started += 1
    for descriptor, _ in poll.poll(20):
        advance(descriptor)
