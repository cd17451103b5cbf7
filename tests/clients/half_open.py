# Opens many connections and says nothing on any of them; a file tells when all are open.
import resource, socket, sys, time

host, port, count, ready = sys.argv[1], int(sys.argv[2]), int(sys.argv[5]), sys.argv[6]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held, failed = [], 0
while len(held) + failed < count:
    try:
        s = socket.create_connection((host, port), timeout=10)
        held.append(s)
    except OSError:
        failed += 1
open(ready, "w").write(f"{len(held)} open, {failed} refused\n")
time.sleep(60)
