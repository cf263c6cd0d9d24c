"""Whether a data root's metadata and its content belong together, before anything is touched.

Garbage collection and the repair at a start delete what no record names. That is right only when
the records are all there: a root that holds content and whose metadata are missing, empty, older or
another root's is refused, and the user has the choice.

``root.json`` names the root and counts its starts; the metadata hold the same two. The metadata
are written first: metadata with a lower count than the file are an older copy.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import msgspec

from portside.model.errors import SystemFailure
from portside.model.ids import new_id
from portside.store import metadata_file
from portside.store.db import SCHEMA, Database

log = logging.getLogger(__name__)

ROOT_ID, STARTS = "root-id", "starts"
"""Keys of the metadata."""
DIRECTORIES = (
    "blobs", "blobs/sha256", "blobs/sha512", "ingest", "layers", "l", "l/empty", "containers",
    "volumes", "trash", "backups", "seccomp",
)  # fmt: skip
"""The directories of a data root; each is a real directory owned by root."""

_CHECKED = 1 << 20
"""Bytes of metadata that are checked whole at each start (some 5 ms each MiB); larger ones when the
last engine did not end in order, and by each backup."""


_MANY = 3
"""Records of a kind that are not all lost by a crash."""


class Mark(msgspec.Struct, frozen=True):
    """``root.json``."""

    id: str
    starts: int


def require_directories(root: Path) -> None:
    """SystemFailure when something of the root is not the directory that it should be."""
    for name in ("", *DIRECTORIES):
        path = root / name
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            continue  # reported for the directory above
        if not stat.S_ISDIR(found.st_mode) and not (name == "" and path.is_dir()):
            raise SystemFailure(
                f"{path} must be a directory and is not: move it away and start again"
            )
        if found.st_uid != 0 and os.geteuid() == 0:
            raise SystemFailure(f"{path} must belong to root and belongs to user {found.st_uid}")
    empty = root / "l" / "empty"
    if empty.is_dir() and (names := os.listdir(empty)):
        raise SystemFailure(
            f"{empty} must be empty, since it is the lowest layer of containers, and holds "
            f"{names[0]!r}: remove what is in it"
        )


def content(root: Path) -> dict[str, int]:
    """How many objects of each kind the root's directories hold."""
    places = {
        "blobs": ("blobs/sha256", "blobs/sha512"), "layers": ("layers",),
        "containers": ("containers",), "volumes": ("volumes",),
    }  # fmt: skip
    found = {}
    for kind, names in places.items():
        count = 0
        for name in names:
            try:
                entries = os.listdir(root / name)
            except FileNotFoundError:
                continue
            count += sum(not entry.startswith(("tmp-", ".new-")) for entry in entries)
        if count:
            found[kind] = count
    return found


def problem(root: Path) -> str:
    """What is wrong with ``metadata.db``, in words that follow its name; empty for a good one."""
    path = root / "metadata.db"
    try:
        head = path.read_bytes()[:16] if path.stat().st_size < 16 else _head(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as err:
        return f"cannot be read ({err.strerror})"
    if not head:
        return "is empty"
    if head != b"SQLite format 3\0":
        return "is not a database of sqlite"
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as sql:
            sql.execute("PRAGMA locking_mode=EXCLUSIVE")  # no shared memory beside it
            return _look_inside(root, sql)
    except sqlite3.DatabaseError as err:
        if metadata_file.is_locked(err):
            return "is used by another process"
        return f"is damaged ({err})"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _look_inside(root: Path, sql: sqlite3.Connection) -> str:
    application = sql.execute("PRAGMA application_id").fetchone()[0]
    tables = {row[0] for row in sql.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if application not in (0, metadata_file.APPLICATION):
        return "belongs to another program"
    if not {"documents", "names", "refs", "blobs", "layers", "writables", "meta"} <= tables:
        return "holds no metadata of Portside"
    version = sql.execute("PRAGMA user_version").fetchone()[0]
    if version > len(SCHEMA):
        return ""  # of a newer engine: reported when it is opened
    wrong = ""
    if (root / "metadata.db").stat().st_size < _CHECKED or (root / "metadata.db-wal").exists():
        wrong = metadata_file.damage(sql)
    if wrong:
        return f"is damaged ({wrong})"
    mark = read_mark(root)
    if mark is None:
        return ""
    values = dict(
        sql.execute("SELECT key, value FROM meta WHERE key IN (?,?)", (ROOT_ID, STARTS)).fetchall()
    )
    if values.get(ROOT_ID, mark.id) != mark.id:
        return "belongs to another data root"
    if int(values.get(STARTS) or 0) < mark.starts:
        return (
            f"is older than the rest of the data root (start {values.get(STARTS) or 0} "
            f"of {mark.starts})"
        )
    return ""


def require_metadata(root: Path, spill: Path | None) -> None:
    """Refuse a root with content and without good metadata: SystemFailure with the choice."""
    if spill is not None and spill.exists():
        return  # the newest are there
    held = content(root)
    if not held:
        return
    wrong = problem(root)
    if not wrong:
        return
    what = ", ".join(f"{count} {kind}" for kind, count in held.items())
    raise SystemFailure(
        f"{root} holds {what}, but {root}/metadata.db {wrong}. Nothing was changed. Either put the "
        "right file back; or run `portside system check --repair --offline"
        f"{'' if str(root) == '/var/lib/portside' else f' --data-root {root}'}`, which takes the "
        "newest good backup and adds what blobs, layers, containers and volumes show; or start "
        "again with another --data-root, or with this directory moved away"
    )


def require_content(root: Path, db: Database) -> None:
    """Refuse a root whose metadata name much of what is not there at all: a file system that is
    not mounted, most likely, whose records must not go."""
    held = content(root)
    for kind, statement in (
        ("blobs", "SELECT count(*) FROM blobs WHERE layer=''"),
        ("layers", "SELECT count(*) FROM layers"),
        ("containers", "SELECT count(*) FROM writables"),
        ("volumes", "SELECT count(*) FROM documents WHERE kind='volume'"),
    ):
        row = db.row(statement)
        count = int(row[0]) if row else 0
        if count >= _MANY and kind not in held:
            raise SystemFailure(
                f"the metadata of {root} name {count} {kind}, and {root}/{kind} is empty. Nothing "
                "was changed. If it is a file system of its own, mount it; else run `portside "
                "system check --repair --offline`, which forgets them"
            )


def read_mark(root: Path) -> Mark | None:
    """``root.json``; None when it is missing or cannot be read."""
    path = root / "root.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mark)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as err:
        log.warning("%s cannot be read and is written again: %s", path, err)
        return None


def count_start(root: Path, db: Database) -> Mark:
    """Count one more start in the metadata; the mark to be written once they are on the disk."""
    old = read_mark(root)
    identifier = db.get_meta(ROOT_ID) or (old.id if old else new_id())
    starts = max(int(db.get_meta(STARTS) or 0), old.starts if old else 0) + 1
    with db.transaction():
        db.set_meta(ROOT_ID, identifier)
        db.set_meta(STARTS, str(starts))
    return Mark(identifier, starts)


def write_mark(root: Path, mark: Mark) -> None:
    """Raises OSError. Call it after :meth:`Database.write_out`."""
    new = root / "root.json.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, msgspec.json.encode(mark))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.rename(root / "root.json")
