"""What a container changed, from its overlay's upper directory or, with vfs, by comparison.

In an upper directory a character device 0:0 means a deleted name and the attribute
``trusted.overlay.opaque`` = ``y`` for a directory that hides what lies below (overlayfs.rst,
"whiteouts and opaque directories"). In a layer these are the empty files ``.wh.NAME`` and
``.wh..wh..opq`` (image-spec, layer.md).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Sequence

from portside.kernel.openat2 import openat2
from portside.model.rootfs import Rootfs
from portside.store import tar_format as tar
from portside.store.archive_values import Change
from portside.store.roots import OPEN_DIR, open_root
from portside.store.tar_format import Entry
from portside.store.tar_pack import TarWriter, Watcher, read_xattrs
from portside.store.tar_unpack import OPAQUE, OVERLAY_OPAQUE, WHITEOUT, is_whiteout
from portside.store.trees import BELOW

CHANGED, ADDED, DELETED = 0, 1, 2
PLACEHOLDERS = frozenset(
    ("/.dockerenv", "/dev/console", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
)
"""Empty files the engine puts into a container: one as a mark, the others to mount over."""
MOUNT_POINTS = frozenset(
    ("/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/etc")
)
"""What the runtime makes where the image has no such directory, to mount over it or to hold the
files above. Docker keeps them in a layer of their own, which does not count as a change either."""

_DEEPEST = 2
"""Components of the longest of these paths."""


def _is_ours(path: str, found: os.stat_result) -> bool:
    """Whether a file is not the container's change but the engine's placeholder, or the
    link for programs that look for mounts in /etc/mtab."""
    if path == "/etc/mtab":
        return stat.S_ISLNK(found.st_mode) and found.st_size == len("/proc/mounts")
    return path in PLACEHOLDERS and stat.S_ISREG(found.st_mode) and not found.st_size


def is_opaque(fd: int) -> bool:
    """Whether a directory of an upper layer hides everything below it."""
    try:
        return os.getxattr(fd, OVERLAY_OPAQUE) == b"y"
    except OSError as err:
        if err.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def find_changes(rootfs: Rootfs, base: str) -> list[Change]:
    """Changes by path, sorted as ``docker diff`` sorts them."""
    found: list[Change] = []
    if rootfs.driver == "overlay":
        lower = open_root(_below(rootfs))
        upper_fd = os.open(rootfs.upper, OPEN_DIR)
        top = os.open(".", OPEN_DIR, dir_fd=lower)
        _overlay_changes(upper_fd, top, "", found)
    else:
        _compare(os.open(rootfs.upper, OPEN_DIR), os.open(base, OPEN_DIR), "", found)
    return sorted(found)


def _below(rootfs: Rootfs) -> Rootfs:
    """The same root without its writable layer."""
    lower = rootfs.lower
    if len(lower) < 2:
        empty = os.path.join(os.path.dirname(lower[0]), "empty")
        lower = (*lower, empty)
    return Rootfs("overlay", lower=lower, options=rootfs.options)


def _lstat(name: str, dir_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _overlay_changes(upper: int, lower: int, path: str, found: list[Change]) -> None:
    """Changes of one directory; ``lower`` is -1 where the directory is new."""
    for name in os.listdir(upper):
        new = _lstat(name, upper)
        old = _lstat(name, lower) if lower >= 0 else None
        where = f"{path}/{name}"
        if new is None or (old is None and _is_ours(where, new)):
            continue
        if is_whiteout(new):
            if old is not None:
                found.append(Change(where, DELETED))
        elif stat.S_ISDIR(new.st_mode):
            _directory_changes(name, upper, lower, new, old, where, found)
        else:
            found.append(Change(where, CHANGED if old is not None else ADDED))


def _directory_changes(
    name: str, upper: int, lower: int, new: os.stat_result, old: os.stat_result | None,
    where: str, found: list[Change],
) -> None:  # fmt: skip
    """A directory is changed when its attributes or anything in it are."""
    child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=upper)
    below = -1
    try:
        if old is not None and stat.S_ISDIR(old.st_mode):
            below = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=lower)
        before = len(found)
        _overlay_changes(child, below, where, found)
        if below >= 0 and is_opaque(child):
            present = set(os.listdir(child))
            found += [
                Change(f"{where}/{gone}", DELETED)
                for gone in os.listdir(below)
                if gone not in present
            ]
        if old is None:
            if where not in MOUNT_POINTS or len(found) > before:
                found.append(Change(where, ADDED))
        elif below < 0:
            if where not in MOUNT_POINTS or len(found) > before:
                found.append(Change(where, CHANGED))
        elif len(found) > before or _differ(new, old):
            found.append(Change(where, CHANGED))
    finally:
        os.close(child)
        if below >= 0:
            os.close(below)


def _differ(new: os.stat_result, old: os.stat_result) -> bool:
    same = (
        new.st_mode == old.st_mode
        and new.st_uid == old.st_uid
        and new.st_gid == old.st_gid
        and new.st_rdev == old.st_rdev
        and new.st_mtime_ns == old.st_mtime_ns
    )
    return not same or (not stat.S_ISDIR(new.st_mode) and new.st_size != old.st_size)


def _compare(
    new_fd: int, old_fd: int, path: str, found: list[Change], *, deep: bool = False
) -> None:
    """A tree against another: vfs' against the one it was copied from. With ``deep`` also the
    extended attributes of files that are not the same inode."""
    try:
        new_names = set(os.listdir(new_fd))
        old_names = set(os.listdir(old_fd)) if old_fd >= 0 else set()
        found += [Change(f"{path}/{name}", DELETED) for name in old_names - new_names]
        for name in new_names:
            new = _lstat(name, new_fd)
            old = _lstat(name, old_fd) if name in old_names else None
            where = f"{path}/{name}"
            if new is None or (old is None and _is_ours(where, new)):
                continue
            before = len(found)
            if stat.S_ISDIR(new.st_mode):
                below = -1
                if old is not None and stat.S_ISDIR(old.st_mode):
                    below = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=old_fd)
                child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=new_fd)
                _compare(child, below, where, found, deep=deep)
            if old is None:
                if where not in MOUNT_POINTS or len(found) > before:
                    found.append(Change(where, ADDED))
            elif (
                len(found) > before
                or _differ(new, old)
                or (
                    deep
                    and new.st_ino != old.st_ino
                    and (
                        _xattrs_differ(name, new_fd, old_fd)
                        or (stat.S_ISREG(new.st_mode) and _bytes_differ(name, new_fd, old_fd))
                    )
                )
            ):
                found.append(Change(where, CHANGED))
    finally:
        os.close(new_fd)
        if old_fd >= 0:
            os.close(old_fd)


def _bytes_differ(name: str, new_fd: int, old_fd: int) -> bool:
    """Whether two files of one size and time hold other bytes: both may have been made within one
    tick of the kernel's clock."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(name, flags, dir_fd=new_fd), "rb") as new,
        open(os.open(name, flags, dir_fd=old_fd), "rb") as old,
    ):
        while piece := new.read(1 << 20):
            if piece != old.read(len(piece)):
                return True
    return False


