"""A table of flags as help shows it, and as a manual page does."""

from __future__ import annotations

import os
from textwrap import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portside.flags.table import Flag

_NARROW = 80
_KINDS = {"swap": "bytes"}
"""Kinds that are shown under another's name."""


def _width() -> int:
    try:
        return max(_NARROW, os.get_terminal_size(1).columns)
    except OSError:
        return _NARROW


def is_hidden(flag: Flag) -> bool:
    """Accepted for old scripts, but not shown."""
    return flag.help.startswith("hidden:")


def of_flags(flags: Sequence[Flag]) -> str:
    """The table of flags, its help wrapped to the terminal; hidden ones are left out."""
    flags = [flag for flag in flags if not is_hidden(flag)]
    lefts = [
        f"  {f'-{flag.short},' if flag.short else '   '} --{flag.name} "
        f"{_KINDS.get(flag.kind, flag.kind)}".rstrip()
        for flag in flags
    ]
    column = max(map(len, lefts)) + 3
    room = max(_width() - column, 24)
    lines = []
    for flag, left in zip(flags, lefts, strict=True):
        first, *more = wrap(" ".join(flag.help.split()), room, break_on_hyphens=False) or [""]
        lines.append(f"{left:<{column}}{first}".rstrip())
        lines += [" " * column + line for line in more]
    return "\n".join(lines)
