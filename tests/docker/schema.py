"""Published schemas of container files, kept beside this file so that they are at hand without a network."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator

FOLDER = Path(__file__).parent / "schemas"


def complaints(document: dict[str, Any]) -> list[str]:
    """What the schema of a Compose file or an object of Kubernetes says against it: where, and what."""
    if "services" in document:
        validator = Draft7Validator(_load("compose-spec"))
    elif document["apiVersion"] == "ray.io/v1":
        validator = Draft202012Validator(_strict(_load(f"{document['kind'].lower()}-ray-v1")))
    else:
        group, _, version = document["apiVersion"].rpartition("/")
        name = "-".join(filter(None, [document["kind"].lower(), group.partition(".")[0], version]))
        validator = Draft202012Validator({**_load("kubernetes-1.37"), "$ref": f"#/$defs/{name}"})
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(document)]


def _load(name: str) -> Any:
    return json.loads(lzma.decompress((FOLDER / f"{name}.json.xz").read_bytes()))


def _strict(schema: Any) -> Any:
    """Unknown keys are errors, as `kubectl --validate=strict` has it: a cluster drops them without a word."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        known = {"apiVersion", "kind"} & set(schema["properties"])
        if not known and schema.get("type") == "object":
            found.setdefault("additionalProperties", False)
        elif known:  # an object of Kubernetes: its metadata has no schema of its own here
            found["additionalProperties"] = False
    return found
