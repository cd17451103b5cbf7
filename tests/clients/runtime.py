# Stands in for two services that speak gRPC on a unix socket: the Kubernetes container runtime (runtime.v1) and SPIFFE's
# Workload API. gRPC is grpcio's; the few messages are written out here (protobuf's wire format).
# Arguments: socket, file: {"containers": {"id": {"state": 1, "pod": "uid", "pid": n}}, "svid": "token"}
import json
import sys
from concurrent import futures

import grpc

socket, file = sys.argv[1:]


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def text(field, value):
    data = value if isinstance(value, bytes) else value.encode()
    return varint(field << 3 | 2) + varint(len(data)) + data


def number(field, value):
    return varint(field << 3) + varint(value)


def first_text(message):
    """Field 1 of a message whose first field is a short text."""
    assert message[0] == 0x0A
    return message[2 : 2 + message[1]].decode()


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
