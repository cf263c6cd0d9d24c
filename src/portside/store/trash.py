"""Deleting that is never waited for and never lost.

``trash/<id>`` holds what is being deleted: a tree is renamed there in one step, so its old
name is free and its removal cannot be half done, and a worker deletes it. What a killed
engine left in the trash is deleted at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from portside.model.errors import PortsideError
from portside.model.ids import new_id
from portside.store import store_jobs
from portside.store.space import Reserve
from portside.store.worker_pool import Workers

log = logging.getLogger(__name__)


class Trash:
    """The trash directory of one data root."""

    def __init__(self, root: Path, workers: Workers, reserve: Reserve) -> None:
        self.path, self._workers, self._reserve = root / "trash", workers, reserve
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def discard(self, path: Path) -> bool:
        """Move ``path`` (a file or tree of the same file system) to the trash and delete it in
        the background; False when it is not there. Never crosses a mount point."""
        try:
            self._reserve.spend(lambda: path.rename(self.path / new_id()))
        except FileNotFoundError:
            return False
        self.empty_soon()
        return True

    def empty_soon(self) -> None:
        """Start deleting, unless it is under way; without an event loop, at the next start."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._empty())

    async def wait(self) -> None:
        """Until everything discarded so far is deleted."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _empty(self) -> None:
        while self._again:
            self._again = False
            if os.listdir(self.path):
                try:
                    await self._workers.run(store_jobs.RemoveTrees(path=str(self.path)))
                except PortsideError as err:
                    log.warning("emptying %s: %s", self.path, err)

    async def close(self) -> None:
        """Stop deleting; the rest goes at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
