"""Values about archives that the engine, the jobs and their workers exchange."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one archive, against bombs. Sizes in bytes."""

    total: int = 256 << 30
    """Data written."""
    logical: int = 16 << 40
    """Sum of the apparent sizes, holes of sparse files included."""
    entries: int = 8_000_000
    name: int = 4095
    """Of a path or link target (PATH_MAX - 1)."""
    header: int = 1 << 20
    """Of one extended (PAX) header."""
    stream: int = 512 << 30
    """Of the uncompressed archive, padding after its end included."""


class Change(msgspec.Struct, frozen=True, order=True):
    """One line of ``docker diff``; ``kind`` is 0 changed, 1 added, 2 deleted."""

    path: str = msgspec.field(name="Path")
    kind: int = msgspec.field(name="Kind")
