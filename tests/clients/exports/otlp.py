"""A request of OTLP in JSON on stdin, read as the message that OpenTelemetry publishes; said again as JSON."""

import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

message = {
    "logs": logs_service_pb2.ExportLogsServiceRequest,
    "metrics": metrics_service_pb2.ExportMetricsServiceRequest,
}[sys.argv[1]]()
# Unknown fields are errors.
json_format.Parse(sys.stdin.read(), message)
print(json_format.MessageToJson(message, indent=None))
