# Sends a TCP SYN to a server in a way that no socket of TCP's is behind, and prints `answered` when a SYN-ACK came back,
# else `silence`. Usage: WAY SERVER PORT GATEWAY-MAC SOURCE
#   packet         AF_PACKET on eth0
#   packet-bypass  the same with PACKET_QDISC_BYPASS
#   tun            out of a TUN device of our own, forwarded and masqueraded by our own namespace
import fcntl, os, select, socket, struct, subprocess, sys, time

way, server, port, gateway, source = sys.argv[1:6]
port, own_port = int(port), 41000 + os.getpid() % 10000
v6 = ":" in server
family = socket.AF_INET6 if v6 else socket.AF_INET


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn(src, dst):
    src, dst = socket.inet_pton(family, src), socket.inet_pton(family, dst)
    tcp = struct.pack("!HHIIBBHHH", own_port, port, 4711, 0, 5 << 4, 2, 64240, 0, 0)
    pseudo = src + dst + (struct.pack("!II", len(tcp), 6) if v6 else struct.pack("!HH", 6, len(tcp)))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    if v6:
        return struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + src + dst + tcp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + src + dst
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + tcp


def is_answer(packet):
    head = 40 if v6 else 20
    tcp = packet[head : head + 14]
    return len(tcp) == 14 and struct.unpack("!HH", tcp[:4]) == (port, own_port) and tcp[13] & 0x12 == 0x12


def wait(descriptor, read, skip):
    until = time.monotonic() + 0.8
    while (left := until - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0] and is_answer(read()[skip:]):
            return "answered"
    return "silence"


if way.startswith("packet"):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind(("eth0", 0))
    if way == "packet-bypass":
        s.setsockopt(263, 20, 1)
    request = struct.pack("16s24x", b"eth0")
    own = fcntl.ioctl(s, 0x8927, request)[18:24]
    frame = bytes.fromhex(gateway.replace(":", "")) + own + struct.pack("!H", 0x86DD if v6 else 0x0800)
    s.send(frame + syn(source, server))
    print(wait(s, lambda: s.recv(65535), 14))
else:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))
    for command in [
        "ip address add 10.99.0.1/24 dev tun0",
        "ip link set tun0 up",
        "nft add table ip ours",
        "nft add chain ip ours post { type nat hook postrouting priority 100 ; }",
        "nft add rule ip ours post oifname eth0 masquerade",
    ]:
        subprocess.run(["/bin/sh", "-c", command.replace("{", "'{").replace("}", "}'")], check=True)
    with open("/proc/sys/net/ipv4/ip_forward", "w") as forward:
        forward.write("1")
    try:
        os.write(tun, syn("10.99.0.2", server))
        print(wait(tun, lambda: os.read(tun, 65535), 0))
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "ours"], check=True)
