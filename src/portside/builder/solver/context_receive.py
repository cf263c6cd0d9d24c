"""A client's context arrives as a tar: unpacked, and what its ignore file names left out. In job
processes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from portside.builder.solver.file_digests import FileDigests, beside
from portside.builder.solver.job_values import Received
from portside.model.dockerignore import Ignore, read_patterns
from portside.store.archive_values import Limits
from portside.store.decompress import detect, plain
from portside.store.roots import OPEN_DIR, missing, open_beneath
from portside.store.tar_format import Malformed, parse_header
from portside.store.tar_reader import TarReader
from portside.store.tar_unpack import Unpacker
from portside.store.trees import OPEN_FILE, remove

MAX_IGNORE = 4 << 20
"""Bytes of an ignore file."""


def receive(source: int, target: str, limits: Limits, dockerfile: str) -> Received:
    """See :class:`portside.builder.solver.build_jobs.ReceiveContext`."""
    os.umask(0)
    os.mkdir(target, 0o755)
    root = os.open(target, OPEN_DIR)
    with open(source, "rb", buffering=0) as file:
        pieces = _Peeked(plain(file))
        if not pieces.is_tar():
            return Received(_bare(pieces))
        digests = FileDigests(beside(target), private=True)
        unpacker = Unpacker(root, limits=limits, chown=(0, 0), digested=digests.add)
        unpacker.unpack(TarReader(pieces, limits))
        digests.save()
    return _found(root, dockerfile)


def open_context(target: str, dockerfile: str) -> Received:
    """As :func:`receive`, of a directory that is there already."""
    return _found(os.open(target, OPEN_DIR), dockerfile)


def _found(root: int, wanted: str) -> Received:
    """The Dockerfile of a context, which loses what its ignore file names."""
    name = "/" + os.path.normpath("/" + wanted).lstrip("/")
    dockerfile = _read(root, name)
    ignore = ""
    for ignore_file in (f"{name}.dockerignore", "/.dockerignore"):
        found = _read(root, ignore_file)
        if found is not None:
            ignore = found.decode("utf-8", "surrogateescape")
            _drop(os.dup(root), "", Ignore(read_patterns(ignore)))
            break
    return Received(dockerfile, ignore)


def _read(root: int, path: str) -> bytes | None:
    """A small file of the context; None when it does not exist."""
    try:
        fd = open_beneath(root, path, OPEN_FILE & ~os.O_NOFOLLOW)
    except OSError as err:
        if missing(err):
            return None
        raise
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return file.read(MAX_IGNORE + 1)


class _Peeked:
    """Pieces, of which the first was looked at."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._head = b""
        while len(self._head) < 512 and (piece := next(pieces, b"")):
            self._head += piece

    def is_tar(self) -> bool:
        if len(self._head) < 512 or detect(self._head[:8]):
            return False
        try:
            if self._head[:512].strip(b"\0"):
                parse_header(self._head[:512])
        except Malformed:
            return False
        return True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return next(self._pieces)


def _bare(pieces: Iterator[bytes]) -> bytes:
    """The whole body is a Dockerfile."""
    found = b""
    for piece in pieces:
        found += piece
        if len(found) > MAX_IGNORE:
            raise Malformed("the request's body is neither a tar nor a Dockerfile")
    return found


def _drop(fd: int, path: str, ignore: Ignore) -> None:
    """Remove what the patterns name; directories that may hold an exception are looked into."""
    try:
        for name in os.listdir(fd):
            where = f"{path}/{name}" if path else name
            try:
                child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=fd)
            except OSError:
                child = -1
            if ignore.excludes(where) and (child < 0 or ignore.prunes(where)):
                remove(fd, os.fsencode(name))
                if child >= 0:
                    os.close(child)
            elif child >= 0:
                _drop(child, where, ignore)
    finally:
        os.close(fd)
