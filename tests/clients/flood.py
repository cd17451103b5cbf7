"""Sends datagrams to many addresses and ports as fast as it can: COUNT, then the first three numbers of the network, PORT."""
import socket, sys

count, network, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
refused = 0
for number in range(count):
    try:
        sock.sendto(b"x", (f"{network}.{number % 250 + 1}", port))
    except PermissionError:
        refused += 1
print(refused)
