"""Under which address a client reached this registry: ``Host``, and a proxy's headers.

``Forwarded`` (RFC 7239) counts before ``X-Forwarded-Proto`` and ``X-Forwarded-Host``. These
values are put into headers of the answer (``Location``, ``WWW-Authenticate``), so only a
scheme and a host that could be part of a URL are taken; others are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from portside.registry.server.errors import RegistryError

_HOST = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]{2,45}(?:%25[\w.~-]+)?\])"
    r"(?::[0-9]{1,5})?"
)
"""A host and maybe a port (RFC 3986, 3.2.2), without what nobody calls a registry."""
_PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*')
_LONGEST = 4096
"""Bytes of a Forwarded header that are looked at."""


class Forwarded(msgspec.Struct, frozen=True):
    """What a proxy says of the request it passed on; empty where it says nothing usable."""

    scheme: str = ""
    host: str = ""


def is_host(text: str) -> bool:
    """Whether the text is a host, with or without a port."""
    return _HOST.fullmatch(text) is not None


def check_host(text: str) -> None:
    """Raise 400 for an invalid ``Host`` header (RFC 9112, 3.2)."""
    if text and not is_host(text):
        raise RegistryError("UNSUPPORTED", message="invalid Host header", status=400)


def forwarded(headers: Mapping[str, str]) -> Forwarded:
    """What the proxy nearest to the client says."""
    if "Forwarded" in headers:
        pairs = _first_element(headers["Forwarded"][:_LONGEST])
        scheme, host = pairs.get("proto", ""), pairs.get("host", "")
    else:
        scheme = headers.get("X-Forwarded-Proto", "").partition(",")[0]
        host = headers.get("X-Forwarded-Host", "").partition(",")[0]
    scheme, host = scheme.strip().lower(), host.strip()
    return Forwarded(scheme if scheme in ("http", "https") else "", host if is_host(host) else "")


def _first_element(text: str) -> dict[str, str]:
    """The pairs before the first comma (RFC 7239, 4); empty when they are malformed."""
    pairs: dict[str, str] = {}
    position = 0
    while match := _PAIR.match(text, position):
        quoted = match[2] is not None
        value = re.sub(r"\\(.)", r"\1", match[2]) if quoted else match[3]
        pairs[match[1].lower()] = value
        position = match.end()
        if position == len(text) or text[position] == ",":
            return pairs
        if text[position] != ";":
            return {}
        position += 1
    return {}
