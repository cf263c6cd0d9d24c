"""Directories: such that other users of the machine must be able to enter, and an exchange.

The engine's umask is 0077: what it makes is its own unless it says otherwise. What it makes for
others (the source of a bind mount, the directory of its socket) is made here.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from portside.kernel.libc import check, encoded, libc

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def make_public(path: Path, mode: int = 0o755) -> None:
    """Make ``path`` and its missing parents with ``mode``, whatever the umask is.

    What exists is left alone. Raises OSError as mkdir(2); FileExistsError when ``path`` is there
    and is not a directory.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_public(path.parent, mode)
    with suppress(FileExistsError):
        path.mkdir(0o700)
        path.chmod(mode)  # not before: no other process can have entered it yet
        return
    if not path.is_dir():
        raise FileExistsError(17, "File exists", str(path))


def exchange(one: Path, other: Path) -> None:
    """Each gets the other's name, in one step (renameat2(2), RENAME_EXCHANGE). OSError."""
    names = encoded(str(one)), encoded(str(other))
    flags = ctypes.c_uint(_RENAME_EXCHANGE)
    check(libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags), *names)
