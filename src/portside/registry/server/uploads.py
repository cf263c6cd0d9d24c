"""Uploads in progress: staged files that survive the process, one a session.

Each session is ``UPLOADS/UUID/`` with ``data`` (the bytes so far), ``repository`` and
``startedat``. Its offset is the size of ``data``: nothing else need be believed after a
crash. The hash runs along while one process serves and is made again from the file when
another takes over.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterable
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from portside.model.digest import Digest
from portside.registry.server.errors import RegistryError
from portside.registry.server.storage import CHUNK, in_thread

if TYPE_CHECKING:
    from hashlib import _Hash

STALE = 7 * 86400.0
"""Seconds after which an upload nobody continues is removed."""


class Upload:
    """One session; a lock keeps two requests from writing at once."""

    def __init__(self, directory: Path, repository: str) -> None:
        self.id = directory.name
        self.repository = repository
        self.lock = asyncio.Lock()
        self._directory = directory
        self.data = directory / "data"
        self._hash: _Hash | None = None
        self._hashed = 0

    @property
    def offset(self) -> int:
        """Bytes received so far; raises BLOB_UPLOAD_UNKNOWN when it was ended meanwhile."""
        try:
            return self.data.stat().st_size
        except FileNotFoundError as err:
            raise RegistryError("BLOB_UPLOAD_UNKNOWN", self.id) from err

    async def append(self, chunks: AsyncIterable[bytes], limit: int | None = None) -> int:
        """Add bytes at the end; the new offset is returned.

        ``limit`` bounds the whole upload in bytes: DENIED past it (a quota).
        """
        size = self.offset
        if self._hash is None and size == 0:
            self._hash, self._hashed = hashlib.sha256(), 0
        with self.data.open("ab", buffering=0) as file:
            gathered = bytearray()
            writing: asyncio.Future[None] | None = None
            try:
                async for chunk in chunks:
                    size += len(chunk)
                    if limit is not None and size > limit:
                        gathered.clear()
                        raise RegistryError("DENIED", {"limit": limit}, message="quota exceeded")
                    gathered += chunk
                    if len(gathered) >= CHUNK:  # the next ones arrive while these are written
                        await _ended(writing)
                        writing = self._in_background(file, gathered)
                        gathered = bytearray()
            finally:
                # also when the sender broke off: the upload continues from there
                await _ended(writing)
                if gathered:
                    await _ended(self._in_background(file, gathered))
        return size

    def _in_background(self, file: FileIO, piece: bytearray) -> asyncio.Future[None]:
        return asyncio.ensure_future(in_thread(lambda: self._take(file, piece)))

    def _take(self, file: FileIO, piece: bytearray) -> None:
        left = memoryview(piece)
        if self._hash is not None:
            self._hash.update(left)
            self._hashed += len(left)
        while left:
            left = left[file.write(left) or 0 :]

    async def verify(self, digest: Digest) -> None:
        """Raise DIGEST_INVALID unless the bytes have that digest."""
        running = self._hash
        if digest.algorithm == "sha256" and running is not None and self._hashed == self.offset:
            actual = f"sha256:{running.hexdigest()}"
        else:
            actual = await in_thread(lambda: _hash_file(self.data, digest.algorithm))
        if actual != digest:
            raise RegistryError("DIGEST_INVALID", {"expected": digest, "actual": actual})

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


async def _ended(writing: asyncio.Future[None] | None) -> None:
    """Wait for a thread that no cancellation stops; its error is raised."""
    if writing is not None:
        await asyncio.wait([writing])
        writing.result()


def _hash_file(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


class Uploads:
    """All sessions, staged beneath one local directory (also when blobs go to S3)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open: dict[str, Upload] = {}

    def start(self, repository: str) -> Upload:
        directory = self._directory / str(uuid.uuid4())
        directory.mkdir(mode=0o700)
        (directory / "repository").write_text(repository)
        (directory / "startedat").write_text(str(time.time()))
        (directory / "data").touch()
        upload = self._open[directory.name] = Upload(directory, repository)
        return upload

    def get(self, repository: str, identifier: str) -> Upload:
        """A session of this or an earlier process; raises BLOB_UPLOAD_UNKNOWN."""
        upload = self._open.get(identifier)
        if upload is None and re.fullmatch(r"[0-9a-f-]{36}", identifier):
            directory = self._directory / identifier
            if (directory / "data").exists() and (directory / "repository").exists():
                owner = (directory / "repository").read_text()
                upload = self._open[identifier] = Upload(directory, owner)
        if upload is None or upload.repository != repository:
            raise RegistryError("BLOB_UPLOAD_UNKNOWN", identifier)
        return upload

    def finish(self, upload: Upload) -> None:
        """Forget a session and whatever it staged."""
        self._open.pop(upload.id, None)
        upload.remove()

    def purge(self, older_than: float = STALE) -> int:
        """Remove sessions untouched for so many seconds; how many is returned."""
        removed = 0
        for directory in self._directory.iterdir():
            data = directory / "data"
            touched = data.stat().st_mtime if data.exists() else 0.0
            if time.time() - touched > older_than:
                self._open.pop(directory.name, None)
                shutil.rmtree(directory, ignore_errors=True)
                removed += 1
        return removed
