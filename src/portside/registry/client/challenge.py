"""``WWW-Authenticate``: what a server wants to see before it answers (RFC 9110, 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=[\s,]|$)\s*")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate: ``scheme`` in lower case, parameters with lower-case names."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of all headers; what cannot be understood ends that header's list."""
    found: list[Challenge] = []
    for header in headers:
        found.extend(_parse_one(header))
    return found


def _parse_one(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while at < len(header):
        parameter = _PARAMETER.match(header, at)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            value = _ESCAPED.sub(r"\1", quoted) if quoted is not None else plain
            found[-1].parameters[name.lower()] = value
            at = parameter.end()
            continue
        scheme = _SCHEME.match(header, at)
        if scheme is None:
            break
        found.append(Challenge(scheme[1].lower()))
        at = scheme.end()
    return found
