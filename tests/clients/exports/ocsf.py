"""Events, one a line on stdin, against the schema that the OCSF project publishes; says how many of each class."""

import collections
import json
import sys

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

VERSION = "1.3.0"
schema = get_ocsf_schema(VERSION)
embedded = OcsfJsonSchemaEmbedded(schema)
by_uid = {of["uid"]: (name, of) for name, of in schema["classes"].items()}
validators, seen = {}, collections.Counter()


def constraints(value, of, path):
    """What the schema says of attributes together, which JSON Schema as generated leaves out."""
    for kind, names in (of.get("constraints") or {}).items():
        there = [name for name in names if name in value]
        assert there if kind == "at_least_one" else len(there) == 1, f"{path}: {kind} of {names}"
    for name, attribute in of["attributes"].items():
        inner = attribute.get("object_type")
        if name not in value or inner in (None, "object"):
            continue
        values = value[name] if attribute.get("is_array") else [value[name]]
        for one in values:
            constraints(one, schema["objects"][inner], f"{path}.{name}")


for line in sys.stdin:
    event = json.loads(line)
    assert event["metadata"]["version"] == VERSION, event
    uid, profiles = event["class_uid"], event["metadata"]["profiles"]
    name, of = by_uid[uid]
    if uid not in validators:
        validators[uid] = jsonschema.Draft202012Validator(embedded.get_class_schema(name, profiles))
    try:
        validators[uid].validate(event)
        constraints(event, of, name)
    except (jsonschema.ValidationError, AssertionError) as error:
        print(f"{error}\nin {line}", file=sys.stderr)
        sys.exit(1)
    names = of["attributes"]["activity_id"]["enum"]
    assert str(event["activity_id"]) in names, event
    assert event["type_uid"] == uid * 100 + event["activity_id"], event
    seen[uid] += 1
print(json.dumps(seen))
