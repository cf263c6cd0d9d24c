"""The exporters' work in job processes, as values; the code is in :mod:`.layer_convert`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from portside.builder.layers.layer_values import Converted, Named
from portside.model.rootfs import Rootfs
from portside.store.worker_pool import Job

Progress = Callable[[int], None]


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
        from portside.builder.layers.layer_convert import pack_blob

        return pack_blob(self.rootfs, self.target, self.kind, self.level, self.latest)


class ConvertBlob(Job, kw_only=True):
    """Pack the blob ``source`` again with another compression."""

    result: ClassVar[type] = Converted
    source: str
    target: str
    kind: str
    level: int | None = None
    latest: int | None = None

    def run(self, fds: list[int], progress: Progress) -> Converted:
        from portside.builder.layers.layer_convert import convert_blob

        return convert_blob(self.source, self.target, self.kind, self.level, self.latest)


class PackDifference(Job, kw_only=True):
    """Pack what the tree ``upper`` has beyond the tree ``lower``, with whiteouts for what it
    lacks, as a gzip layer."""

    result: ClassVar[type] = Converted
    lower: Rootfs
    upper: Rootfs
    target: str

    def run(self, fds: list[int], progress: Progress) -> Converted:
        from portside.builder.layers.layer_convert import pack_difference

        return pack_difference(self.lower, self.upper, self.target)


class PackTrees(Job, kw_only=True):
    """Write whole trees as one tar to the first descriptor."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    trees: tuple[Named, ...]
    latest: int | None = None

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.builder.layers.layer_convert import pack_trees

        return pack_trees(self.trees, self.latest, fds[0])
