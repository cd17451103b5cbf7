"""Asks for metrics as Prometheus does, and prints them as its own parser understands them."""

import json
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"), answer.headers
    text = answer.read().decode()
found = {}
for family in text_string_to_metric_families(text):
    assert family.documentation and family.type in ("counter", "gauge"), family
    for sample in family.samples:
        key = ",".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))])
        assert key not in found, key
        found[key] = sample.value
print(json.dumps(found))
