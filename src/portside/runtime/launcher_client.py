"""The engine's end of the launcher, the small process that forks a monitor for each container.

The launcher is executed afresh rather than forked from the engine: it holds none of the
engine's memory or descriptors, which containers must never come near, and its executable
cannot be written to (:mod:`portside.kernel.sealed_executable`). What it does is in
:mod:`portside.runtime.launcher`. When it dies, the next start brings up another.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from portside.kernel.polling import readable
from portside.kernel.sealed_executable import sealed
from portside.model.errors import SystemFailure, Unavailable
from portside.model.paths import ROOTLESS_VARIABLE
from portside.runtime import messages
from portside.runtime.messages import StartRequest
from portside.runtime.monitor_client import MonitorClient

# msgspec takes typing_extensions when it is there, which takes inspect: 2 MB for nothing.
_CODE = (
    "import sys; sys.modules['typing_extensions'] = None; sys.path[:0] = sys.argv[5:];"
    "from portside.runtime.launcher import main;"
    "main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))"
)


_PATIENCE = 180.0
"""Seconds a start may take; a start that hangs gives up by itself before."""
_LAST_WORK = 20.0
"""Seconds that its preparation may still take when it is ended; otherwise it ends at once."""


class Launcher:
    """The engine's handle on its launcher."""

    def __init__(self, parent: str = "", home: str = "") -> None:
        self._groups = (parent, home)
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._sock, self.pid = _spawn(self._groups, self._files)

    @classmethod
    def spawn(cls, parent: str = "", home: str = "") -> Launcher:
        """Start the launcher; it gets ready while the caller continues.

        ``parent`` is the control group that containers are made in, prepared ahead; ``home``
        the one that the launcher and its monitors go to, empty for the caller's.
        Containers get the limit of open files that holds now, whatever the engine's becomes.
        """
        return cls(parent, home)

    async def start(
        self,
        request: StartRequest,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        seccomp: bytes = b"",
        sockets: tuple[socket.socket, ...] = (),
    ) -> MonitorClient:
        """Start a container; returns once its command has been executed.

        ``sockets`` belong to ``request.attachments``, one each; the caller keeps and closes
        its copies. Raises CommandNotFound, CommandNotExecutable, SystemFailure.
        """
        for attempt in (1, 2):
            client = self._ask(request, (netns_fd, userns_fd), seccomp, sockets)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await asyncio.shield(client.started)
                break
            except TimeoutError as err:
                client.close()
                raise SystemFailure(
                    f"the launcher (process {self.pid}) did not answer within {_PATIENCE:g} s"
                ) from err
            except Unavailable as err:
                client.close()
                # The launcher was killed before it passed the request on: no monitor has it.
                if attempt == 2 or not self._gone():
                    raise SystemFailure(
                        "the container's monitor died before the start was done"
                    ) from err
            except BaseException:
                client.close()
                raise
        return client

    def _ask(
        self,
        request: StartRequest,
        namespaces: tuple[int | None, ...],
        seccomp: bytes,
        sockets: tuple[socket.socket, ...],
    ) -> MonitorClient:
        """Hand a request to the launcher; the conversation with the monitor it will have."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = -1
        try:
            fds = [theirs.fileno()]
            fds += [fd for fd in namespaces if fd is not None]
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
        return MonitorClient(ours)

    def refill(self) -> None:
        """A start is done: let the launcher fork what the next one will need."""
        with suppress(OSError):
            self._sock.send(messages.REFILL, socket.MSG_DONTWAIT)

    def hold(self, fds: list[int]) -> bool:
        """Have the launcher fork a process that runs :func:`portside.kernel.idmapped.hold` on
        these descriptors; False when it is not there. Any thread may ask."""
        try:
            socket.send_fds(self._sock, [messages.HOLD], fds)
        except OSError:
            return False
        return True

    def _gone(self) -> bool:
        """Whether the launcher has ended (it never sends anything: readable means closed)."""
        return bool(readable(self._sock, timeout=0))

    def _send(self, request: StartRequest, fds: list[int]) -> None:
        try:
            messages.send(self._sock, request, fds)
        except (BrokenPipeError, ConnectionResetError):
            self._sock.close()
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)  # its socket is gone, so it has ended
            self._sock, self.pid = _spawn(self._groups, self._files)
            messages.send(self._sock, request, fds)

    def end(self) -> None:
        """End the launcher and wait until it is gone; monitors and containers live on.

        One that has just been started may still be making the control group of containers:
        who removes that must come after it. It is killed when it does not end.
        """
        self._sock.close()
        try:
            process = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not readable(process, timeout=_LAST_WORK):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        finally:
            os.close(process)


def _spawn(groups: tuple[str, str], files: int) -> tuple[socket.socket, int]:
    """Execute a launcher on a socket of its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    package = Path(__file__).resolve().parents[2]
    libraries = Path(msgspec.__file__).resolve().parents[1]
    paths = (str(package), str(libraries))
    options = ["-I", "-S", "-c", _CODE, str(theirs.fileno()), *groups, str(files), *paths]
    executable = sealed()
    try:
        theirs.set_inheritable(True)
        pid = os.posix_spawn(
            f"/proc/self/fd/{executable}", [sys.executable, *options], _environment()
        )
    finally:
        os.close(executable)
        theirs.close()
    return ours, pid


def _environment() -> dict[str, str]:
    """The variables that other runtimes are found with. All others may be secret, and a container
    that may trace processes can read them in a process on its way to execve(2)."""
    names = ("PATH", "HOME", ROOTLESS_VARIABLE)
    return {name: os.environ[name] for name in names if name in os.environ}
