"""Keys and bytes: the face both storage drivers have, and the one on a directory.

A key is a relative path such as ``blobs/sha256/ab/abcd…/data``. Writes are atomic: a
reader sees the old object or the new one, also after a crash.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

CHUNK = 1 << 20
"""Bytes read or written at once."""

_REMEMBERED = 50_000
"""Most keys of which is remembered that they are on the disk."""
_FLUSHERS = ThreadPoolExecutor(24, "flush")

T = TypeVar("T")


class Stat(msgspec.Struct, frozen=True):
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch."""


class Storage(Protocol):
    """What the registry asks of a driver. Missing keys raise FileNotFoundError."""

    async def read(self, key: str) -> bytes: ...

    async def write(self, key: str, data: bytes) -> None:
        """Keep an object. A power cut (not the end of this process) may lose it until
        :meth:`commit`."""
        ...

    async def commit(self, keys: Iterable[str], then: Mapping[str, bytes]) -> None:
        """Flush objects to the disk, only then write others, and flush these, too.

        Missing ``keys`` are skipped.
        """
        ...

    async def stat(self, key: str) -> Stat: ...

    async def delete(self, key: str) -> None:
        """Remove one object, or everything beneath a prefix."""
        ...

    async def touch(self, key: str) -> None:
        """Mark the object as used now: collection does not remove young objects."""
        ...

    async def names(self, prefix: str) -> list[str]:
        """Sorted names directly beneath a prefix; empty when it does not exist."""
        ...

    def stream(self, key: str, start: int, length: int) -> AsyncIterator[bytes]: ...

    async def adopt(self, path: Path, key: str) -> None:
        """Take a finished local file as the object; the file is gone afterwards."""
        ...

    def local(self, key: str) -> Path | None:
        """Path of the object when it is a file here (for sendfile), else None."""
        ...


async def in_thread(call: Callable[[], T]) -> T:
    """Run a blocking call beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, call)


class FilesystemStorage:
    """Objects as files beneath ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._flushed: set[str] = set()
        """Keys that are known to be on the disk."""

    def _path(self, key: str) -> Path:
        # keys are made of checked names and digests only; this is the second lock
        if key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")):
            raise ValueError(f"unsafe storage key: {key!r}")
        return self.root / key

    async def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    async def write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        if await in_thread(lambda: _write_atomically(path, data)):
            self._flushed.discard(key)

    async def commit(self, keys: Iterable[str], then: Mapping[str, bytes]) -> None:
        fresh = [key for key in keys if key not in self._flushed]
        paths = [self._path(key) for key in fresh]
        staged = {self._path(key): _stage(self._path(key), data) for key, data in then.items()}
        try:
            # each after the rename that named it: Linux's journals keep both or neither
            await _flush({*paths, *staged.values()})
            for path, temporary in staged.items():
                temporary.rename(path)
        except BaseException:
            for temporary in staged.values():
                temporary.unlink(missing_ok=True)
            raise
        await _flush({path.parent for path in staged})
        if len(self._flushed) > _REMEMBERED:
            self._flushed.clear()
        self._flushed.update(fresh)

    async def stat(self, key: str) -> Stat:
        result = self._path(key).stat()
        return Stat(result.st_size, result.st_mtime)

    async def delete(self, key: str) -> None:
        path = self._path(key)
        if path.is_dir():
            await in_thread(lambda: shutil.rmtree(path, ignore_errors=True))
        else:
            path.unlink()
        await in_thread(lambda: self._prune(path.parent))

    def _prune(self, directory: Path) -> None:
        """Remove directories that became empty, up to the root."""
        with suppress(OSError):
            while directory != self.root:
                directory.rmdir()
                directory = directory.parent

    async def touch(self, key: str) -> None:
        os.utime(self._path(key))

    async def names(self, prefix: str) -> list[str]:
        path = self._path(prefix)
        return await in_thread(lambda: _names(path))

    async def stream(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        with self._path(key).open("rb") as file:
            file.seek(start)
            while length > 0:
                data = await in_thread(partial(file.read, min(CHUNK, length)))
                if not data:
                    break
                length -= len(data)
                yield data

    async def adopt(self, path: Path, key: str) -> None:
        target = self._path(key)
        self._flushed.discard(key)
        await in_thread(lambda: _adopt(path, target))

    def local(self, key: str) -> Path | None:
        return self._path(key)


class Claim:
    """A lock on the root that all its servers share, held until :meth:`close`.

    Whoever gets it alone is the first of them: temporary files of before are then nobody's.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(root / "portside" / "serving.lock", flags, 0o600)
        self._before = 0.0
        with suppress(OSError):  # held by others, or a file system without locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(self._fd)  # by the clock of the file system, which the files' times are of
            self._before = os.fstat(self._fd).st_ctime
        with suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def sweep(self) -> int:
        """Remove temporary files that killed servers left; how many is returned."""
        removed = 0
        if not self._before:
            return removed
        for directory, _, names in os.walk(self._root):
            for name in names:
                if name.startswith(".tmp-"):
                    path = Path(directory, name)
                    with suppress(FileNotFoundError):
                        if path.lstat().st_ctime < self._before:
                            path.unlink()
                            removed += 1
        return removed

    def close(self) -> None:
        os.close(self._fd)


def _names(path: Path) -> list[str]:
    def scan() -> Iterator[str]:
        with os.scandir(path) as entries:
            yield from (e.name for e in entries if not e.name.startswith(".tmp-"))

    try:
        return sorted(scan())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _temporary(directory: Path) -> tuple[int, Path]:
    """Make a file; its directory is made again when a concurrent removal deletes it."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            fd, name = tempfile.mkstemp(prefix=".tmp-", dir=directory)
        except FileNotFoundError:
            continue  # the empty directory was pruned between the two calls
        return fd, Path(name)


def _stage(path: Path, data: bytes) -> Path:
    """A temporary file beside ``path``, to be renamed to it."""
    fd, temporary = _temporary(path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _write_atomically(path: Path, data: bytes) -> bool:
    """Whether there was anything to do: most links are written again as they are."""
    with suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return False
    _stage(path, data).rename(path)
    return True


async def _flush(paths: set[Path]) -> None:
    """Put files and directories on the disk, all at once: the file system's journal then
    writes the changes of many requests in one commit."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(_FLUSHERS, _sync, path) for path in paths))


def _sync(path: Path) -> None:
    """fsync(2) of a file, or of a directory, which makes the names in it last."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _adopt(path: Path, target: Path) -> None:
    """Move a file to its place; through a copy when it was staged on another file system.

    Its bytes are on the disk before its name is; that the name is, too, is for
    :meth:`Storage.commit`.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
    fd, temporary = _temporary(target.parent)
    os.close(fd)
    try:
        try:
            path.rename(temporary)
        except OSError as err:
            if err.errno != errno.EXDEV:
                raise
            shutil.copyfile(path, temporary)
            path.unlink()
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
