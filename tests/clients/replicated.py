# Speaks replication byte by byte and keeps what CopyData carries. Prints one line of JSON for each direction of a base
# backup, and of a logical stream that it ends itself once it has seen a word.
# Arguments: host, port, user, database, slot, word
import hashlib
import json
import socket
import struct
import sys

host, port, user, database, slot, word = sys.argv[1:]


class Side:
    def __init__(self):
        self.bytes, self.hash = 0, hashlib.sha256()

    def add(self, data):
        self.bytes += len(data)
        self.hash.update(data)

    def told(self):
        return [self.bytes, self.hash.hexdigest()]


class Connection:
    def __init__(self):
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        parameters = {"user": user, "database": database, "replication": "database"}
        body = struct.pack("!i", 196608) + b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in parameters.items()) + b"\0"
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        self.until(b"Z")

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the connection ended"
            data += more
        return data

    def message(self):
        tag, length = struct.unpack("!ci", self.exactly(5))
        body = self.exactly(length - 4)
        assert tag != b"E", body
        return tag, body

    def until(self, wanted, side=None):
        while True:
            tag, body = self.message()
            if side and tag == b"d":
                side.add(body)
            if tag == wanted:
                return body

    def send(self, tag, body):
        self.socket.sendall(tag + struct.pack("!i", len(body) + 4) + body)


def backup():
    connection, down = Connection(), Side()
    connection.send(b"Q", b"BASE_BACKUP (LABEL 'summed', CHECKPOINT 'fast')\0")
    connection.until(b"Z", down)
    return [down.told(), Side().told()]


def stream():
    connection, down, up = Connection(), Side(), Side()
    connection.send(b"Q", f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0\0'.encode())
    connection.until(b"W")
    seen = False
    while not seen:
        tag, body = connection.message()
        assert tag == b"d", tag
        down.add(body)
        seen = word.encode() in body
        status = b"r" + struct.pack("!QQQQb", 0, 0, 0, 0, 0)
        up.add(status)
        connection.send(b"d", status)
    connection.send(b"c", b"")
    connection.until(b"Z", down)
    return [down.told(), up.told()]


print(json.dumps({"backup": backup(), "stream": stream()}))
