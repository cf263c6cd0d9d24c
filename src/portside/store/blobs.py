"""The content store: bytes by digest, verified while they arrive.

On disk, beneath the data root::

    blobs/<algorithm>/<hex>          whole and verified; never changed, only removed
    ingest/<algorithm>-<hex>         bytes of a known digest, so far; kept when broken off
    ingest/tmp-<id>                  bytes whose digest is not known yet; dropped at a start

An ingest is renamed into ``blobs/`` only after its digest and size were verified, and is
recorded in the database together with its owner. A layer-backed blob has a record and no file:
it is the tar of a layer that was made here, produced from the layer's files when it is read (see
``store/layer_backed.py``). Data is written behind: rows carry the
boot they were written in until :meth:`Store.settle` has synced the file system, and after
a power cut the rows of another boot are verified again (see ``store/store_check.py``).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NoSpace, NotFound, SystemFailure, TooLarge
from portside.model.ids import new_id
from portside.store.db import Database, Ref
from portside.store.durability import Settler
from portside.store.failpoints import reach
from portside.store.space import HINT, is_full

if TYPE_CHECKING:
    from hashlib import _Hash

T = TypeVar("T")

PIECE = 1 << 20
"""Bytes gathered before a thread hashes and writes them."""


class DigestMismatch(SystemFailure):
    """Content is not what its digest promised; nothing of it was kept."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(
            f"content verification failed: expected digest {expected}, got {actual}: "
            "it was damaged on its way or at its source; try again"
        )
        self.expected, self.actual = expected, actual


class SizeMismatch(SystemFailure):
    """Content ended too early or was too long."""

    def __init__(self, expected: int, actual: int, digest: str) -> None:
        what = "more than" if actual > expected else "only"
        super().__init__(
            f"content of {digest} should have {expected} bytes and has {what} "
            f"{min(actual, expected) if actual > expected else actual}"
        )
        self.expected, self.actual = expected, actual


class BlobInfo(NamedTuple):
    """A blob that is complete and verified."""

    digest: Digest
    size: int
    """Bytes."""
    created_at: int
    """Nanoseconds since the epoch."""
    layer: str = ""
    """Chain ID of the layer whose files give the bytes; empty for a blob with a file."""


