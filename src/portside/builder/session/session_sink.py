"""Sends results to the client of ``portside build``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from portside.builder.results import ContentStore
from portside.builder.session.session_channel import Channel, SessionConnection
from portside.builder.session.session_content import ClientContent
from portside.model.errors import InvalidParameter


class ClientSink:
    """An :class:`OutputSink`: one output of the request."""

    def __init__(self, connection: SessionConnection, number: int, store: int | None) -> None:
        """``store``: number of the client's folder for ``tar=false``."""
        self._connection, self._number, self._store = connection, number, store

    async def file(self, metadata: Mapping[str, str]) -> ClientFile:
        return ClientFile(await self._connection.ask(output=self._number))

    async def tree(self, tar: AsyncIterator[bytes]) -> None:
        writer = await self.file({})
        async for piece in tar:
            await writer.write(piece)
        await writer.close()

    def content(self) -> ContentStore:
        if self._store is None:
            raise InvalidParameter("tar=false needs a folder: give dest=PATH")
        return ClientContent(self._connection, self._store)


class ClientFile:
    """A :class:`FileWriter` at the client."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def write(self, data: bytes) -> None:
        await self._channel.write(data)

    async def close(self) -> None:
        """Wait until the client has everything in its place. Refused when it cannot."""
        await self._channel.end()
        await self._channel.read(0)
        self._channel.close()
