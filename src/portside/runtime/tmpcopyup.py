"""``tmpcopyup``: a new, empty file system begins with what lies where it is going to be mounted."""

from __future__ import annotations

import os
import stat

from portside.kernel.light_stdlib import suppress

_HERE = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy(source: int, target: int) -> None:
    """All that is in one directory into another, both by descriptor; links are not followed."""
    with os.scandir(source) as found:
        names = [entry.name for entry in found]
    for name in names:
        _entry(name, source, target)
    _metadata(os.fstat(source), target)
    _attributes(source, target)


def _entry(name: str, source: int, target: int) -> None:
    about = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(about.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        below = os.open(name, _HERE, dir_fd=source), os.open(name, _HERE, dir_fd=target)
        try:
            copy(*below)
        finally:
            os.close(below[0])
            os.close(below[1])
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, about.st_uid, about.st_gid, dir_fd=target, follow_symlinks=False)
        return
    if kind == stat.S_IFREG:
        _file(name, source, target, about)
        return
    os.mknod(name, about.st_mode, about.st_rdev, dir_fd=target)
    os.chown(name, about.st_uid, about.st_gid, dir_fd=target, follow_symlinks=False)


def _file(name: str, source: int, target: int, about: os.stat_result) -> None:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    reader = os.open(name, os.O_RDONLY | flags, dir_fd=source)
    writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=target)
    try:
        while os.sendfile(writer, reader, None, 1 << 20):
            pass
        _metadata(about, writer)
        _attributes(reader, writer)
        os.utime(writer, ns=(about.st_atime_ns, about.st_mtime_ns))
    finally:
        os.close(reader)
        os.close(writer)


def _metadata(about: os.stat_result, fd: int) -> None:
    os.fchown(fd, about.st_uid, about.st_gid)
    os.fchmod(fd, stat.S_IMODE(about.st_mode))


def _attributes(source: int, target: int) -> None:
    """Extended attributes, as far as the new file system has them (capabilities, say)."""
    with suppress(OSError):
        for name in os.listxattr(source):
            with suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
