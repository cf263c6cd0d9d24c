"""The line of a build file that names its frontend, in whatever language the file is.

``# syntax=…`` or ``// syntax=…`` among the parser directives at its beginning, or the key
``syntax`` of a JSON document. A ``#!`` line may come first.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from portside.builder.dockerfile.diagnostics import Span

_DIRECTIVE = re.compile(r"(?:#|//)\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEAD = 64 << 10
"""Bytes in which directives are looked for."""
OURS = ("docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream",
        "docker.io/docker/dockerfile-upstream")  # fmt: skip
"""External frontends that the built-in one replaces."""


class SyntaxLine(NamedTuple):
    image: str
    cmdline: str
    """The whole value; what follows the image's name is the frontend's to read."""
    span: Span


def syntax_line(data: bytes) -> SyntaxLine | None:
    """Which frontend a file asks for."""
    text = data[:_HEAD].decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.splitlines()
    first = 1 if lines and lines[0].startswith("#!") else 0
    for sign in ("#", "//"):
        for number, line in enumerate(lines[first:], first + 1):
            match = _DIRECTIVE.fullmatch(line.strip()) if line.startswith(sign) else None
            if match is None:
                break
            if match[1].lower() == "syntax":
                return named(match[2], Span(number, number))
    return _of_document(data) if data[:_HEAD].lstrip().startswith(b"{") else None


def named(cmdline: str, span: Span | None = None) -> SyntaxLine:
    image = cmdline.strip().partition(" ")[0]
    return SyntaxLine(image, cmdline.strip(), span or Span(1, 1))


def is_built_in(image: str) -> bool:
    """Whether the built-in frontend answers for an image."""
    name = image.strip().partition("@")[0]
    tagged = ":" in name.rpartition("/")[2]
    return (name.rpartition(":")[0] if tagged else name) in OURS


def _of_document(data: bytes) -> SyntaxLine | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    cmdline = found.get("syntax") if isinstance(found, dict) else None
    return named(cmdline) if isinstance(cmdline, str) and cmdline.strip() else None
