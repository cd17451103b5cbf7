"""Ways out of a container or a service that are not a socket's: other cgroups, namespaces, processes and the agent's own
doors. What each tries first is printed; in the end it connects, and what comes of that is what counts."""
import fcntl, glob, subprocess

from common import *

AGENT = int(os.environ.get("AGENT", "0"))
RUN_DIR = os.environ.get("RUN_DIR", "/nonexistent")
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWCGROUP, CLONE_NEWNS = 0x10000000, 0x40000000, 0x02000000, 0x00020000
SYS_MOUNT, SYS_UNSHARE, SYS_PTRACE, SYS_BPF, SYS_VM_READV, SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = \
    165, 272, 101, 321, 310, 434, 438
SYS_SETNS, SIOCSIFFLAGS, IFF_UP = 308, 0x8914, 1


def attempt(what, action):
    """Something that should not be possible; what became of it is printed, and whether it worked is returned."""
    try:
        result = action()
    except OSError as error:
        print(f"{what}: {name(error)}")
        return False
    print(f"{what}: possible ({result})")
    return True


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def move(cgroup):
    """Into a cgroup by its name in CGROUP_ROOT."""
    write(f"{os.environ['CGROUP_ROOT']}/{cgroup}/cgroup.procs", "0")


def move_and_dial(cgroup):
    if not attempt(f"move to {cgroup}", lambda: move(cgroup)):
        return "refused to move"
    return dial(V4)


def own_child():
    """A cgroup of our own below the one we are in."""
    with open("/proc/self/cgroup") as lines:
        own = [line.strip().split("::")[1] for line in lines if line.startswith("0::")][0]
    child = f"{os.environ['CGROUP_MOUNT']}{own}/child-{os.getpid()}"
    os.mkdir(child)
    write(child + "/cgroup.procs", "0")
    return dial(V4)


def read_only_cgroups():
    """Everything a container may try with the cgroup file system it sees."""
    for path in glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True)[:3]:
        attempt("write " + path, lambda: write(path, "0"))
    attempt("remount", lambda: syscall(SYS_MOUNT, b"none", b"/sys/fs/cgroup", None, 0x20, None))
    os.makedirs("/tmp/cgroup", exist_ok=True)
    attempt("mount", lambda: syscall(SYS_MOUNT, b"none", b"/tmp/cgroup", b"cgroup2", 0, None))
    return dial(V4)


def namespaces(flags):
    attempt("unshare", lambda: syscall(SYS_UNSHARE, flags))
    if flags & CLONE_NEWNET:
        request = struct.pack("16sH14x", b"lo", IFF_UP)
        attempt("lo up", lambda: fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), SIOCSIFFLAGS, request))
    return dial(V4)


def agent_process():
    """What the kernel lets us do to the agent's process."""
    if not AGENT:
        return dial(V4)
    PTRACE_SEIZE = 0x4206
    attempt("ptrace", lambda: syscall(SYS_PTRACE, PTRACE_SEIZE, AGENT, None, None))
    attempt("open mem", lambda: open(f"/proc/{AGENT}/mem", "rb").close())
    attempt("list fds", lambda: os.listdir(f"/proc/{AGENT}/fd"))
    attempt("setns", lambda: syscall(SYS_SETNS, os.open(f"/proc/{AGENT}/ns/net", os.O_RDONLY), 0))
    handle = syscall(SYS_PIDFD_OPEN, AGENT, 0)
    for number in range(3, 40):
        if attempt(f"pidfd_getfd {number}", lambda: syscall(SYS_PIDFD_GETFD, handle, number, 0)):
            return "took a descriptor of the agent's"
    return dial(V4)


def processes():
    """Every process there is to be seen, and its sockets."""
    for path in glob.glob("/proc/[0-9]*"):
        with open(path + "/comm") as comm:
            if comm.read().strip() == "chaperone":
                return "sees the agent"
        handle = syscall(SYS_PIDFD_OPEN, int(path[6:]), 0)
        for number in range(3, 10):
            attempt(f"pidfd_getfd {path} {number}", lambda: syscall(SYS_PIDFD_GETFD, handle, number, 0))
    return dial(V4)


def doors():
    """The agent's control socket, and its commands, from inside."""
    for command in (["approve", "h-00000000"], ["deny", "h-00000000"], ["kill", "00"], ["detach"]):
        if os.environ.get("CHAPERONE"):
            done = subprocess.run([os.environ["CHAPERONE"], "--config", os.environ["CONFIG"], *command],
                                  capture_output=True, text=True, timeout=LIMIT)
            print(command[0], done.returncode, (done.stdout + done.stderr).strip()[:200])
            if done.returncode == 0:
                return f"{command[0]} was done for us"
    return dial(V4)


