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
from typing import Any

from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import ProtocolError

from portside.builder.wire.client_session import ClientSession, client_failure, header_values
from portside.builder.wire.context_sync import Synced
from portside.builder.wire.proto import fstypes_pb2
from portside.builder.wire.transfer_jobs import SendTree, SyncContext
from portside.model.errors import Cancelled, PortsideError
from portside.model.rootfs import Rootfs
from portside.store.worker_pool import Job, Workers

Progress = Callable[[int], None]
_PIECE = 256 << 10
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
            pipe = _Pipe(stream)
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

    def __init__(self, stream: Any) -> None:
        self._stream = stream._stream
        self._arrived: deque[tuple[bytes, int]] = deque()
        self._ended = False
        self._news = asyncio.Event()
        self._call = stream
        self._is_reset = False
        self._stream.buffer.add = self._add
        self._stream.buffer.eof = self._eof
        # a client resets the stream as soon as it has what it wants: that is no failure
        self._stream.__terminated__ = self._reset

    def _add(self, data: bytes, size: int) -> None:
        self._arrived.append((data, size))
        self._news.set()

    def _eof(self) -> None:
        self._ended = True
        self._news.set()

    def _reset(self, reason: str) -> None:
        self._is_reset = True
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
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        work = asyncio.create_task(
            workers.run(job, (theirs.detach(),), progress=progress, steal=True)
        )
        tasks = [asyncio.create_task(self._in(writer)), asyncio.create_task(self._out(reader))]
        try:
            return await work
        finally:
            # what the job sent last still has to go
            await asyncio.wait(tasks[1:], timeout=_ANSWER)
            for task in (work, *tasks):
                task.cancel()
            await asyncio.gather(work, *tasks, return_exceptions=True)
            writer.close()

    async def _in(self, writer: asyncio.StreamWriter) -> None:
        stream = self._stream
        while True:
            while self._arrived:
                data, size = self._arrived.popleft()
                writer.write(data)
                await writer.drain()
                stream.connection.ack(stream.id, size)
            if self._ended:
                writer.write_eof()
                return
            self._news.clear()
            await self._news.wait()

    async def _out(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_PIECE):
            await self._stream.send_data(data)
