"""File systems and block devices of the machine, and what containers use of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import msgspec

from portside.kernel.mountinfo_text import unescaped
from portside.monitor.samples import DISK_FIELDS, FileSystemUse

_REAL = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "nfs", "nfs4", "vfat", "f2fs", "bcachefs",
     "overlay", "tmpfs", "virtiofs", "9p")
)  # fmt: skip
_ONCE = frozenset(("overlay",))
"""Kinds of which only the one at ``/`` counts: the others are containers'."""
_BUDGET = 200_000
"""Files of one directory that are counted; beyond, the count says that it is incomplete."""


class Mount(msgspec.Struct, frozen=True):
    device: str
    mountpoint: str
    type: str
    major: int
    minor: int


def mounts(proc: str = "/proc", rootfs: str = "", needed: str = "") -> list[Mount]:
    """Mounted file systems that hold data, each device once (its shortest mount point).

    With ``rootfs`` (the host's root inside a container) only mounts below it are the host's.
    The one that holds the path ``needed`` (an engine's data root) counts whatever its kind.
    """
    try:
        with open(f"{proc}/self/mountinfo", errors="surrogateescape") as file:
            text = file.read()
    except OSError:
        return []
    return parse_mounts(text, rootfs, needed)


def parse_mounts(text: str, rootfs: str = "", needed: str = "") -> list[Mount]:
    """From mountinfo's text (proc(5))."""
    every = list(_entries(text, rootfs.rstrip("/")))
    holder = holder_of(needed, every)
    found: dict[tuple[int, int], Mount] = {}
    for mount in every:
        if mount is not holder and not _counts(mount):
            continue
        key = (mount.major, mount.minor)
        other = found.get(key)
        if other is None or len(mount.mountpoint) < len(other.mountpoint):
            found[key] = mount
    named: dict[str, Mount] = {}
    for mount in found.values():  # a mount point may be covered by a later mount
        named[mount.device] = mount
    return sorted(named.values(), key=lambda mount: mount.mountpoint)


def _entries(text: str, rootfs: str) -> Iterator[Mount]:
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words, tail = left.split(" "), right.split(" ")
        if len(words) < 5 or len(tail) < 2:
            continue
        point = unescaped(words[4])
        if rootfs:
            if point != rootfs and not point.startswith(rootfs + "/"):
                continue
            point = point[len(rootfs) :] or "/"
        major, _, minor = words[2].partition(":")
        # several tmpfs have the same source: they are known by their mount points
        device = point if tail[0] == "tmpfs" else unescaped(tail[1])
        yield Mount(device, point, tail[0], int(major), int(minor))


def _counts(mount: Mount) -> bool:
    if mount.type in _ONCE:
        return mount.mountpoint == "/"
    if mount.type == "tmpfs":
        return mount.mountpoint in ("/dev/shm", "/run", "/tmp")
    return mount.type in _REAL


class Mounted(Protocol):
    @property
    def mountpoint(self) -> str: ...


MountedT = TypeVar("MountedT", bound=Mounted)


def holder_of(path: str, mounted: Iterable[MountedT]) -> MountedT | None:
    """The one of these that a path lies in, by its name; of two at a place the later one."""
    best: MountedT | None = None
    for one in mounted:
        point = one.mountpoint.rstrip("/")
        holds = path == point or path.startswith(f"{point}/")
        if holds and (best is None or len(point) >= len(best.mountpoint.rstrip("/"))):
            best = one
    return best


DiskCounters = dict[tuple[int, int], tuple[int, ...]]
"""Counters of block devices by their numbers, in the order of :data:`DISK_FIELDS`."""


def disk_counters(proc: str = "/proc") -> DiskCounters:
    """``/proc/diskstats`` (Documentation/admin-guide/iostats.rst)."""
    found: DiskCounters = {}
    try:
        with open(f"{proc}/diskstats") as file:
            lines = file.read().splitlines()
    except OSError:
        return found
    most = len(DISK_FIELDS)
    for line in lines:
        major, minor, _name, *fields = line.split()
        if len(fields) >= most:
            found[int(major), int(minor)] = tuple(map(int, fields[:most]))
    return found


def use(mount: Mount, rootfs: str = "", disks: DiskCounters | None = None) -> FileSystemUse | None:
    """statvfs(3) of a mount; None when it cannot be read."""
    try:
        found = os.statvfs(f"{rootfs.rstrip('/')}{mount.mountpoint}")
    except OSError:
        return None
    capacity = found.f_blocks * found.f_frsize
    return FileSystemUse(
        device=mount.device,
        type=mount.type,
        mountpoint=mount.mountpoint,
        capacity=capacity,
        usage=capacity - found.f_bfree * found.f_frsize,
        available=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
        major=mount.major,
        minor=mount.minor,
        counters=disks.get((mount.major, mount.minor), ()) if disks else (),
    )


class DirectoryUse(msgspec.Struct, frozen=True):
    bytes: int = 0
    inodes: int = 0
    complete: bool = True


def directory_use(path: str, seconds: float = 2.0) -> DirectoryUse:
    """Bytes and entries below a directory, on its file system, each inode once.

    Symbolic links are not followed: what containers write decides what lies there. It ends
    after ``seconds``, and after 200,000 entries, and then says so.
    """
    total = entries = 0
    seen: set[int] = set()
    deadline = time.monotonic() + seconds
    try:
        device = os.lstat(path).st_dev
    except OSError:
        return DirectoryUse(complete=False)
    pending = [path]
    while pending:
        directory = pending.pop()
        try:
            listing = os.scandir(directory)
        except OSError:
            continue
        with listing:
            for entry in listing:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if status.st_dev != device or status.st_ino in seen:
                    continue
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
                total += status.st_blocks * 512
                entries += 1
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
        if entries > _BUDGET or time.monotonic() > deadline:
            return DirectoryUse(total, entries, complete=False)
    return DirectoryUse(total, entries)


def layer_of(process: str) -> str:
    """The upper directory of the overlay that is the root of a process, on the host; or empty.

    ``process``: its directory, such as ``/proc/1``.
    """
    try:
        with open(f"{process}/mountinfo") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    for line in lines:
        left, _, right = line.partition(" - ")
        words, tail = left.split(" "), right.split(" ")
        if len(words) > 4 and words[4] == "/" and tail[0] == "overlay":
            options = dict(option.partition("=")[::2] for option in tail[-1].split(","))
            return options.get("upperdir", "")
    return ""


def mount_of(path: str, known: Iterable[Mount], rootfs: str = "") -> Mount | None:
    """The mount that holds a path of the host."""
    try:
        device = os.stat(f"{rootfs.rstrip('/')}{path}").st_dev
    except OSError:
        return None
    key = (os.major(device), os.minor(device))
    return next((mount for mount in known if (mount.major, mount.minor) == key), None)
