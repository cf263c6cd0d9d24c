"""Layers by chain ID, and how a stack of them becomes a root.

On disk, beneath the data root::

    layers/<hex of chain id>/diff     one layer's changes, whiteouts in overlay's own form
    layers/<hex>/layer.json           a copy of its record
    layers/tmp-<id>/diff              being unpacked; dropped at a start
    l/<n>                             short link to ../layers/<hex>/diff, for long stacks
    l/empty                           an empty directory, where overlay wants one more
    trash/<id>                        renamed here at once, deleted in the background

A layer is a cache of its blob: it can always be made again from it. Of a layer-backed blob the
layer's files are the only copy (``store/layer_backed.py``). A layer is recorded in the database in
the transaction that renames it into place, together with its owner.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from portside.kernel import overlay
from portside.model.digest import Digest
from portside.model.errors import NotFound
from portside.model.idmap import IDMappings
from portside.model.ids import new_id
from portside.model.image import COMPRESSIONS
from portside.model.rootfs import Rootfs
from portside.store import store_jobs, trees
from portside.store.archive_values import Limits
from portside.store.blobs import BlobStore
from portside.store.db import Database, Ref
from portside.store.durability import Settler
from portside.store.failpoints import reach
from portside.store.mapped_copies import MappedCopies
from portside.store.trash import Trash
from portside.store.worker_pool import Workers

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
        for directory in (self.layers_dir, self.links_dir, self.links_dir / "empty"):
            directory.mkdir(mode=0o700, exist_ok=True)
        trees.spread(self.layers_dir)
        (self.links_dir / "empty").chmod(0o755)
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
        while not self.claim(chain, owner):
            task = self._unpacking.get(chain)
            if task is None:
                work = self._unpack(chain, parent, diff_id, blob, media_type, owner, progress)
                task = self._unpacking[chain] = asyncio.create_task(work)
                task.add_done_callback(lambda _: self._unpacking.pop(chain))
            await self._join(chain, task)
        return chain

    def claim(self, chain: Digest, owner: Ref) -> bool:
        """If the layer is here, make ``owner`` refer to it; whether it is."""
        with self._db.transaction():
            if not self.has(chain):
                return False
            self._db.refs.add(owner, Ref.layer(chain))
            return True

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
        lower = self.lower(self.info(chain).parent)
        upper = str(self.layers_dir / chain.hex / "diff")
        return Rootfs("overlay", lower=tuple(lower), upper=upper, options=OVERLAY_OPTIONS)

    def rootfs(self, chain: Digest) -> Rootfs:
        """The read-only view of a chain. NotFound."""
        if self.driver == "vfs":
            self.info(chain)
            return Rootfs("bind", upper=str(self.layers_dir / chain.hex / "diff"))
        lower = self.lower(chain)
        if len(lower) < 2:  # overlay refuses a single lower directory without an upper
            lower.append(str(self.links_dir / "empty"))
        return Rootfs("overlay", lower=tuple(lower), options=OVERLAY_OPTIONS)

    async def rootfs_for(self, chain: Digest, mappings: IDMappings | None) -> Rootfs:
        """The read-only view of a chain as a user namespace sees it."""
        found = self.rootfs(chain)
        if mappings is None:
            return found
        if not self.copies.needed():
            return found.mapped(mappings)
        paths = await self.copies.layers(self.copied_chains(chain, self.driver), mappings)
        stored = {"stored_uids": mappings.uids, "stored_gids": mappings.gids}
        if found.driver == "bind":
            return msgspec.structs.replace(found, upper=paths[0], **stored)
        lower = (*paths, *found.lower[len(paths) :])
        return msgspec.structs.replace(found, lower=lower, **stored)

    def copied_chains(self, chain: Digest | None, driver: str) -> list[Digest]:
        """The layers of a chain that a user namespace needs a copy of."""
        chains = [layer.chain for layer in self.stack(chain)] if chain is not None else []
        return chains[:1] if driver == "vfs" else chains

    # -- inside --------------------------------------------------------------------------

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
            self.record(chain, parent, diff_id, blob, media_type, size, temporary, owner)
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

    def record(
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
        """Rename ``temporary`` into place as a layer that ``owner`` refers to. ``size`` is the
        bytes of its files, ``blob_size`` of a layer-backed blob."""
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
        return self.lower(chain) if self.driver == "overlay" else [self.base(chain, self.driver)]

    def lower(self, chain: Digest | None) -> list[str]:
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

    def base(self, chain: Digest | None, driver: str) -> str:
        """vfs: the tree of a chain, to compare with; overlay needs none."""
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


def base36(number: int) -> str:
    """The shortest lower-case name of a layer's number."""
    digits = ""
    while number or not digits:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits
