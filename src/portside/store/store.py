"""The store of one data root: metadata, blobs, layers, trash."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from portside.model.errors import Conflict, NoSpace, SystemFailure
from portside.store.archive_values import Limits
from portside.store.backups import Backups
from portside.store.blobs import BlobStore
from portside.store.container_archive import Archives
from portside.store.db import Database, Lease
from portside.store.durability import Settler
from portside.store.layers import LayerStore
from portside.store.space import HINT, Reserve, Space, is_full
from portside.store.trash import Trash
from portside.store.worker_pool import Workers
from portside.store.writable_layers import WritableLayers

log = logging.getLogger(__name__)


class Store:
    """Everything this engine keeps; one engine at a time holds a data root.

    ``open`` may run before the event loop exists; everything asynchronous starts on first
    use. Close it with ``await store.close()``.
    """

    def __init__(self, root: Path, lock_fd: int, db: Database, driver: str, limits: Limits) -> None:
        self.root, self._lock_fd, self.db = root, lock_fd, db
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.workers = Workers()
        self.reserve = Reserve(root)
        self.backups = Backups(root, self.db, self.reserve)
        self.trash = Trash(root, self.workers, self.reserve)
        self.settler = Settler(root, self.db)
        self.blobs = BlobStore(root, self.db, self.boot, self.settler)
        self.layers = LayerStore(
            root,
            self.db,
            self.blobs,
            self.workers,
            self.trash,
            self.settler,
            self.boot,
            driver,
            limits,
        )
        self.writables = WritableLayers(self.layers, self.db, self.blobs, self.workers, self.trash)
        self.archives = Archives(self.workers, limits)

    @classmethod
    def open(
        cls,
        data_root: Path,
        driver: str = "",
        limits: Limits | None = None,
        spill: Path | None = None,
    ) -> Store:
        """Open or create the store and undo what a killed engine left half done.

        ``driver`` is ``overlay``, ``vfs`` or empty: what was used before, else overlay where
        the file system can be its upper directory. ``spill`` is where the metadata go while the
        disk is full. Conflict when another engine holds the data root, SystemFailure when it is
        damaged.
        """
        from portside.store import crash_repair, guard

        try:
            data_root.mkdir(mode=0o700, parents=True, exist_ok=True)
            guard.require_directories(data_root)
            lock_fd = hold(data_root)
        except OSError as err:
            raise _cannot_open(data_root, err) from err
        try:
            guard.require_metadata(data_root, spill)
            db = Database(data_root / "metadata.db", spill)
            guard.require_content(data_root, db)
            chosen = crash_repair.choose_driver(data_root, driver, db)
            store = cls(data_root, lock_fd, db, chosen, limits or Limits())
            crash_repair.at_start(store)
            store.backups.start()
        except OSError as err:
            os.close(lock_fd)
            raise _cannot_open(data_root, err) from err
        except BaseException:
            os.close(lock_fd)
            raise
        return store

    @property
    def space(self) -> Space:
        """Free space on the data root's file system."""
        return Space.of(self.root)

    def lease(self, note: str, seconds: float = 86400) -> Lease:
        """A temporary owner of blobs and layers that are being added; release it at the end.

        A killed engine's lease lives on for ``seconds``, so that the next attempt finds what
        was fetched.
        """
        return self.db.lease(note, seconds)

    async def recover(self) -> None:
        """Finish what :meth:`open` began, before containers are looked at: layers that a power
        cut has damaged are unpacked again from their blobs."""
        from portside.store import crash_repair

        await crash_repair.recover(self)
        self.trash.empty_soon()

    async def collect(self) -> int:
        """Delete every blob and layer that nothing needs any more; bytes freed."""
        from portside.store import gc

        return gc.collect(self)

    async def settle(self) -> None:
        """Return when everything stored so far survives a power cut.

        Commits, loads and builds call it before they answer; pulls need not (what was lost
        can be fetched again, and the next start verifies what was not settled).
        """
        await self.settler.now()

    async def close(self) -> None:
        """Stop background work, settle, and release the data root."""
        await self.trash.close()
        await self.settler.close()
        await self.backups.close()
        self.workers.close()
        self.blobs.close()
        self.db.close()
        os.close(self._lock_fd)


def hold(data_root: Path) -> int:
    """Hold the data root for this process.

    A POSIX record lock: unlike flock(2) it is not shared with forked children, so a launcher
    or a monitor that outlives a killed engine does not keep it (fcntl_locking(2)).
    """
    fd = os.open(data_root / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Conflict(
            f"another engine is using {data_root}: stop it, or choose another --data-root"
        ) from None
    return fd


def _cannot_open(data_root: Path, err: OSError) -> SystemFailure:
    if is_full(err):
        return NoSpace(f"write {err.filename or data_root}: no space left on device: {HINT}")
    return SystemFailure(f"cannot open the data root: {err.filename or data_root}: {err.strerror}")
