"""Secrets, agents and credentials that the client of a build has, asked for when they are
needed. They live in memory and, for a step that mounts them, beneath the exec root."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import msgspec

from portside.builder.session.session_channel import Channel, Refused, SessionConnection
from portside.builder.solver.agent_sockets import (
    MAX_AGENT_CONNECTIONS,
    AgentSockets,
    SocketAccess,
)
from portside.builder.solver.step_mounts import MAX_SECRET
from portside.model.errors import PortsideError
from portside.model.registryauth import AuthConfig

_MAX_AUTH = 64 << 10
_PIECE = 64 << 10


class ClientSecrets:
    """:class:`step_mounts.Secrets` over the client's connection."""

    def __init__(
        self, connection: SessionConnection, secrets: list[str], ssh: list[str], exec_root: Path
    ) -> None:
        self._connection, self._secrets, self._ssh = connection, set(secrets), set(ssh)
        self._sockets = AgentSockets(exec_root)
        self._tasks: set[asyncio.Task[None]] = set()

    async def secret(self, identifier: str) -> bytes | None:
        if identifier not in self._secrets:
            return None
        channel = await self._connection.ask(secret=identifier)
        try:
            return await channel.read(MAX_SECRET + 1)
        finally:
            channel.close()

    async def credentials(self, registry: str) -> AuthConfig | None:
        channel = await self._connection.ask(credentials=registry)
        try:
            data = await channel.read(_MAX_AUTH)
            return msgspec.json.decode(data, type=AuthConfig).complete() if data else None
        except (msgspec.MsgspecError, Refused):
            return None
        finally:
            channel.close()

    async def ssh_socket(self, identifier: str, access: SocketAccess) -> str | None:
        if identifier not in self._ssh:
            return None

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self._tasks) >= MAX_AGENT_CONNECTIONS:
                writer.close()
                return
            task = asyncio.get_running_loop().create_task(self._relay(identifier, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return await self._sockets.path(identifier, access, serve)

    async def _relay(
        self, identifier: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(PortsideError, ConnectionError):
            channel = await self._connection.ask(ssh=identifier)
            sending = asyncio.create_task(self._up(reader, channel))
            try:
                async for piece in channel.pieces():
                    writer.write(piece)
                    await writer.drain()
            finally:
                sending.cancel()
                channel.close()
        writer.close()

    async def _up(self, reader: asyncio.StreamReader, channel: Channel) -> None:
        with suppress(PortsideError, ConnectionError):
            while piece := await reader.read(_PIECE):
                await channel.write(piece)
            await channel.end()

    async def close(self) -> None:
        self._sockets.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
