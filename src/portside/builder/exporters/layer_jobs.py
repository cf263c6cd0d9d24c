"""The exporters' work in job processes, as values; the code is in :mod:`.layer_convert`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec

from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits
from portside.store.worker_pool import Job

Progress = Callable[[int], None]


class Converted(msgspec.Struct, frozen=True):
    """A layer's blob in a wanted form."""

    diff_id: str
    digest: str
    size: int
    toc: str = ""
    """Digest of an eStargz table of contents."""


class PackBlob(Job, kw_only=True):
    """Pack a layer's own directory into the new file ``target``, no file younger than ``latest``
    (nanoseconds since the epoch; None keeps all times)."""

    result: ClassVar[type] = Converted
    rootfs: Rootfs
    target: str
    kind: str
    level: int | None = None
    latest: int | None = None

    def run(self, fds: list[int], progress: Progress) -> Converted:
        from portside.builder.exporters.layer_convert import pack_blob

        return pack_blob(self)


class ConvertBlob(Job, kw_only=True):
    """Pack the blob ``source`` once more, in another compression."""

    result: ClassVar[type] = Converted
    source: str
    target: str
    kind: str
    level: int | None = None
    latest: int | None = None
    limits: Limits

    def run(self, fds: list[int], progress: Progress) -> Converted:
        from portside.builder.exporters.layer_convert import convert_blob

        return convert_blob(self)


class PackDifference(Job, kw_only=True):
    """Pack what the tree ``upper`` has beyond the tree ``lower``, with whiteouts for what it
    lacks, as a gzip layer."""

    result: ClassVar[type] = Converted
    lower: Rootfs
    upper: Rootfs
    target: str

    def run(self, fds: list[int], progress: Progress) -> Converted:
        from portside.builder.exporters.layer_convert import pack_difference

        return pack_difference(self)


class Named(msgspec.Struct, frozen=True):
    """A tree and the folder of the archive that it goes to; empty for the top."""

    folder: str
    rootfs: Rootfs
    files: tuple[tuple[str, bytes], ...] = ()
    """More files: attestations."""


class PackTrees(Job, kw_only=True):
    """Write whole trees as one tar to the first descriptor."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    trees: tuple[Named, ...]
    latest: int | None = None

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.builder.exporters.layer_convert import pack_trees

        return pack_trees(self, fds[0])
