"""Bring a directory to what the client has, fetching only files that differ. In job processes.

The client lists its files in order, parents first. What is here with the same size, mode, owner
and modification time stays; other files are asked for by their number in the list; what is not
listed is removed. The client is not trusted: a path lies beneath a directory that was listed, and
is opened beneath the root without following links.
"""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from portside.builder.solver.file_digests import FileDigests, beside
from portside.builder.wire.packet_stream import (
    GO_CHAR,
    GO_DEVICE,
    GO_DIR,
    GO_PIPE,
    GO_SOCKET,
    GO_SYMLINK,
    PacketStream,
    permissions,
)
from portside.builder.wire.proto.fstypes_pb2 import Packet, Stat
from portside.kernel.openat2 import openat2
from portside.kernel.syncfs import EARLY, begin_writing
from portside.model.errors import InvalidParameter, Unavailable
from portside.store.tar_format import Malformed
from portside.store.trees import BELOW, OPEN_DIR, remove

MAX_ENTRIES = 5_000_000
MAX_OPEN = 256
"""Files that a client may send at the same time."""
STEP = 1 << 20
"""Bytes between two reports."""
BATCH = 1 << 20
"""Bytes of a file that are written at once; smaller ones are written when they are whole."""
MAX_WAITING = 16 << 20
"""Bytes of all files that wait for this."""
QUEUED = 8
"""Batches that wait for the writer."""


class Synced(msgspec.Struct, frozen=True):
    """Result of receiving a client's directory."""

    size: int = 0
    """Bytes of the messages."""
    files: int = 0
    changed: int = 0
    """Files that were made, replaced or removed."""


@dataclass
class _Incoming:
    """A file that is being received."""

    stat: Stat
    fd: int = -1
    pieces: list[bytes] = field(default_factory=list)
    """What has come and was not written yet."""
    waiting: int = 0
    """Bytes in ``pieces``."""
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    written: int = 0
    begun: int = 0
    """Bytes that the disk was asked to begin with."""


def sync(target: str, source: int, progress: Callable[[int], None]) -> Synced:
    os.umask(0)
    os.makedirs(target, 0o755, exist_ok=True)
    root = os.open(target, OPEN_DIR)
    stream = PacketStream(source)
    digests = FileDigests(beside(target), private=True)
    writer = _Writer()
    syncing = _Sync(root, stream, digests, writer)
    reported = 0
    try:
        for packet in stream.packets():
            syncing.take(packet)
            if stream.received - reported >= STEP:
                reported = stream.received
                progress(reported)
            if syncing.is_done:
                break
        writer.finish()
    except BaseException as err:
        _refuse(stream, err)
        raise
    if not syncing.is_done:
        raise Unavailable("the client ended the transfer of its files early")
    syncing.finish()
    digests.save()
    stream.send(Packet(type=Packet.PACKET_FIN))
    for packet in stream.packets():
        if packet.type == Packet.PACKET_FIN:
            break
    stream.end()
    return Synced(stream.received, syncing.count, syncing.changed)


def _refuse(stream: PacketStream, err: BaseException) -> None:
    try:
        stream.send(Packet(type=Packet.PACKET_ERR, data=str(err).encode()))
    except OSError:
        pass


class _Writer:
    """Writes and digests large files in their own thread while more of them arrive: write(2)
    and hashlib release the interpreter lock. The first failure is raised at the next call."""

    def __init__(self) -> None:
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUED)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __call__(self, work: Callable[[], None]) -> None:
        """Queue ``work``; works run in the order of the calls."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._work.put(work)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if self._error is None:
                try:
                    work()
                except BaseException as err:
                    self._error = err

    def finish(self) -> None:
        """Wait for everything."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error


