"""Results on their way to the client of ``portside build``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from portside.builder.results import ContentStore
from portside.builder.session.session_channel import Channel, SessionConnection
from portside.model.errors import InvalidParameter


class ClientSink:
    """An :class:`OutputSink`: one output of the request."""

    def __init__(self, connection: SessionConnection, number: int) -> None:
        self._connection, self._number = connection, number

    async def file(self, metadata: Mapping[str, str]) -> ClientFile:
        return ClientFile(await self._connection.ask(output=self._number))

    async def tree(self, tar: AsyncIterator[bytes]) -> None:
        writer = await self.file({})
        async for piece in tar:
            await writer.write(piece)
        await writer.close()

    def content(self) -> ContentStore:
        raise InvalidParameter("tar=false is not supported: leave it out, and unpack the archive")


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
