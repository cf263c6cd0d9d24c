"""Writable layers: what a container, or a step of a build, changes above the layers of its image.

On disk, beneath the data root::

    containers/<id>/upper, work       the writable pair of an overlay container
    containers/<id>/root              the whole tree of a container on the vfs driver

A writable layer is recorded before its directories are made. Its end is the reverse: it is
forgotten, then moved to the trash.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from portside.kernel import overlay
from portside.model.digest import Digest
from portside.model.errors import Conflict, NotFound
from portside.model.idmap import IDMappings
from portside.model.ids import new_id
from portside.model.rootfs import Rootfs
from portside.store import store_jobs, trees
from portside.store.archive_values import Change
from portside.store.blobs import BlobStore
from portside.store.db import Database, Ref, Transaction
from portside.store.failpoints import reach
from portside.store.layers import OVERLAY_OPTIONS, LayerStore, chain_of
from portside.store.mapped_copies import key_of
from portside.store.trash import Trash
from portside.store.worker_pool import Workers

if TYPE_CHECKING:
    from portside.store.job_streams import JobStream


class _Writable(NamedTuple):
    """What is recorded of a writable layer."""

    chain: Digest | None
    """What it stands on."""
    driver: str
    is_volatile: bool


class WritableLayers:
    """See the module's docstring. Only the engine's asyncio thread may call it."""

    def __init__(
        self, layers: LayerStore, db: Database, blobs: BlobStore, workers: Workers, trash: Trash
    ) -> None:
        self.containers_dir = layers.root / "containers"
        self.containers_dir.mkdir(mode=0o700, exist_ok=True)
        self._layers, self._copies = layers, layers.copies
        self._db, self._blobs = db, blobs
        self._workers, self._trash = workers, trash

    def create(
        self, container_id: str, chain: Digest | None, *, for_build: bool = False,
        is_volatile: bool = False,
    ) -> Rootfs:  # fmt: skip
        """The writable layer of a container above ``chain`` (None: an empty root).

        ``for_build``: many files may be made in it (:func:`.trees.spread`). ``is_volatile``, also
        for builds: nobody needs it after a power cut, so nothing in it is synced, which every end
        of a mount namespace would do for the whole file system. Conflict when it exists. On the
        vfs driver use :meth:`create_copy`.
        """
        directory, is_volatile = self.containers_dir / container_id, is_volatile or for_build
        lower = self._layers.lower(chain)
        with self._db.transaction(grows=True) as sql:
            self._insert(sql, container_id, _Writable(chain, "overlay", is_volatile))
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

    async def create_copy(
        self, container_id: str, chain: Digest | None, *, for_build: bool = False
    ) -> Rootfs:
        """:meth:`create` for any driver; vfs copies the tree (by reflink if it can)."""
        if self._layers.driver == "overlay":
            return self.create(container_id, chain, for_build=for_build)
        with self._db.transaction(grows=True) as sql:
            self._insert(sql, container_id, _Writable(chain, "vfs", False))
        directory = self.containers_dir / container_id
        directory.mkdir(mode=0o700, exist_ok=True)
        self._trash.discard(directory / "root")
        source = self._layers.base(chain, "vfs")
        try:
            await self._workers.run(store_jobs.CopyTree(source=source, target=f"{directory}/root"))
        except BaseException:
            self.remove(container_id)
            raise
        return self.rootfs(container_id)

    async def adopt(
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
        be made later (:meth:`.LayerStore.set_blob`), or with ``tar_size``, the bytes of its tar,
        when that tar is to be its layer-backed blob. ``size`` is the bytes of its files. With
        overlay the files themselves become the layer.
        """
        parent, driver, _ = self._required(container_id)
        chain = chain_of(parent, diff_id)
        if driver == "overlay" and not self._layers.has(chain):
            temporary = self._layers.layers_dir / f"tmp-{new_id()}"
            temporary.mkdir(mode=0o711)
            try:
                Path(self._written(container_id)).rename(temporary / "diff")
                with self._db.transaction(grows=True):
                    found = diff_id if tar_size else blob
                    self._layers.record(
                        chain, parent, diff_id, found, media_type, size, temporary, owner, tar_size
                    )
                    if tar_size:
                        self._blobs.declare(diff_id, tar_size, chain, owner)
            except BaseException:
                self._trash.discard(temporary)
                raise
        if not self._layers.claim(chain, owner):
            if blob is None:
                raise NotFound(f"layer {chain} has no content")
            await self._layers.ensure(parent, diff_id, blob, media_type, owner=owner)
        return chain

    def remove(self, container_id: str) -> None:
        """Forget and delete a container's writable layer; does nothing when it does not exist.

        The files are moved aside at once and deleted in the background; a mount that still
        uses them keeps working until it is gone.
        """
        own = self._copies.own(container_id)
        self.forget(container_id)
        reach("writables.remove:forgotten")
        directory = self.containers_dir / container_id
        for path in (own, *(directory / name for name in ("upper", "work", "root"))):
            if path is not None:
                self._trash.discard(path)

    def forget(self, container_id: str) -> None:
        """Forget it only: the caller discards the container's whole directory."""
        with self._db.transaction() as sql:
            row = sql.execute(
                "DELETE FROM writables WHERE container=? RETURNING chain", (container_id,)
            ).fetchone()
            if row is not None and row[0]:
                self._db.refs.remove(Ref.container(container_id), Ref.layer(row[0]))
        self._copies.forget(container_id)

    def rootfs(self, container_id: str, *, is_kept: bool = False) -> Rootfs:
        """The root of a container.

        ``is_kept``: what is written there must outlive a power cut, also in a volatile layer.
        NotFound when there is no such writable layer.
        """
        found = self._required(container_id)
        mappings = self._copies.mappings_of(container_id)
        written = self._directory_of(container_id, found.driver)
        if found.driver == "vfs":
            stored = () if mappings is None else (mappings.uids, mappings.gids)
            return Rootfs("bind", (), str(written), "", (), (), (), *stored)
        is_volatile = found.is_volatile and not is_kept
        if mappings is None:
            return _overlay(self._layers.lower(found.chain), written, is_volatile)
        return _overlay(self._copied(found.chain, mappings), written, is_volatile, mappings)

    async def store_as(self, container_id: str, mappings: IDMappings | None) -> None:
        """Before a start: store the files of a container so that it sees its own identifiers;
        with ``mappings`` a copy of them where idmapped mounts are missing."""
        if self._copies.own(container_id) is None and (
            mappings is None or not self._copies.needed()
        ):
            return
        if mappings is not None and not self._copies.needed():
            mappings = None  # a kernel or file system that supports them has come since
        chain, driver, _ = self._required(container_id)
        chains = self._layers.copied_chains(chain, driver)
        await self._copies.convert(container_id, chains, mappings)

    @asynccontextmanager
    async def plain(self, container_id: str) -> AsyncIterator[tuple[Rootfs, str]]:
        """A container's root with its own identifiers on the disk, to pack what it has changed,
        and :meth:`base` of it."""
        found = self.rootfs(container_id)
        chain, driver, _ = self._required(container_id)
        if not found.stored_uids:
            yield found, self.base(container_id)
            return
        lower = () if driver == "vfs" else tuple(self._layers.lower(chain))
        usual = Rootfs(found.driver, lower=lower, options=found.options)
        async with self._copies.plain(container_id, usual) as rootfs:
            yield rootfs, self._layers.base(chain, driver)

    def chain_of(self, container_id: str) -> Digest | None:
        """The parent of a container's writable layer. NotFound."""
        return self._required(container_id).chain

    def base(self, container_id: str) -> str:
        """vfs: the tree the container's root was copied from; overlay needs none."""
        chain, driver, _ = self._required(container_id)
        mappings = self._copies.mappings_of(container_id)
        if mappings is not None and driver == "vfs" and chain is not None:
            return self._copies.paths([chain], key_of(mappings))[0]
        return self._layers.base(chain, driver)

    async def changes(self, container_id: str) -> list[Change]:
        """What the container added, changed and deleted, by path, as ``docker diff`` reports."""
        found: list[Change] = await self._workers.run(
            store_jobs.FindChanges(rootfs=self.rootfs(container_id), base=self.base(container_id))
        )
        return found

    async def export_tar(self, container_id: str, pid: int = 0) -> JobStream:
        """The whole root of a container (of a running one with its ``pid``: its overlay must
        not be mounted twice) as a tar; nothing of what is mounted in it."""
        from portside.store.job_streams import JobStream

        job = store_jobs.PackRoot(rootfs=self.rootfs(container_id), pid=pid)
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
            size -= self._layers.size_rootfs(chain)
        return max(0, size)

    # -- inside --------------------------------------------------------------------------

    def _copied(self, chain: Digest | None, mappings: IDMappings) -> list[str]:
        """:meth:`.LayerStore.lower` with the mapping's owners: copies that are there."""
        if chain is None:
            return [str(self._layers.links_dir / "empty")]
        chains = (layer.chain for layer in self._layers.stack(chain))
        return list(self._copies.paths(chains, key_of(mappings)))

    def _insert(self, sql: Transaction, container_id: str, new: _Writable) -> None:
        if self._writable(container_id) is not None:
            raise Conflict(f"container {container_id} has a writable layer already")
        sql.execute(
            "INSERT INTO writables(container, chain, driver, is_volatile) VALUES(?,?,?,?)",
            (container_id, new.chain or "", new.driver, new.is_volatile),
        )
        if new.chain is not None:
            self._db.refs.add(Ref.container(container_id), Ref.layer(new.chain))

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
        directory = self._copies.own(container_id) or self.containers_dir / container_id
        return directory / ("root" if driver == "vfs" else "upper")


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
