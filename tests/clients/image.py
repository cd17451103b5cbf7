# Makes a container image (docker archive) of busybox and links into /usr, which is mounted from the host. Argument: file.
import hashlib
import io
import json
import sys
import tarfile

NAME = "chaperone.test/box:1"


def archive(target, entries):
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, kind, data in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind == tarfile.SYMTYPE:
                info.linkname = data
                data = b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


layer = io.BytesIO()
folders = [(name, tarfile.DIRTYPE, b"") for name in "usr proc dev tmp sys etc run".split()]
links = [(name, tarfile.SYMTYPE, f"usr/{name}") for name in "bin sbin lib lib64".split()]
archive(layer, folders + links + [("busybox", tarfile.REGTYPE, open("/bin/busybox", "rb").read())])
layer = layer.getvalue()
config = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Entrypoint": ["/busybox", "sleep", "600"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
}
manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
with open(sys.argv[1], "wb") as file:
    files = [("config.json", json.dumps(config).encode()), ("layer.tar", layer)]
    files += [("manifest.json", json.dumps(manifest).encode())]
    archive(file, [(name, tarfile.REGTYPE, data) for name, data in files])
