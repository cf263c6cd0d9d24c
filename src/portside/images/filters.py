"""The filter ``reference`` of images: a shell pattern for a name."""

from __future__ import annotations

import re

from portside.model.errors import InvalidParameter
from portside.model.reference import Reference


def reference_matches(pattern: str, reference: Reference) -> bool:
    """Whether the familiar reference or its name fits a shell pattern (``/`` is special)."""
    expression = _expression(pattern)
    return any(expression.fullmatch(t) for t in (reference.familiar, reference.familiar_name))


def _expression(pattern: str) -> re.Pattern[str]:
    made, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            made += "[^/]*"
        elif char == "?":
            made += "[^/]"
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            made += re.escape(pattern[at])
        elif char == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise InvalidParameter(f"invalid reference filter {pattern!r}: syntax error")
            inner = pattern[at + 1 : end].replace("[", r"\[")
            made += f"[{inner}]"
            at = end
        else:
            made += re.escape(char)
        at += 1
    try:
        return re.compile(made)
    except re.error as err:
        raise InvalidParameter(f"invalid reference filter {pattern!r}: {err}") from err
