"""Results of builds and their destinations: values of frontends, clients and exporters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from portside.builder.solver.cache_records import CacheRecord
from portside.builder.solver.tree import Tree
from portside.model.errors import InvalidParameter
from portside.model.image import ImageConfig
from portside.model.platform import Platform
from portside.model.reference import Reference


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """An in-toto statement about one platform's image; the exporter adds its subject."""

    predicate_type: str
    predicate: Any
    """JSON value."""
    inline_only: bool = False
    """Attached to an image only, no file beside a tree (``inline-only=true``)."""


@dataclass(frozen=True, kw_only=True)
class PlatformResult:
    """One platform's tree and configuration.

    ``config.history`` says with ``empty_layer`` which lines made no layer; the exporter fills in
    ``rootfs`` and the architecture where they are missing.
    """

    platform: Platform
    tree: Tree
    config: ImageConfig = field(default_factory=ImageConfig)
    base_layers: int = 0
    """Layers of the base image, which ``rewrite-timestamp`` and ``squash`` leave alone."""
    parent: str = ""
    """ID of the base image, when it is in the store."""
    attestations: tuple[Attestation, ...] = ()
    records: tuple[CacheRecord, ...] = ()
    """The cache records of the result's vertices, for cache exporters."""


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """An exporter's input: the results of one or more platforms."""

    platforms: tuple[PlatformResult, ...]
    is_multi: bool = False
    """Several platforms were asked for, be it one: an index, and a folder for each."""


class ContentStore(Protocol):
    """A content store at the client: an OCI layout's blobs, or a local cache."""

    async def size(self, digest: str) -> int | None:
        """Bytes of a blob; None when it is not there."""
        ...

    def read(self, digest: str) -> AsyncIterator[bytes]:
        """A blob's bytes; the reader checks their digest. NotFound."""
        ...

    async def write(self, digest: str, size: int, data: AsyncIterator[bytes]) -> None:
        """Store a blob; harmless when it is there."""
        ...


class FileWriter(Protocol):
    """A file that is sent to the client."""

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class OutputSink(Protocol):
    """The client's destination of ``-o``; an exporter uses one of these."""

    async def file(self, metadata: Mapping[str, str]) -> FileWriter:
        """``type=tar|oci|docker``: one file; ``metadata`` are response keys known by then."""
        ...

    async def tree(self, tar: AsyncIterator[bytes]) -> None:
        """``type=local``: everything in the tar goes into the client's folder."""
        ...

    def content(self) -> ContentStore:
        """``type=oci,tar=false``: blobs go into the client's layout, which writes its own
        ``index.json``."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """One ``-o``: a type and attributes as the client spells them."""

    type: str
    attrs: Mapping[str, str] = field(default_factory=dict)
    sink: OutputSink | None = None


@dataclass(frozen=True, kw_only=True)
class CacheRequest:
    """One ``--cache-from`` or ``--cache-to``."""

    type: str
    attrs: Mapping[str, str] = field(default_factory=dict)
    content: ContentStore | None = None
    """For ``type=local``: the client's folder."""

    @property
    def domain(self) -> str:
        """Registry of its ``ref``; empty when it has none or an invalid one."""
        try:
            return Reference.parse(self.attrs.get("ref", "")).domain
        except InvalidParameter:
            return ""
