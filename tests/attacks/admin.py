"""What root with CAP_NET_ADMIN in a container's network namespace may do to packets on their way."""
import fcntl, subprocess, time

from common import *
from packets import *

# A host nobody protects, and a port for each technique so that rules do not meet.
HARMLESS = "10.66.0.2"
OTHER_PORT = 20000 + int(V4.split(".")[2]) * 256 + int(V4.split(".")[3])
ETH_P_IP, PACKET_QDISC_BYPASS, SOL_PACKET = 0x0800, 20, 263
SO_MARK, IP_TRANSPARENT, TCP_REPAIR = 36, 19, 19


def sh(command):
    done = subprocess.run(["/bin/sh", "-ec", command], capture_output=True, text=True)
    if done.returncode != 0:
        print("unsupported " + (done.stderr.strip().splitlines() or ["?"])[0])
        sys.exit()


def nft(rules):
    """A table of this technique's, in its own network namespace."""
    sh(f"nft -f - <<'END'\n{rules.replace('TABLE', NAME.replace('-', '_'))}\nEND")


def own_address():
    return source_for(V4)


def dnat_output():
    """Connect elsewhere, and have the packets' destination changed on the way out."""
    nft(f"table ip TABLE {{ chain out {{ type nat hook output priority -100; "
        f"ip daddr {HARMLESS} tcp dport {OTHER_PORT} dnat to {V4}:{PORT}; }}\n}}")
    return dial(HARMLESS, port=OTHER_PORT)


def dnat_listener():
    """Have the redirected connection itself sent on to the target."""
    nft(f"table ip TABLE {{ chain out {{ type nat hook output priority -100; "
        f"ip daddr 127.0.0.1 tcp dport {LISTEN} tcp sport {OTHER_PORT} dnat to {V4}:{PORT}; }}\n"
        f"chain post {{ type nat hook postrouting priority 100; ip daddr {V4} snat to {own_address()}; }}\n}}")
    with open("/proc/sys/net/ipv4/conf/all/route_localnet", "w") as setting:
        setting.write("1")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", OTHER_PORT))
    return dial(V4, sock)


def mangle():
    """Change addresses without NAT, where packets have been routed already."""
    nft(f"table ip TABLE {{ chain post {{ type filter hook postrouting priority 300; "
        f"ip daddr {HARMLESS} tcp dport {OTHER_PORT} ip daddr set {V4} tcp dport set {PORT}; }}\n}}")
    return dial(HARMLESS, port=OTHER_PORT)


def device_egress():
    """Change addresses at the device, behind everything that looks at sockets, and change them back in replies."""
    nft(f"table netdev TABLE {{ chain out {{ type filter hook egress device eth0 priority 0; "
        f"ip daddr {HARMLESS} tcp dport {OTHER_PORT} ip daddr set {V4} tcp dport set {PORT}; }}\n"
        f"chain in {{ type filter hook ingress device eth0 priority 0; "
        f"ip saddr {V4} tcp sport {PORT} ip saddr set {HARMLESS} tcp sport set {OTHER_PORT}; }}\n}}")
    return dial(HARMLESS, port=OTHER_PORT)


def inner_namespace():
    """A network namespace of our own behind us, whose packets we forward and send elsewhere."""
    child = subprocess.Popen(["unshare", "-Urn", "sleep", str(LIMIT)])
    # Once it sleeps, it has its namespaces.
    while child.poll() is None and open(f"/proc/{child.pid}/comm").read() != "sleep\n":
        time.sleep(0.01)
    number = OTHER_PORT % 250
    inner = f"nsenter -t {child.pid} -U -n --preserve-credentials"
    try:
        sh(f"ip link add in{number} type veth peer name inner netns {child.pid}; "
           f"ip addr add 10.80.{number}.1/24 dev in{number}; ip link set in{number} up; "
           f"{inner} ip link set lo up; {inner} ip addr add 10.80.{number}.2/24 dev inner; {inner} ip link set inner up; "
           f"{inner} ip route add default via 10.80.{number}.1; echo 1 > /proc/sys/net/ipv4/ip_forward")
        nft(f"table ip TABLE {{ chain pre {{ type nat hook prerouting priority -100; "
            f"ip daddr {HARMLESS} tcp dport {OTHER_PORT} dnat to {V4}:{PORT}; }}\n"
            f"chain post {{ type nat hook postrouting priority 100; oif eth0 masquerade; }}\n}}")
        code = f"import socket; s=socket.create_connection(({HARMLESS!r},{OTHER_PORT}),timeout={PATIENCE}); print(s.recv(99))"
        done = subprocess.run([*inner.split(), "python3", "-c", code], capture_output=True, text=True)
        if "WITNESS" in done.stdout:
            return "reached"
        return "silent" if "timed out" in done.stderr else "refused " + done.stderr.strip().splitlines()[-1]
    finally:
        child.kill()


