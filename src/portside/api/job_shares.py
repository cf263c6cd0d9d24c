"""A share of the job processes for each client.

Archives, exports and imports are made by a process each, which waits for its client. Such jobs are
light, so none of them waits for a processor; without a bound a client that asks for many and reads
none would have as many processes as connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

EACH = 16
"""Streams of job processes that one client has at a time; its other requests wait."""


class JobShares:
    """Used from the event loop only."""

    def __init__(self, each: int = EACH) -> None:
        self._each = each
        self._clients: dict[Hashable, tuple[asyncio.Semaphore, list[None]]] = {}
        """The places of each client, and one entry for each request that has a place or waits."""

    @asynccontextmanager
    async def place(self, client: Hashable) -> AsyncIterator[None]:
        """Wait until the client has a place, and keep it."""
        places, asking = self._clients.setdefault(client, (asyncio.Semaphore(self._each), []))
        asking.append(None)
        try:
            async with places:
                yield
        finally:
            asking.pop()
            if not asking:
                del self._clients[client]
