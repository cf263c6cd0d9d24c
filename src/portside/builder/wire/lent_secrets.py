"""A session's secrets and agents for steps (:class:`step_mounts.Secrets`)."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from grpclib.exceptions import GRPCError, StreamTerminatedError

from portside.builder.wire.client_session import ClientSession
from portside.model.ids import new_id

MAX_AGENT_CONNECTIONS = 64
"""Connections to the client's SSH agent that one build has open at the same time."""


class SessionSecrets:
    """Sockets of agents live beneath the exec root as long as the build does."""

    def __init__(self, session: ClientSession, exec_root: Path) -> None:
        self._session, self._exec_root = session, exec_root
        self._directory: Path | None = None
        self._servers: dict[str, tuple[str, asyncio.Server]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def secret(self, identifier: str) -> bytes | None:
        return await self._session.secret(identifier)

    async def ssh_socket(self, identifier: str) -> str | None:
        if identifier in self._servers:
            return self._servers[identifier][0]
        if not await self._session.has_agent(identifier):
            return None
        if self._directory is None:
            self._directory = self._exec_root / f"build-{new_id()[:12]}"
            self._directory.mkdir(mode=0o700, parents=True)
        path = str(self._directory / f"agent-{len(self._servers)}")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        os.chmod(path, 0o666)  # the mount's own directory keeps others away
        server = await asyncio.start_unix_server(
            lambda reader, writer: self._begin(identifier, writer), sock=listener
        )
        self._servers[identifier] = path, server
        return path

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
        for _, server in self._servers.values():
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
