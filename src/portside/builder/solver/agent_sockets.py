"""Sockets of the engine on which a client's SSH agent answers the steps of one build."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from portside.model.ids import new_id

MAX_AGENT_CONNECTIONS = 64
"""Connections to the client's SSH agent that one build has open at the same time."""


class SocketAccess(NamedTuple):
    """Who may connect: owner and mode of the socket's file."""

    uid: int = 0
    gid: int = 0
    mode: int = 0o600


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


class AgentSockets:
    """They are made when they are asked for, one for each agent and access, beneath the exec
    root in a directory that only root enters, and last until :meth:`close`."""

    def __init__(self, exec_root: Path) -> None:
        self._exec_root = exec_root
        self._directory: Path | None = None
        self._servers: dict[tuple[str, SocketAccess], tuple[str, asyncio.Server]] = {}

    async def path(self, identifier: str, access: SocketAccess, serve: Serve) -> str:
        """The socket of the agent ``identifier``; ``serve`` is called with its connections.
        OSError."""
        key = identifier, access
        if key in self._servers:
            return self._servers[key][0]
        if self._directory is None:
            self._directory = self._exec_root / f"build-{new_id()[:12]}"
            self._directory.mkdir(mode=0o700, parents=True)
        path = str(self._directory / f"agent-{new_id()[:12]}")
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(path)
            os.chown(path, access.uid, access.gid)
            os.chmod(path, access.mode)
            server = await asyncio.start_unix_server(serve, sock=listener)
        except BaseException:
            listener.close()
            raise
        self._servers[key] = path, server
        return path

    def close(self) -> None:
        for _, server in self._servers.values():
            server.close()
        self._servers.clear()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
