"""The engine's end of the conversation with one container's monitor."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from portside.kernel import binfmt
from portside.model.errors import (
    PortsideError,
    SystemFailure,
    Unavailable,
)
from portside.runtime import messages
from portside.runtime.messages import (
    Answer,
    Attach,
    Call,
    Exec,
    Exited,
    Failed,
    Oom,
    Resize,
    Signal,
    Started,
    StateFile,
    Streams,
)

_PATIENCE = 5.0
"""Seconds a monitor may take to pass on a signal, which takes it a system call."""


def failure(reply: Failed) -> PortsideError:
    """The error a refusal becomes."""
    return messages.CLASSES.get(reply.kind, SystemFailure)(binfmt.explained(reply.message))


class MonitorClient:
    """Talks to a monitor; everything runs on the event loop that made it.

    ``exited`` resolves with the container's end, or fails with Unavailable when the
    monitor itself is gone without a word.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[messages.Reply]] = {}
        self._execs: dict[str, asyncio.Future[Exited]] = {}
        self.started: asyncio.Future[Started] = self._loop.create_future()
        self.exited: asyncio.Future[Exited] = self._loop.create_future()
        self.pid = 0
        self.started_ns = 0
        self.on_exec_exit: Callable[[Exited], None] | None = None
        self.on_oom: Callable[[], None] | None = None
        self._loop.add_reader(sock.fileno(), self.take_all)

    @classmethod
    def connect(cls, state_dir: Path) -> MonitorClient:
        """Find a running container's monitor again; raises Unavailable."""
        try:
            state = StateFile.read(state_dir)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY)
            try:
                # by descriptor: the address has room for 107 bytes only (unix(7))
                sock.connect(f"/proc/self/fd/{directory}/monitor.sock")
            except OSError:
                sock.close()
                raise
            finally:
                os.close(directory)
        except (OSError, msgspec.MsgspecError) as err:
            raise Unavailable(f"no monitor answers in {state_dir}: {err}") from err
        client = cls(sock)
        client.pid, client.started_ns = state.pid, state.started_ns
        return client

    def take_all(self) -> None:
        """Take every message that is there already.

        A monitor reports an exit before it ends the streams: a client that has seen a stream end
        and then asks must get an answer that includes this message.
        """
        while self._sock.fileno() >= 0 and self._take_one():
            pass

    def _take_one(self) -> bool:
        try:
            data, fds = messages.receive(self._sock)
        except BlockingIOError:
            return False
        except OSError:
            data, fds = b"", []
        for fd in fds:
            os.close(fd)
        if data:
            self._take(msgspec.json.decode(data, type=Answer))
        else:
            self.close()
        return bool(data)

    def _take(self, answer: Answer) -> None:
        reply = answer.reply
        if isinstance(reply, Exited):
            self._exit(reply)
        elif isinstance(reply, Oom):
            if self.on_oom is not None:
                self.on_oom()
        elif answer.number == 0:
            if self.started.done():
                return
            if isinstance(reply, Started):
                self.pid, self.started_ns = reply.pid, reply.started_ns
                self.started.set_result(reply)
            elif isinstance(reply, Failed):
                self.started.set_exception(failure(reply))
        elif (future := self._waiting.pop(answer.number, None)) and not future.done():
            if isinstance(reply, Failed):
                future.set_exception(failure(reply))
            else:
                future.set_result(reply)

    def _exit(self, exit: Exited) -> None:
        if not exit.exec_id:
            if not self.exited.done():
                self.exited.set_result(exit)
            return
        future = self._execs.get(exit.exec_id)
        if future is not None and not future.done():
            future.set_result(exit)
        if self.on_exec_exit is not None:
            self._execs.pop(exit.exec_id, None)
            self.on_exec_exit(exit)

    async def _ask(self, request: messages.Request, fds: list[int]) -> messages.Reply:
        number = next(self._numbers)
        future: asyncio.Future[messages.Reply] = self._loop.create_future()
        self._waiting[number] = future
        try:
            messages.send(self._sock, Call(number, request), fds)
        except OSError as err:
            self._waiting.pop(number, None)
            raise Unavailable("the container's monitor is gone") from err
        return await future

    async def attach(self, sock: socket.socket, streams: Streams, exec_id: str = "") -> None:
        """Hand a connected socket over to the monitor; the caller closes its own copy."""
        await self._ask(Attach(streams, exec_id), [sock.fileno()])

    async def exec(self, request: Exec, sockets: list[socket.socket]) -> int:
        """Execute beside the container; the PID. Raises CommandNotFound and similar errors."""
        self._execs[request.exec_id] = self._loop.create_future()
        try:
            reply = await self._ask(request, [sock.fileno() for sock in sockets])
        except BaseException:
            self._execs.pop(request.exec_id, None)
            raise
        return reply.pid if isinstance(reply, Started) else 0

    async def wait_exec(self, exec_id: str) -> Exited | None:
        """The end of an exec, once; None when the exec is unknown, or when its end went to
        ``on_exec_exit``."""
        future = self._execs.get(exec_id)
        if future is None:
            return None
        exit = await asyncio.shield(future)
        self._execs.pop(exec_id, None)
        return exit

    async def resize(self, height: int, width: int, exec_id: str = "") -> None:
        await self._ask(Resize(height, width, exec_id), [])

    async def signal(self, number: int, exec_id: str = "") -> None:
        """Send a signal to PID 1, or to an exec's process.

        Raises Unavailable, also when the monitor does not answer: it is stuck or stopped.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._ask(Signal(number, exec_id), [])
        except TimeoutError:
            raise Unavailable(
                f"the container's monitor has not answered for {_PATIENCE:g} s"
            ) from None

    @property
    def gone(self) -> bool:
        """Whether the monitor has ended, or we talk to it no more."""
        return self._sock.fileno() < 0

    def close(self) -> None:
        """Stop talking; the container does not notice."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        gone = Unavailable("the container's monitor is gone")
        pending: list[asyncio.Future[Any]] = [*self._waiting.values(), *self._execs.values()]
        pending += [self.started, self.exited]
        # an exec's end that was received stays for a late caller
        received = {id: future for id, future in self._execs.items() if future.done()}
        for future in pending:
            if not future.done():
                future.set_exception(gone)
                future.exception()  # not everyone waits for every one of them
        self._waiting.clear()
        self._execs = received
