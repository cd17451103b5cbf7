"""A relay: whoever connects to it on loopback is connected to the target. Arguments: target, port, file for its own port."""
import os, socket, sys, threading

server = socket.create_server(("127.0.0.1", 0))
with open(sys.argv[3] + ".new", "w") as file:
    file.write(str(server.getsockname()[1]))
os.rename(sys.argv[3] + ".new", sys.argv[3])


def pump(source, sink):
    try:
        while data := source.recv(4096):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


client, _ = server.accept()
upstream = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
threading.Thread(target=pump, args=(upstream, client), daemon=True).start()
pump(client, upstream)
