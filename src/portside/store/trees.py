"""Whole trees: remove, copy, measure. By descriptors, never across a mount point."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys

from portside.kernel import overlay
from portside.kernel.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from portside.kernel.syncfs import EARLY, begin_writing
from portside.store.moved_owners import MovedOwners

BELOW = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FICLONE = 0x40049409
"""ioctl_ficlone(2)"""
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x20000
"""ioctl_iflags(2)"""
PIECE = 1 << 20
"""Bytes that are copied at once."""


def remove(dir_fd: int, name: bytes) -> None:
    """Remove a file or a whole tree; nothing to do when it is not there.

    OSError EBUSY when a mount point is in it (which is left alone, with what is in it).
    Depth is bounded by descriptors, not by recursion: each level's is closed again.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        pass  # unlink(2) of a directory: EISDIR (EPERM by POSIX); an immutable file fails below
    _empty(openat2(dir_fd, name, OPEN_DIR, resolve=BELOW))
    os.rmdir(name, dir_fd=dir_fd)


def _empty(top: int) -> None:
    """Remove everything in the directory ``top``, and close it.

    Deeper than some levels, subdirectories are moved up first, so that neither descriptors
    nor the stack run out on a tree made to exhaust them.
    """
    levels: list[tuple[int, list[bytes]]] = [(top, [])]
    try:
        levels[0] = (top, _unlink_files(top))
        while levels:
            fd, subdirectories = levels[-1]
            if not subdirectories:
                os.close(levels.pop()[0])
                if levels:
                    parent, names = levels[-1]
                    os.rmdir(names.pop(), dir_fd=parent)
                continue
            name = subdirectories[-1]
            if len(levels) > 64:
                moved = b".deep-%d" % os.stat(name, dir_fd=fd).st_ino
                os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=top)
                subdirectories.pop()
                levels[0][1].insert(0, moved)
                continue
            child = openat2(fd, name, OPEN_DIR, resolve=BELOW)
            levels.append((child, []))
            levels[-1] = (child, _unlink_files(child))
    finally:
        for fd, _ in levels:
            os.close(fd)


def _unlink_files(fd: int) -> list[bytes]:
    """Remove all but the directories, whose names are returned."""
    subdirectories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                subdirectories.append(os.fsencode(entry.name))
            else:
                os.unlink(entry.name, dir_fd=fd)
    return subdirectories


def empty_directory(path: str) -> int:
    """Remove all that is in ``path``; how many entries went. What cannot be removed stays and
    the others go; the first error is raised at the end."""
    fd = os.open(path, OPEN_DIR)
    failed: OSError | None = None
    count = 0
    try:
        for name in os.listdir(fd):
            try:
                remove(fd, os.fsencode(name))
                count += 1
            except OSError as err:
                failed = failed or err
    finally:
        os.close(fd)
    if failed is not None:
        raise failed
    return count


