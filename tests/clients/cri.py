# Plays the kubelet towards a real Kubernetes runtime (runtime.v1 on a unix socket): makes a pod on the host's network with
# one container, runs a program in it, removes the pod. gRPC is grpcio's; the messages are written out here (field numbers of
# kubernetes/cri-api, api.proto).
# Arguments: socket, then one of
#   run IMAGE CGROUP_PARENT UID NAMESPACE NAME   prints {"sandbox": id, "container": id}
#   exec CONTAINER COMMAND...                    prints {"code": n, "stdout": text, "stderr": text}
#   remove SANDBOX
import json
import sys

import grpc

from protobuf import fields, number, text

socket, verb, *words = sys.argv[1:]
channel = grpc.insecure_channel(f"unix:{socket}")
NODE = 2  # NamespaceMode


def pairs(field, values):
    return b"".join(text(field, text(1, name) + text(2, value)) for name, value in values.items())


def call(method, request):
    function = channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
    return fields(function(request, timeout=60, wait_for_ready=True))


def run(image, cgroup_parent, uid, namespace, name):
    labels = {"io.kubernetes.pod.uid": uid, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.name": name}
    on_host = text(1, number(1, NODE))
    metadata = text(1, name) + text(2, uid) + text(3, namespace)
    pod = text(1, metadata) + pairs(6, labels) + text(8, text(1, cgroup_parent) + text(2, on_host))
    sandbox = call("RunPodSandbox", text(1, pod))[1]
    container = text(1, text(1, "main")) + text(2, text(1, image)) + text(3, "/usr/bin/sleep") + text(4, "300")
    container += text(7, text(1, "/usr") + text(2, "/usr") + number(3, 1))
    container += pairs(9, labels | {"io.kubernetes.container.name": "main"})
    container += text(15, text(2, text(3, number(1, NODE))))
    made = call("CreateContainer", text(1, sandbox) + text(2, container) + text(3, pod))[1]
    call("StartContainer", text(1, made))
    return {"sandbox": sandbox.decode(), "container": made.decode()}


def execute(container, *command):
    request = text(1, container) + b"".join(text(2, word) for word in command) + number(3, 30)
    answer = call("ExecSync", request)
    return {"code": answer.get(3, 0), "stdout": answer.get(1, b"").decode(), "stderr": answer.get(2, b"").decode()}


if verb == "run":
    print(json.dumps(run(*words)))
elif verb == "exec":
    print(json.dumps(execute(*words)))
elif verb == "remove":
    call("StopPodSandbox", text(1, words[0]))
    call("RemovePodSandbox", text(1, words[0]))
else:
    sys.exit(f"no verb {verb}")
