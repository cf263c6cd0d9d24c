"""Blobs without a file: the tar of a layer that was made here, produced when it is read.

A build writes a layer's files once. Where they do not compress, its blob would be a second copy of
them, and the tar of a tree is always the same bytes (:mod:`.tar_pack`). So that copy is left out:
the blob has a record with its digest, size and layer, and whoever reads it gets the tar made anew,
with its digest verified at the end. Nothing writes to a layer's files, so they give other bytes
only when they were damaged; then reading fails as it does for a damaged file.

What needs a file of it (another layer to be unpacked from it) gives it one first.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ClassVar

from portside.model.digest import Digest
from portside.model.errors import PortsideError
from portside.model.ids import new_id
from portside.model.rootfs import Rootfs
from portside.store.blobs import BlobStore, DigestMismatch
from portside.store.db import Lease
from portside.store.job_streams import JobStream
from portside.store.worker_pool import Job, Workers


class StreamTar(Job, kw_only=True):
    """Write a layer's tar to the first descriptor. As slow as its reader, so it takes no processor
    from others."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    rootfs: Rootfs

    def run(self, fds: list[int], progress: Callable[[int], None]) -> int:
        from portside.store.overlay_changes import pack_changes

        return pack_changes(self.rootfs, "", fds[0])


class DigestTar(Job, kw_only=True):
    """The digest of a layer's tar, which is written to the new file ``target`` if there is one."""

    result: ClassVar[type] = str
    rootfs: Rootfs
    target: str = ""

    def run(self, fds: list[int], progress: Callable[[int], None]) -> str:
        from portside.store.layer_pack import pack
        from portside.store.overlay_changes import pack_changes

        packed = pack(lambda out: pack_changes(self.rootfs, "", out), self.target, "uncompressed")
        return packed.diff_id


async def stream(
    workers: Workers, blobs: BlobStore, rootfs: Rootfs, digest: Digest, offset: int = 0
) -> AsyncIterator[bytes]:
    """The bytes of a layer-backed blob from ``offset``; DigestMismatch at the end when the layer's
    files do not give them."""
    hasher, done = hashlib.sha256(), 0
    async with await JobStream.start(workers, StreamTar(rootfs=rootfs)) as source:
        async for piece in source:
            await blobs.run(lambda data=piece: hasher.update(data))  # type: ignore[misc]
            done += len(piece)
            if done > offset:
                yield piece[max(0, len(piece) - (done - offset)) :]
    actual = f"sha256:{hasher.hexdigest()}"
    if actual != digest:
        raise DigestMismatch(digest, actual)


async def is_whole(workers: Workers, rootfs: Rootfs, digest: str) -> bool:
    """Whether a layer's files still give the blob."""
    try:
        return bool(await workers.run(DigestTar(rootfs=rootfs)) == digest)
    except PortsideError:
        return False  # a file or a layer below is gone


async def write_file(
    workers: Workers, blobs: BlobStore, rootfs: Rootfs, digest: Digest, lease: Lease
) -> None:
    """Make it a blob with a file. DigestMismatch when the layer's files do not give it."""
    target = blobs.ingest_dir / f"tmp-{new_id()}"
    try:
        actual = await workers.run(DigestTar(rootfs=rootfs, target=str(target)))
        if actual != digest:
            raise DigestMismatch(digest, actual)
        if blobs.info(digest).layer:  # nobody else was quicker
            blobs.adopt(Path(target), digest, target.stat().st_size, lease.ref)
    finally:
        target.unlink(missing_ok=True)
