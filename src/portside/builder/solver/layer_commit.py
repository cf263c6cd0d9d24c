"""From a writable layer to a layer of the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from portside.builder.solver.build_jobs import RunFileOp, SealLayer
from portside.builder.solver.job_values import Earlier, Placed, Sealed
from portside.builder.solver.solver import Made
from portside.builder.solver.tree import Tree
from portside.model.digest import Digest
from portside.model.ids import new_id
from portside.model.image import OCI_LAYER, OCI_LAYER_GZIP
from portside.model.rootfs import Rootfs

if TYPE_CHECKING:
    from portside.store.db import Ref
    from portside.store.store import Store


class LayerCommitter:
    """Packs writable layers and adopts them; ``owner`` (a lease) keeps what is made until the
    cache's record does."""

    def __init__(self, store: Store, owner: Ref) -> None:
        self._store, self.owner = store, owner

    async def commit(self, identifier: str, below: Tree, stubs: Sequence[str] = ()) -> Made:
        """Commit what was written above ``below``. No process writes to the writable layer now."""
        writables = self._store.writables
        await writables.store_as(identifier, None)
        target = self._target()
        job = SealLayer(
            rootfs=writables.rootfs(identifier), base=writables.base(identifier), target=target,
            limits=self._store.layers.limits, stubs=tuple(stubs),
        )  # fmt: skip
        return await self._sealed(identifier, below, job, target)

    async def file_op(
        self, identifier: str, below: Tree, actions: Sequence[Placed],
        sources: Sequence[Rootfs], ignores: Sequence[tuple[str, ...]], digests: Sequence[str],
        private: Sequence[bool], keep: Sequence[str] = (), earlier: Earlier | None = None,
        made: str = "",
    ) -> Made:  # fmt: skip
        """Carry file actions out above ``below``."""
        writables = self._store.writables
        target = self._target()
        job = RunFileOp(
            rootfs=writables.rootfs(identifier), base=writables.base(identifier), target=target,
            limits=self._store.layers.limits, actions=tuple(actions), sources=tuple(sources),
            ignores=tuple(ignores), digests=tuple(digests),
            private=tuple(private), keep=tuple(keep), earlier=earlier, made=made,
        )  # fmt: skip
        return await self._sealed(identifier, below, job, target)

    def _target(self) -> str:
        return str(self._store.blobs.ingest_dir / f"tmp-{new_id()}")

    async def _sealed(self, identifier: str, below: Tree, job: SealLayer, target: str) -> Made:
        path = Path(target)
        try:
            sealed: Sealed = await self._store.workers.run(job)
            if sealed.is_empty:
                return Made((below,), sources=sealed.sources)
            blob = Digest(sealed.digest) if sealed.digest else None
            if blob is not None:
                self._store.blobs.adopt(path, blob, sealed.size, self.owner)
        finally:
            path.unlink(missing_ok=True)
        chain = await self._store.writables.adopt(
            identifier, Digest(sealed.diff_id), blob,
            OCI_LAYER if sealed.tar_size else OCI_LAYER_GZIP, sealed.tree_size,
            owner=self.owner, tar_size=sealed.tar_size,
        )  # fmt: skip
        tree = below.above(str(chain), sealed.content)
        blobs = (str(blob),) if blob is not None else ()
        return Made((tree,), blobs, sealed.size + sealed.tree_size, sealed.sources)
