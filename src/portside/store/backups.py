"""Copies of the metadata, made while the engine runs and at its start.

``backups/metadata-<UTC time>.db``, the newest few. A copy that is not whole does not replace one
that is: then the metadata themselves are damaged, which is logged, and garbage collection stops.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from portside.model.errors import SystemFailure
from portside.store import guard, metadata_file
from portside.store.db import Database
from portside.store.space import RESERVE, Reserve, Space

log = logging.getLogger(__name__)

KEPT = 5
AT_START, AFTER = 2.0, 600.0
"""Seconds from the start to the first copy, and from a change to the next copy."""


class Backups:
    """The copies of one data root. Used from the event loop; the copying is done in a thread."""

    def __init__(self, root: Path, db: Database, reserve: Reserve) -> None:
        self.path = root / "backups"
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.damaged = ""
        """What the last look at the metadata found wrong."""
        self._root, self._db, self._reserve = root, db, reserve
        self._counted = True
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        db.changed = self.soon

    def start(self) -> None:
        """The engine has started: copy and count the start soon. Not at once: the first write
        waits for the disk."""
        self._counted = False
        if self._timer is not None:  # something was repaired
            self._timer.cancel()
            self._timer = None
        self.soon(AT_START)

    def soon(self, seconds: float = AFTER) -> None:
        """Schedule a backup of changes; without an event loop the next change or start does."""
        if self._timer is not None:
            return
        with suppress(RuntimeError):  # in a thread, or before the loop: the next change will do
            self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(asyncio.to_thread(self.now))

    def now(self) -> None:
        """Make a copy and drop the oldest. Runs in a thread."""
        try:
            self._count()
            self._reserve.take()
            self._copy()
        except (sqlite3.Error, OSError, SystemFailure) as err:
            log.warning("the metadata cannot be copied to %s: %s", self.path, err)

    def _count(self) -> None:
        """Count this start, in the metadata first and then in ``root.json``."""
        if not self._counted and not self._db.spilled:
            mark = guard.count_start(self._root, self._db)
            self._db.write_out()
            guard.write_mark(self._root, mark)
            self._counted = True

    def _copy(self) -> None:
        if Space.of(self.path).free < self._db.path.stat().st_size * 2 + 4 * RESERVE:
            log.warning("no copy of the metadata is made: there is hardly any space")
            return
        name = time.strftime("metadata-%Y%m%dT%H%M%SZ.db", time.gmtime())
        self.damaged = self._db.back_up(self.path / name)
        if self.damaged:
            log.error(
                "the metadata in %s are damaged (%s): older copies are in %s: stop the engine and "
                "run `portside system check --repair --offline`",
                self._db.path, self.damaged, self.path,
            )  # fmt: skip
            return
        for old in files(self._root)[KEPT:]:
            metadata_file.discard(old)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(OSError, SystemFailure):  # it may have ended before the first copy
            self._count()
        self._db.changed = lambda: None


def files(root: Path) -> list[Path]:
    """The copies, newest first."""
    return sorted((root / "backups").glob("metadata-*Z.db"), reverse=True)


def newest_good(root: Path) -> Path | None:
    """The newest copy that is whole."""
    for path in files(root):
        with suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as sql:
            if not metadata_file.damage(sql):
                return path
    return None