def _xattrs_differ(name: str, new_fd: int, old_fd: int) -> bool:
    one, other = (
        read_xattrs(b"/proc/self/fd/%d/%s" % (fd, os.fsencode(name))) for fd in (new_fd, old_fd)
    )
    return one != other


# -- as a layer --------------------------------------------------------------------------------


def pack_changes(
    rootfs: Rootfs, base: str, out: int, latest: int | None = None, watcher: Watcher | None = None
) -> int:
    """Write a container's changes as a layer; no time after ``latest`` (nanoseconds). With overlay
    ``watcher`` is called for all that is in the layer; for a deletion with its name in the
    archive."""
    writer = TarWriter(out, latest)
    writer.watcher = watcher
    if rootfs.driver == "overlay":
        upper = os.open(rootfs.upper, OPEN_DIR)
        _root_entry(writer, upper, os.stat(rootfs.lower[0]))
        made = {path for path in MOUNT_POINTS if _is_made(upper, rootfs.lower, path)}
        _pack_upper(writer, upper, b"", made)
    else:
        root = os.open(rootfs.upper, OPEN_DIR)
        _root_entry(writer, root, os.stat(base))
        for change in find_changes(rootfs, base):
            _pack_change(writer, root, change)
    writer.close()
    return 0


def pack_tree_changes(new: int, old: int, out: int) -> None:
    """Write what the tree at the descriptor ``new`` has beyond the one at ``old`` as a layer. Both
    are closed."""
    writer = TarWriter(out)
    root = os.dup(new)
    _root_entry(writer, new, os.fstat(old))
    found: list[Change] = []
    _compare(new, old, "", found, deep=True)
    try:
        for change in sorted(found):
            _pack_change(writer, root, change)
    finally:
        os.close(root)
    writer.close()


