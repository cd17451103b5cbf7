"""Packets made by hand."""
import time

from common import *


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


# Another one in each run: what the target still sends to the one before is no answer to this.
SOURCE_PORT = 40000 + int.from_bytes(os.urandom(2), "big") % 20000


def is_answer(packet):
    """Whether an IPv4 packet is the target's answer to a segment of ours."""
    return packet[9:10] == b"\x06" and packet[12:16] == socket.inet_aton(V4) \
        and packet[22:24] == struct.pack("!H", SOURCE_PORT)


def syn(source, target):
    """The first segment of a connection."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, target)
    header = struct.pack("!HHIIBBHHH", SOURCE_PORT, PORT, 1, 0, 5 << 4, 2, 64240, 0, 0)
    pseudo = ends + struct.pack("!IHBB", len(header), 0, 0, 6) if family == socket.AF_INET6 else \
        ends + struct.pack("!BBH", 0, 6, len(header))
    return header[:16] + struct.pack("!H", checksum(pseudo + header)) + header[18:]


def udp_datagram(data=b"hello"):
    return struct.pack("!HHHH", 40000, PORT, 8 + len(data), 0) + data


def ip(source, target, payload, fragment=0, options=b"", protocol=6):
    """An IPv4 packet, header and all."""
    words = 5 + len(options) // 4
    header = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), 4711, fragment, 64, protocol, 0,
                         socket.inet_aton(source), socket.inet_aton(target)) + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ip6(following, payload):
    ends = socket.inet_pton(socket.AF_INET6, source_for(V6)) + socket.inet_pton(socket.AF_INET6, V6)
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + ends + payload


def extension(following):
    """Hop-by-hop or destination options, with nothing but padding."""
    return bytes([following, 0, 1, 4, 0, 0, 0, 0])


def routing(following):
    """A segment routing header whose next stop is the target, and whose last is its neighbour."""
    last = socket.inet_pton(socket.AF_INET6, "fd66::2")
    return bytes([following, 2, 4, 1, 0, 0, 0, 0]) + last


def fragments():
    """A SYN with data, cut in two: only the first part has ports."""
    whole = syn(source_for(V4), V4) + b"x" * 28
    return [ip(source_for(V4), V4, whole[:24], 0x2000), ip(source_for(V4), V4, whole[24:], 3)]


def tiny_fragments():
    """The same, so that the first part ends before the flags; sent last part first."""
    whole = syn(source_for(V4), V4) + b"x" * 28
    return [ip(source_for(V4), V4, whole[8:], 1), ip(source_for(V4), V4, whole[:8], 0x2000)]


def fragments6():
    whole = syn(source_for(V6), V6) + b"x" * 28
    header = lambda offset, more: struct.pack("!BBHI", 6, 0, offset | more, 4711)
    return [ip6(44, header(0, 1) + whole[:24]), ip6(44, header(24, 0) + whole[24:])]


def tiny_fragments6():
    """The first part ends before the ports."""
    header = lambda following, offset, more: struct.pack("!BBHI", following, 0, offset | more, 4712)
    return [ip6(44, header(60, 0, 1) + extension(6)), ip6(44, header(60, 8, 0) + syn(source_for(V6), V6))]


def source_routed(hop):
    """To a router, and from there to the target: loose source routing."""
    option = bytes([131, 7, 4]) + socket.inet_aton(V4) + b"\0"
    return ip(source_for(V4), hop, syn(source_for(V4), V4), options=option)


def hardware_address(gateway):
    """Of the gateway, as the neighbour table has it."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.sendto(b"", (gateway, 9))
    for _ in range(50 * SLOWNESS):
        with open("/proc/net/arp") as rows:
            found = [row.split()[3] for row in rows if row.startswith(gateway + " ")]
        if found and found[0] != "00:00:00:00:00:00":
            return bytes.fromhex(found[0].replace(":", ""))
        time.sleep(0.02)
    raise OSError(errno.EHOSTUNREACH, gateway)


def default_gateway():
    return route("0.0.0.0")[1]


def route(address):
    """The interface and the gateway that packets to an address go by."""
    target = struct.unpack("<I", socket.inet_aton(address))[0]
    with open("/proc/net/route") as routes:
        rows = [line.split() for line in routes.readlines()[1:]]
    fitting = [row for row in rows if target & int(row[7], 16) == int(row[1], 16)]
    best = max(fitting, key=lambda row: int(row[7], 16).bit_count())
    return best[0], socket.inet_ntoa(struct.pack("<I", int(best[2], 16)))
