# Moves much: COPY in and out again, or one value; says how many bytes there were and whether they came as they were sent.
import hashlib, sys
import psycopg2

host, port, user, database, what, size = sys.argv[1:7]
size = int(size)
c = psycopg2.connect(host=host, port=port, user=user, dbname=database)
c.autocommit = True
q = c.cursor()


class Lines:
    # 1,000 bytes a line, each another.
    def __init__(self):
        self.digest, self.bytes, self.rest = hashlib.sha256(), 0, b""

    def read(self, most):
        while len(self.rest) < most and self.bytes < size:
            n = self.bytes // 1000
            line = (b"bulk-%09d-" % n + hashlib.sha256(b"%d" % n).hexdigest().encode() * 16)[:999] + b"\n"
            self.digest.update(line)
            self.bytes += len(line)
            self.rest += line
        out, self.rest = self.rest[:most], self.rest[most:]
        return out


class Taken:
    def __init__(self):
        self.digest, self.bytes = hashlib.sha256(), 0

    def write(self, data):
        self.digest.update(data)
        self.bytes += len(data)


if what == "copy":
    sent, taken = Lines(), Taken()
    q.copy_expert("copy scratch (word) from stdin", sent, 1 << 16)
    q.copy_expert("copy (select word from scratch where word like 'bulk-%' order by word) to stdout", taken, 1 << 16)
    print(sent.bytes, sent.digest.hexdigest() == taken.digest.hexdigest())
else:
    # 100,000 bytes without a pattern, over and over.
    part = "".join(hashlib.md5(b"%d" % n).hexdigest() for n in range(1, 3126))
    q.execute("select repeat(string_agg(md5(n::text), ''), %s) from generate_series(1, 3125) as n", [size // len(part)])
    value = q.fetchone()[0]
    print(len(value), value == part * (size // len(part)))
