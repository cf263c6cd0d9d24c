"""The launcher: a small process that forks a monitor for each container.

It is forked from the engine before any thread or event loop exists, has imported all that
a monitor and a container's init need, and never imports more: starting a container is a
fork of it. When it dies, the engine forks another from a fresh interpreter.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from portside.model.errors import SystemFailure, Unavailable
from portside.runtime import messages
from portside.runtime.client import MonitorClient
from portside.runtime.messages import StartRequest


class Launcher:
    """The engine's handle on its launcher."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._sock = sock
        self.pid = pid

    @classmethod
    def spawn(cls) -> Launcher:
        """Fork the launcher; call this before there are threads or an event loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _child(theirs)
        theirs.close()
        return cls(ours, pid)

    def _respawn(self) -> None:
        """Start another launcher from a fresh interpreter: this process has threads by now."""
        self._sock.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            package = str(Path(__file__).resolve().parents[2])
            code = (
                "import sys; sys.path.insert(0, sys.argv[2]);"
                "from portside.runtime.launcher import run_on; run_on(int(sys.argv[1]))"
            )
            os.set_inheritable(theirs.fileno(), True)
            command = [sys.executable, "-c", code, str(theirs.fileno()), package]
            self.pid = os.posix_spawn(sys.executable, command, dict(os.environ))
        self._sock = ours

    async def start(
        self,
        request: StartRequest,
        *,
        netns_fd: int | None = None,
        seccomp: bytes = b"",
        sockets: tuple[socket.socket, ...] = (),
    ) -> MonitorClient:
        """Start a container; returns once its command has been executed.

        ``sockets`` belong to ``request.attachments``, one each; the caller keeps and closes
        its copies. Raises CommandNotFound, CommandNotExecutable, SystemFailure.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = -1
        try:
            fds = [theirs.fileno()]
            if netns_fd is not None:
                fds.append(netns_fd)
            if seccomp:
                program = os.memfd_create("seccomp", os.MFD_CLOEXEC)
                os.write(program, seccomp)
                fds.append(program)
            fds += [sock.fileno() for sock in sockets]
            self._send(request, fds)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            if program >= 0:
                os.close(program)
        client = MonitorClient(ours)
        try:
            await asyncio.shield(client.started)
        except Unavailable as err:
            client.close()
            raise SystemFailure("the container's monitor died before the start was done") from err
        except BaseException:
            client.close()
            raise
        return client

    def _send(self, request: StartRequest, fds: list[int]) -> None:
        try:
            messages.send(self._sock, request, fds)
        except (BrokenPipeError, ConnectionResetError):
            self._respawn()
            messages.send(self._sock, request, fds)

    def close(self) -> None:
        """End the launcher; monitors and containers live on."""
        self._sock.close()


def _child(sock: socket.socket) -> None:
    """The forked launcher's whole life."""
    try:
        _serve(sock)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(0)


def run_on(fd: int) -> None:
    """A launcher in a process of its own, on an inherited socket."""
    os.set_inheritable(fd, False)
    _child(socket.socket(fileno=fd))


def _serve(sock: socket.socket) -> None:
    """Fork a monitor for each request until the engine is gone."""
    import portside.runtime.monitor as monitor

    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # its end is the end of the engine's socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for the monitors' status
    monitor.prepare()
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        data, fds = messages.receive(sock)
        if not data:
            return
        if os.fork() == 0:
            sock.close()
            monitor.main(msgspec.json.decode(data, type=StartRequest), fds)
            os._exit(0)
        for fd in fds:
            os.close(fd)
