"""A session's secrets and agents for steps (:class:`step_mounts.Secrets`)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

from grpclib.exceptions import GRPCError, StreamTerminatedError

from portside.builder.solver.agent_sockets import (
    MAX_AGENT_CONNECTIONS,
    AgentSockets,
    SocketAccess,
)
from portside.builder.wire.client_session import ClientSession


class SessionSecrets:
    """Sockets of agents live beneath the exec root as long as the build does."""

    def __init__(self, session: ClientSession, exec_root: Path) -> None:
        self._session, self._sockets = session, AgentSockets(exec_root)
        self._tasks: set[asyncio.Task[None]] = set()

    async def secret(self, identifier: str) -> bytes | None:
        return await self._session.secret(identifier)

    async def ssh_socket(self, identifier: str, access: SocketAccess) -> str | None:
        if not await self._session.has_agent(identifier):
            return None
        return await self._sockets.path(
            identifier, access, lambda reader, writer: self._begin(identifier, writer)
        )

    def _begin(self, identifier: str, writer: asyncio.StreamWriter) -> None:
        transport_socket = writer.get_extra_info("socket")
        if len(self._tasks) >= MAX_AGENT_CONNECTIONS or transport_socket is None:
            writer.close()
            return
        sock = transport_socket.dup()
        writer.transport.abort()
        task = asyncio.get_running_loop().create_task(self._forward(identifier, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, identifier: str, sock: socket.socket) -> None:
        with sock, suppress(GRPCError, StreamTerminatedError, OSError):
            await self._session.forward_agent(identifier, sock)

    async def close(self) -> None:
        self._sockets.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