class Ingest:
    """A blob that is being written; an async context manager.

    Use::

        async with blobs.ingest(digest, size, owner=lease.ref) as ingest:
            if not ingest.complete:               # nobody else brought it meanwhile
                ...fetch from ingest.offset on...
                    await ingest.write(chunk)
                await ingest.commit()

    Left without ``commit``, the bytes so far stay on disk for the next attempt when the
    digest is known (``discard()`` drops them).
    """

    def __init__(
        self, store: BlobStore, digest: Digest | None, size: int | None, owner: Ref, limit: int
    ) -> None:
        self._store, self._owner = store, owner
        self.expected, self.size, self.limit = digest, size, limit
        self.offset = 0
        """Bytes already here: continue at this position."""
        self.complete = False
        """The blob is in the store and ``owner`` refers to it; nothing to write."""
        self.digest: Digest | None = None
        """Set when complete."""
        name = f"{digest.algorithm}-{digest.hex}" if digest else f"tmp-{new_id()}"
        self.path = store.ingest_dir / name
        self._hash: _Hash = hashlib.new(digest.algorithm if digest else "sha256")
        self._fd = -1
        self._buffer = bytearray()
        self._pending: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Ingest:
        await self._store.enter(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._finish_writing(keep_errors=False)
        self._close()
        self._store.leave(self)
        if not self.complete and (self.expected is None or self.offset == 0):
            self.path.unlink(missing_ok=True)

    async def write(self, data: bytes | memoryview) -> None:
        """Append; hashing and writing happen in a thread, one piece behind the caller."""
        if self.complete:
            raise InvalidParameter("this blob is complete: nothing more can be written")
        self._buffer += data
        self.offset += len(data)
        if self.size is not None and self.offset > self.size:
            failure = SizeMismatch(self.size, self.offset, str(self.expected))
            await self.discard()
            raise failure
        if self.offset > self.limit:
            await self.discard()
            raise TooLarge(f"content is larger than the {self.limit} bytes allowed")
        if len(self._buffer) >= PIECE:
            await self._flush()

    async def commit(self) -> Digest:
        """Verify and move into the store; the digest. DigestMismatch and SizeMismatch
        leave nothing behind. Committing a complete ingest is harmless."""
        if self.complete and self.digest is not None:
            return self.digest
        await self._finish_writing()
        actual = Digest(f"{self._hash.name}:{self._hash.hexdigest()}")
        if self.size is not None and self.offset != self.size:
            failure = SizeMismatch(self.size, self.offset, str(self.expected or actual))
            if self.offset > self.size:
                await self.discard()
            raise failure
        if self.expected is not None and actual != self.expected:
            await self.discard()
            raise DigestMismatch(self.expected, actual)
        self._close()
        self._store.adopt(self.path, actual, self.offset, self._owner)
        self.digest, self.complete = actual, True
        return actual

    async def discard(self) -> None:
        """Drop the bytes so far and start again at 0."""
        await self._finish_writing(keep_errors=False)
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.new(self._hash.name)
        self.offset = 0

    # -- inside --------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the partial file, hashing what it already holds."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        if self.expected is None or os.fstat(self._fd).st_size == 0:
            os.ftruncate(self._fd, 0)
            return
        self.offset = await self._store.run(self._rehash)
        if self.size is not None and self.offset > self.size:
            await self.discard()

    def _rehash(self) -> int:
        total = 0
        while piece := os.read(self._fd, PIECE):
            self._hash.update(piece)
            total += len(piece)
        return total

    async def _flush(self) -> None:
        """Hand the buffer to a thread once the piece before it is done."""
        await self._wait()
        piece, self._buffer = self._buffer, bytearray()
        self._pending = asyncio.ensure_future(self._store.run(lambda: self._write_out(piece)))

    def _write_out(self, piece: bytearray) -> None:
        view = memoryview(piece)
        self._hash.update(view)
        while view:
            view = view[os.write(self._fd, view) :]

    async def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                await asyncio.shield(pending)
            except OSError as err:
                raise self._unwritable(err) from err

    def _unwritable(self, err: OSError) -> SystemFailure:
        """What to say; on a full disk the bytes so far give their space back, since whoever
        frees some needs it more than the next try."""
        self._buffer = bytearray()
        if is_full(err):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._hash = hashlib.new(self._hash.name)
            self.offset = 0
            return NoSpace(f"write {self.path}: no space left on device: {HINT}")
        return SystemFailure(f"write {self.path}: {(err.strerror or '').lower()}")

    async def _finish_writing(self, keep_errors: bool = True) -> None:
        try:
            if self._buffer and self._fd >= 0:
                await self._flush()
            await self._wait()
        except SystemFailure:
            if keep_errors:
                raise

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BlobStore:
    """See the module's docstring. Only the engine's asyncio thread may call it."""

    def __init__(self, root: Path, db: Database, boot: str, settler: Settler) -> None:
        self._db, self._boot, self._settler = db, boot, settler
        self.root, self.ingest_dir = root / "blobs", root / "ingest"
        for directory in (self.root / "sha256", self.root / "sha512", self.ingest_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._locks: dict[Digest, tuple[asyncio.Lock, int]] = {}
        self._threads: ThreadPoolExecutor | None = None

    def ingest(
        self,
        expected: Digest | None = None,
        size: int | None = None,
        *,
        owner: Ref,
        limit: int = 1 << 62,
    ) -> Ingest:
        """A writer for one blob that ``owner`` will refer to.

        ``expected`` and ``size`` (bytes) are verified; ``limit`` bounds content of unknown
        size. Of several ingests of one digest, one works and the others wait and find it
        ``complete`` (or take over where it broke off).
        """
        return Ingest(self, expected, size, owner, limit)

    def put(self, data: bytes, *, owner: Ref, expected: Digest | None = None) -> Digest:
        """Store a small document (a manifest, a configuration) at once."""
        digest = Digest.of(data, expected.algorithm if expected else "sha256")
        if expected is not None and digest != expected:
            raise DigestMismatch(expected, digest)
        if self.claim(digest, owner):
            return digest
        path = self.ingest_dir / f"tmp-{new_id()}"
        try:
            path.write_bytes(data)
        except OSError as err:
            path.unlink(missing_ok=True)
            kind = NoSpace if is_full(err) else SystemFailure
            raise kind(f"write {path}: {(err.strerror or '').lower()}") from err
        self.adopt(path, digest, len(data), owner)
        return digest

    def adopt(self, path: Path, digest: Digest, size: int, owner: Ref) -> None:
        """Move a verified file of this file system into the store."""
        target = self.path(digest)
        with self._db.transaction(grows=True) as sql:
            sql.execute(
                "INSERT OR IGNORE INTO blobs(digest, size, created_at, boot) VALUES(?,?,?,?)",
                (digest, size, time.time_ns(), self._boot),
            )
            self._has_file_now(digest)
            self._db.refs.add(owner, Ref.blob(digest))
            reach("blobs.adopt:before-rename")
            path.rename(target)
            self._db.undo(lambda: target.unlink(missing_ok=True))
            reach("blobs.adopt:renamed")
        reach("blobs.adopt:recorded")
        self._settler.soon()

    def declare(self, digest: Digest, size: int, chain: Digest, owner: Ref) -> None:
        """Record a blob that is made from the files of the layer ``chain`` when it is read; the
        layer stays as long as the blob does, and the other way round."""
        with self._db.transaction(grows=True) as sql:
            done = sql.execute(
                "INSERT OR IGNORE INTO blobs(digest, size, created_at, boot, layer) "
                "VALUES(?,?,?,?,?)",
                (digest, size, time.time_ns(), self._boot, chain),
            )
            self._db.refs.add(owner, Ref.blob(digest))
            self._db.refs.add(Ref.layer(chain), Ref.blob(digest))
            if done.rowcount:
                self._db.refs.add(Ref.blob(digest), Ref.layer(chain))

    def _has_file_now(self, digest: Digest) -> None:
        """A layer-backed blob gets a file: it does not need its layer any more."""
        row = self._db.row("SELECT layer FROM blobs WHERE digest=?", digest)
        if row is not None and row[0]:
            with self._db.transaction() as sql:
                sql.execute(
                    "UPDATE blobs SET layer='', boot=? WHERE digest=?", (self._boot, digest)
                )
                self._db.refs.remove(Ref.blob(digest), Ref.layer(row[0]))

    def claim(self, digest: Digest, owner: Ref) -> bool:
        """If the blob is here, make ``owner`` refer to it; whether it is."""
        with self._db.transaction():
            if not self.has(digest):
                return False
            self._db.refs.add(owner, Ref.blob(digest))
            return True

    def has(self, digest: str) -> bool:
        return self._db.row("SELECT 1 FROM blobs WHERE digest=?", digest) is not None

    def path(self, digest: Digest) -> Path:
        """The blob's path, whether it exists or not."""
        return self.root / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int:
        """Bytes; NotFound."""
        return self.info(digest).size

    def info(self, digest: Digest) -> BlobInfo:
        row = self._db.row(
            "SELECT digest, size, created_at, layer FROM blobs WHERE digest=?", digest
        )
        if row is None:
            raise NotFound(f"blob {digest} is not in the store")
        return BlobInfo(Digest(row[0]), *row[1:])

    def open(self, digest: Digest) -> BinaryIO:
        """The blob's file; NotFound, also for a layer-backed blob."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not in the store") from None

    async def pieces(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob's file from ``offset``, read in a thread. NotFound."""
        with self.open(digest) as file:
            file.seek(offset)
            while piece := await self.run(lambda: file.read(PIECE)):
                yield piece

    def read(self, digest: Digest, limit: int = 16 << 20) -> bytes:
        """A small blob whole; TooLarge over ``limit`` bytes."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise TooLarge(f"blob {digest} is larger than {limit} bytes")
        return data

    def all(self) -> Iterator[BlobInfo]:
        for row in self._db.query("SELECT digest, size, created_at, layer FROM blobs"):
            yield BlobInfo(Digest(row[0]), *row[1:])

    def delete(self, digest: Digest) -> bool:
        """Remove the blob even if something refers to it (garbage collection checks first);
        returns False when it was not there."""
        with self._db.transaction() as sql:
            gone = sql.execute("DELETE FROM blobs WHERE digest=?", (digest,)).rowcount > 0
            self._db.refs.drop(Ref.blob(digest))
        reach("blobs.delete:forgotten")
        self.path(digest).unlink(missing_ok=True)
        return gone

    # -- for Ingest ----------------------------------------------------------------------

    async def enter(self, ingest: Ingest) -> None:
        digest = ingest.expected
        if digest is None:
            await ingest.open()
            return
        lock, waiting = self._locks.get(digest, (asyncio.Lock(), 0))
        self._locks[digest] = (lock, waiting + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._forget(digest)
            raise
        if self.claim(digest, ingest._owner):
            ingest.complete, ingest.digest = True, digest
            ingest.offset = self.size(digest)
            return
        try:
            await ingest.open()
        except BaseException:
            self.leave(ingest)
            raise

    def leave(self, ingest: Ingest) -> None:
        if ingest.expected is not None:
            self._locks[ingest.expected][0].release()
            self._forget(ingest.expected)

    def _forget(self, digest: Digest) -> None:
        lock, waiting = self._locks[digest]
        if waiting == 1:
            del self._locks[digest]
        else:
            self._locks[digest] = (lock, waiting - 1)

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in one of the store's threads."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(4, thread_name_prefix="blobs")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=True)
