"""A graph's operations as the JSON that BuildKit's provenance has: Go's names of the fields,
without what is empty."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from portside.builder.llb import Output, Vertex
from portside.builder.wire.definition_encoder import encode, operation

_ALWAYS = {"FileAction": ("input", "secondaryInput", "output")}
"""Fields that are written also when they are zero."""
_BOXED = {"FileAction": "Action", "UserOpt": "User"}
"""Messages whose choice is within a field of this name."""


def operation_json(vertex: Vertex) -> dict[str, Any]:
    """One vertex's operation."""
    found = operation(vertex)
    kind = found.WhichOneof("op")
    written: dict[str, Any] = {"Op": {kind: _message(getattr(found, kind))} if kind else {}}
    if found.HasField("platform"):
        written["platform"] = _message(found.platform)
    return {**written, "constraints": {}}


def result_digest(output: Output) -> str:
    """Digest of the last operation of a definition, which names the result."""
    operations = getattr(encode(output), "def")
    return f"sha256:{hashlib.sha256(operations[-1]).hexdigest()}"


def _message(message: Any) -> dict[str, Any]:
    name = message.DESCRIPTOR.name
    found: dict[str, Any] = {key: getattr(message, key) for key in _ALWAYS.get(name, ())}
    chosen: dict[str, Any] = {}
    for field, value in message.ListFields():
        inside = chosen if field.containing_oneof is not None and name in _BOXED else found
        inside[field.name] = _value(field, value)
    if name in _BOXED:
        found[_BOXED[name]] = chosen
    return found


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if isinstance(value, bytes | bool | int | str | float):
        return _one(value)
    return _one(value) if hasattr(value, "DESCRIPTOR") else [_one(item) for item in value]


def _one(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return _message(value) if hasattr(value, "DESCRIPTOR") else value