def measure(path: str, without: str = "") -> int:
    """Bytes of the regular files and links beneath ``path``; 0 when it is gone. Each file once.

    A symbolic link at ``without`` does not count.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [path]
    while stack:
        try:
            entries = os.scandir(stack.pop())
        except FileNotFoundError:
            continue  # removed while we look
        with entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    stack.append(entry.path)
                elif stat.S_ISREG(found.st_mode):
                    if found.st_nlink > 1:
                        if (found.st_dev, found.st_ino) in seen:
                            continue
                        seen.add((found.st_dev, found.st_ino))
                    total += found.st_size
                elif stat.S_ISLNK(found.st_mode) and entry.path != without:
                    total += found.st_size  # as Docker counts
    return total


def spread(path: str | os.PathLike[str]) -> None:
    """Ask the file system to put each directory made in ``path`` far from the others.

    ext4 does not reuse an inode for a minute or more after its deletion, and looks at all
    such inodes of a block group again for each new file: unpacking thousands of files where
    thousands were just removed takes twenty times as long. Directories beneath a "top of a
    hierarchy" (chattr(1), T) start in groups of their own. Others ignore the flag.
    """
    fd = os.open(path, OPEN_DIR)
    try:
        flags = bytearray(8)
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
        found = int.from_bytes(flags[:4], sys.byteorder)
        if not found & FS_TOPDIR_FL:
            wanted = (found | FS_TOPDIR_FL).to_bytes(4, sys.byteorder)
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, wanted + bytes(4))
    except OSError:
        pass  # this file system has no such flag
    finally:
        os.close(fd)


# -- copying -----------------------------------------------------------------------------------


def copy_tree(source: str, target: str, owners: MovedOwners | None = None) -> int:
    """Copy a tree into the new directory ``target``; bytes of its files.

    With ``owners`` the copy belongs to others, and an overlay's marks are copied as well: it
    takes the place of a layer or of a writable one.
    """
    os.mkdir(target, 0o755)
    source_fd, target_fd = os.open(source, OPEN_DIR), os.open(target, OPEN_DIR)
    try:
        return _Copy(owners).directory(source_fd, target_fd)
    finally:
        os.close(source_fd)
        os.close(target_fd)


def copy_into(source_fd: int, target_fd: int) -> int:
    """Copy what is in one directory into another that is empty, and the directory's own owner,
    mode, attributes and times; bytes of the files. Hard links stay hard links."""
    return _Copy().directory(source_fd, target_fd)


class _Copy:
    """One copy; remembers the files with several links by what they were."""

    def __init__(self, owners: MovedOwners | None = None) -> None:
        self._owners = owners
        self._links: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._held: list[int] = []

    def directory(self, source: int, target: int) -> int:
        try:
            return self._directory(source, target)
        finally:
            for fd in self._held:
                os.close(fd)

    def _directory(self, source: int, target: int) -> int:
        total = 0
        for text in os.listdir(source):
            name = os.fsencode(text)
            try:
                found = os.stat(name, dir_fd=source, follow_symlinks=False)
                total += self._entry(name, found, source, target)
            except FileNotFoundError:
                continue  # removed while we look
        copy_attributes(source, target, os.fstat(source), self._owners)
        return total

    def _entry(self, name: bytes, found: os.stat_result, source: int, target: int) -> int:
        if stat.S_ISDIR(found.st_mode):
            return self._subdirectory(name, source, target)
        if found.st_nlink > 1 and self._linked(name, found, target):
            return 0
        if stat.S_ISREG(found.st_mode):
            return self._file(name, source, target)
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISSOCK(found.st_mode):
            return 0  # a socket is its process's; a copy would be dead
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        owner = _owner(found, self._owners)
        os.chown(name, *owner, dir_fd=target, follow_symlinks=False)
        _copy_xattrs(
            b"/proc/self/fd/%d/%s" % (source, name),
            b"/proc/self/fd/%d/%s" % (target, name),
            self._owners,
        )
        times = (found.st_atime_ns, found.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
        return 0

    def _subdirectory(self, name: bytes, source: int, target: int) -> int:
        child = openat2(source, name, OPEN_DIR, resolve=BELOW & ~RESOLVE_NO_XDEV)
        try:
            os.mkdir(name, 0o700, dir_fd=target)
            copy = openat2(target, name, OPEN_DIR, resolve=BELOW)
            try:
                return self._directory(child, copy)
            finally:
                os.close(copy)
        finally:
            os.close(child)

    def _linked(self, name: bytes, found: os.stat_result, target: int) -> bool:
        """Link to the copy made before, if there is one; else remember where this one goes."""
        key = (found.st_dev, found.st_ino)
        if key in self._links:
            directory, first = self._links[key]
            os.link(first, name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
            return True
        held = os.dup(target)
        self._held.append(held)
        self._links[key] = (held, name)
        return False

    def _file(self, name: bytes, source: int, target: int) -> int:
        fd = os.open(name, OPEN_FILE, dir_fd=source)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, "changed while it was copied", os.fsdecode(name))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            copy = os.open(name, flags, 0o600, dir_fd=target)
            try:
                copy_data(fd, copy, found.st_size)
                copy_attributes(fd, copy, found, self._owners)
            finally:
                os.close(copy)
            return found.st_size
        finally:
            os.close(fd)


def copy_attributes(
    source: int, target: int, found: os.stat_result, owners: MovedOwners | None = None
) -> None:
    """Owner, mode, extended attributes and times, in the order in which they last."""
    os.fchown(target, *_owner(found, owners))
    os.fchmod(target, owners.mode(found) if owners else stat.S_IMODE(found.st_mode))
    _copy_xattrs(source, target, owners)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _owner(found: os.stat_result, owners: MovedOwners | None) -> tuple[int, int]:
    if owners is None:
        return found.st_uid, found.st_gid
    return owners.uid(found.st_uid), owners.gid(found.st_gid)


def _copy_xattrs(source: int | bytes, target: int | bytes, owners: MovedOwners | None) -> None:
    follow = isinstance(source, int)
    for key in os.listxattr(source, follow_symlinks=follow):
        if key.startswith(overlay.XATTR) and (owners is None or key != overlay.OPAQUE):
            continue
        try:
            value = os.getxattr(source, key, follow_symlinks=follow)
            if owners is not None:
                value = owners.attribute(key, value)
            os.setxattr(target, key, value, follow_symlinks=follow)
        except OSError as err:
            if err.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise


def copy_data(source: int, target: int, size: int) -> None:
    """Share the extents, or copy, hole by hole.

    Without reflinks copy_file_range(2) goes page by page through a pipe: on ext4 it takes three
    times the processor time of reading and writing large pieces, which fill large folios.
    """
    if not size:
        return
    try:
        fcntl.ioctl(target, FICLONE, source)
        return
    except OSError as err:
        if err.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
            raise
    buffer = memoryview(bytearray(min(size, PIECE)))
    end = 0
    for start, end in data_ranges(source, size):
        _copy_range(source, target, start, end, buffer)
    if end != size:
        os.ftruncate(target, size)


def _copy_range(source: int, target: int, at: int, end: int, buffer: memoryview) -> None:
    begun = at
    while at < end:
        if at - begun >= EARLY:
            begin_writing(target, begun, at - begun)
            begun = at
        size = os.preadv(source, [buffer[: end - at]], at)
        if not size:
            return  # it became shorter
        piece = buffer[:size]
        while piece:
            done = os.pwrite(target, piece, at)
            piece, at = piece[done:], at + done


def data_ranges(fd: int, size: int) -> list[tuple[int, int]]:
    """Where a file has data, as (start, end); one range without support for holes."""
    ranges = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as err:
            if err.errno == errno.ENXIO:
                break  # a hole up to the end
            return [(0, size)]
        if start < at:
            ranges.append((start, at))
    return ranges
