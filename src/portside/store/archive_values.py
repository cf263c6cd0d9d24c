"""Plain values of archives: limits, a container's files as the container sees them, changes."""

from __future__ import annotations

import msgspec

from portside.model.ociruntime import IDMapping
from portside.model.rootfs import Rootfs


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one archive, against bombs. Sizes in bytes."""

    total: int = 256 << 30
    """Data written."""
    logical: int = 16 << 40
    """Sum of the apparent sizes, holes of sparse files included."""
    entries: int = 8_000_000
    name: int = 4095
    """Bytes of a path or link target (PATH_MAX - 1)."""
    header: int = 1 << 20
    """Bytes of one extended (PAX) header."""
    stream: int = 512 << 30
    """Bytes of the uncompressed archive, padding after its end included."""


class Change(msgspec.Struct, frozen=True, order=True):
    """One line of ``docker diff``; ``kind`` is 0 changed, 1 added, 2 deleted."""

    path: str = msgspec.field(name="Path")
    kind: int = msgspec.field(name="Kind")


class PathStat(msgspec.Struct, frozen=True):
    """``X-Docker-Container-Path-Stat`` (as JSON, in base64)."""

    name: str
    size: int
    mode: int
    """Go's os.FileMode."""
    mtime: str
    """RFC 3339 with nanoseconds."""
    link_target: str = msgspec.field(name="linkTarget")
    """For a link: where it leads, inside the container."""


class ViewMount(msgspec.Struct, frozen=True):
    """A mount of a container, made to read a stopped container's files."""

    source: str
    """Directory or file on the host."""
    destination: str
    """Path in the container."""
    read_only: bool = False
    uid_mappings: tuple[IDMapping, ...] = ()
    """Show the files' owners moved so: the host's as the container's."""
    gid_mappings: tuple[IDMapping, ...] = ()


class View(msgspec.Struct, frozen=True):
    """A container's files: of the running process ``pid`` (0: none), else of ``rootfs`` with
    what will be mounted in it. A process that has ended meanwhile counts as none. ``name`` is
    for messages."""

    name: str
    pid: int = 0
    rootfs: Rootfs | None = None
    mounts: tuple[ViewMount, ...] = ()
    read_only: bool = False
    """The root itself cannot be written; what is mounted in it can."""
    working_dir: str = ""
    """Made when it is missing: the first start would, and files are put there before it."""


def go_mode(mode: int) -> int:
    """A st_mode as Go's os.FileMode."""
    import stat

    kinds = {
        stat.S_IFDIR: 1 << 31,
        stat.S_IFLNK: 1 << 27,
        stat.S_IFBLK: 1 << 26,
        stat.S_IFCHR: 1 << 26 | 1 << 21,
        stat.S_IFIFO: 1 << 25,
        stat.S_IFSOCK: 1 << 24,
    }
    bits = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))
    result = mode & 0o777 | kinds.get(stat.S_IFMT(mode), 0)
    for theirs, ours in bits:
        if mode & theirs:
            result |= ours
    return result
