"""Transfers of files between a client and this host as jobs. The fork server imports this once."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from portside.builder.wire.context_sync import Synced, sync
from portside.builder.wire.tree_send import send, stage
from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits
from portside.store.worker_pool import Job

Progress = Callable[[int], None]


class SyncContext(Job, kw_only=True):
    """Bring the directory ``target`` to what a client has, which speaks fsutil's DiffCopy (in
    gRPC messages) on the first descriptor. Reports bytes."""

    result: ClassVar[type] = Synced
    heavy: ClassVar[bool] = False
    target: str

    def run(self, fds: list[int], progress: Progress) -> Synced:
        return sync(self.target, fds[0], progress)


class SendTree(Job, kw_only=True):
    """Send ``source`` to a client that receives fsutil's DiffCopy on the first descriptor."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    source: Rootfs

    def run(self, fds: list[int], progress: Progress) -> int:
        return send(self.source, fds[0], progress)


class StageTar(Job, kw_only=True):
    """Unpack a tar from the first descriptor into the new directory ``target``."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    target: str
    limits: Limits

    def run(self, fds: list[int], progress: Progress) -> int:
        return stage(self.target, self.limits, fds[0])
