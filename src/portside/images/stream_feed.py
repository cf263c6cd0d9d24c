"""A stream of bytes in the engine as a descriptor that a job process can read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterable
from typing import Any

from portside.store.worker_pool import Job, Workers


async def run_fed(
    workers: Workers,
    job: Job,
    stream: AsyncIterable[bytes],
    progress: Any = None,
) -> Any:
    """Run a job whose first descriptor gives the bytes of ``stream``; its result.

    A failing stream kills the job and is raised; a failing job stops the reading.
    """
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    work = asyncio.create_task(workers.run(job, (theirs.detach(),), progress=progress, steal=True))
    feeding = asyncio.create_task(_feed(ours, stream))
    try:
        await asyncio.wait((work, feeding), return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            feeding.result()
        result = await work
        if feeding.done():
            feeding.result()  # a stream that broke off may look like a whole archive to the job
        return result
    finally:
        for task in (feeding, work):
            task.cancel()
        await asyncio.gather(feeding, work, return_exceptions=True)


async def _feed(ours: socket.socket, stream: AsyncIterable[bytes]) -> None:
    _, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        async for chunk in stream:
            try:
                writer.write(chunk)
                await writer.drain()
            except (BrokenPipeError, ConnectionResetError):
                return  # the job has read enough, or failed: its own result says which
    finally:
        writer.close()
