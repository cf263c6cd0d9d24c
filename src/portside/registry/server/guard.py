"""A read-write lock for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Guard:
    """A read-write lock: pushers share it, removal holds it alone.

    A waiting exclusive holder goes before later pushers. Nobody may take it twice.
    """

    def __init__(self) -> None:
        self._gate = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._holders = 0

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._gate:
            self._holders += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._idle.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._gate:
            await self._idle.wait()
            yield
