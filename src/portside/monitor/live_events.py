"""Server-sent events: events for the clients that read them, without waiting for a slow client.

Each client has a bounded queue. What does not fit is dropped, and the client receives the number
of messages that it missed (``event: missed``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec

_QUEUE = 500
MOST_CLIENTS = 200


class Client:
    """One open stream. ``groups``: names of the groups to send points of; None: all groups."""

    def __init__(self, groups: frozenset[str] | None, containers_only: bool = False) -> None:
        self.groups, self.containers_only = groups, containers_only
        self.missed = 0
        self._queue: deque[bytes] = deque()
        self._some = asyncio.Event()

    def put(self, message: bytes) -> None:
        if len(self._queue) >= _QUEUE:
            self.missed += 1
            return
        self._queue.append(message)
        self._some.set()

    async def next(self, seconds: float) -> bytes:
        """The queued messages; a comment when there was none for ``seconds``."""
        try:
            await asyncio.wait_for(self._some.wait(), seconds)
        except TimeoutError:
            return b": nothing new\n\n"
        self._some.clear()
        found = b"".join(self._queue)
        self._queue.clear()
        if self.missed:
            found += message("missed", {"messages": self.missed})
            self.missed = 0
        return found


def message(event: str, value: Any) -> bytes:
    """One message of the stream (HTML standard, 9.2)."""
    return b"event: " + event.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"


class LiveEvents:
    """All streams."""

    def __init__(self) -> None:
        self.clients: set[Client] = set()

    def send(self, event: str, value: Any) -> None:
        """Queue a message for every stream."""
        if self.clients:
            data = message(event, value)
            for client in self.clients:
                client.put(data)
