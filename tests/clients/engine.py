# A container engine that says what its file says: Docker's API for one container at a time, on a unix socket.
# Arguments: socket, file with {"id": {"running": bool, "pid": n, "as": "other id"}} or {"hang": true}.
import http.server
import json
import os
import socketserver
import sys
import time

socket, file = sys.argv[1:]


class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        state = json.load(open(file))
        if state.get("hang"):
            time.sleep(60)
        container = self.path.removeprefix("/containers/").removesuffix("/json")
        known = state.get(container)
        body = {"message": "No such container"}
        if known:
            body = {"Id": known.get("as", container), "State": {"Running": known["running"], "Pid": known["pid"]}}
        data = json.dumps(body).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self):
        return "unix"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if os.path.exists(socket):
    os.unlink(socket)
Server(socket, Engine).serve_forever()
