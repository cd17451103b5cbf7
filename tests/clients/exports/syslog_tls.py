"""Takes syslog over TLS (RFC 5425): appends each message to a file, once its length and its head are right."""

import re
import socket
import ssl
import sys

port, certificate, key, path = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
HEAD = re.compile(
    r"<(10[0-9]|11[01])>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z [!-~]{1,255} [!-~]{1,48} [!-~]{1,128} [!-~]{1,32} - \{"
)
listener = socket.create_server(("127.0.0.1", port))
while True:
    plain, _ = listener.accept()
    try:
        stream = context.wrap_socket(plain, server_side=True).makefile("rb")
        while True:
            length = b""
            while not length.endswith(b" "):
                byte = stream.read(1)
                if not byte:
                    raise EOFError
                length += byte
            text = stream.read(int(length)).decode()
            if not HEAD.match(text):
                print(f"not RFC 5424: {text[:200]}", file=sys.stderr)
                sys.exit(1)
            with open(path, "a") as out:
                out.write(text + "\n")
    except (OSError, EOFError):
        plain.close()