def tunnel():
    """A packet that comes out of a TUN device, so that it is forwarded and not sent."""
    TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
    device = os.open("/dev/net/tun", os.O_RDWR)
    interface = f"tun{OTHER_PORT % 1000}"
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TUN | IFF_NO_PI))
    number = OTHER_PORT % 250
    sh(f"ip addr add 10.81.{number}.1/24 dev {interface}; ip link set {interface} up; "
       "echo 1 > /proc/sys/net/ipv4/ip_forward")
    nft("table ip TABLE { chain post { type nat hook postrouting priority 100; "
        f"ip saddr 10.81.{number}.0/24 oif eth0 masquerade; }}\n}}")
    source = f"10.81.{number}.2"
    os.write(device, ip(source, V4, syn(source, V4)))
    os.set_blocking(device, False)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            answer = os.read(device, 4096)
            if is_answer(answer):
                return "reached"
        except BlockingIOError:
            time.sleep(0.01)
    return "silent"


def packet(bypass, source=None, device=None):
    """A frame written straight to the device."""
    interface, gateway = route(V4)
    gateway = hardware_address(gateway)
    interface = device or interface
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    if bypass:
        sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    sock.bind((interface, ETH_P_IP))
    source = source or own_address()
    frame = ip(source, V4, syn(source, V4))
    sock.sendto(frame, (interface, ETH_P_IP, 0, 0, gateway))
    sock.settimeout(PATIENCE)
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end:
            answer = sock.recv(4096)
            if is_answer(answer):
                return "reached"
    except TimeoutError:
        pass
    return "silent"


def macvlan():
    """A frame through a device of our own on top of the container's."""
    device = f"mv{OTHER_PORT % 1000}"
    sh(f"ip link del {device} 2>/dev/null || true; ip link add {device} link eth0 type macvlan mode bridge; ip link set {device} up")
    return packet(True, device=device)


def overlay():
    """A tunnel whose far end is said to be the target: the kernel itself sends it datagrams, and no socket's hook runs."""
    number = OTHER_PORT % 250
    sh(f"ip link add over{number} type vxlan id {number} remote {V4} dstport {PORT} dev eth0; "
       f"ip addr add 10.82.{number}.1/24 dev over{number}; ip link set over{number} up")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.sendto(b"hello", (f"10.82.{number}.2", 9))
    time.sleep(0.5)
    # It says something now and then by itself.
    sh(f"ip link del over{number}")
    return "sent"


def transparent():
    """A source address that is not ours."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    sock.bind(("10.78.2.77", 0))
    return dial(V4, sock)


def source_route():
    """Loose source routing: the header's destination is a hop, the target is in an option."""
    option = bytes([131, 7, 4]) + socket.inet_aton(HARMLESS) + b"\0"
    sock = socket.socket()
    sock.setsockopt(socket.SOL_IP, socket.IP_OPTIONS, option)
    return dial(V4, sock)


def repair():
    """A connection put together by hand (TCP_REPAIR), as checkpoint tools do: no SYN, straight to data."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.bind((own_address(), 0))
    sock.connect((V4, PORT))
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    return ask(sock)


def mark():
    """Every mark that tools of this kind are known to let pass."""
    said = "silent"
    for value in (0x539, 0x1, 0x80, 0x200, 0xF00, -1):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, value)
        said = dial(V4, sock)
        if said == "reached":
            break
    return said


def loopback_away():
    """Loopback made to lead out of the container, so that the redirected connection leaves it."""
    with open("/proc/sys/net/ipv4/conf/all/route_localnet", "w") as setting:
        setting.write("1")
    sh(f"ip rule add prio 20 lookup local || true; ip rule del prio 0 lookup local || true; "
       f"ip rule add ipproto 6 sport {OTHER_PORT} table {OTHER_PORT} prio 5 || true; "
       f"ip route replace 127.0.0.0/8 via {default_gateway()} table {OTHER_PORT}")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", OTHER_PORT))
    return dial(V4, sock)


main({
    "dnat-output": dnat_output,
    "dnat-listener": dnat_listener,
    "mangle": mangle,
    "device-egress": device_egress,
    "inner-netns": inner_namespace,
    "tun": tunnel,
    "packet": lambda: packet(False),
    "packet-bypass": lambda: packet(True),
    "packet-spoofed": lambda: packet(True, "10.78.1.2"),
    "packet-pod": lambda: packet(True),
    "packet-host": lambda: packet(True),
    "macvlan": macvlan,
    "overlay-away": overlay,
    "transparent": transparent,
    "source-route": source_route,
    "tcp-repair": repair,
    "marks": mark,
    "loopback-away": loopback_away,
})
