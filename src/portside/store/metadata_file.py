"""The sqlite file of the metadata: opening, checking, copying whole.

The file is locked for this process alone (``locking_mode=EXCLUSIVE``): nobody else can hold it up,
and WAL needs no shared memory beside it, which could not be made on a full disk
(sqlite.org/wal.html, "Use of WAL without shared memory").
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

APPLICATION = 0x50535444
"""``PRAGMA application_id``: "PSTD"."""
SIDE_FILES = ("-wal", "-shm", "-journal")
_STEP = 64
"""Pages copied at once while the engine runs."""


def connect(path: Path) -> sqlite3.Connection:
    """Open or create; sqlite3.Error when it cannot be."""
    _make_private(path)
    sql = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        for pragma in ("locking_mode=EXCLUSIVE", "busy_timeout=0", "journal_mode=WAL",
                       "synchronous=NORMAL"):  # fmt: skip
            sql.execute(f"PRAGMA {pragma}")
    except BaseException:
        sql.close()
        raise
    return sql


def _make_private(path: Path) -> None:
    """Make the file, so that sqlite finds it with its mode: the log beside it gets the mode of the
    file (sqlite.org/tempfiles.html). Files of an earlier engine are narrowed."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    for suffix in ("", *SIDE_FILES):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").chmod(0o600)


def is_full(err: sqlite3.Error) -> bool:
    """Whether the disk is full: SQLITE_FULL, or an extended code of SQLITE_IOERR that a file
    system gives when it cannot grow a file."""
    return getattr(err, "sqlite_errorcode", 0) in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
    )


def is_damage(err: sqlite3.Error) -> bool:
    """Whether the file itself is wrong."""
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_locked(err: sqlite3.Error) -> bool:
    """Whether another process holds the file."""
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def damage(sql: sqlite3.Connection) -> str:
    """What ``PRAGMA quick_check`` finds first; empty for a file that is whole."""
    try:
        found = sql.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as err:
        return str(err)
    return "" if found is None or found[0] == "ok" else str(found[0]).replace("\n", " ")


def copy_to(sql: sqlite3.Connection, target: Path) -> None:
    """Copy everything that is committed to ``target``, which appears whole or not at all.

    Raises sqlite3.Error, OSError.
    """
    new = Path(f"{target}.new")
    _copy(sql, new, lock=None)
    discard(target, only_side_files=True)
    new.rename(target)


def _copy(sql: sqlite3.Connection, new: Path, lock: threading.RLock | None) -> None:
    discard(new)
    _make_private(new)
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as copy:
            if lock is None:
                sql.backup(copy)
            else:
                _copy_in_steps(sql, copy, lock)
        descriptor = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        discard(new, only_side_files=True)
    except BaseException:
        discard(new)
        raise


def _copy_in_steps(
    sql: sqlite3.Connection, copy: sqlite3.Connection, lock: threading.RLock
) -> None:
    """Copy between transactions: the lock is held for one step and then released. What is
    changed meanwhile by the same connection is copied again by sqlite
    (sqlite.org/c3ref/backup_finish.html)."""

    def let_others(status: int, remaining: int, total: int) -> None:
        lock.release()
        threading.Event().wait(0.001)
        lock.acquire()

    with lock:
        sql.backup(copy, pages=_STEP, progress=let_others, sleep=0)


def back_up(sql: sqlite3.Connection, lock: threading.RLock, target: Path) -> str:
    """Copy to ``target`` while the engine works, and look whether the copy is whole.

    What is wrong, when something is; then there is no ``target``. Raises sqlite3.Error, OSError.
    """
    new = Path(f"{target}.new")
    _copy(sql, new, lock)
    with closing(sqlite3.connect(new, isolation_level=None)) as copy:
        # an own log is not wanted beside a copy that nobody writes to
        copy.execute("PRAGMA journal_mode=DELETE")
        wrong = damage(copy)
    if wrong:
        discard(new)
        return wrong
    discard(new, only_side_files=True)
    new.rename(target)
    return ""


def discard(path: Path, only_side_files: bool = False) -> None:
    """Delete the file and what sqlite keeps beside it."""
    for suffix in SIDE_FILES if only_side_files else ("", *SIDE_FILES):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