def _root_entry(writer: TarWriter, fd: int, old: os.stat_result) -> None:
    """The root directory itself, when its owner or mode were changed."""
    new = os.fstat(fd)
    if (new.st_mode, new.st_uid, new.st_gid) != (old.st_mode, old.st_uid, old.st_gid):
        writer.directory(fd, b".")


def own_files(rootfs: Rootfs) -> frozenset[bytes]:
    """Paths in a container's root that are the engine's, not the image's nor the container's."""
    if rootfs.driver != "overlay" or not rootfs.upper:
        return frozenset()
    upper = os.open(rootfs.upper, OPEN_DIR)
    try:
        found = {path for path in MOUNT_POINTS if _is_made(upper, rootfs.lower, path)}
        for path in (*PLACEHOLDERS, "/etc/mtab"):
            if _is_placeholder(upper, path) and not any(
                _has(layer, path[1:], 0) for layer in rootfs.lower
            ):
                found.add(path)
    finally:
        os.close(upper)
    return frozenset(os.fsencode(path[1:]) for path in found)


def _is_placeholder(upper: int, path: str) -> bool:
    try:
        fd = openat2(upper, path[1:], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, resolve=BELOW)
    except OSError:
        return False
    try:
        return _is_ours(path, os.fstat(fd))
    finally:
        os.close(fd)


def _is_made(upper: int, lower: Sequence[str], path: str) -> bool:
    """Whether a mount point is the engine's: no layer has such a directory (or file, for one), and
    nothing of the container's is in it. (Its parents are directories of layers: links in them lead
    nowhere, see BELOW.)"""
    kind = 0 if path == "/dev/console" else os.O_DIRECTORY
    if any(_has(layer, path[1:], kind) for layer in lower):
        return False
    return not _holds_more(upper, path)


def _has(layer: str, name: str, kind: int) -> bool:
    top = os.open(layer, OPEN_DIR)
    try:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | kind
        os.close(openat2(top, name, flags, resolve=BELOW))
        return True
    except OSError:
        return False
    finally:
        os.close(top)


def _holds_more(upper: int, path: str) -> bool:
    try:
        fd = openat2(upper, path[1:], OPEN_DIR | os.O_NOFOLLOW, resolve=BELOW)
    except OSError as err:
        return err.errno != errno.ENOENT and path != "/dev/console"
    try:
        for name in os.listdir(fd):
            where = f"{path}/{name}"
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if _is_ours(where, found) or (where in MOUNT_POINTS and not _holds_more(upper, where)):
                continue
            return True
        return False
    finally:
        os.close(fd)


def _pack_upper(writer: TarWriter, fd: int, path: bytes, made: Collection[str] = ()) -> None:
    prefix = path + b"/" if path else b""
    above = f"/{os.fsdecode(prefix)}"
    may_be_ours = above.count("/") <= _DEEPEST
    for text in sorted(os.listdir(fd), key=os.fsencode):
        name = os.fsencode(text)
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if may_be_ours and ((where := above + text) in made or _is_ours(where, found)):
            continue
        if is_whiteout(found):
            _put_mark(writer, prefix + WHITEOUT + name, found)
            continue
        child = writer.node(fd, name, prefix + name, found)
        if child < 0:
            continue
        try:
            if is_opaque(child):
                _put_mark(writer, prefix + name + b"/" + OPAQUE, found)
            _pack_upper(writer, child, prefix + name, made)
        finally:
            os.close(child)


def _put_mark(writer: TarWriter, path: bytes, found: os.stat_result) -> None:
    """A whiteout; its time, that of the container's run, is left out so that the same
    deletions give the same layer."""
    writer.entry(Entry(path, tar.REGTYPE, 0o600, 0, 0))
    if writer.watcher is not None:
        writer.watcher(path, found, b"", {}, -1, None)


def _pack_change(writer: TarWriter, root: int, change: Change) -> None:
    """vfs: one change; parents come before their children in the sorted list."""
    path = os.fsencode(change.path).lstrip(b"/")
    parent, _, name = path.rpartition(b"/")
    if change.kind == DELETED:
        where = parent + b"/" if parent else b""
        writer.entry(Entry(where + WHITEOUT + name, tar.REGTYPE, 0o600))
        return
    dir_fd = openat2(root, parent or b".", OPEN_DIR, resolve=BELOW)
    try:
        child = writer.node(dir_fd, name, path)
        if child >= 0:
            os.close(child)
    finally:
        os.close(dir_fd)
