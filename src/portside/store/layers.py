"""Layers by chain ID, the writable layers above them, and how both become a root.

On disk, beneath the data root::

    layers/<hex of chain id>/diff     one layer's changes, whiteouts in overlay's own form
    layers/<hex>/layer.json           a copy of its record
    layers/tmp-<id>/diff              being unpacked; dropped at a start
    l/<n>                             short link to ../layers/<hex>/diff, for long stacks
    l/empty                           an empty directory, where overlay wants one more
    containers/<id>/upper, work       the writable pair of an overlay container
    containers/<id>/root              the whole tree of a container on the vfs driver
    trash/<id>                        renamed here at once, deleted in the background

A layer is a cache of its blob: it can always be made again from it. Of a layer-backed blob the
layer's files are the only copy (``store/layer_backed.py``). A layer is recorded in the database in
the transaction that renames it into place, together with its owner.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from portside.kernel import overlay
from portside.model.digest import Digest
from portside.model.errors import Conflict, NotFound
from portside.model.idmap import IDMappings
from portside.model.ids import new_id
from portside.model.image import COMPRESSIONS
from portside.model.rootfs import Rootfs
from portside.store import store_jobs, trees
from portside.store.archive_values import Change, Limits
from portside.store.blobs import BlobStore
from portside.store.db import Database, Ref
from portside.store.durability import Settler
from portside.store.failpoints import reach
from portside.store.mapped_copies import MappedCopies, key_of
from portside.store.trash import Trash
from portside.store.worker_pool import Workers

if TYPE_CHECKING:
    from portside.store.job_streams import JobStream

OVERLAY_OPTIONS = overlay.OPTIONS


class LayerInfo(NamedTuple):
    """An unpacked layer as the metadata know it."""

    chain: Digest
    parent: Digest | None
    diff_id: Digest
    blob: str
    """Digest of the blob it came from; empty for one committed without a blob."""
    size: int
    """Bytes of its files, each hard-linked file once."""
    created_at: int
    """Nanoseconds since the epoch."""


class _Writable(NamedTuple):
    """What is recorded of a writable layer."""

    chain: Digest | None
    """What it stands on."""
    driver: str
    is_volatile: bool


class Kept(msgspec.Struct, frozen=True):
    """``layer.json``: a copy of a layer's record, for when the metadata are lost."""

    chain: str
    parent: str
    diff_id: str
    blob: str
    media_type: str
    size: int
    driver: str
    blob_size: int = 0
    """Bytes of a layer-backed blob; 0 for a blob with a file, or none."""


def chain_of(parent: Digest | None, diff_id: Digest) -> Digest:
    """The ChainID of ``diff_id`` on top of ``parent`` (image-spec, config.md)."""
    return diff_id if parent is None else Digest.of(f"{parent} {diff_id}".encode())


