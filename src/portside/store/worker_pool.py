"""Heavy work outside the event loop: a fork server for the store's jobs.

::

    engine ──SOCK_SEQPACKET: descriptors──► fork server (one, exec'd at first use, single thread)
       │                                        │ fork
       └──────────job's own stream socket──────►│ job process: runs one Job, answers, ends

Unpacking and packing hold the interpreter lock, and entering a container's mount
namespace must not happen in the engine: each job runs in a process of its own, forked in
about two milliseconds from a warm, single-threaded server. The job's arguments and its
result travel on the job's own socket. Closing that socket kills the job: it asks the kernel
for SIGIO at hang-up, whose default action is to die, so a cancelled request and a killed
engine end their jobs at once. The server leaves when nothing was asked of it for a while.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from portside.model import errors
from portside.model.errors import PortsideError, SystemFailure
from portside.store.space import HINT, is_full

IDLE = 60.0
"""Seconds after which an unused fork server is ended."""


class Failure(msgspec.Struct):
    """A job's error as a value: the class's name in ``portside.model.errors`` and the text."""

    kind: str
    text: str

    @classmethod
    def of(cls, err: BaseException, job: Job | None = None) -> Failure:
        """``job`` reports where it was writing, which write(2) does not know."""
        if isinstance(err, PortsideError):
            known = next(c for c in type(err).__mro__ if c.__module__ == errors.__name__)
            return cls(known.__name__, str(err))
        if isinstance(err, MemoryError):
            return cls("SystemFailure", "not enough memory")
        if is_full(err):
            places = [getattr(err, "filename", None)]
            places += [getattr(job, name, None) for name in ("target", "directory", "path")]
            where = next((each for each in places if each and isinstance(each, str | bytes)), None)
            path = os.fsdecode(where or "the data root")
            return cls("NoSpace", f"write {path}: no space left on device: {HINT}")
        return cls("SystemFailure", f"{type(err).__name__}: {err}")

    def raised(self) -> PortsideError:
        found = getattr(errors, self.kind, SystemFailure)
        return found(self.text) if issubclass(found, PortsideError) else SystemFailure(self.text)


class Job(msgspec.Struct, kw_only=True):
    """Work for a job process; ``run`` happens there, alone in its process.

    Subclasses set ``result`` to the msgspec type that ``run`` returns.
    """

    result: ClassVar[Any] = None
    heavy: ClassVar[bool] = True
    """Waits for a processor; light jobs start at once."""

    def run(self, fds: list[int], progress: Callable[[int], None]) -> Any:
        raise NotImplementedError


class Workers:
    """The engine's side. Used from the event loop only."""

    def __init__(self, slots: int | None = None) -> None:
        """``slots``: heavy jobs at once; the processors we may use, when None."""
        self._slots = asyncio.Semaphore(slots or max(2, len(os.sched_getaffinity(0))))
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._running = 0
        self._idle: asyncio.TimerHandle | None = None
        self._ended: list[subprocess.Popen[bytes]] = []
        self._warm: list[str] = []

    async def run(
        self,
        job: Job,
        fds: tuple[int, ...] = (),
        progress: Callable[[int], None] | None = None,
        *,
        steal: bool = False,
    ) -> Any:
        """Run ``job`` and return its result; its error is raised here.

        ``fds`` are handed to the job; ``steal`` closes them here, whatever happens.
        ``progress`` gets numbers whose meaning the job defines. Cancelling kills the job,
        and returns when it is dead.
        """
        with ExitStack() as owned:
            for fd in fds if steal else ():
                owned.callback(os.close, fd)
            if job.heavy:
                async with self._slots:
                    return await self._run(job, fds, progress, owned)
            return await self._run(job, fds, progress, owned)

    async def _run(
        self,
        job: Job,
        fds: tuple[int, ...],
        progress: Callable[[int], None] | None,
        owned: ExitStack,
    ) -> Any:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._submit((theirs.fileno(), *fds))
            owned.close()
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        self._running += 1
        try:
            body = msgspec.json.encode(job)
            writer.write(_frame(_name(type(job)), body))
            return await self._answer(job, reader, progress)
        except asyncio.CancelledError:
            ours.shutdown(socket.SHUT_WR)
            await asyncio.shield(_until_closed(reader))
            raise
        finally:
            writer.close()
            self._running -= 1
            self._rest()

    async def _answer(
        self, job: Job, reader: asyncio.StreamReader, progress: Callable[[int], None] | None
    ) -> Any:
        while True:
            try:
                kind, body = await _read_frame(reader)
            except (asyncio.IncompleteReadError, ConnectionError) as err:
                raise SystemFailure(f"the storage worker died during {type(job).__name__}") from err
            if kind == "progress":
                if progress is not None:
                    progress(int(body))
            elif kind == "error":
                raise msgspec.json.decode(body, type=Failure).raised()
            else:
                return msgspec.json.decode(body, type=job.result)

    def begin(self) -> None:
        """Start the fork server now: jobs are about to come. Without one it leaves as usual."""
        if self._server is None:
            with suppress(OSError):  # the job that needs it reports the error
                self._start()
        self._rest()

    def warm(self, module: str) -> None:
        """Let the fork server import ``module`` before it forks: jobs that need it start at
        once."""
        if module not in self._warm:
            self._warm.append(module)
            if self._server is not None:
                self._server[1].send(b"import " + module.encode())

    def _submit(self, fds: tuple[int, ...]) -> None:
        packed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        for attempt in (0, 1):
            _, control = self._server or self._start()
            try:
                control.sendmsg([b"job"], packed)
                return
            except OSError as err:
                self._stop()  # it died: the next one is fresh
                if attempt:
                    raise SystemFailure(f"the storage worker cannot be started: {err}") from err

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = str(Path(__file__).parents[2])
        path = [package, *(entry for entry in sys.path if entry and entry != package)]
        program = (
            f"import sys; sys.path[:] = {path!r}; from portside.store.job_worker import main; "
        )
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program + f"main({theirs.fileno()})"],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        self._server = process, ours
        for module in self._warm:
            ours.send(b"import " + module.encode())
        return self._server

    def _rest(self) -> None:
        if self._running == 0 and self._server is not None:
            if self._idle is not None:
                self._idle.cancel()
            self._idle = asyncio.get_running_loop().call_later(IDLE, self._stop_idle)

    def _stop_idle(self) -> None:
        if self._running == 0:
            self._stop()

    def _stop(self) -> None:
        self._ended = [process for process in self._ended if process.poll() is None]
        if self._server is not None:
            process, control = self._server
            self._server = None
            control.close()
            self._ended.append(process)

    def close(self) -> None:
        """End the fork server; running jobs die with their sockets."""
        if self._idle is not None:
            self._idle.cancel()
        self._stop()
        for process in self._ended:
            process.wait()
        self._ended.clear()


def _name(job: type[Job]) -> str:
    return f"{job.__module__}:{job.__name__}"


def _frame(kind: str, body: bytes) -> bytes:
    name = kind.encode()
    return len(name).to_bytes(1, "big") + name + len(body).to_bytes(4, "big") + body


async def _read_frame(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    kind = await reader.readexactly((await reader.readexactly(1))[0])
    size = int.from_bytes(await reader.readexactly(4), "big")
    return kind.decode(), await reader.readexactly(size)


async def _until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(1 << 16):
            pass
    except OSError:
        pass
