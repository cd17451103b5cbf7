"""What a container with no more than CAP_NET_RAW may put on its wire, or into a datagram, so that the host makes of it a
packet to the target. Nobody answers: whether it arrived is for the target's side to say."""
import mmap

from common import *
from packets import *

PACKET_QDISC_BYPASS, SOL_PACKET, SOL_XDP, AF_XDP = 20, 263, 283, 44
# The overlay that the host of these tests is an end of.
OVERLAY_PORT, OVERLAY_ID, OVERLAY_MAC = 8472, 77, bytes.fromhex("020000000077")


def frames(packets):
    """Straight to the device, past the queues."""
    interface, gateway = route(V4)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    for packet in packets:
        protocol = 0x86DD if packet[0] >> 4 == 6 else 0x0800
        sock.sendto(packet, (interface, protocol, 0, 0, hardware_address(gateway)))
    return "sent"


def into_overlay():
    """A datagram for an overlay's port on the host, with a packet in it: nothing but an ordinary socket."""
    source, gateway = source_for(V4), route(V4)[1]
    if NAME == "overlay-host":
        # For who is on the host, that is the host itself, which takes nothing from its own address.
        source, gateway = "10.66.0.9", source
    inner = OVERLAY_MAC + b"\x02" * 6 + b"\x08\0" + ip(source, V4, syn(source, V4))
    header = struct.pack("!II", 0x08000000, OVERLAY_ID << 8)
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(header + inner, (gateway, OVERLAY_PORT))
    return "sent"


def express():
    """AF_XDP: a ring of frames shared with the device, past everything that looks at sockets and queues."""
    REGISTER, FILL, COMPLETION, TX, OFFSETS, COPY, SIZE, SLOTS = 4, 5, 6, 3, 1, 2, 4096, 4
    try:
        sock = socket.socket(AF_XDP, socket.SOCK_RAW, 0)
    except OSError as error:
        return "unsupported " + name(error)
    interface, gateway = route(V4)
    memory = mmap.mmap(-1, SLOTS * SIZE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    sock.setsockopt(SOL_XDP, REGISTER, struct.pack("QQIIII", base, SLOTS * SIZE, SIZE, 0, 0, 0)[:28])
    for ring in (FILL, COMPLETION, TX):
        sock.setsockopt(SOL_XDP, ring, struct.pack("I", SLOTS))
    producer, consumer, slots, flags = struct.unpack("16Q", sock.getsockopt(SOL_XDP, OFFSETS, 128))[4:8]
    ring = mmap.mmap(sock.fileno(), slots + SLOTS * 16, offset=0x80000000)
    bind = struct.pack("HHIII", AF_XDP, COPY, socket.if_nametoindex(interface), 0, 0)
    if LIBC.bind(sock.fileno(), bind, len(bind)) != 0:
        raise OSError(ctypes.get_errno(), "bind")
    with open(f"/sys/class/net/{interface}/address") as address:
        own = bytes.fromhex(address.read().strip().replace(":", ""))
    frame = hardware_address(gateway) + own + b"\x08\0" + ip(source_for(V4), V4, syn(source_for(V4), V4))
    memory[: len(frame)] = frame
    ring[slots : slots + 16] = struct.pack("QII", 0, len(frame), 0)
    ring[producer : producer + 4] = struct.pack("I", 1)
    if LIBC.sendto(sock.fileno(), None, 0, socket.MSG_DONTWAIT, None, 0) < 0:
        raise OSError(ctypes.get_errno(), "sendto")
    time.sleep(0.2)
    return "sent" if struct.unpack("I", ring[consumer : consumer + 4]) == (1,) else "refused by the ring"


main({
    "frag-pod": lambda: frames(fragments()),
    "frag6-pod": lambda: frames(fragments6()),
    "tiny6-pod": lambda: frames(tiny_fragments6()),
    "ext6-pod": lambda: frames([ip6(0, extension(60) + extension(6) + syn(source_for(V6), V6))]),
    "lsrr-pod": lambda: frames([source_routed(route(V4)[1])]),
    "overlay-pod": into_overlay,
    "overlay-host": into_overlay,
    "xdp-pod": express,
})
