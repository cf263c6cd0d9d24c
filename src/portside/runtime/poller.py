"""Waiting for many descriptors and timers at once."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress


class Poller:
    """epoll(7) with a callback for each descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._dropped: set[int] = set()
        """Numbers dropped in this turn: its other events may be of what had them before."""
        self._timers: dict[object, tuple[float, Callable[[], None]]] = {}

    def set(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Watch a descriptor, or change what it is watched for."""
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def drop(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._dropped.add(fd)
            with suppress(OSError):
                self._epoll.unregister(fd)

    def after(self, seconds: float, key: object, callback: Callable[[], None]) -> None:
        """Call back once, unless :meth:`forget` comes first."""
        self._timers[key] = time.monotonic() + seconds, callback

    def forget(self, key: object) -> None:
        self._timers.pop(key, None)

    def _due(self, timeout: float | None) -> float | None:
        """Call what is due; how long the next one, or ``timeout``, is away."""
        now = time.monotonic()
        for key in [key for key, (at, _) in self._timers.items() if at <= now]:
            self._timers.pop(key)[1]()
        nearest = [max(0.0, at - now) for at, _ in self._timers.values()]
        return min([*nearest, timeout] if timeout is not None else nearest, default=None)

    def turn(self, timeout: float | None = None) -> None:
        """Wait for events and hand them out; ``timeout`` in seconds.

        A callback may close a descriptor and open another, which gets the same number. An
        event that was waiting for the first is not the second's; what is true of that one
        comes with the next turn.
        """
        if self._timers:
            timeout = self._due(timeout)
        self._dropped.clear()
        for fd, events in self._epoll.poll(timeout):
            callback = self._callbacks.get(fd)
            if callback is not None and fd not in self._dropped:
                callback(events)

    def close(self) -> None:
        self._epoll.close()