class _Sync:
    def __init__(
        self, root: int, stream: PacketStream, digests: FileDigests, writer: _Writer
    ) -> None:
        self._root, self._stream = root, stream
        self._digests, self._writer = digests, writer
        self._dirs: dict[str, tuple[set[str], Stat | None]] = {"": (set(), None)}
        """Directories that were listed: names in them, and their own entry."""
        self._wanted: dict[int, _Incoming] = {}
        self._listed = False
        self._parent = ("", os.dup(root))
        """The directory of the entry before, kept open."""
        self._links: list[tuple[str, str]] = []
        self._open_files: set[int] = set()
        self._waiting = 0
        """Bytes that have come and were not written yet."""
        self.count = 0
        self.changed = 0

    @property
    def is_done(self) -> bool:
        return self._listed and not self._wanted

    def take(self, packet: Packet) -> None:
        if packet.type == Packet.PACKET_STAT:
            if packet.HasField("stat"):
                self._entry(packet.stat)
            else:
                self._listed = True
        elif packet.type == Packet.PACKET_DATA:
            self._data(packet.ID, packet.data)
        elif packet.type == Packet.PACKET_ERR:
            text = packet.data.decode("utf-8", "replace")
            raise Unavailable(f"error from sender: {text}")
        elif packet.type == Packet.PACKET_FIN:
            raise Unavailable("the client ended the transfer of its files early")

    # -- entries -------------------------------------------------------------------------

    def _entry(self, entry: Stat) -> None:
        number, self.count = self.count, self.count + 1
        if self._listed or self.count > MAX_ENTRIES:
            raise Malformed(f"the client lists more than {MAX_ENTRIES} files, or after the end")
        parent, _, name = entry.path.rpartition("/")
        if name in ("", ".", "..") or "\0" in name or parent not in self._dirs:
            raise InvalidParameter(f"the client sent an invalid path: {entry.path!r}")
        names, _ = self._dirs[parent]
        if name in names:
            raise InvalidParameter(f"the client sent a path twice: {entry.path!r}")
        names.add(name)
        fd = self._open(parent)
        found = _lstat(fd, name)
        if entry.mode & GO_DIR:
            self._directory(entry, fd, name, found)
        elif entry.mode & (GO_SYMLINK | GO_DEVICE | GO_PIPE | GO_SOCKET):
            self._special(entry, fd, name, found)
        elif entry.linkname:
            self._hard_link(entry)
        elif found is not None and _same_file(entry, found):
            self._digests.find(found)  # still needed
        else:
            self.changed += 1
            self._wanted[number] = _Incoming(Stat.FromString(entry.SerializeToString()))
            self._stream.send(Packet(type=Packet.PACKET_REQ, ID=number))

    def _open(self, path: str) -> int:
        if self._parent[0] != path:
            os.close(self._parent[1])
            self._parent = ("", -1)
            self._parent = (path, self._reopen(path))
        return self._parent[1]

    def _reopen(self, path: str) -> int:
        return openat2(self._root, path, OPEN_DIR, resolve=BELOW) if path else os.dup(self._root)

    def _directory(self, entry: Stat, fd: int, name: str, found: os.stat_result | None) -> None:
        if found is None or not stat.S_ISDIR(found.st_mode):
            if found is not None:
                remove(fd, os.fsencode(name))
            os.mkdir(name, 0o700, dir_fd=fd)
            found = None
            self.changed += 1
        mode = permissions(entry.mode)
        if found is None or (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
            os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
            found = None
        if found is None or stat.S_IMODE(found.st_mode) != mode:
            child = openat2(fd, name, OPEN_DIR, resolve=BELOW)
            os.fchmod(child, mode)
            os.close(child)
        self._dirs[entry.path] = (set(), Stat.FromString(entry.SerializeToString()))

    def _special(self, entry: Stat, fd: int, name: str, found: os.stat_result | None) -> None:
        if found is not None:
            if _same_link(entry, found, fd, name):
                return
            remove(fd, os.fsencode(name))
        if entry.mode & GO_SOCKET:
            return
        self.changed += 1
        if entry.mode & GO_SYMLINK:
            os.symlink(entry.linkname, name, dir_fd=fd)
        else:
            kind = stat.S_IFIFO if entry.mode & GO_PIPE else (
                stat.S_IFCHR if entry.mode & GO_CHAR else stat.S_IFBLK)  # fmt: skip
            mode = kind | permissions(entry.mode)
            os.mknod(name, mode, os.makedev(entry.devmajor, entry.devminor), dir_fd=fd)
        os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        os.utime(name, ns=(entry.modTime, entry.modTime), dir_fd=fd, follow_symlinks=False)

    def _hard_link(self, entry: Stat) -> None:
        """Note a hard link to a file listed before; made at the end, as the file may come later."""
        parent, _, target = entry.linkname.rpartition("/")
        if parent not in self._dirs or target not in self._dirs[parent][0]:
            raise InvalidParameter(f"the client sent a link to nothing: {entry.path!r}")
        self._links.append((entry.path, entry.linkname))

    # -- data ----------------------------------------------------------------------------

    def _data(self, number: int, data: bytes) -> None:
        incoming = self._wanted.get(number)
        if incoming is None:
            raise InvalidParameter("the client sent a file that was not asked for")
        if data:
            incoming.pieces.append(data)
            incoming.waiting += len(data)
            self._waiting += len(data)
            if incoming.waiting >= BATCH or self._waiting >= MAX_WAITING:
                self._begin(incoming)
                self._flush(incoming)
            return
        del self._wanted[number]
        if incoming.fd < 0:  # a small one, all of which is here
            self._begin(incoming)
            self._write(incoming, self._taken(incoming))
            self._complete(incoming)
        else:
            self._flush(incoming)
            self._writer(lambda: self._complete(incoming))

    def _begin(self, incoming: _Incoming) -> None:
        if incoming.fd >= 0:
            return
        if len(self._open_files) >= MAX_OPEN:
            raise Malformed(f"the client sends more than {MAX_OPEN} files at once")
        parent, _, name = incoming.stat.path.rpartition("/")
        fd = self._open(parent)
        remove(fd, os.fsencode(name))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        incoming.fd = os.open(name, flags, 0o600, dir_fd=fd)
        self._open_files.add(incoming.fd)

    def _taken(self, incoming: _Incoming) -> list[bytes]:
        pieces, incoming.pieces = incoming.pieces, []
        self._waiting -= incoming.waiting
        incoming.waiting = 0
        return pieces

    def _flush(self, incoming: _Incoming) -> None:
        pieces = self._taken(incoming)
        if pieces:
            self._writer(lambda: self._write(incoming, pieces))

    @staticmethod
    def _write(incoming: _Incoming, pieces: list[bytes]) -> None:
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        incoming.digest.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(incoming.fd, view) :]
        incoming.written += len(data)
        if incoming.written - incoming.begun >= EARLY:
            begin_writing(incoming.fd, incoming.begun, incoming.written - incoming.begun)
            incoming.begun = incoming.written

    def _complete(self, incoming: _Incoming) -> None:
        """The time comes last: a file that was broken off is asked for again."""
        entry, fd = incoming.stat, incoming.fd
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, permissions(entry.mode))
        for key, value in entry.xattrs.items():
            if key.startswith("user."):
                os.setxattr(fd, key, value)
        os.utime(fd, ns=(entry.modTime, entry.modTime))
        is_plain = not entry.xattrs
        self._digests.add(os.fstat(fd), incoming.digest.digest(), is_plain=is_plain)
        self._open_files.discard(fd)
        os.close(fd)

    # -- the end -------------------------------------------------------------------------

    def finish(self) -> None:
        """Links, what is not listed any more, and the times of directories."""
        for path, target in self._links:
            self._link(path, target)
        for path in sorted(self._dirs, reverse=True):
            names, entry = self._dirs[path]
            fd = self._reopen(path)
            try:
                for name in os.listdir(fd):
                    if name not in names:
                        self.changed += 1
                        remove(fd, os.fsencode(name))
                if entry is not None:
                    os.utime(fd, ns=(entry.modTime, entry.modTime))
            finally:
                os.close(fd)

    def _link(self, path: str, target: str) -> None:
        parent, _, name = path.rpartition("/")
        origin, _, known = target.rpartition("/")
        source, fd = self._reopen(origin), self._reopen(parent)
        try:
            found, wanted = _lstat(fd, name), _lstat(source, known)
            if found is not None and wanted is not None and found.st_ino == wanted.st_ino:
                return
            remove(fd, os.fsencode(name))
            self.changed += 1
            os.link(known, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(source)
            os.close(fd)


def _lstat(fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _same_file(entry: Stat, found: os.stat_result) -> bool:
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_size == entry.size
        and found.st_mtime_ns == entry.modTime
        and stat.S_IMODE(found.st_mode) == permissions(entry.mode)
        and (found.st_uid, found.st_gid) == (entry.uid, entry.gid)
    )


def _same_link(entry: Stat, found: os.stat_result, fd: int, name: str) -> bool:
    return (
        bool(entry.mode & GO_SYMLINK)
        and stat.S_ISLNK(found.st_mode)
        and os.readlink(name, dir_fd=fd) == entry.linkname
        and (found.st_uid, found.st_gid) == (entry.uid, entry.gid)
    )
