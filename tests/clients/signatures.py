"""A receipt as JSON on stdin: checks the signatures of its votes with OpenSSL, and that a changed one is refused."""

import base64
import json
import os
import subprocess
import sys
import tempfile

# What comes before an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
SPKI = bytes.fromhex("302a300506032b6570032100")


def holds(signed, text):
    with tempfile.TemporaryDirectory() as folder:
        path = lambda name: os.path.join(folder, name)
        for name, data in [
            ("key", SPKI + base64.b64decode(signed["key"])),
            ("text", b"chaperone operator v1\n" + text.encode()),
            ("signature", base64.b64decode(signed["signature"])),
        ]:
            with open(path(name), "wb") as file:
                file.write(data)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", path("key"), "-rawin"]
        command += ["-in", path("text"), "-sigfile", path("signature")]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


receipt = json.load(sys.stdin)
for vote in receipt["hold"]["votes"]:
    signed = vote["signature"]
    assert holds(signed, signed["text"]), vote
    assert not holds(signed, signed["text"].replace("true", "false", 1) + " "), vote
    said = json.loads(signed["text"])
    assert receipt["hold"]["id"] in json.dumps(said["request"]) and said["binding"], said
    print(vote["by"], vote["approve"])
