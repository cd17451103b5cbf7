# Stands in for a kubelet: serves /pods over TLS, as its file says, to whom shows the token.
# Arguments: port, folder with state.json: {"how": "list", "list": {...}, "token": text} or {"how": "500" | "garbage" |
# "endless" | "silent"}, and {"certificate": name} of NAME.pem and NAME.key beside `certificates`; the folder of those.
import http.server
import json
import os
import socketserver
import ssl
import sys
import time

port, folder, certificates = sys.argv[1:]


def read():
    return json.load(open(os.path.join(folder, "state.json")))


class Kubelet(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        state = read()
        how = state["how"]
        if how == "silent":
            time.sleep(60)
        if how == "500":
            return self.answer(500, b"no")
        if self.headers.get("Authorization") != "Bearer " + state["token"]:
            return self.answer(401, b"Unauthorized")
        if self.path != "/pods":
            return self.answer(404, b"")
        if how == "garbage":
            return self.answer(200, b"<html>")
        if how == "endless":
            self.send_response(200)
            self.send_header("Content-Length", str(100 << 20))
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" " * (1 << 20))
            return None
        return self.answer(200, json.dumps(state["list"]).encode())

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def finish_request(self, request, client):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        name = os.path.join(certificates, read().get("certificate", "server"))
        context.load_cert_chain(name + ".pem", name + ".key")
        try:
            super().finish_request(context.wrap_socket(request, server_side=True), client)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)


Server(("127.0.0.1", int(port)), Kubelet).serve_forever()
