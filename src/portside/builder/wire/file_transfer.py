"""A client's directories come here, and results go there (``FileSync``, ``FileSend``).

The engine passes the bytes of the gRPC stream through to a job process and back, as they come;
the packets are read and written there. What was not passed on yet counts against the stream's
window, so that a fast client waits.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import ProtocolError

from portside.builder.wire.client_session import ClientSession, client_failure, header_values
from portside.builder.wire.context_sync import Synced
from portside.builder.wire.data_frames import DataFrames
from portside.builder.wire.proto import fstypes_pb2
from portside.builder.wire.transfer_jobs import SendTree, SyncContext
from portside.model.errors import Cancelled, PortsideError
from portside.model.rootfs import Rootfs
from portside.store.worker_pool import Job, Workers

Progress = Callable[[int], None]
_PIECE = 256 << 10
_VIEWS = 256
"""Pieces of one call; sendmsg(2) takes 1,024."""
_STEP = 1 << 20
"""Bytes after which a client's flow-control window is extended."""
_BUFFER = 4 << 20
"""Bytes that wait for a job; unix(7): the sender's buffer counts."""
_SO_SNDBUFFORCE = 32
"""socket(7); asm-generic/socket.h"""
_ANSWER = 5.0
"""Seconds for a client's last word after a transfer."""


async def receive_directory(
    session: ClientSession,
    workers: Workers,
    name: str,
    target: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    follow: Sequence[str] = (),
    progress: Progress | None = None,
) -> Synced:
    """Bring ``target`` to what the client's directory ``name`` has, as far as it is asked for."""
    metadata = [("dir-name", name)]
    for key, values in (
        ("include-patterns", include), ("exclude-patterns", exclude), ("followpaths", follow),
    ):  # fmt: skip
        metadata += header_values(key, values)
    job = SyncContext(target=target)
    found: Synced = await _transfer(
        session, workers, "/moby.filesync.v1.FileSync/DiffCopy", metadata, job, progress
    )
    return found


async def send_directory(
    session: ClientSession,
    workers: Workers,
    source: Rootfs,
    exporter: int,
    progress: Progress | None = None,
) -> None:
    """Send a tree into the directory that the client chose for its output ``exporter``."""
    metadata = [("buildkit-attachable-exporter-id", str(exporter))]
    job = SendTree(source=source)
    method = "/moby.filesync.v1.FileSend/DiffCopy"
    await _transfer(session, workers, method, metadata, job, progress)


async def _transfer(
    session: ClientSession, workers: Workers, method: str, metadata: list[tuple[str, str]],
    job: Job, progress: Progress | None,
) -> Any:  # fmt: skip
    packet = fstypes_pb2.Packet
    stream = session.channel.request(
        method, Cardinality.STREAM_STREAM, packet, packet, metadata=metadata
    )
    try:
        async with stream:
            await stream.send_request()
            pipe = _Pipe(stream, session.channel.frames)
            try:
                found = await pipe.run(workers, job, progress)
            except PortsideError as err:
                await pipe.last_word()
                if session.channel.lost.done():
                    raise Cancelled("the client went away") from err
                raise
            with suppress(ProtocolError):  # the client may have closed the stream already
                await stream.end()
            await pipe.last_word()
            return found
    except (GRPCError, StreamTerminatedError, OSError) as err:
        raise client_failure(err) from err


class _Pipe:
    """A stream's bytes to a job and back."""

    def __init__(self, stream: Any, frames: DataFrames) -> None:
        self._stream, self._frames = stream._stream, frames
        self._ended = False
        self._news = asyncio.Event()
        self._call = stream
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        _widen(self._ours)
        number = self._stream.id
        self._inlet = _Inlet(self._ours, lambda size: frames.acknowledge(number, size))
        frames.take(number, self._inlet.put)
        # a client resets the stream as soon as it has what it wants: that is not a failure
        self._stream.buffer.add = self._padded
        self._stream.buffer.eof = self._eof
        self._stream.__terminated__ = self._reset

    def _padded(self, data: bytes, size: int) -> None:
        """A frame that h2 was given: one with padding, or one after the end."""
        self._stream.connection.ack(self._stream.id, size)
        self._inlet.put(memoryview(data), counts=False)

    def _eof(self) -> None:
        self._ended = True
        self._news.set()
        self._inlet.end()

    def _reset(self, reason: str) -> None:
        self._stream.headers_received.set()
        self._stream.trailers_received.set()
        self._eof()

    async def last_word(self) -> None:
        """Raise what the client said at the end, GRPCError; nothing when it said nothing."""
        stream = self._stream
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER):
                while not (self._ended and stream.headers_received.is_set()):
                    await self._news.wait()
                    self._news.clear()
        self._call._cancel_done = True  # the call is over, however the client ended it
        self._call._maybe_raise()

    async def run(self, workers: Workers, job: Job, progress: Progress | None) -> Any:
        work = asyncio.create_task(
            workers.run(job, (self._theirs.detach(),), progress=progress, steal=True)
        )
        out = asyncio.create_task(self._out(self._ours))
        try:
            return await work
        finally:
            # what the job sent last still has to go
            await asyncio.wait([out], timeout=_ANSWER)
            for task in (work, out):
                task.cancel()
            await asyncio.gather(work, out, return_exceptions=True)
            self._frames.release(self._stream.id)
            self._inlet.close()
            self._ours.close()

    async def _out(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(ours, _PIECE):
            await self._stream.send_data(data)


def _widen(sock: socket.socket) -> None:
    """Let a socket hold what comes in one turn; without root as much as the system allows."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)


class _Inlet:
    """Sends frames' bytes to a job's socket, without a copy, and reports how many were sent."""

    def __init__(self, sock: socket.socket, gone: Callable[[int], None]) -> None:
        self._socket, self._gone = sock, gone
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[memoryview] = deque()
        self._uncounted = 0
        self._unsaid = 0
        """Bytes that were sent and not yet reported: windows are given back in large steps."""
        self._ends = self._closed = self._waits = False

    def put(self, piece: memoryview, *, counts: bool = True) -> None:
        if self._closed:
            return
        self._uncounted += 0 if counts else len(piece)
        self._waiting.append(piece)
        if not self._waits:
            self._waits = True
            self._loop.call_soon(self._send)  # with the other frames of what was just read

    def end(self) -> None:
        self._ends = True
        if not self._waiting and not self._closed:
            self._shut()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_writer(self._socket)
            self._waiting.clear()

    def _send(self) -> None:
        if self._closed:
            return
        try:
            while self._waiting:
                self._drop(self._socket.sendmsg(list(islice(self._waiting, _VIEWS))))
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._send)
            return
        except OSError:
            self.close()  # the job has ended; its answer says why
            return
        self._waits = False
        self._loop.remove_writer(self._socket)
        self._report_sent()
        if self._ends:
            self._shut()

    def _drop(self, size: int) -> None:
        """Forget what was sent."""
        self._unsaid += size
        if self._unsaid >= _STEP:
            self._report_sent()
        while size:
            first = self._waiting[0]
            if size < len(first):
                self._waiting[0] = first[size:]
                return
            size -= len(first)
            self._waiting.popleft()

    def _report_sent(self) -> None:
        counted = max(0, self._unsaid - self._uncounted)
        self._uncounted -= min(self._uncounted, self._unsaid)
        self._unsaid = 0
        if counted:
            self._gone(counted)

    def _shut(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
