"""``--buildkit-host``: BuildKit's services on a socket of their own, for buildctl and the remote
driver of buildx. HTTP/2 from the first byte; nothing else is served there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.daemon.listeners import Listener

    Take = Callable[[asyncio.Transport, bytes], None]


class _Arrival(asyncio.Protocol):
    """Gives a connection away as soon as it is there."""

    def __init__(self, take: Take) -> None:
        self._take = take

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._take(transport, b"")


class BuildkitServer:
    """Serves what the listeners accept."""

    def __init__(self, servers: list[asyncio.Server]) -> None:
        self._servers = servers

    @classmethod
    async def start(cls, found: list[Listener], take: Take) -> BuildkitServer:
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_unix_server(lambda: _Arrival(take), sock=listener.sock)
            for listener in found
        ]
        return cls(servers)

    async def close(self) -> None:
        """Accept no more; the engine ends the connections."""
        for server in self._servers:
            server.close()
