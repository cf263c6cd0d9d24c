"""The modes that ``COPY --chmod`` takes: octal, or as chmod(1)'s ``u=rwX,go-w``."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable

from portside.model.errors import InvalidParameter

_SYMBOLIC = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)")


def mode_change(text: str) -> Callable[[int], int] | None:
    """A function from a file's mode to its permissions, of ``--chmod``'s octal or symbolic text;
    None for an empty one."""
    if not text:
        return None
    if text.isdecimal():
        return lambda _: int(text, 8) & 0o7777
    return lambda mode: _symbolic(text, mode)


def _symbolic(text: str, mode: int) -> int:
    """chmod(1): ``u=rwX,go-w``."""
    found = stat.S_IMODE(mode)
    for clause in text.split(","):
        match = _SYMBOLIC.fullmatch(clause)
        if match is None:
            raise InvalidParameter(f"invalid chmod parameter: '{text}'")
        who = match[1] or "a"
        for operator, letters in re.findall(r"([-+=])([rwxXst]*)", match[2]):
            found = _clause(found, mode, who, operator, letters)
    return found


def _clause(found: int, mode: int, who: str, operator: str, letters: str) -> int:
    executable = stat.S_ISDIR(mode) or bool(found & 0o111)
    bits = 0
    for letter in letters:
        if letter == "X" and not executable:
            continue
        bits |= {"r": 4, "w": 2, "x": 1, "X": 1}.get(letter, 0)
    mask = special = 0
    for name, shift, extra in (("u", 6, 0o4000), ("g", 3, 0o2000), ("o", 0, 0)):
        if name in who or "a" in who:
            mask |= 7 << shift
            special |= extra if "s" in letters else 0
    wanted = (bits * 0o111 & mask) | special | (0o1000 if "t" in letters else 0)
    if operator == "+":
        return found | wanted
    return (found & ~wanted) if operator == "-" else (found & ~mask) | wanted