def pins():
    """The kernel programs and their pins, from a container."""
    os.makedirs("/tmp/bpf", exist_ok=True)
    attempt("mount bpffs", lambda: syscall(SYS_MOUNT, b"none", b"/tmp/bpf", b"bpf", 0, None))
    attributes = (ctypes.c_char * 64)()
    for command, what in ((11, "next program"), (12, "next map"), (31, "next link"), (34, "detach link")):
        attempt(what, lambda: syscall(SYS_BPF, command, attributes, 64))
    return dial(V4)


def runtimes():
    """Somebody else who could start a process for us."""
    for path in ("/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
                 "/run/systemd/private", "/run/dbus/system_bus_socket", "/run/crio/crio.sock"):
        client = socket.socket(socket.AF_UNIX)
        if attempt(path, lambda: client.connect(path)):
            return f"{path} can be reached"
    return dial(V4)


def relay():
    """A relay somebody else runs on loopback."""
    return dial("127.0.0.1", port=int(os.environ["RELAY"]))


def listener_direct(address, family=socket.AF_INET):
    return dial(address, socket.socket(family), port=LISTEN)


def listener_itself():
    """The agent's own sockets, at the ports they really have, found in /proc."""
    said = "no socket of the agent's found"
    with open("/proc/net/tcp") as rows:
        listening = [row.split() for row in rows.readlines()[1:] if row.split()[3] == "0A"]
    for row in listening:
        address, port = row[1].split(":")
        if address == "0100007F" and int(port, 16) not in (PORT, LISTEN):
            said = dial("127.0.0.1", port=int(port, 16))
    return said if AGENT else dial(V4)


def bind_listener(address, family, reuse):
    sock = socket.socket(family)
    if reuse:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((address, LISTEN))
    sock.listen()
    return "bound"


def flood():
    """Thousands of connections at once, so that one more finds no room to be announced."""
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    sockets = []
    for _ in range(3000):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((V4, PORT))
        sockets.append(sock)
    return dial(V4)


def cancel():
    """A cancel request for somebody else's session: on its own connection, with a guessed key."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.connect((V4, PORT))
    sock.sendall(struct.pack("!iiii", 16, 80877102, 4711, 1234567))
    return ask(sock, already_sent=True)


def others_namespace():
    """Into the network namespace of somebody else's container."""
    syscall(SYS_SETNS, os.open(os.environ["NETNS"], os.O_RDONLY), CLONE_NEWNET)
    return dial(V4)


def let_go():
    """`chaperone detach` while there is no agent to say no."""
    if os.environ.get("CHAPERONE"):
        done = subprocess.run([os.environ["CHAPERONE"], "--config", os.environ["CONFIG"], "detach"],
                              capture_output=True, text=True, timeout=LIMIT)
        print("detach", done.returncode, (done.stdout + done.stderr).strip()[:200])
        if done.returncode == 0:
            return "detach was done for us"
    return dial(V4)


main({
    "setns-other": others_namespace,
    "dead-detach": let_go,
    "cgroup-pod": read_only_cgroups,
    "cgroup-agent": lambda: move_and_dial("agent"),
    "cgroup-unknown": lambda: move_and_dial("unknown"),
    "cgroup-bypassed": lambda: move_and_dial("bypassed"),
    "cgroup-child": own_child,
    "cgroup-ns": lambda: namespaces(CLONE_NEWUSER | CLONE_NEWCGROUP),
    "user-ns": lambda: namespaces(CLONE_NEWUSER),
    "user-net-ns": lambda: namespaces(CLONE_NEWUSER | CLONE_NEWNET),
    "mount-ns": lambda: namespaces(CLONE_NEWUSER | CLONE_NEWNS),
    "unshare-pod": lambda: namespaces(CLONE_NEWUSER | CLONE_NEWNET),
    "ptrace-agent": agent_process,
    "ptrace-root": agent_process,
    "ptrace-pod": processes,
    "control": doors,
    "bpf-pod": pins,
    "runtimes-pod": runtimes,
    "relay": relay,
    "relay-bypassed": relay,
    "listener-v4": lambda: listener_direct("127.0.0.1"),
    "listener-v6": lambda: listener_direct("::1", socket.AF_INET6),
    "listener-any": lambda: listener_direct("0.0.0.0"),
    "listener-itself": listener_itself,
    "bind-listener": lambda: bind_listener("127.0.0.1", socket.AF_INET, False),
    "bind-reuseport": lambda: bind_listener("127.0.0.1", socket.AF_INET, True),
    "bind-any-v6": lambda: bind_listener("::", socket.AF_INET6, True),
    "flood": flood,
    "cancel": cancel,
})
