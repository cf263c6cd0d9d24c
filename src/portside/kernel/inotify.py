"""inotify(7): learn that a file was replaced or written, without polling."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portside.kernel.libc import encoded

IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_TO = 0x2, 0x8, 0x80
IN_CREATE, IN_DELETE = 0x100, 0x200
IN_Q_OVERFLOW, IN_IGNORED, IN_ISDIR = 0x4000, 0x8000, 0x40000000
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC

_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)


class Inotify:
    """One inotify instance; readable when something happened."""

    def __init__(self) -> None:
        self._fd: int = _libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), "inotify_init1")

    def fileno(self) -> int:
        return self._fd

    def watch(self, path: str, mask: int) -> int:
        """Watch a file or directory; the watch's number."""
        number: int = _libc.inotify_add_watch(self._fd, encoded(path), mask)
        if number < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
        return number

    def unwatch(self, watch: int) -> None:
        """End a watch; harmless when the kernel has ended it already."""
        _libc.inotify_rm_watch(self._fd, watch)

    def read(self) -> list[tuple[int, int, str]]:
        """What happened, as (watch, mask, name in the directory); empty when nothing did."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        events, offset = [], 0
        while offset + _EVENT.size <= len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            events.append((watch, mask, os.fsdecode(name)))
        return events

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class DirectoryWatch:
    """Wakes the followers of directories; used from the event loop only.

    The inotify instance exists while there is a follower.
    """

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._followers: dict[int, set[asyncio.Event]] = {}
        """Followers by watch descriptor."""

    @contextmanager
    def changes(self, directory: Path) -> Iterator[asyncio.Event]:
        """An event that is set whenever a file in ``directory`` is written, made or renamed, and
        when the directory is gone. The caller clears it."""
        changed = asyncio.Event()
        if self._inotify is None:
            self._inotify = Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._readable)
        try:
            watch = self._inotify.watch(str(directory), IN_MODIFY | IN_CREATE | IN_MOVED_TO)
            self._followers.setdefault(watch, set()).add(changed)
            try:
                yield changed
            finally:
                self._leave(watch, changed)
        finally:
            self._rest()

    def _leave(self, watch: int, changed: asyncio.Event) -> None:
        followers = self._followers.get(watch)
        if followers is None or changed not in followers:
            return  # the kernel has dropped the watch with the directory
        followers.discard(changed)
        if not followers:
            del self._followers[watch]
            assert self._inotify is not None
            self._inotify.unwatch(watch)

    def _rest(self) -> None:
        """Close the inotify instance when nobody follows any more."""
        if self._inotify is not None and not self._followers:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _readable(self) -> None:
        assert self._inotify is not None
        for watch, mask, _ in self._inotify.read():
            if mask & IN_Q_OVERFLOW:  # events were lost: wake every follower
                wakened = {event for followers in self._followers.values() for event in followers}
            elif mask & IN_IGNORED:
                wakened = self._followers.pop(watch, set())
            else:
                wakened = self._followers.get(watch, set())
            for changed in wakened:
                changed.set()