class LayerStore:
    """See the module's docstring. Only the engine's asyncio thread may call it."""

    def __init__(
        self,
        root: Path,
        db: Database,
        blobs: BlobStore,
        workers: Workers,
        trash: Trash,
        settler: Settler,
        boot: str,
        driver: str,
        limits: Limits,
    ) -> None:
        self.root, self.driver, self.limits = root, driver, limits
        self._db, self._blobs, self._workers = db, blobs, workers
        self._trash, self._settler, self._boot = trash, settler, boot
        self.snapshotter = {"overlay": "overlayfs", "vfs": "native"}.get(driver, driver)
        """The driver under the name of containerd's snapshotter that does the same."""
        self.layers_dir, self.links_dir = root / "layers", root / "l"
        self.containers_dir = root / "containers"
        for directory in (self.layers_dir, self.links_dir, self.links_dir / "empty"):
            directory.mkdir(mode=0o700, exist_ok=True)
        trees.spread(self.layers_dir)
        (self.links_dir / "empty").chmod(0o755)
        self.containers_dir.mkdir(mode=0o700, exist_ok=True)
        self.copies = MappedCopies(root, driver, workers, trash)
        self._unpacking: dict[Digest, asyncio.Task[None]] = {}
        self._waiting: dict[Digest, int] = {}

    # -- layers --------------------------------------------------------------------------

    async def ensure(
        self,
        parent: Digest | None,
        diff_id: Digest,
        blob: Digest,
        media_type: str,
        *,
        owner: Ref,
        progress: Callable[[int], None] | None = None,
    ) -> Digest:
        """Unpack the layer ``diff_id`` on ``parent`` unless it exists; returns its chain ID.

        ``owner`` (a lease or an image) refers to it afterwards. ``progress`` gets the number
        of bytes of the blob read so far. With the overlay driver the parent need not be there
        yet: a whole stack may be ensured at once. DigestMismatch when the content is not
        ``diff_id``; InvalidParameter for a malformed or hostile archive; TooLarge.
        """
        chain = chain_of(parent, diff_id)
        while not self._claim(chain, owner):
            task = self._unpacking.get(chain)
            if task is None:
                work = self._unpack(chain, parent, diff_id, blob, media_type, owner, progress)
                task = self._unpacking[chain] = asyncio.create_task(work)
                task.add_done_callback(lambda _: self._unpacking.pop(chain))
            await self._join(chain, task)
        return chain

    def claim(self, chain: Digest, owner: Ref) -> bool:
        """If the layer is here, make ``owner`` refer to it; whether it is."""
        return self._claim(chain, owner)

    def has(self, chain: str) -> bool:
        return self._db.row("SELECT 1 FROM layers WHERE chain=?", chain) is not None

    def info(self, chain: str) -> LayerInfo:
        """A layer's record; NotFound when the layer is not in the store."""
        found = self._select("WHERE chain=?", chain)
        if not found:
            raise NotFound(f"layer {chain} is not in the store")
        return found[0]

    def all(self) -> list[LayerInfo]:
        return self._select("")

    def stack(self, chain: Digest) -> list[LayerInfo]:
        """The layers from ``chain`` down to its base, topmost first; NotFound."""
        found: list[LayerInfo] = []
        current: Digest | None = chain
        while current is not None:
            found.append(self.info(current))
            current = found[-1].parent
        return found

    def size_rootfs(self, chain: Digest | None) -> int:
        """Bytes of all layers of a stack, as Docker's SizeRootFs counts them."""
        return sum(layer.size for layer in self.stack(chain)) if chain else 0

    def sweep_copies(self, default: IDMappings | None) -> None:
        """At a start: forget copies that nothing needs; ``default`` is the engine's mapping."""
        self.copies.sweep(default, (layer.chain for layer in self.all()))

    def copied_size(self) -> int:
        """Bytes of copies of layers for user namespaces."""
        return self.copies.size({layer.chain.hex: layer.size for layer in self.all()})

    def delete(self, chain: Digest) -> None:
        """Remove a layer even if something refers to it; garbage collection checks first."""
        with self._db.transaction() as sql:
            row = sql.execute("SELECT seq FROM layers WHERE chain=?", (chain,)).fetchone()
            sql.execute("DELETE FROM layers WHERE chain=?", (chain,))
            for (blob,) in sql.execute(
                "SELECT digest FROM blobs WHERE layer=?", (chain,)
            ).fetchall():
                self._blobs.delete(Digest(blob))
        reach("layers.delete:forgotten")
        if row is not None:
            (self.links_dir / base36(row[0])).unlink(missing_ok=True)
        self._trash.discard(self.layers_dir / chain.hex)
        self.copies.drop_layer(chain)

    async def difference(self, chain: Digest) -> str:
        """What differs first between a layer's files and its blob, unpacked beside them; empty
        when nothing does, or when there is no blob to compare with."""
        row = self._db.row(
            "SELECT parent, diff_id, blob, media_type FROM layers WHERE chain=?", chain
        )
        if row is None or not self._blobs.has(row[2]) or self._blobs.info(row[2]).layer:
            return ""
        parent, diff_id, blob, media_type = row
        temporary = self.layers_dir / f"tmp-{new_id()}"
        temporary.mkdir(mode=0o700)
        above = Digest(parent) if parent else None
        job = self._unpacking_job(above, Digest(diff_id), Digest(blob), media_type, temporary)
        try:
            await self._workers.run(job)
            own = str(self.layers_dir / chain.hex / "diff")
            found: str = await self._workers.run(
                store_jobs.CompareTrees(one=own, other=str(temporary / "diff"))
            )
            return found
        finally:
            self._trash.discard(temporary)

    async def unpack_again(self, chain: Digest) -> None:
        """Make a layer's files again from its blob; its users and its record stay."""
        row = self._db.row(
            "SELECT parent, diff_id, blob, media_type FROM layers WHERE chain=?", chain
        )
        if row is None:
            raise NotFound(f"layer {chain} is not in the store")
        parent, diff_id, blob, media_type = row
        if self._blobs.info(Digest(blob)).layer == chain:
            raise NotFound(f"blob {blob} was made from these files alone")
        self.delete(chain)
        lease = self._db.lease(f"unpack {chain} again", 600)
        with lease:
            await self.ensure(
                Digest(parent) if parent else None,
                Digest(diff_id),
                Digest(blob),
                media_type,
                owner=lease.ref,
            )

    async def commit(
        self, container_id: str, *, owner: Ref, parent: Digest | None = None
    ) -> tuple[Digest, Digest, int]:
        """A container's changes as a new blob (an uncompressed tar): (diff id, blob digest,
        bytes). The blob is owned by ``owner``; ``ensure`` it to have the layer too."""
        async with self._blobs.ingest(owner=owner) as ingest:
            async with self.diff_tar(container_id) as stream:
                async for piece in stream:
                    await ingest.write(piece)
            digest = await ingest.commit()
        return digest, digest, self._blobs.size(digest)

    async def adopt_writable(
        self,
        container_id: str,
        diff_id: Digest,
        blob: Digest | None,
        media_type: str,
        size: int,
        *,
        owner: Ref,
        tar_size: int = 0,
    ) -> Digest:
        """Make a writable layer, which nobody uses any more, a layer above what it stood on.

        ``blob``, its content packed, is in the store already; None (overlay only) when it is to
        be made later (:meth:`set_blob`), or with ``tar_size``, the bytes of its tar, when that
        tar is to be its layer-backed blob. ``size`` is the bytes of its files. With overlay the
        files themselves become the layer.
        """
        parent, driver, _ = self._required(container_id)
        chain = chain_of(parent, diff_id)
        if driver == "overlay" and not self.has(chain):
            temporary = self.layers_dir / f"tmp-{new_id()}"
            temporary.mkdir(mode=0o711)
            try:
                Path(self._written(container_id)).rename(temporary / "diff")
                with self._db.transaction(grows=True):
                    found = diff_id if tar_size else blob
                    self._record(
                        chain, parent, diff_id, found, media_type, size, temporary, owner, tar_size
                    )
                    if tar_size:
                        self._blobs.declare(diff_id, tar_size, chain, owner)
            except BaseException:
                self._trash.discard(temporary)
                raise
        if not self._claim(chain, owner):
            if blob is None:
                raise NotFound(f"layer {chain} has no content")
            await self.ensure(parent, diff_id, blob, media_type, owner=owner)
        return chain

    def set_blob(self, chain: Digest, blob: Digest, media_type: str) -> None:
        """Remember the blob of a layer that was made here; the layer keeps it."""
        with self._db.transaction() as sql:
            sql.execute(
                "UPDATE layers SET blob=?, media_type=? WHERE chain=?", (blob, media_type, chain)
            )
            self._db.refs.add(Ref.layer(chain), Ref.blob(blob))
        info = self.info(chain)
        kept = self.layers_dir / chain.hex / "layer.json"
        temporary = kept.with_suffix(".tmp")
        values = (str(chain), str(info.parent or ""), str(info.diff_id), str(blob), media_type)
        temporary.write_bytes(msgspec.json.encode(Kept(*values, info.size, self.driver)))
        temporary.rename(kept)

    async def read_blob(self, digest: Digest, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """A blob's bytes from ``offset``, from its file, or made from its layer. NotFound;
        DigestMismatch at the end when the layer's files are damaged."""
        chain = self._blobs.info(digest).layer
        if not chain:
            async for piece in self._blobs.pieces(digest, offset):
                yield piece
            return
        from portside.store import layer_backed

        rootfs = self.written_rootfs(Digest(chain))
        async for piece in layer_backed.stream(self._workers, self._blobs, rootfs, digest, offset):
            yield piece

    async def gives(self, chain: Digest, digest: str) -> bool:
        """Whether the files of a layer are still those of its layer-backed blob."""
        from portside.store import layer_backed

        try:
            rootfs = self.written_rootfs(chain)
        except NotFound:
            return False
        return await layer_backed.is_whole(self._workers, rootfs, digest)

    async def _write_file(self, digest: Digest) -> None:
        """Give a layer-backed blob a file."""
        from portside.store import layer_backed

        rootfs = self.written_rootfs(Digest(self._blobs.info(digest).layer))
        with self._db.lease(f"write {digest}", 600) as lease:
            await layer_backed.write_file(self._workers, self._blobs, rootfs, digest, lease)

    def written_rootfs(self, chain: Digest) -> Rootfs:
        """Overlay: a layer's own changes above its parent, as its container had them; to
        pack them again. Nothing may be written there."""
        lower = self._lower(self.info(chain).parent)
        upper = str(self.layers_dir / chain.hex / "diff")
        return Rootfs("overlay", lower=tuple(lower), upper=upper, options=OVERLAY_OPTIONS)

    # -- writable layers -----------------------------------------------------------------

    def create_writable(
        self, container_id: str, chain: Digest | None, *, for_build: bool = False,
        is_volatile: bool = False,
    ) -> Rootfs:  # fmt: skip
        """The writable layer of a container above ``chain`` (None: an empty root).

        ``for_build``: many files may be made in it (:func:`.trees.spread`). ``is_volatile``, also
        for builds: nobody needs it after a power cut, so nothing in it is synced, which every end
        of a mount namespace would do for the whole file system. Conflict when it exists. On the
        vfs driver use :meth:`create_writable_copy`.
        """
        directory, is_volatile = self.containers_dir / container_id, is_volatile or for_build
        lower = self._lower(chain)
        with self._db.transaction(grows=True) as sql:
            if self._writable(container_id) is not None:
                raise Conflict(f"container {container_id} has a writable layer already")
            sql.execute(
                "INSERT INTO writables(container, chain, driver, is_volatile) VALUES(?,?,?,?)",
                (container_id, chain or "", "overlay", is_volatile),
            )
            if chain is not None:
                self._db.refs.add(Ref.container(container_id), Ref.layer(chain))
            directory.mkdir(mode=0o700, exist_ok=True)
            if for_build:
                trees.spread(directory)
            upper, work = directory / "upper", directory / "work"
            for leftover in (upper, work):
                if leftover.exists():
                    self._trash.discard(leftover)
                leftover.mkdir(mode=0o700)
            if lower:
                top = os.stat(lower[0])
                os.chown(upper, top.st_uid, top.st_gid)
                upper.chmod(top.st_mode & 0o7777)
                _make_mount_points(upper, lower)
        return _overlay(lower, upper, is_volatile)

    async def create_writable_copy(
        self, container_id: str, chain: Digest | None, *, for_build: bool = False
    ) -> Rootfs:
        """:meth:`create_writable` for any driver; vfs copies the tree (by reflink if it can)."""
        if self.driver == "overlay":
            return self.create_writable(container_id, chain, for_build=for_build)
        with self._db.transaction(grows=True) as sql:
            if self._writable(container_id) is not None:
                raise Conflict(f"container {container_id} has a writable layer already")
            sql.execute(
                "INSERT INTO writables(container, chain, driver) VALUES(?,?,?)",
                (container_id, chain or "", "vfs"),
            )
            if chain is not None:
                self._db.refs.add(Ref.container(container_id), Ref.layer(chain))
        directory = self.containers_dir / container_id
        directory.mkdir(mode=0o700, exist_ok=True)
        self._trash.discard(directory / "root")
        source = self.layers_dir / chain.hex / "diff" if chain else self.links_dir / "empty"
        try:
            await self._workers.run(
                store_jobs.CopyTree(source=str(source), target=f"{directory}/root")
            )
        except BaseException:
            self.remove_writable(container_id)
            raise
        return self.rootfs(container_id)

    def remove_writable(self, container_id: str) -> None:
        """Forget and delete a container's writable layer; does nothing when it does not exist.

        The files are moved aside at once and deleted in the background; a mount that still
        uses them keeps working until it is gone.
        """
        own = self.copies.own(container_id)
        self.forget_writable(container_id)
        reach("layers.remove_writable:forgotten")
        directory = self.containers_dir / container_id
        for path in (own, *(directory / name for name in ("upper", "work", "root"))):
            if path is not None:
                self._trash.discard(path)

    def forget_writable(self, container_id: str) -> None:
        """Forget it only: the caller discards the container's whole directory."""
        with self._db.transaction() as sql:
            row = sql.execute(
                "DELETE FROM writables WHERE container=? RETURNING chain", (container_id,)
            ).fetchone()
            if row is not None and row[0]:
                self._db.refs.remove(Ref.container(container_id), Ref.layer(row[0]))
        self.copies.forget(container_id)

    def rootfs(self, source: str, *, is_kept: bool = False) -> Rootfs:
        """The root of a container (by its ID), or the read-only view of a chain (a Digest).

        ``is_kept``: what is written there must outlive a power cut, also in a volatile layer.
        NotFound when there is no such writable layer or chain.
        """
        if isinstance(source, Digest):
            if self.driver == "vfs":
                self.info(source)
                return Rootfs("bind", upper=str(self.layers_dir / source.hex / "diff"))
            lower = self._lower(source)
            if len(lower) < 2:  # overlay refuses a single lower directory without an upper
                lower.append(str(self.links_dir / "empty"))
            return Rootfs("overlay", lower=tuple(lower), options=OVERLAY_OPTIONS)
        found = self._required(source)
        mappings = self.copies.mappings_of(source)
        written = self._directory_of(source, found.driver)
        if found.driver == "vfs":
            stored = () if mappings is None else (mappings.uids, mappings.gids)
            return Rootfs("bind", (), str(written), "", (), (), (), *stored)
        is_volatile = found.is_volatile and not is_kept
        if mappings is None:
            return _overlay(self._lower(found.chain), written, is_volatile)
        return _overlay(self._copied(found.chain, mappings), written, is_volatile, mappings)

    def _copied(self, chain: Digest | None, mappings: IDMappings) -> list[str]:
        """:meth:`_lower` with the mapping's owners: copies that are there."""
        if chain is None:
            return [str(self.links_dir / "empty")]
        chains = (layer.chain for layer in self.stack(chain))
        return list(self.copies.paths(chains, key_of(mappings)))

    async def store_as(self, container_id: str, mappings: IDMappings | None) -> None:
        """Before a start: store the files of a container so that it sees its own identifiers;
        with ``mappings`` a copy of them where idmapped mounts are missing."""
        if self.copies.own(container_id) is None and (mappings is None or not self.copies.needed()):
            return
        if mappings is not None and not self.copies.needed():
            mappings = None  # a kernel or file system that supports them has come since
        chain, driver, _ = self._required(container_id)
        chains = self._copied_chains(chain, driver)
        await self.copies.convert(container_id, chains, mappings)

    async def rootfs_for(self, chain: Digest, mappings: IDMappings | None) -> Rootfs:
        """The read-only view of a chain as a user namespace sees it."""
        found = self.rootfs(chain)
        if mappings is None:
            return found
        if not self.copies.needed():
            return found.mapped(mappings)
        paths = await self.copies.layers(self._copied_chains(chain, self.driver), mappings)
        stored = {"stored_uids": mappings.uids, "stored_gids": mappings.gids}
        if found.driver == "bind":
            return msgspec.structs.replace(found, upper=paths[0], **stored)
        lower = (*paths, *found.lower[len(paths) :])
        return msgspec.structs.replace(found, lower=lower, **stored)

    def _copied_chains(self, chain: Digest | None, driver: str) -> list[Digest]:
        chains = [layer.chain for layer in self.stack(chain)] if chain is not None else []
        return chains[:1] if driver == "vfs" else chains

    @asynccontextmanager
    async def plain(self, container_id: str) -> AsyncIterator[tuple[Rootfs, str]]:
        """A container's root with its own identifiers on the disk, to pack what it has changed,
        and :meth:`base` of it."""
        found = self.rootfs(container_id)
        chain, driver, _ = self._required(container_id)
        if not found.stored_uids:
            yield found, self.base(container_id)
            return
        lower = () if driver == "vfs" else tuple(self._lower(chain))
        usual = Rootfs(found.driver, lower=lower, options=found.options)
        async with self.copies.plain(container_id, usual) as rootfs:
            yield rootfs, self._base(chain, driver)

    def chain_of_writable(self, container_id: str) -> Digest | None:
        """The parent of a container's writable layer. NotFound."""
        return self._required(container_id).chain

    async def changes(self, container_id: str) -> list[Change]:
        """What the container added, changed and deleted, by path, as ``docker diff`` reports."""
        found: list[Change] = await self._workers.run(
            store_jobs.FindChanges(rootfs=self.rootfs(container_id), base=self.base(container_id))
        )
        return found

    @asynccontextmanager
    async def diff_tar(self, container_id: str) -> AsyncIterator[JobStream]:
        """The container's changes as a layer tar: same changes, same bytes."""
        from portside.store.job_streams import JobStream

        async with self.plain(container_id) as (rootfs, base):
            job = store_jobs.PackChanges(rootfs=rootfs, base=base)
            async with await JobStream.start(self._workers, job) as stream:
                yield stream

    async def export_tar(self, source: str, pid: int = 0) -> JobStream:
        """The whole root of a container (of a running one with its ``pid``: its overlay must
        not be mounted twice), or of a chain, as a tar; nothing of what is mounted in it."""
        from portside.store.job_streams import JobStream

        job = store_jobs.PackRoot(rootfs=self.rootfs(source), pid=pid)
        return await JobStream.start(self._workers, job)

    async def size_rw(self, container_id: str) -> int:
        """Bytes the container has written (Docker's SizeRw)."""
        written = self._written(container_id)
        job = store_jobs.Measure(
            path=written, without=f"{written}/etc/mtab"
        )  # the runtime's own link
        size: int = await self._workers.run(job)
        chain, driver, _ = self._required(container_id)
        if driver == "vfs":
            size -= self.size_rootfs(chain)
        return max(0, size)

    # -- inside --------------------------------------------------------------------------

    def _claim(self, chain: Digest, owner: Ref) -> bool:
        with self._db.transaction():
            if not self.has(chain):
                return False
            self._db.refs.add(owner, Ref.layer(chain))
            return True

    async def _join(self, chain: Digest, task: asyncio.Task[None]) -> None:
        """Wait for a shared unpacking; the last waiter that leaves cancels it."""
        self._waiting[chain] = self._waiting.get(chain, 0) + 1
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            mine = asyncio.current_task()
            if not task.cancelled() or (mine is not None and mine.cancelling()):
                raise  # else the task before this one was cancelled: try again
        finally:
            self._waiting[chain] -= 1
            if self._waiting[chain] == 0:
                del self._waiting[chain]
                if not task.done():
                    task.cancel()

    async def _unpack(
        self,
        chain: Digest,
        parent: Digest | None,
        diff_id: Digest,
        blob: Digest,
        media_type: str,
        owner: Ref,
        progress: Callable[[int], None] | None,
    ) -> None:
        if self.driver == "vfs" and parent is not None:
            await self._wait_for(parent)
        if self._blobs.info(blob).layer:
            await self._write_file(blob)
        temporary = self.layers_dir / f"tmp-{new_id()}"
        temporary.mkdir(mode=0o700)
        job = self._unpacking_job(parent, diff_id, blob, media_type, temporary)
        try:
            size: int = await self._workers.run(job, progress=progress)
            self._record(chain, parent, diff_id, blob, media_type, size, temporary, owner)
        except BaseException:
            self._trash.discard(temporary)
            raise

    def _unpacking_job(
        self, parent: Digest | None, diff_id: Digest, blob: Digest, media_type: str, into: Path
    ) -> store_jobs.UnpackLayer:
        base = None
        if self.driver == "vfs" and parent is not None:
            base = self.layers_dir / parent.hex / "diff"
        return store_jobs.UnpackLayer(
            blob=str(self._blobs.path(blob)),
            compression=COMPRESSIONS.get(media_type, "auto"),
            diff_id=str(diff_id),
            target=str(into / "diff"),
            base=str(base or ""),
            overlay=self.driver == "overlay",
            limits=self.limits,
        )

    def _record(
        self,
        chain: Digest,
        parent: Digest | None,
        diff_id: Digest,
        blob: Digest | None,
        media_type: str,
        size: int,
        temporary: Path,
        owner: Ref,
        blob_size: int = 0,
    ) -> None:
        values = (chain, parent or "", diff_id, blob or "", media_type, size, self.driver)
        target = self.layers_dir / chain.hex
        (temporary / "layer.json").write_bytes(
            msgspec.json.encode(
                Kept(
                    str(chain),
                    str(parent or ""),
                    str(diff_id),
                    str(blob or ""),
                    media_type,
                    size,
                    self.driver,
                    blob_size,
                )
            )
        )
        with self._db.transaction(grows=True) as sql:
            done = sql.execute(
                "INSERT INTO layers(chain, parent, diff_id, blob, media_type, size, driver, "
                "created_at, boot) VALUES(?,?,?,?,?,?,?,?,?)",
                (*values, time.time_ns(), self._boot),
            )
            self._db.refs.add(owner, Ref.layer(chain))
            if parent is not None:
                self._db.refs.add(Ref.layer(chain), Ref.layer(parent))
            link = self.links_dir / base36(done.lastrowid or 0)
            link.unlink(missing_ok=True)
            link.symlink_to(f"../layers/{chain.hex}/diff")
            self._db.undo(lambda: link.unlink(missing_ok=True))
            reach("layers.record:before-rename")
            temporary.rename(target)
            self._db.undo(lambda: target.rename(temporary))
            reach("layers.record:renamed")
        reach("layers.record:recorded")
        self._settler.soon()

    async def _wait_for(self, chain: Digest) -> None:
        """vfs: a layer needs its parent's tree."""
        if chain in self._unpacking:
            await asyncio.shield(self._unpacking[chain])
        self.info(chain)

    def directories(self, chain: Digest | None) -> list[str]:
        """Where an image's files are, topmost layer first; with vfs the one tree."""
        return self._lower(chain) if self.driver == "overlay" else [self._base(chain, self.driver)]

    def _lower(self, chain: Digest | None) -> list[str]:
        """Lower directories, topmost first, by their short names."""
        if chain is None:
            return [str(self.links_dir / "empty")]
        rows = self._db.query(
            "WITH RECURSIVE stack(seq, parent, depth) AS ("
            " SELECT seq, parent, 0 FROM layers WHERE chain=? UNION ALL"
            " SELECT layers.seq, layers.parent, depth+1 FROM layers JOIN stack"
            " ON layers.chain=stack.parent) SELECT seq, parent FROM stack ORDER BY depth",
            chain,
        )
        if not rows:
            raise NotFound(f"layer {chain} is not in the store")
        if rows[-1][1]:
            raise NotFound(
                f"layer {rows[-1][1]} beneath {chain} is missing: "
                "run `portside system check --repair`"
            )
        return [f"{self.links_dir}/{base36(row[0])}" for row in rows]

    def _writable(self, container_id: str) -> _Writable | None:
        row = self._db.row(
            "SELECT chain, driver, is_volatile FROM writables WHERE container=?", container_id
        )
        if row is None:
            return None
        return _Writable(Digest(row[0]) if row[0] else None, row[1], bool(row[2]))

    def _required(self, container_id: str) -> _Writable:
        found = self._writable(container_id)
        if found is None:
            raise NotFound(f"container {container_id} has no writable layer")
        return found

    def _written(self, container_id: str) -> str:
        return str(self._directory_of(container_id, self._required(container_id).driver))

    def _directory_of(self, container_id: str, driver: str) -> Path:
        directory = self.copies.own(container_id) or self.containers_dir / container_id
        return directory / ("root" if driver == "vfs" else "upper")

    def base(self, container_id: str) -> str:
        """vfs: the tree the container's root was copied from; overlay needs none."""
        chain, driver, _ = self._required(container_id)
        mappings = self.copies.mappings_of(container_id)
        if mappings is not None and driver == "vfs" and chain is not None:
            return self.copies.paths([chain], key_of(mappings))[0]
        return self._base(chain, driver)

    def _base(self, chain: Digest | None, driver: str) -> str:
        if driver == "overlay":
            return ""
        return str(self.layers_dir / chain.hex / "diff" if chain else self.links_dir / "empty")

    def _select(self, where: str, *values: str) -> list[LayerInfo]:
        rows = self._db.query(
            f"SELECT chain, parent, diff_id, blob, size, created_at FROM layers {where}", *values
        )
        return [
            LayerInfo(Digest(r[0]), Digest(r[1]) if r[1] else None, Digest(r[2]), *r[3:])
            for r in rows
        ]


def _overlay(
    lower: list[str], upper: Path, is_volatile: bool, stored: IDMappings | None = None
) -> Rootfs:
    """A writable root, whose files are stored with the owners of ``stored``."""
    volatile = (overlay.VOLATILE,) if is_volatile and overlay.can_be_volatile() else ()
    return Rootfs(
        "overlay", tuple(lower), str(upper), str(upper.with_name("work")),
        (*OVERLAY_OPTIONS, *volatile), (), (),
        *(() if stored is None else (stored.uids, stored.gids)),
    )  # fmt: skip


def base36(number: int) -> str:
    """The shortest lower-case name of a layer's number."""
    digits = ""
    while number or not digits:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits


def _make_mount_points(upper: Path, lower: list[str]) -> None:
    """Directories in place of what an image has as a file or link where the kernel's file systems
    are mounted; the runtime mounts these over directories alone (CVE-2019-19921)."""
    for name in ("proc", "sys", "dev"):
        for layer in lower:
            try:
                found = os.lstat(f"{layer}/{name}").st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(found) and not stat.S_ISCHR(found):  # a whiteout is a device
                (upper / name).mkdir(mode=0o755)
            break
