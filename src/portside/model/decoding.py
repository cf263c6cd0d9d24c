"""Why a text is not JSON, in the words that clients of the Engine API know."""

from __future__ import annotations

import re

_AT = re.compile(r"JSON is malformed: (.*) \(byte ([0-9]+)\)")
_WHERE = {
    "object keys must be strings": "looking for beginning of object key string",
    "trailing comma in object": "looking for beginning of object key string",
    "expected ':'": "after object key",
    "expected ',' or '}'": "after object key:value pair",
    "expected ',' or ']'": "after array element",
}


def why_not_json(error: Exception, data: bytes) -> str:
    """What msgspec says of ``data``, as the standard library of Go says it."""
    text = str(error)
    if "truncated" in text:
        return "unexpected EOF"
    match = _AT.fullmatch(text)
    if match is None:
        return text
    reason, place = match[1], int(match[2])
    if reason.startswith("trailing characters"):
        return "unexpected content after JSON"
    found = data[place : place + 1].decode("latin-1")
    return f"invalid character {found!r} {_WHERE.get(reason, 'looking for beginning of value')}"
