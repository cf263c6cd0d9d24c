"""The builder's work in job processes, as values; the code is in :mod:`.filework`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec

from portside.builder.llb import CopyAction
from portside.builder.solver.job_values import Earlier, Placed, Received, Sealed
from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits
from portside.store.worker_pool import Job

Progress = Callable[[int], None]


class SealLayer(Job, kw_only=True):
    """Remove ``stubs`` that are still empty, then digest the writable layer of ``rootfs``; a small
    one is packed into the gzip file ``target`` on the way."""

    result: ClassVar[type] = Sealed
    rootfs: Rootfs
    base: str
    target: str
    limits: Limits
    stubs: tuple[str, ...] = ()

    def run(self, fds: list[int], progress: Progress) -> Sealed:
        from portside.builder.solver.layer_seal import seal

        return seal(self.rootfs, self.base, self.target, self.stubs)


class RunFileOp(SealLayer, kw_only=True):
    """Carry the actions out in ``rootfs``, one after the other, then seal it."""

    actions: tuple[Placed, ...] = ()
    sources: tuple[Rootfs, ...] = ()
    ignores: tuple[tuple[str, ...], ...] = ()
    """Patterns of what is left out of each source."""
    digests: tuple[str, ...] = ()
    """Files of the digests that are known of each source's files; the job updates them."""
    private: tuple[bool, ...] = ()
    """Whether only the engine changes a source, and never the content of a file."""
    keep: tuple[str, ...] = ()
    """Directories that are not copied where the root has them, only what is in them."""
    earlier: Earlier | None = None
    """Files that have not changed are linked from there."""
    made: str = ""
    """New file for what the next time needs to do so; not made if there is little to gain."""

    def run(self, fds: list[int], progress: Progress) -> Sealed:
        from portside.builder.solver.file_worker import run_file_op
        from portside.builder.solver.layer_seal import seal

        copies, sources = run_file_op(
            self.rootfs, self.actions, self.sources, self.limits,
            ignores=self.ignores, digests=self.digests, private=self.private, keep=self.keep,
            earlier=self.earlier, made=self.made,
        )  # fmt: skip
        sealed = seal(self.rootfs, self.base, self.target, self.stubs, copies)
        return msgspec.structs.replace(sealed, sources=sources)


class CompareParents(Job, kw_only=True):
    """Whether the directories that lead to ``paths`` in ``above`` are others than in ``base``: with
    another owner or mode, or links there."""

    result: ClassVar[type] = bool
    heavy: ClassVar[bool] = False
    base: Rootfs
    above: Rootfs
    paths: tuple[str, ...]

    def run(self, fds: list[int], progress: Progress) -> bool:
        from portside.builder.solver.rebase import parents_differ

        return parents_differ(self.base, self.above, self.paths)


class HashContent(Job, kw_only=True):
    """The digest, without times, of what each copy takes from ``source``; with no copies, of
    all of ``path`` in it."""

    result: ClassVar[type] = str
    source: Rootfs
    copies: tuple[CopyAction, ...] = ()
    path: str = "/"
    ignore: tuple[str, ...] = ()
    """Patterns of what is left out of the source."""
    digests: str = ""
    """File with the known digests of the source's files; the job updates it."""
    private: bool = False
    """Whether only the engine changes the source."""

    def run(self, fds: list[int], progress: Progress) -> str:
        from portside.builder.solver.content_hash import hash_copies
        from portside.builder.solver.file_digests import FileDigests

        digests = FileDigests(self.digests, private=self.private)
        found = hash_copies(self.source, self.copies, self.path, self.ignore, digests)
        digests.save()
        return found


class SnapshotContext(Job, kw_only=True):
    """Copy a client's directory, without what ``ignore`` names, into the new directory ``target``:
    for steps that mount it, and for frontends that ask for parts of it."""

    result: ClassVar[type] = int
    source: Rootfs
    ignore: tuple[str, ...]
    target: str
    include: tuple[str, ...] = ()
    """Patterns; with ``include`` or ``follow`` nothing else is copied."""
    follow: tuple[str, ...] = ()
    """Paths, copied with what their links lead to."""

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.builder.solver.file_worker import snapshot_context

        snapshot_context(self.source, self.ignore, self.target, self.include, self.follow)
        return 0


class InitCache(Job, kw_only=True):
    """Make the new directory ``target`` of a cache mount, with what is at ``path`` in
    ``source``."""

    result: ClassVar[type] = int
    source: Rootfs
    path: str
    target: str

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.builder.solver.file_worker import init_cache

        return init_cache(self.source, self.path, self.target)


class ReceiveContext(Job, kw_only=True):
    """Unpack a tar from the first descriptor into the new directory ``target``, leave out what its
    ignore file names, and read the Dockerfile. A body that is not a tar is the Dockerfile."""

    result: ClassVar[type] = Received
    heavy: ClassVar[bool] = False
    target: str
    limits: Limits
    dockerfile: str = "Dockerfile"

    def run(self, fds: list[int], progress: Progress) -> Received:
        from portside.builder.solver.context_receive import receive

        return receive(fds[0], self.target, self.limits, self.dockerfile)


class OpenContext(Job, kw_only=True):
    """As :class:`ReceiveContext`, of the directory ``target`` that is there already."""

    result: ClassVar[type] = Received
    heavy: ClassVar[bool] = False
    target: str
    dockerfile: str = "Dockerfile"

    def run(self, fds: list[int], progress: Progress) -> Received:
        from portside.builder.solver.context_receive import open_context

        return open_context(self.target, self.dockerfile)
