"""How much room the data root has, and what is kept back for when it has none.

Operations that free or end something must work on a full disk. The metadata can move to the exec
root for that time (``store/db.py``); for the rest, such as a directory that must grow by a block to
take one more name, a preallocated file is given up. Operations that need room are refused before
they have begun when there is hardly any.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from portside.model.errors import NoSpace

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)
RESERVE = 4 << 20
"""Bytes of the file that is given up in need."""
LEAST = 1 << 20
"""Bytes (and 16 inodes) that must be free for anything new to be begun."""
_LOW_SHARE, _LOW_BYTES = 10, 1 << 30


class Space(NamedTuple):
    """The file system of a data root, in bytes, as root sees it (statvfs(3))."""

    free: int
    total: int
    inodes: int
    """Free ones; -1 where the file system has no fixed number."""

    @classmethod
    def of(cls, path: Path) -> Space:
        found = os.statvfs(path)
        inodes = found.f_ffree if found.f_files else -1
        return cls(found.f_bfree * found.f_frsize, found.f_blocks * found.f_frsize, inodes)

    @property
    def full(self) -> bool:
        return self.free < LEAST or 0 <= self.inodes < 16

    @property
    def low(self) -> bool:
        """Less than a tenth, and less than 1 GiB: time to warn."""
        return self.free < min(self.total // _LOW_SHARE, _LOW_BYTES) or 0 <= self.inodes < 1000


def require(path: Path) -> None:
    """Raise NoSpace when nothing new can be begun on the file system of ``path``."""
    if Space.of(path).full:
        raise NoSpace(f"write {path}: no space left on device: {HINT}")


HINT = "remove containers, images or volumes (`portside system df` shows their sizes)"


def is_full(err: BaseException) -> bool:
    """Whether an OSError says that a disk, a quota or its inodes are used up."""
    return isinstance(err, OSError) and err.errno in FULL


class Reserve:
    """The file ``reserve`` of a data root."""

    def __init__(self, root: Path) -> None:
        self.path = root / "reserve"

    def take(self) -> bool:
        """Allocate it, unless it is there or space is low; whether it is there."""
        with suppress(OSError):
            if self.path.exists() and self.path.stat().st_blocks * 512 >= RESERVE:
                return True
            if Space.of(self.path.parent).free < 4 * RESERVE:
                return False
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE)
                return True
            except OSError:
                self.path.unlink(missing_ok=True)
            finally:
                os.close(fd)
        return False

    def give_up(self) -> bool:
        """Free it; whether there was anything to free."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True

    def spend(self, work: Callable[[], T]) -> T:
        """Do what frees something, with the reserve when the disk is full."""
        try:
            return work()
        except OSError as err:
            if not is_full(err) or not self.give_up():
                raise
        return work()
