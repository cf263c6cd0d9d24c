"""``docker cp``: stat, tar out and tar in of a path in a container, running or stopped.

Everything happens in a worker process beneath the container's root (see ``store/roots.py``);
links are resolved inside it only, however they change meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterable, Callable
from typing import ClassVar

import msgspec

from portside.store.archive_values import Limits, PathStat, View
from portside.store.job_streams import JobStream
from portside.store.worker_pool import Job, Workers


class StatPath(Job, kw_only=True):
    """Stat ``path``; the last component is not followed unless ``path`` ends in / or /."""

    result: ClassVar[type] = PathStat
    heavy: ClassVar[bool] = False
    view: View
    path: str

    def run(self, fds: list[int], progress: Callable[[int], None]) -> PathStat:
        from portside.store.archive_worker import stat_path

        return stat_path(self.view, self.path)


class GetArchive(Job, kw_only=True):
    """Write ``path`` as a tar to the first descriptor; the stat goes to the second before."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    view: View
    path: str

    def run(self, fds: list[int], progress: Callable[[int], None]) -> int:
        from portside.store.archive_worker import get_archive

        return get_archive(self.view, self.path, fds[0], fds[1])


class PutArchive(Job, kw_only=True):
    """Unpack the tar read from the first descriptor into the directory ``path``."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    view: View
    path: str
    keep_kind: bool
    chown: tuple[int, int] | None
    limits: Limits

    def run(self, fds: list[int], progress: Callable[[int], None]) -> int:
        from portside.store.archive_worker import put_archive

        return put_archive(
            self.view, self.path, fds[0], self.limits,
            keep_kind=self.keep_kind, chown=self.chown,
        )  # fmt: skip


class Archives:
    """The engine's side."""

    def __init__(self, workers: Workers, limits: Limits) -> None:
        self._workers, self._limits = workers, limits

    async def stat(self, view: View, path: str) -> PathStat:
        """NotFound with Docker's words when there is no such path."""
        found: PathStat = await self._workers.run(StatPath(view=view, path=path))
        return found

    async def get(self, view: View, path: str) -> tuple[PathStat, JobStream]:
        """The stat and the tar of ``path``; a directory's entries start with its name, or with
        ``./`` when ``path`` ends in ``/.``."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                job = GetArchive(view=view, path=path)
                stream = await JobStream.start(self._workers, job, theirs.fileno())
            try:
                loop = asyncio.get_running_loop()
                data = b""
                while piece := await loop.sock_recv(ours, 1 << 16):
                    data += piece
                if not data:  # it failed before: say why
                    await stream.read()
                return msgspec.json.decode(data, type=PathStat), stream
            except BaseException:
                await stream.close()
                raise

    async def put(
        self,
        view: View,
        path: str,
        data: AsyncIterable[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
        chown: tuple[int, int] | None = None,
    ) -> None:
        """Unpack a tar (plain or compressed) into the directory ``path``.

        ``chown`` gives everything to one user and group. NotFound; InvalidParameter when
        ``path`` is not a directory or the archive is hostile or malformed.
        """
        job = PutArchive(
            view=view,
            path=path,
            keep_kind=no_overwrite_dir_non_dir,
            chown=chown,
            limits=self._limits,
        )
        await feed(self._workers, job, data)


async def feed(workers: Workers, job: Job, data: AsyncIterable[bytes]) -> object:
    """Run a job whose first descriptor is a stream of ``data``; its result.

    A job that ends early ends the feeding, too.
    """
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_unix_connection(sock=ours)
    task = asyncio.create_task(workers.run(job, (theirs.detach(),), steal=True))
    feeding = asyncio.create_task(_feed(writer, data))
    try:
        await asyncio.wait((task, feeding), return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            # a broken upload must not look like the end of a whole one
            if (err := feeding.exception()) is not None and not isinstance(err, OSError):
                raise err
            writer.close()
        return await task
    finally:
        for each in (feeding, task):
            each.cancel()
        await asyncio.gather(feeding, task, return_exceptions=True)
        writer.close()


async def _feed(writer: asyncio.StreamWriter, data: AsyncIterable[bytes]) -> None:
    async for piece in data:
        writer.write(piece)
        await writer.drain()
