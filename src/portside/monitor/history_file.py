"""History on disk: buckets of means and maxima for days, in one sqlite file, bounded by bytes.

A thread of its own writes once a minute. A disk that is full, or a file that is damaged, costs
the history that would have been written, and is counted and logged; sampling does not notice.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from portside.model.errors import SystemFailure
from portside.monitor.history import BUCKET, Bucket
from portside.monitor.samples import SERIES

_LOG = logging.getLogger("portside.monitor")
_ROW = struct.Struct(f"<{2 * len(SERIES)}f")
_FORMAT = 1
"""Changes with :data:`SERIES`: rows of another format are not read."""
_INTERVAL = 60.0
_MOST_PENDING = 50_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS groups (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS buckets (
    start INTEGER NOT NULL, group_id INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (group_id, start)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_start ON buckets (start);
"""

Row = tuple[float, Sequence[float], Sequence[float]]


def _is_of_the_disk(err: sqlite3.DatabaseError) -> bool:
    """Whether the disk is full or the file cannot be opened: the file itself may be whole."""
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)


class HistoryFile:
    """The history on disk. Raises SystemFailure when the file cannot be opened."""

    def __init__(self, path: str, days: float, most_bytes: int) -> None:
        self.path, self._days, self._most_bytes = path, days, most_bytes
        self.written = self.lost = 0
        self._pending: list[tuple[str, Bucket]] = []
        self._thread = ThreadPoolExecutor(1, "history")
        self._names: dict[str, int] = {}
        self._was_full = False
        self._task: asyncio.Task[None] | None = None
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        directory = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(directory):
            raise SystemFailure(f"history {self.path}: {directory}: no such file or directory")
        try:
            found = self._connect()
            try:
                found.execute("SELECT count(*) FROM buckets WHERE start = 0").fetchone()
            except sqlite3.OperationalError:
                found.executescript(_SCHEMA)
        except sqlite3.DatabaseError as err:
            if not os.path.exists(self.path) or _is_of_the_disk(err):
                raise SystemFailure(f"history {self.path}: {err}") from err
            aside = f"{self.path}.damaged"
            os.replace(self.path, aside)
            _LOG.warning("history %s: %s; begun anew, the old one is %s", self.path, err, aside)
            found = self._connect()
            found.executescript(_SCHEMA)
        except OSError as err:
            raise SystemFailure(f"history {self.path}: {err.strerror}") from err
        return found

    def _connect(self) -> sqlite3.Connection:
        found = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        try:
            found.execute("PRAGMA auto_vacuum = INCREMENTAL")
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = NORMAL")
            found.execute("PRAGMA cache_size = -1024")
            found.execute("PRAGMA journal_size_limit = 4194304")
            version = found.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _FORMAT):
                found.execute("DROP TABLE IF EXISTS buckets")
            found.execute(f"PRAGMA user_version = {_FORMAT}")
        except BaseException:
            found.close()
            raise
        return found

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, name: str, bucket: Bucket) -> None:
        """Keep a finished bucket until the next write; never waits."""
        if len(self._pending) >= _MOST_PENDING:
            self.lost += 1
            return
        self._pending.append((name, bucket))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_INTERVAL)
            await loop.run_in_executor(self._thread, self.flush)

    def flush(self) -> None:
        """Write what waits, in one transaction; remove what is too old or too much."""
        pending, self._pending = self._pending, []
        try:
            with self._transaction():
                for name, bucket in pending:
                    row = _ROW.pack(*bucket.mean, *bucket.max)
                    self._database.execute(
                        "INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)",
                        (bucket.start, self._number(name), row),
                    )
            self.written += len(pending)
            self._trim()
        except sqlite3.Error as err:
            self.lost += len(pending)
            self._names.clear()
            if not self._was_full:
                _LOG.warning("history %s: %s; %d buckets lost", self.path, err, len(pending))
            self._was_full = True
        else:
            if self._was_full:
                _LOG.info("history %s: written again", self.path)
            self._was_full = False

    def _transaction(self) -> _Transaction:
        return _Transaction(self._database)

    def _number(self, name: str) -> int:
        if name not in self._names:
            if len(self._names) > 10_000:
                self._names.clear()
            self._database.execute("INSERT OR IGNORE INTO groups (name) VALUES (?)", (name,))
            found = self._database.execute("SELECT id FROM groups WHERE name = ?", (name,))
            self._names[name] = found.fetchone()[0]
        return self._names[name]

    def _trim(self) -> None:
        oldest = int(time.time() - self._days * 86400)
        run = self._database.execute
        run("DELETE FROM buckets WHERE start < ?", (oldest,))
        while self.size() > self._most_bytes:
            first = run("SELECT min(start), max(start) FROM buckets").fetchone()
            if first[0] is None or first[0] == first[1]:
                break
            upto = first[0] + max(BUCKET, (first[1] - first[0]) // 10)
            run("DELETE FROM buckets WHERE start < ?", (upto,))
        run("DELETE FROM groups WHERE id NOT IN (SELECT group_id FROM buckets)")
        self._names.clear()
        run("PRAGMA incremental_vacuum").fetchall()

    def size(self) -> int:
        """Bytes in use, without pages that are free."""
        pages, free, page = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page)

    async def read(self, name: str, since: float, until: float) -> list[Row]:
        """Buckets of a group from ``since`` on and before ``until``, oldest first."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._read, name, since, until)

    def _read(self, name: str, since: float, until: float) -> list[Row]:
        width = len(SERIES)
        try:
            rows = self._database.execute(
                "SELECT start, data FROM buckets WHERE start >= ? AND start < ? AND group_id = "
                "(SELECT id FROM groups WHERE name = ?) ORDER BY start",
                (int(since), int(until), name),
            ).fetchall()
        except sqlite3.Error as err:
            _LOG.warning("history %s: %s", self.path, err)
            return []
        found: list[Row] = []
        for start, data in rows:
            if len(data) == _ROW.size:
                values = _ROW.unpack(data)
                found.append((float(start), values[:width], values[width:]))
        return found

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await asyncio.get_running_loop().run_in_executor(self._thread, self.flush)
        self._thread.shutdown()
        self._database.close()


class _Transaction:
    """``BEGIN IMMEDIATE`` to ``COMMIT``, or ``ROLLBACK``."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._database.execute("COMMIT")
            return
        try:
            self._database.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # sqlite rolled back by itself: the disk is full
