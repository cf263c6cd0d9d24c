"""``--on-fail=shell``: the user's terminal before a shell in the step that has failed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from portside.builder import llb
from portside.builder.session.session_channel import Channel, Refused, SessionConnection
from portside.builder.solver.step_runner import FailedStep
from portside.model.errors import PortsideError

_PIECE = 32 << 10
_SHELL = "/bin/sh"


class FailureShell:
    """One shell for a build: in the step that fails first."""

    def __init__(self, connection: SessionConnection, is_tty: bool) -> None:
        """``is_tty``: the client's input is a terminal."""
        self._connection, self._is_tty = connection, is_tty
        self._used = False

    async def __call__(self, step: FailedStep) -> None:
        """Return when the user has left the shell, or cannot have one."""
        if self._used:
            return
        self._used = True
        channel = await self._connection.ask(shell=step.vertex.label, code=step.code)
        try:
            with suppress(Refused, PortsideError):
                await step.run((_shell_of(step),), _ChannelTerminal(channel, self._is_tty))
            await channel.end()
        finally:
            channel.close()


class _ChannelTerminal:
    """A :class:`Terminal` at the client."""

    def __init__(self, channel: Channel, is_tty: bool) -> None:
        self._channel, self.is_tty = channel, is_tty

    async def relay(
        self, sock: socket.socket, resize: Callable[[int, int], Awaitable[None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        resizing: set[asyncio.Task[None]] = set()

        def resized(rows: int, columns: int) -> None:
            task = loop.create_task(_quiet(resize(rows, columns)))
            resizing.add(task)
            task.add_done_callback(resizing.discard)

        async def typed() -> None:
            async for piece in self._channel.pieces():
                await loop.sock_sendall(sock, piece)
            if not self.is_tty:
                sock.shutdown(socket.SHUT_WR)

        self._channel.on_resize = resized
        if self._channel.size is not None:
            resized(*self._channel.size)
        typing = loop.create_task(typed())
        try:
            while data := await _received(loop, sock):
                await self._channel.write(data)
        finally:
            for task in (typing, *resizing):
                task.cancel()
            await asyncio.gather(typing, *resizing, return_exceptions=True)


async def _received(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(sock, _PIECE)
    except ConnectionError:
        return b""


async def _quiet(work: Awaitable[None]) -> None:
    with suppress(PortsideError):
        await work


def _shell_of(step: FailedStep) -> str:
    """The shell that ran the step, if it was one; else the usual one."""
    op = step.vertex.op
    args = op.meta.args if isinstance(op, llb.ExecOp) else ()
    is_shell = len(args) > 1 and args[1].startswith("-") and args[0].endswith("sh")
    return args[0] if is_shell else _SHELL
