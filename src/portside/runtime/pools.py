"""Keeping forks small: no free places among the objects that parent and child share.

Python keeps small objects in pools of one page or more. After imports most pools have a few
free places, so that each new object of a forked child dirties a page it shared until then.
With the places taken, the child's objects lie together on pages of its own: a monitor is
about a tenth smaller for it.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys

_F_SETPIPE_SZ = 1031
_CLASS = re.compile(rb"^\s*\d+\s+(\d+)\s+\d+\s+\d+\s+(\d+)$", re.MULTILINE)
"""A line of the statistics: class, size in bytes, pools, blocks in use, available blocks."""
_HEADER = sys.getsizeof(b"")
"""What a bytes object takes beside its bytes."""
_kept: list[object] = []


def fill() -> None:
    """Take the free places; what takes them is kept. Call it last before forking."""
    for size, available in _CLASS.findall(_statistics()):
        wanted = int(size)
        if wanted > _HEADER:
            _kept.append([bytes(wanted - _HEADER) for _ in range(int(available))])
        else:
            _kept.append([number + 0.5 for number in range(int(available))])


def _statistics() -> bytes:
    """What CPython tells of its allocator, which it writes to descriptor 2; other
    interpreters tell nothing."""
    tell = getattr(sys, "_debugmallocstats", None)
    if tell is None:
        return b""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, _F_SETPIPE_SZ, 1 << 20)  # nobody reads before it is all written
    saved = os.dup(2)
    try:
        os.dup2(writer, 2)
        tell()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return file.read()
