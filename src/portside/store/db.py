"""The engine's metadata: typed documents, unique names, references and leases in sqlite.

Documents are msgspec structs kept as JSON, by kind and identifier. What must be asked in
both directions (who uses this layer, which names does this image have) stands in tables::

    documents(kind, id, body)            one typed value each
    names(kind, name, id)                unique within a kind
    refs(owner_kind, owner_id, target_kind, target_id)      the graph garbage collection walks
    leases(id, expires_at, note)         temporary owners: a pull in flight, a running build
    blobs, layers, writables             the stores' own records

WAL with ``synchronous=NORMAL``: a killed process loses nothing, a power cut may lose the
last moments but never tears a transaction. Calls are short and synchronous (tens of
microseconds); never ``await`` inside a transaction.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from portside.model.errors import Conflict, NoSpace, NotFound, SystemFailure
from portside.model.ids import new_id
from portside.store import metadata_file, space

T = TypeVar("T")

SCHEMA = [
    """
    CREATE TABLE documents(
        kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY(kind, id)) WITHOUT ROWID;
    CREATE TABLE names(
        kind TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL,
        PRIMARY KEY(kind, name)) WITHOUT ROWID;
    CREATE INDEX names_by_id ON names(kind, id);
    CREATE TABLE refs(
        owner_kind TEXT NOT NULL, owner_id TEXT NOT NULL,
        target_kind TEXT NOT NULL, target_id TEXT NOT NULL,
        PRIMARY KEY(owner_kind, owner_id, target_kind, target_id)) WITHOUT ROWID;
    CREATE INDEX refs_by_target ON refs(target_kind, target_id);
    CREATE TABLE leases(
        id TEXT PRIMARY KEY, expires_at INTEGER NOT NULL, note TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE blobs(
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, created_at INTEGER NOT NULL,
        boot TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE layers(
        seq INTEGER PRIMARY KEY AUTOINCREMENT, chain TEXT NOT NULL UNIQUE,
        parent TEXT NOT NULL, diff_id TEXT NOT NULL, blob TEXT NOT NULL,
        media_type TEXT NOT NULL, size INTEGER NOT NULL, driver TEXT NOT NULL,
        created_at INTEGER NOT NULL, boot TEXT NOT NULL);
    CREATE TABLE writables(
        container TEXT PRIMARY KEY, chain TEXT NOT NULL, driver TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
    # Images are renamed by images/image_repair.py, which knows their documents.
    "INSERT OR IGNORE INTO meta VALUES('image-identity', 'configuration')",
    # The layer whose files a blob without a file is made from; empty for one with a file.
    "ALTER TABLE blobs ADD COLUMN layer TEXT NOT NULL DEFAULT ''",
    # Whether a power cut may damage a writable layer: it goes with its container's end.
    "ALTER TABLE writables ADD COLUMN is_volatile INTEGER NOT NULL DEFAULT 0",
]
"""One script for each schema version; ``PRAGMA user_version`` counts the scripts applied."""


log = logging.getLogger(__name__)


class Ref(NamedTuple):
    """An object as the reference graph knows it, such as ``Ref("container", id)``."""

    kind: str
    id: str

    @classmethod
    def blob(cls, digest: str) -> Ref:
        return cls("blob", digest)

    @classmethod
    def layer(cls, chain: str) -> Ref:
        return cls("layer", chain)

    @classmethod
    def image(cls, identifier: str) -> Ref:
        return cls("image", identifier)

    @classmethod
    def container(cls, identifier: str) -> Ref:
        return cls("container", identifier)

    @classmethod
    def volume(cls, name: str) -> Ref:
        return cls("volume", name)


class NameTaken(Conflict):
    """A unique name belongs to another object; ``holder`` is that object's identifier."""

    def __init__(self, kind: str, name: str, holder: str) -> None:
        super().__init__(f'the {kind} name "{name}" is already in use by {kind} "{holder}"')
        self.kind, self.name, self.holder = kind, name, holder


class Lease:
    """A temporary owner of blobs and layers; a context manager that releases at its end.

    A lease outlives a killed engine until it expires, so that an interrupted pull finds
    what it had fetched. ``keep(seconds)`` leaves the content owned for a while after the
    work was broken off.
    """

    def __init__(self, db: Database, identifier: str) -> None:
        self._db, self.id = db, identifier
        self._keep: float | None = None

    @property
    def ref(self) -> Ref:
        return Ref("lease", self.id)

    def keep(self, seconds: float) -> None:
        """Let the lease expire in ``seconds`` instead of ending at once."""
        self._keep = seconds

    def release(self) -> None:
        with self._db.transaction() as sql:
            if self._keep is not None:
                expires = int(time.time() + self._keep)
                sql.execute("UPDATE leases SET expires_at=? WHERE id=?", (expires, self.id))
                return
            sql.execute("DELETE FROM leases WHERE id=?", (self.id,))
            self._db.refs.drop(self.ref)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.release()
        except SystemFailure as err:
            if error is None:
                raise
            # the disk is full, most likely: the first error is the one to report,
            # and the lease expires by itself
            log.warning("%s", err)


class References:
    """The graph of who needs what. Edges are idempotent; removing an absent one is fine."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, owner: Ref, *targets: Ref) -> None:
        with self._db.transaction() as sql:
            sql.executemany(
                "INSERT OR IGNORE INTO refs VALUES(?,?,?,?)", [(*owner, *t) for t in targets]
            )

    def remove(self, owner: Ref, *targets: Ref) -> None:
        with self._db.transaction() as sql:
            sql.executemany(
                "DELETE FROM refs WHERE owner_kind=? AND owner_id=? "
                "AND target_kind=? AND target_id=?",
                [(*owner, *target) for target in targets],
            )

    def drop(self, owner: Ref) -> None:
        """Forget everything ``owner`` needs."""
        with self._db.transaction() as sql:
            sql.execute("DELETE FROM refs WHERE owner_kind=? AND owner_id=?", owner)

    def targets(self, owner: Ref, kind: str | None = None) -> list[Ref]:
        """The objects that ``owner`` needs."""
        rows = self._db.query(
            "SELECT target_kind, target_id FROM refs WHERE owner_kind=? AND owner_id=?", *owner
        )
        return [Ref(*row) for row in rows if kind is None or row[0] == kind]

    def users(self, target: Ref, kind: str | None = None) -> list[Ref]:
        """The objects that need ``target``."""
        rows = self._db.query(
            "SELECT owner_kind, owner_id FROM refs WHERE target_kind=? AND target_id=?", *target
        )
        return [Ref(*row) for row in rows if kind is None or row[0] == kind]


class Collection(Generic[T]):
    """All documents of one kind. Identifiers and names are separate spaces."""

    def __init__(self, db: Database, kind: str, type: type[T]) -> None:
        self._db, self.kind = db, kind
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(type).decode

    def get(self, identifier: str) -> T:
        """The document; NotFound when there is none."""
        found = self.find(identifier)
        if found is None:
            raise NotFound(f"no such {self.kind}: {identifier}")
        return found

    def find(self, identifier: str) -> T | None:
        row = self._db.row(
            "SELECT body FROM documents WHERE kind=? AND id=?", self.kind, identifier
        )
        return None if row is None else self._read(identifier, row[0])

    def put(self, identifier: str, document: T) -> None:
        """Write or overwrite a document; its names stay."""
        with self._db.transaction() as sql:
            sql.execute(
                "INSERT INTO documents VALUES(?,?,?) "
                "ON CONFLICT(kind, id) DO UPDATE SET body=excluded.body",
                (self.kind, identifier, self._encode(document)),
            )

    def insert(self, identifier: str, document: T, *names: str) -> None:
        """A new document with its names, at once; Conflict when the identifier exists,
        NameTaken when a name does, and then nothing is written. NoSpace on a full disk."""
        with self._db.transaction(grows=True) as sql:
            try:
                sql.execute(
                    "INSERT INTO documents VALUES(?,?,?)",
                    (self.kind, identifier, self._encode(document)),
                )
            except sqlite3.IntegrityError as err:
                raise Conflict(f"{self.kind} {identifier} already exists") from err
            for name in names:
                self.claim(name, identifier)

    def delete(self, identifier: str) -> bool:
        """Remove a document, its names and what it refers to; False when it was not there."""
        with self._db.transaction() as sql:
            sql.execute("DELETE FROM names WHERE kind=? AND id=?", (self.kind, identifier))
            self._db.refs.drop(Ref(self.kind, identifier))
            done = sql.execute(
                "DELETE FROM documents WHERE kind=? AND id=?", (self.kind, identifier)
            )
            return done.rowcount > 0

    def items(self) -> list[tuple[str, T]]:
        """Every (identifier, document), by identifier. One that cannot be read is left out and
        logged: the damage of one must not hide the others."""
        rows = self._db.query("SELECT id, body FROM documents WHERE kind=?", self.kind)
        found = []
        for key, body in rows:
            try:
                found.append((key, self._read(key, body)))
            except SystemFailure as err:
                log.error("%s", err)
        return found

    def damaged(self) -> list[tuple[str, str]]:
        """(identifier, what is wrong) of each document that cannot be read."""
        rows = self._db.query("SELECT id, body FROM documents WHERE kind=?", self.kind)
        found = []
        for key, body in rows:
            try:
                self._decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError) as err:
                found.append((key, str(err)))
        return found

    def all(self) -> list[T]:
        return [document for _, document in self.items()]

    def ids(self, prefix: str = "") -> list[str]:
        """Identifiers that start with ``prefix``."""
        rows = self._db.query(
            "SELECT id FROM documents WHERE kind=? AND id>=? AND id<?",
            self.kind,
            prefix,
            prefix + "\U0010ffff",
        )
        return [row[0] for row in rows]

    def __contains__(self, identifier: str) -> bool:
        sql = "SELECT 1 FROM documents WHERE kind=? AND id=?"
        return self._db.row(sql, self.kind, identifier) is not None

    def __len__(self) -> int:
        row = self._db.row("SELECT count(*) FROM documents WHERE kind=?", self.kind)
        return int(row[0]) if row else 0

    # -- names ---------------------------------------------------------------------------

    def claim(self, name: str, identifier: str) -> None:
        """Give ``name`` to ``identifier``; NameTaken when another holds it."""
        with self._db.transaction() as sql:
            holder = self.resolve(name)
            if holder is not None and holder != identifier:
                raise NameTaken(self.kind, name, holder)
            sql.execute("INSERT OR IGNORE INTO names VALUES(?,?,?)", (self.kind, name, identifier))

    def assign(self, name: str, identifier: str) -> str | None:
        """Give ``name`` to ``identifier``; returns the former holder, if it was another."""
        with self._db.transaction() as sql:
            holder = self.resolve(name)
            sql.execute(
                "INSERT INTO names VALUES(?,?,?) ON CONFLICT(kind, name) DO UPDATE SET id=?",
                (self.kind, name, identifier, identifier),
            )
            return holder if holder != identifier else None

    def rename(self, old: str, new: str) -> None:
        """Change a name in place; NotFound, or NameTaken when ``new`` is another's."""
        with self._db.transaction():
            identifier = self.resolve(old)
            if identifier is None:
                raise NotFound(f"no such {self.kind}: {old}")
            self.claim(new, identifier)
            if new != old:
                self.release(old)

    def release(self, name: str) -> bool:
        """Free a name; False when nobody had it."""
        with self._db.transaction() as sql:
            done = sql.execute("DELETE FROM names WHERE kind=? AND name=?", (self.kind, name))
            return done.rowcount > 0

    def resolve(self, name: str) -> str | None:
        """The identifier that holds ``name``."""
        row = self._db.row("SELECT id FROM names WHERE kind=? AND name=?", self.kind, name)
        return None if row is None else str(row[0])

    def names(self, identifier: str) -> list[str]:
        """Every name of ``identifier``, sorted."""
        rows = self._db.query(
            "SELECT name FROM names WHERE kind=? AND id=? ORDER BY name", self.kind, identifier
        )
        return [row[0] for row in rows]

    def all_names(self) -> dict[str, str]:
        """Every name of this kind with its identifier."""
        rows = self._db.query("SELECT name, id FROM names WHERE kind=?", self.kind)
        return {row[0]: row[1] for row in rows}

    def _read(self, identifier: str, body: bytes) -> T:
        try:
            return self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as err:
            raise SystemFailure(
                f"the record of {self.kind} {identifier} cannot be read: {err}: "
                "run `portside system check --repair`"
            ) from err


class Transaction:
    """The statements of a transaction. They are kept until it is committed: when the disk is full
    they are repeated in a copy of the metadata in the exec root."""

    __slots__ = ("_db", "done")

    def __init__(self, db: Database) -> None:
        self._db = db
        self.done: list[tuple[bool, str, Any]] = []

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._db.carry_out((False, statement, values))

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> sqlite3.Cursor:
        return self._db.carry_out((True, statement, rows))


class Database:
    """One connection for the whole engine; other threads may use it too (it is locked).

    On a full disk, what ends or frees something is written to ``spill``, a copy of the metadata
    on another file system (the exec root), and everything is read from there until
    :meth:`come_home` finds room. What needs room raises NoSpace. A spill that a killed engine left
    is taken up by the next one; after a reboot it is gone, and the file in the data root holds how
    things were before the disk was full.
    """

    def __init__(self, path: Path, spill: Path | None = None) -> None:
        """Open or create the file; SystemFailure when it is damaged or from a newer engine."""
        self.path, self._spill = path, spill
        self._lock = threading.RLock()
        self._depth = 0
        self._grows = False
        self._undo: list[Callable[[], object]] = []
        self._current = Transaction(self)
        self.spilled = False
        self.changed: Callable[[], None] = lambda: None
        """Called after each transaction that was committed."""
        try:
            self._sql = self._open()
            self._migrate()
        except sqlite3.Error as err:
            raise self._failure("open", err) from err
        self.refs = References(self)

    def _open(self) -> sqlite3.Connection:
        if self._spill is not None and self._spill.exists():
            sql = metadata_file.connect(self._spill)
            self.spilled = True
            log.warning("the metadata is in %s: the disk of %s was full", self._spill, self.path)
            return sql
        return metadata_file.connect(self.path)

    def _migrate(self) -> None:
        version = int(self._sql.execute("PRAGMA user_version").fetchone()[0])
        if version > len(SCHEMA):
            raise SystemFailure(
                f"{self.path} was written by a newer Portside (schema {version}, this one "
                f"knows {len(SCHEMA)}): upgrade, or choose another --data-root"
            )
        for number, script in enumerate(SCHEMA[version:], version + 1):
            statements = (text for text in script.split(";") if text.strip())
            with self.transaction(grows=True) as sql:
                for statement in statements:
                    sql.execute(statement)
                sql.execute(f"PRAGMA user_version={number}")
                sql.execute(f"PRAGMA application_id={metadata_file.APPLICATION}")

    def collection(self, kind: str, type: type[T]) -> Collection[T]:
        """The documents of one kind, read and written as ``type`` (a msgspec type)."""
        return Collection(self, kind, type)

    @contextmanager
    def transaction(self, grows: bool = False) -> Iterator[Transaction]:
        """Everything inside is written at once or, on an exception, not at all.

        Nested ones join the outermost. Do not await inside. ``grows`` says that it makes something
        new: on a full disk that is refused with NoSpace, and everything else is still written.
        """
        with self._lock:
            if grows:
                self._require_room()
            if self._depth == 0:
                self._begin()
            self._grows = self._grows or grows
            self._depth += 1
            try:
                yield self._current
            except BaseException as err:
                self._depth -= 1
                if self._depth == 0:
                    self._roll_back()
                if isinstance(err, sqlite3.Error) and not isinstance(err, sqlite3.IntegrityError):
                    raise self._failure("write", err) from err
                raise
            self._depth -= 1
            if self._depth == 0:
                self._commit()

    def undo(self, step: Callable[[], object]) -> None:
        """Have ``step`` called if the transaction that is open is not committed after all: what was
        moved into its place inside a transaction is moved back. Last in, first out."""
        self._undo.append(step)

    def _begin(self) -> None:
        self.come_home()
        self._current.done.clear()
        self._undo.clear()
        self._grows = False
        try:
            self._sql.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as err:
            raise self._failure("write", err) from err

    def carry_out(self, step: tuple[bool, str, Any]) -> sqlite3.Cursor:
        """One statement of the open transaction."""
        try:
            cursor = self._step(step)
        except sqlite3.OperationalError as err:
            self._divert(err)
            cursor = self._step(step)
        self._current.done.append(step)
        return cursor

    def _step(self, step: tuple[bool, str, Any]) -> sqlite3.Cursor:
        many, statement, values = step
        if many:
            return self._sql.executemany(statement, values)
        return self._sql.execute(statement, values)

    def _commit(self) -> None:
        try:
            try:
                self._sql.execute("COMMIT")
            except sqlite3.OperationalError as err:
                self._divert(err)
                self._sql.execute("COMMIT")
        except BaseException as err:
            self._roll_back()
            if isinstance(err, sqlite3.Error):
                raise self._failure("write", err) from err
            raise
        self._undo.clear()
        self.changed()

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
        while self._undo:
            step = self._undo.pop()
            try:
                step()
            except OSError as err:
                log.warning("taking back what was not recorded: %s", err)

    # -- a full disk ----------------------------------------------------------------------

    def _require_room(self) -> None:
        if self._depth == 0:
            self.come_home()
        if self.spilled:
            raise NoSpace(f"write {self.path}: no space left on device: {space.HINT}")
        space.require(self.path.parent)

    def _divert(self, err: sqlite3.OperationalError) -> None:
        """Continue in the spill with what the open transaction has done so far; raises ``err`` for
        another error, NoSpace for a transaction that makes something new."""
        if not metadata_file.is_full(err):
            raise err
        if self._grows or self._spill is None or self.spilled:
            raise self._failure("write", err) from err
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")
        try:
            self._spill.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            metadata_file.copy_to(self._sql, self._spill)
            sql = metadata_file.connect(self._spill)
        except (sqlite3.Error, OSError) as second:
            log.error("the metadata cannot be kept in %s: %s", self._spill, second)
            raise self._failure("write", err) from err
        with suppress(sqlite3.Error):  # its log stays, since it cannot be written back
            self._sql.close()
        self._sql, self.spilled = sql, True
        log.error(
            "the disk of %s is full: what ends or frees something is recorded in %s until there "
            "is room; everything else is refused",
            self.path, self._spill,
        )  # fmt: skip
        self._sql.execute("BEGIN IMMEDIATE")
        for step in self._current.done:
            self._step(step)

    def come_home(self) -> bool:
        """Go back to the data root when it has room for the metadata; whether we are there."""
        with self._lock:
            if not self.spilled:
                return True
            if self._depth or self._spill is None:
                return False
            needed = 2 * self._spill.stat().st_size + space.LEAST
            if space.Space.of(self.path.parent).free < needed:
                return False
            try:
                metadata_file.copy_to(self._sql, self.path)
                home = metadata_file.connect(self.path)
            except (sqlite3.Error, OSError) as err:
                log.warning("the metadata stays in %s: %s", self._spill, err)
                return False
            self._sql.close()
            metadata_file.discard(self._spill)
            self._sql, self.spilled = home, False
            log.warning("the disk of %s has room again: the metadata is there", self.path)
            return True

    def _failure(self, verb: str, err: sqlite3.Error) -> SystemFailure:
        if metadata_file.is_full(err):
            return NoSpace(f"{verb} {self.path}: no space left on device: {space.HINT}")
        if metadata_file.is_damage(err):
            return SystemFailure(
                f"the metadata in {self.path} is damaged ({err}): stop the engine and run "
                "`portside system check --repair --offline`"
            )
        if metadata_file.is_locked(err):
            return SystemFailure(f"{verb} {self.path}: another process is using it")
        return SystemFailure(f"cannot {verb} the metadata in {self.path}: {err}")

    # -- reading and copying ----------------------------------------------------------------

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        with self._lock:
            try:
                return self._sql.execute(statement, values).fetchall()
            except sqlite3.DatabaseError as err:
                raise self._failure("read", err) from err

    def row(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of a SELECT."""
        with self._lock:
            try:
                found: tuple[Any, ...] | None = self._sql.execute(statement, values).fetchone()
            except sqlite3.DatabaseError as err:
                raise self._failure("read", err) from err
            return found

    def damage(self) -> str:
        """What is wrong with the file; empty when nothing is."""
        with self._lock:
            return metadata_file.damage(self._sql)

    def back_up(self, target: Path) -> str:
        """Copy everything to ``target``; what is wrong with the copy, or nothing. May run in a
        thread. Raises sqlite3.Error, OSError."""
        return metadata_file.back_up(self._sql, self._lock, target)

    def write_out(self) -> None:
        """Write everything committed to the disk (fsync)."""
        with self._lock, suppress(sqlite3.Error):
            self._sql.execute("PRAGMA wal_checkpoint(FULL)")

    # -- leases and single values --------------------------------------------------------

    def lease(self, note: str, seconds: float = 86400) -> Lease:
        """A temporary owner; ``seconds`` bound its life when nobody releases it. NoSpace on a full
        disk: it is taken for something that is about to be stored."""
        identifier = new_id()
        with self.transaction(grows=True) as sql:
            expires = int(time.time() + seconds)
            sql.execute("INSERT INTO leases VALUES(?,?,?)", (identifier, expires, note))
        return Lease(self, identifier)

    def expire_leases(self, now: float | None = None) -> int:
        """Drop leases past their time; how many."""
        with self.transaction() as sql:
            moment = int(time.time() if now is None else now)
            rows = sql.execute("SELECT id FROM leases WHERE expires_at<=?", (moment,)).fetchall()
            self.drop_leases(row[0] for row in rows)
            return len(rows)

    def drop_leases(self, identifiers: Iterable[str]) -> None:
        with self.transaction() as sql:
            for identifier in identifiers:
                sql.execute("DELETE FROM leases WHERE id=?", (identifier,))
                self.refs.drop(Ref("lease", identifier))

    def get_meta(self, key: str) -> str | None:
        row = self.row("SELECT value FROM meta WHERE key=?", key)
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        with self.transaction() as sql:
            sql.execute(
                "INSERT INTO meta VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value",
                (key, value),
            )

    def close(self) -> None:
        with self._lock:
            self._sql.close()
