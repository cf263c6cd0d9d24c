"""Learn that a container's log was written to: one inotify instance for all who follow logs.

A user may have few instances (``fs.inotify.max_user_instances``, 128 by default), and other
programs want some; watches within one are plenty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portside.kernel.inotify import (
    IN_CREATE,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    Inotify,
)


class LogWatch:
    """Used from the event loop only. The instance is there while somebody follows."""

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._followers: dict[int, set[asyncio.Event]] = {}
        """By watch."""

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
        """Close the instance when nobody follows any more."""
        if self._inotify is not None and not self._followers:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _readable(self) -> None:
        assert self._inotify is not None
        for watch, mask, _ in self._inotify.read():
            if mask & IN_Q_OVERFLOW:  # events were lost: everybody looks
                told = {event for followers in self._followers.values() for event in followers}
            elif mask & IN_IGNORED:
                told = self._followers.pop(watch, set())
            else:
                told = self._followers.get(watch, set())
            for changed in told:
                changed.set()
