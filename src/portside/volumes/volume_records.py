"""Storage of volumes: a record in the metadata, a directory, and a copy of the record in it.

On disk, beneath the data root::

    volumes/<name>/_data          the files
    volumes/<name>/volume.json    the record again: files are never lost with the metadata
    volumes/<name>/fill-<id>      content on its way in; renamed to ``_data`` when whole
    volumes/.new-<id>             a volume being made

The record and the directory change together: the directory is renamed into or out of place
inside the transaction, and :func:`repair` brings both together after a crash between the two.
A directory with files in it is never deleted by a repair: it becomes a volume again.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import msgspec

from portside.model.errors import NoSpace, NotFound, SystemFailure
from portside.model.golang.timestamps import format_rfc3339
from portside.model.ids import new_id
from portside.model.volume import Volume
from portside.store import space
from portside.store.space import is_full
from portside.store.store import Store
from portside.volumes import volume_quota
from portside.volumes.local_driver_options import NAME

log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """A volume as it is kept."""

    name: str
    created_at: int
    """Seconds since the epoch."""
    driver: str = "local"
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    project: int = 0
    """The volume's project on the file system, when its size is limited."""


class Records:
    """The volumes of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.root = store.root / "volumes"
        self.root.mkdir(mode=0o700, exist_ok=True)
        self._all = store.db.collection("volume", Record)

    def get(self, name: str) -> Record:
        """NotFound with Docker's words."""
        found = self._all.find(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    def find(self, name: str) -> Record | None:
        return self._all.find(name)

    def all(self) -> list[Record]:
        return self._all.all()

    def directory(self, name: str) -> Path:
        return self.root / name

    def data(self, name: str) -> Path:
        return self.root / name / "_data"

    def add(
        self,
        name: str,
        labels: dict[str, str] | None,
        options: dict[str, str] | None,
        size: int = 0,
    ) -> Record:
        """Make a volume; the caller checked that there is none of this name.

        ``size`` limits what it may hold, in bytes: InvalidParameter where nothing can.
        """
        space.require(self.root)
        project = 0
        if size:
            project = volume_quota.free_project(self.root, [other.project for other in self.all()])
        record = Record(name, int(time.time()), labels=labels, options=options, project=project)
        new = self.root / f".new-{new_id()}"
        try:
            new.mkdir(mode=0o700)
            if size:
                volume_quota.limit(new, name, project, size)
            (new / "_data").mkdir(mode=0o700)
            os.chmod(new / "_data", 0o755)
            _write(new / "volume.json", msgspec.json.encode(record))
            with self._store.db.transaction():
                self._all.insert(name, record)
                new.rename(self.directory(name))
                self._store.db.undo(lambda: self.directory(name).rename(new))
        except BaseException as err:
            self._store.trash.discard(new)
            if isinstance(err, OSError):
                raise _failure(f"create {name}", err) from err
            raise
        return record

    def change(self, record: Record) -> None:
        """Write a record again."""
        self._write_copy(self.directory(record.name), record)
        self._all.put(record.name, record)

    def rename(self, record: Record, new: str) -> Record:
        """Give a volume another name; the caller checked that nobody uses it."""
        renamed = msgspec.structs.replace(record, name=new)
        with self._store.db.transaction():
            self._all.insert(new, renamed)
            self._all.delete(record.name)
            self.directory(record.name).rename(self.directory(new))
            self._store.db.undo(lambda: self.directory(new).rename(self.directory(record.name)))
        self._write_copy(self.directory(new), renamed)
        return renamed

    def remove(self, name: str) -> None:
        """Forget a volume and delete its files in the background."""
        with self._store.db.transaction():
            self._all.delete(name)
            self._store.trash.discard(self.directory(name))

    def volume(self, record: Record) -> Volume:
        """The volume as the API shows it."""
        return Volume(
            created_at=format_rfc3339(record.created_at * 10**9),
            driver=record.driver,
            labels=record.labels,
            mountpoint=str(self.data(record.name)),
            name=record.name,
            options=record.options,
        )

    def repair(self) -> None:
        """Bring records and directories together after a crash; drop what was half made."""
        known = {record.name: record for record in self._all.all()}
        found = set()
        for path in self.root.iterdir():
            if path.name.startswith(".new-"):
                self._store.trash.discard(path)
            elif path.name in known:
                found.add(path.name)
                self._repair_directory(path)
            else:
                self._adopt(path)
        for name in set(known) - found:
            log.warning("volume %s has lost its directory and is dropped", name)
            self._all.delete(name)

    def _repair_directory(self, path: Path) -> None:
        data = path / "_data"
        fills = sorted(path.glob("fill-*"))
        if not data.exists():
            # the crash came between the two renames of a swap, or never was
            data.mkdir(mode=0o700)
            data.chmod(0o755)
        for leftover in fills:
            self._store.trash.discard(leftover)

    def _adopt(self, path: Path) -> None:
        """Adopt a directory without a record: files outlive the metadata."""
        if not NAME.fullmatch(path.name) or not (path / "_data").is_dir():
            log.warning("%s is not a volume: left alone", path)
            return
        record = Record(path.name, int(path.stat().st_mtime))
        try:
            kept = msgspec.json.decode((path / "volume.json").read_bytes(), type=Record)
            record = msgspec.structs.replace(kept, name=path.name)
        except (OSError, msgspec.MsgspecError) as err:
            log.warning("volume %s has no readable record (%s)", path.name, err)
        log.warning("volume %s was not recorded: it is again", path.name)
        self._all.put(path.name, record)
        self._write_copy(path, record)
        self._repair_directory(path)

    def _write_copy(self, directory: Path, record: Record) -> None:
        temporary = directory / "volume.json.tmp"
        try:
            _write(temporary, msgspec.json.encode(record))
            temporary.rename(directory / "volume.json")
        except OSError as err:
            temporary.unlink(missing_ok=True)
            raise _failure(f"update {record.name}", err) from err


def _write(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
    except OSError as err:
        err.filename = str(path)  # write(2) does not know it
        raise


def _failure(action: str, err: OSError) -> SystemFailure:
    kind = NoSpace if is_full(err) else SystemFailure
    return kind(f"{action}: {(err.strerror or '').lower()}: {err.filename}")
