"""Digests of files' contents, each read once: kept in a file beside a context, by inode.

A digest holds while inode, device, size, modification and change time are what they were
(stat(2); the change time cannot be set back). In job processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time

import msgspec

from portside.model.ids import new_id

PIECE = 1 << 20
RECENT = 100_000_000
"""Nanoseconds in which a file system may give two changes one time; whole seconds where its times
have no parts."""
SPARE = 10_000
"""Digests that may be left of files that were not met."""


class Known(msgspec.Struct, frozen=True, array_like=True):
    device: int
    size: int
    modified: int
    changed: int
    """Nanoseconds since the epoch."""
    digest: bytes
    is_plain: bool = False
    """Whether the file is known to have no extended attributes; a new one changes its time."""


class FileDigests:
    """SHA-256 of contents by file. With a ``path``, digests that a job found before are known, and
    :meth:`save` keeps what was found."""

    def __init__(self, path: str = "", *, private: bool = False) -> None:
        """``private``: nobody else changes these files; else one that was changed just now is not
        remembered, since another change may not show."""
        self._path, self.is_private = path, private
        self._known: dict[int, Known] = {}
        self._met: set[int] = set()
        self._is_new = False
        self.size = 0
        """Bytes of the files that were added."""
        if path:
            # a file that is missing, or of another version, knows nothing
            with contextlib.suppress(OSError, msgspec.MsgspecError), open(path, "rb") as file:
                self._known = msgspec.msgpack.decode(file.read(), type=dict[int, Known])

    def find(self, found: os.stat_result) -> bytes | None:
        """The digest of a file's content."""
        known = self.known(found)
        return None if known is None else known.digest

    def known(self, found: os.stat_result) -> Known | None:
        known = self._known.get(found.st_ino)
        if known is None or (known.device, known.size, known.modified, known.changed) != (
            found.st_dev, found.st_size, found.st_mtime_ns, found.st_ctime_ns,
        ):  # fmt: skip
            return None
        self._met.add(found.st_ino)
        return known

    def add(self, found: os.stat_result, digest: bytes, *, is_plain: bool = False) -> None:
        """``found``: as the file was before its content was read. ``is_plain``: it was seen to
        have no extended attributes since."""
        latest = max(found.st_mtime_ns, found.st_ctime_ns)
        recent = RECENT if latest % 1_000_000_000 else 2_000_000_000
        if not self.is_private and time.time_ns() - latest < recent:
            return
        self._known[found.st_ino] = Known(
            found.st_dev, found.st_size, found.st_mtime_ns, found.st_ctime_ns, digest, is_plain
        )
        self._met.add(found.st_ino)
        self._is_new = True
        self.size += found.st_size

    def save(self) -> None:
        if not self._path or not self._is_new:
            return
        known = self._known
        if len(known) > 8 * len(self._met) + SPARE:
            known = {inode: known[inode] for inode in self._met}
        temporary = f"{self._path}.{new_id()[:12]}"
        try:
            with open(temporary, "xb") as file:
                file.write(msgspec.msgpack.encode(known))
            os.rename(temporary, self._path)
        except OSError:  # a full disk: the files are read again
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def read_digest(fd: int) -> bytes:
    """SHA-256 of an open file from its current position on."""
    hasher = hashlib.sha256()
    while piece := os.read(fd, PIECE):
        hasher.update(piece)
    return hasher.digest()


def beside(directory: str) -> str:
    """The file that keeps the digests of a context's directory."""
    return f"{directory}.digests"
