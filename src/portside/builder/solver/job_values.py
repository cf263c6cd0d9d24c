"""Results of a build's jobs."""

from __future__ import annotations

import msgspec

from portside.builder.llb import Action


class Sealed(msgspec.Struct, frozen=True):
    """A writable layer that will not change any more, as a blob."""

    diff_id: str
    digest: str
    """Digest of the layer's gzip blob; empty for a large layer, compressed when needed."""
    size: int
    """Bytes of the gzip blob."""
    content: str
    """Digest of what the layer holds, without times."""
    tree_size: int
    """Bytes of its files."""
    is_empty: bool = False
    tar_size: int = 0
    """Bytes of the layer's tar, when that is to be its blob, made when it is read."""
    sources: str = ""
    """For a file operation: ``file:<hex>``, ``dir:<hex>`` or ``multi:<hex>`` for the sources, as
    the classic builder's history names them."""


class Earlier(msgspec.Struct, frozen=True):
    """The layer that a file operation made when it was carried out the last time."""

    directory: str
    digests: str
    """File with the digests of its files."""


class Placed(msgspec.Struct, frozen=True):
    """An action with the root that it copies from, by number; -1 for none."""

    action: Action
    source: int = -1


class Received(msgspec.Struct, frozen=True):
    """The Dockerfile and ignore file of a context."""

    dockerfile: bytes | None = None
    """None when the context has no Dockerfile."""
    ignore: str = ""
    """Text of its ignore file."""
