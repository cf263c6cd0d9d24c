"""Getting what was stored onto the disk, without anyone waiting for it.

Blobs and layers are written behind; their rows name the boot they were written in. Some
seconds after the last of them one syncfs(2) in a thread makes them durable, and only then are
the rows marked as settled. A power cut before that shows as rows of another boot, which the
next start verifies (``store/crash_repair.py``). A killed process needs none of this: the kernel
writes its pages anyway.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from portside.kernel.syncfs import syncfs
from portside.store.db import Database

log = logging.getLogger(__name__)

AFTER = 5.0
"""Seconds from something new to its being synced."""
TABLES = (("blobs", "digest"), ("layers", "chain"))


def settle(root: Path, db: Database) -> None:
    """Sync the file system, and then note that what was recorded before has settled."""
    rows = [
        (table, key, row[0])
        for table, key in TABLES
        for row in db.query(f"SELECT {key} FROM {table} WHERE boot<>''")
    ]
    if not rows:
        return
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
    with db.transaction() as sql:
        for table, key, value in rows:
            sql.execute(f"UPDATE {table} SET boot='' WHERE {key}=?", (value,))


class Settler:
    """Settles in the background; of one data root."""

    def __init__(self, root: Path, db: Database) -> None:
        self._root, self._db = root, db
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def soon(self) -> None:
        """Schedule a flush of new records. Without an event loop the next start does it."""
        if self._timer is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._timer = loop.call_later(AFTER, self._start)

    def _start(self) -> None:
        self._timer = None
        if self._task is not None and not self._task.done():
            self.soon()  # a slow disk: again after this one
            return
        self._task = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        try:
            await self.now()
        except OSError as err:
            log.warning("cannot sync %s: %s", self._root, err)

    async def now(self) -> None:
        """Return when everything recorded so far is on the disk."""
        await asyncio.to_thread(settle, self._root, self._db)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self.now()
