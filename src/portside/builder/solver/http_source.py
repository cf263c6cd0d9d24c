"""ADD of a URL: one file, fetched once for each build, checked when a checksum is given."""

from __future__ import annotations

import hashlib
import os
import posixpath
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from portside.builder import llb
from portside.builder.llb import Vertex
from portside.builder.solver.build_events import Report, Status, silent
from portside.builder.solver.layer_commit import LayerCommitter
from portside.builder.solver.solver import Made
from portside.builder.solver.tree import Tree
from portside.model.errors import InvalidParameter, NotFound, SystemFailure, Unavailable
from portside.model.ids import new_id
from portside.registry.client.errors import from_network

if TYPE_CHECKING:
    from portside.store.store import Store

LIMIT = 64 << 30
"""Bytes of one download."""
PIECE = 1 << 20
PATIENCE = 60.0
"""Seconds without a byte."""


class HttpMetadata(NamedTuple):
    """A file of the web as it is now."""

    checksum: str
    filename: str
    modified: float
    """Seconds since 1970; 0 when the server does not say."""
    other: str = ""
    """Another digest that was asked for."""


class HttpSource:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def fetch(
        self, vertex: Vertex, op: llb.SourceOp, committer: LayerCommitter, report: Report
    ) -> Made:
        """A tree with the file in it. NotFound, Unavailable; SystemFailure for a bad checksum."""
        name = posixpath.basename(op.attrs.get("http.filename", "")) or "download"
        if name in (".", ".."):
            raise InvalidParameter(f"{op.identifier}: {name!r} is not a file name")
        identifier = new_id()
        writables = self._store.writables
        rootfs = await writables.create_copy(identifier, None, for_build=True)
        try:
            fd = os.open(f"{rootfs.upper}/{name}",
                         os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)  # fmt: skip
            try:
                digest, modified = await self._download(vertex, op, fd, report)
                stamp = int(modified * 10**9)
                os.fchmod(fd, 0o600)
                os.utime(fd, ns=(stamp, stamp))
            finally:
                os.close(fd)
            wanted = op.attrs.get("http.checksum", "")
            if wanted and digest != wanted:
                raise SystemFailure(f"digest mismatch {digest}: {wanted}")
            made = await committer.commit(identifier, Tree())
            return made._replace(sources=digest)
        finally:
            writables.remove(identifier)
            self._store.trash.discard(writables.containers_dir / identifier)

    async def described(
        self, op: llb.SourceOp, algorithm: str = "", suffix: bytes = b""
    ) -> HttpMetadata:
        """What the URL's file is now; with ``algorithm`` also the digest of the file and
        ``suffix`` by it. Raises as :meth:`fetch`."""
        other = hashlib.new(algorithm or "sha256")
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            digest, modified = await self._download(Vertex(op), op, fd, silent, other)
        finally:
            os.close(fd)
        wanted = op.attrs.get("http.checksum", "")
        if wanted and digest != wanted:
            raise SystemFailure(f"digest mismatch {digest}: {wanted}")
        other.update(suffix)
        name = op.attrs.get("http.filename", "") or urlsplit(op.identifier).path
        return HttpMetadata(
            digest, posixpath.basename(name) or "download", modified,
            f"{algorithm}:{other.hexdigest()}" if algorithm else "",
        )  # fmt: skip

    async def _download(
        self, vertex: Vertex, op: llb.SourceOp, fd: int, report: Report, other: Any = None
    ) -> tuple[str, float]:
        import asyncio

        import aiohttp

        checksum = op.attrs.get("http.checksum", "")
        try:
            hasher = hashlib.new(checksum.partition(":")[0] or "sha256")
        except ValueError:
            raise InvalidParameter(f"invalid checksum {checksum!r}: expected sha256:…") from None
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)
        size = 0
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
                session.get(op.identifier) as answer,
            ):
                if answer.status == 404:
                    raise NotFound(f"{op.identifier}: not found (404)")
                if answer.status >= 400:
                    raise Unavailable(f"invalid response status {answer.status}: {op.identifier}")
                total = answer.content_length or 0
                async for piece in answer.content.iter_chunked(PIECE):
                    size += len(piece)
                    if size > LIMIT:
                        raise InvalidParameter(f"{op.identifier} is larger than {LIMIT} bytes")
                    hasher.update(piece)
                    if other is not None:
                        other.update(piece)
                    await asyncio.to_thread(_write, fd, piece)
                    report(Status(vertex, "downloading", size, total))
                modified = answer.headers.get("Last-Modified", "")
        except (aiohttp.ClientError, TimeoutError, ValueError) as err:
            raise from_network("get", op.identifier, err) from err
        return f"{hasher.name}:{hasher.hexdigest()}", _moment(modified)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _moment(text: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError):
        return 0.0
