"""Batches on their way to another host: a bounded queue, retries with back-off, counters.

What is lost is counted, never silent: a full queue drops its oldest batch.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable

_LOG = logging.getLogger("portside.monitor")
_FIRST, _LONGEST = 0.5, 60.0
"""Seconds between two attempts."""


class Rejected(Exception):
    """The other side refused this batch, and would do so again."""


class DeliveryQueue:
    """Sends batches in order, and repeats each until it is accepted or refused for good."""

    def __init__(
        self, name: str, send: Callable[[bytes], Awaitable[None]], most: int, bytes_most: int
    ) -> None:
        self.name = name
        self.sent = self.dropped = self.failures = self.rejected = 0
        self._send, self._most, self._bytes_most = send, most, bytes_most
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._was_reached = True

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, batch: bytes) -> None:
        """Never waits."""
        self._queue.append(batch)
        self._size += len(batch)
        while len(self._queue) > self._most or (
            self._size > self._bytes_most and len(self._queue) > 1
        ):
            self._size -= len(self._queue.popleft())
            self.dropped += 1
        self._some.set()

    async def _run(self) -> None:
        pause = _FIRST
        while True:
            if not self._queue:
                self._some.clear()
                await self._some.wait()
            batch = self._queue[0]
            try:
                await self._send(batch)
            except Rejected as err:
                self.rejected += 1
                _LOG.warning("%s: a batch was refused: %s", self.name, err)
            except (OSError, TimeoutError, ConnectionError) as err:
                self.failures += 1
                if self._was_reached:
                    _LOG.warning("%s: %s; trying again", self.name, err or type(err).__name__)
                    self._was_reached = False
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(pause * 2, _LONGEST)
                continue
            else:
                self.sent += 1
                if not self._was_reached:
                    _LOG.info("%s: reached again, %d batches wait", self.name, len(self._queue))
                    self._was_reached = True
                pause = _FIRST
            if self._queue and self._queue[0] is batch:
                self._queue.popleft()
                self._size -= len(batch)

    async def stop(self, seconds: float = 2.0) -> None:
        """Wait a moment for pending batches to be sent, then end."""
        if self._task is None:
            return
        end = asyncio.get_running_loop().time() + seconds
        while self._queue and self._was_reached and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.dropped += len(self._queue)
