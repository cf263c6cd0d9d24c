"""A content store at the client of ``portside build``: a folder with the blobs of an OCI layout."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portside.builder.session.session_channel import Refused, SessionConnection
from portside.model.errors import NotFound

_MAX_SIZE = 32
"""Bytes of the text of a size."""


class ClientContent:
    """A :class:`ContentStore`; ``number`` is which of the request's folders it is."""

    def __init__(self, connection: SessionConnection, number: int) -> None:
        self._connection, self._number = connection, number

    async def size(self, digest: str) -> int | None:
        channel = await self._connection.ask(store=self._number, size=digest)
        try:
            text = await channel.read(_MAX_SIZE)
        finally:
            channel.close()
        return int(text) if text.isdigit() else None

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        channel = await self._connection.ask(store=self._number, read=digest)
        try:
            async for piece in channel.pieces():
                yield piece
        except Refused as err:
            raise NotFound(str(err)) from err
        finally:
            channel.close()

    async def write(self, digest: str, size: int, data: AsyncIterator[bytes]) -> None:
        if await self.size(digest) is not None:
            return
        channel = await self._connection.ask(store=self._number, write=digest)
        try:
            async for piece in data:
                await channel.write(piece)
            await channel.end()
            await channel.read(0)
        finally:
            channel.close()
