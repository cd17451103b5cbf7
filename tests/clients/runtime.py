# Stands in for two services that speak gRPC on a unix socket: the Kubernetes container runtime (runtime.v1) and SPIFFE's
# Workload API. gRPC is grpcio's; the few messages are written out here.
# Arguments: socket, file: {"containers": {"id": {"state": 1, "pod": "uid", "pid": n}}, "svid": "token"}
import json
import sys
from concurrent import futures

import grpc

from protobuf import fields, number, text

socket, file = sys.argv[1:]


def first_text(message):
    return fields(message)[1].decode()


def read():
    return json.load(open(file))


def container_status(request, context):
    name = first_text(request)
    known = read().get("containers", {}).get(name)
    if known is None:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such container")
    labels = text(12, text(1, "io.kubernetes.pod.uid") + text(2, known.get("pod", "")))
    status = text(1, name) + number(3, known["state"]) + labels
    info = text(1, "info") + text(2, json.dumps({"sandboxID": "s", "pid": known["pid"]}))
    return text(1, status) + text(2, info)


def fetch_jwt(request, context):
    # The specification's guard against requests that a workload was tricked into.
    if ("workload.spiffe.io", "true") not in context.invocation_metadata():
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no security header")
    state = read()
    if first_text(request) != state["audience"]:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for this audience")
    return text(1, text(1, state["spiffe_id"]) + text(2, state["svid"]))


server = grpc.server(futures.ThreadPoolExecutor(4))
for service, method, function in [
    ("runtime.v1.RuntimeService", "ContainerStatus", container_status),
    ("SpiffeWorkloadAPI", "FetchJWTSVID", fetch_jwt),
]:
    handler = grpc.unary_unary_rpc_method_handler(function)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
server.add_insecure_port(f"unix:{socket}")
server.start()
server.wait_for_termination()
