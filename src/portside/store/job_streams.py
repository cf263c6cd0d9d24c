"""A job that writes a stream, as an asynchronous iterator of its bytes."""

from __future__ import annotations

import asyncio
import os
import socket

from portside.store.worker_pool import Job, Workers

PIECE = 1 << 18


class JobStream:
    """The bytes a job writes to its descriptor; an async context manager and iterator.

    The job's failure is raised where its stream ends, so a truncated archive is never taken
    for a whole one. Leaving early kills the job.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._task: asyncio.Task[object]

    @classmethod
    async def start(cls, workers: Workers, job: Job, *fds: int) -> JobStream:
        """Start ``job`` with the stream as its first descriptor and ``fds`` after it.

        ``fds`` are duplicated: they may be closed when this returns.
        """
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
        stream = cls(reader, writer)
        held = [theirs.detach(), *(os.dup(fd) for fd in fds)]
        stream._task = asyncio.create_task(_run(workers, job, held))
        return stream

    async def read(self, size: int = PIECE) -> bytes:
        """Some bytes; empty at the end of a stream whose job succeeded."""
        data = await self._reader.read(size)
        if not data:
            await asyncio.shield(self._task)
        return data

    def __aiter__(self) -> JobStream:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read()
        if not data:
            raise StopAsyncIteration
        return data

    async def __aenter__(self) -> JobStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._writer.close()
        if not self._task.done():
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _run(workers: Workers, job: Job, fds: list[int]) -> object:
    """Run the job; our copies of its descriptors go as soon as it holds its own, so that the
    stream ends with the job."""
    return await workers.run(job, tuple(fds), steal=True)
