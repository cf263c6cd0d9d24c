"""Work that is done once however many ask for it at the same time.

Each caller gets the progress; the work is cancelled when its last caller has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from portside.model.progress import Progress, Report

T = TypeVar("T")


class _Work(Generic[T]):
    def __init__(self) -> None:
        self.task: asyncio.Task[T] | None = None
        self.listeners: list[Report] = []
        self.said: list[Progress] = []

    def publish(self, progress: Progress) -> None:
        if not progress.total and not progress.current:
            self.said.append(progress)
        for listener in self.listeners:
            listener(progress)


class Joint(Generic[T]):
    """Running work by key."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Work[T]] = {}

    async def run(
        self, key: Hashable, report: Report, start: Callable[[Report], Awaitable[T]]
    ) -> T:
        """The result of ``start``, which is only called if no work of this key is running.

        A late caller first gets the earlier messages, without the progress counts.
        """
        work = self._running.get(key)
        if work is None:
            work = self._running[key] = _Work()
            work.task = asyncio.create_task(self._do(key, work, start))
        for progress in list(work.said):
            report(progress)
        work.listeners.append(report)
        assert work.task is not None
        try:
            return await asyncio.shield(work.task)
        finally:
            work.listeners.remove(report)
            if not work.listeners and not work.task.done():
                self._forget(key, work)
                work.task.cancel()
                await asyncio.wait([work.task])
                if not work.task.cancelled():
                    work.task.exception()  # seen, so that asyncio does not report it

    async def _do(
        self, key: Hashable, work: _Work[T], start: Callable[[Report], Awaitable[T]]
    ) -> T:
        try:
            return await start(work.publish)
        finally:
            self._forget(key, work)

    def _forget(self, key: Hashable, work: _Work[T]) -> None:
        if self._running.get(key) is work:
            del self._running[key]

    async def close(self) -> None:
        """Cancel everything and wait for its end."""
        tasks = [work.task for work in self._running.values() if work.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
