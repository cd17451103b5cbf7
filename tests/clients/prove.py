"""Checks what `chaperone prove` gives, with nothing of Chaperone's: RFC 9162 for the tree, C2SP's signed note for the
checkpoint, OpenSSL for Ed25519. Arguments: the public key in PEM, then files of proofs."""
import base64, hashlib, json, struct, subprocess, sys, tempfile


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def opened(note, pem):
    """Size and root of a checkpoint whose signature holds."""
    text, signatures = note.split("\n\n")
    text += "\n"
    origin, size, root = text.split("\n")[:3]
    name, signature = signatures.splitlines()[0].removeprefix("\u2014 ").split(" ")
    assert name == origin, (name, origin)
    signature = base64.b64decode(signature)
    der = base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("-----")))
    raw = der[-32:]
    assert signature[:4] == sha256(name.encode(), b"\n\x01", raw)[:4], "another key's id"
    with tempfile.NamedTemporaryFile() as message, tempfile.NamedTemporaryFile() as sig, tempfile.NamedTemporaryFile() as key:
        for file, data in ((message, text.encode()), (sig, signature[4:]), (key, pem.encode())):
            file.write(data)
            file.flush()
        verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key.name, "-rawin", "-in", message.name]
        subprocess.run([*verify, "-sigfile", sig.name], check=True, stdout=subprocess.DEVNULL)
    return int(size), base64.b64decode(root)


def inclusion_root(entry, index, size, proof):
    """RFC 9162, 2.1.3.2."""
    assert index < size
    fn, sn, r = index, size - 1, sha256(b"\0", entry)
    for p in proof:
        assert sn != 0
        if fn & 1 or fn == sn:
            r = sha256(b"\1", p, r)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            r = sha256(b"\1", r, p)
        fn >>= 1
        sn >>= 1
    assert sn == 0
    return r


def consistency_roots(first, second, first_root, proof):
    """RFC 9162, 2.1.4.2."""
    if first == second:
        assert not proof
        return first_root, first_root
    if first & (first - 1) == 0:
        proof = [first_root, *proof]
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = proof[0]
    for c in proof[1:]:
        assert sn != 0
        if fn & 1 or fn == sn:
            fr, sr = sha256(b"\1", c, fr), sha256(b"\1", c, sr)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            sr = sha256(b"\1", sr, c)
        fn >>= 1
        sn >>= 1
    assert sn == 0
    return fr, sr


STATEMENT, RESULT = 6, 7
STEPS = ["query", "prepare", "execute", "exec", "shell", "pty", "subsystem", "file", "feature", "connect"]


def unpacked(kind, payload):
    """The beginning of a packed event, as docs/journal.md has it."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = payload[at], at + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def string():
        nonlocal at
        length = number()
        at += length
        return payload[at - length : at]

    assert number() == 0, "another version"
    event = {"session": string().hex(), "op": number()}
    if kind == RESULT:
        counts = {name: number() for name in ("rows", "bytes", "masked_cells")}
        return {"event": "result", **event, **counts, "tag": string().decode()}
    step, verdict = STEPS[number()], ["permit", "deny", "hold"][number()]
    return {"event": "statement", **event, "step": step, "verdict": verdict, "sql": string().decode()}


def check(given, pem):
    size, root = opened(given["checkpoint"], pem)
    proof = [base64.b64decode(step) for step in given["proof"]]
    if "since" in given:
        old_size, old_root = opened(given["since"], pem)
        assert consistency_roots(old_size, size, old_root, proof) == (old_root, root)
        return f"the first {old_size} of {size} records are those signed before"
    record = given["record"]
    frame = bytes.fromhex(record["frame"])
    kind, number = struct.unpack("<IQ", frame[:12])
    assert kind in (1, STATEMENT, RESULT) and number == given["index"] + 1 == record["seq"]
    payload = record["payload"].encode() if kind == 1 else base64.b64decode(record["payload"])
    entry = sha256(frame, sha256(payload))
    assert entry.hex() == record["hash"]
    assert inclusion_root(entry, given["index"], size, proof) == root
    event = json.loads(payload) if kind == 1 else unpacked(kind, payload)
    # What is said of it beside what is proved is the same.
    assert kind == 1 or record["event"].items() >= event.items(), (record["event"], event)
    return f"record {number} of {size}: {event['event']}"


pem = open(sys.argv[1]).read()
for path in sys.argv[2:]:
    print(check(json.load(open(path)), pem))
