"""Parameters and results of the layer jobs."""

from __future__ import annotations

import msgspec

from portside.model.rootfs import Rootfs


class Converted(msgspec.Struct, frozen=True):
    """A layer's blob in a wanted form."""

    diff_id: str
    digest: str
    size: int
    toc: str = ""
    """Digest of an eStargz table of contents."""


class Named(msgspec.Struct, frozen=True):
    """A tree and the folder of the archive that it goes to; empty for the top."""

    folder: str
    rootfs: Rootfs
    files: tuple[tuple[str, bytes], ...] = ()
    """More files: attestations."""
