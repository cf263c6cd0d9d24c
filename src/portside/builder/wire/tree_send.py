"""Send a file tree to a client that receives it with fsutil's DiffCopy. In job processes.

All entries go first, in the order of their paths, then the files that the client asks for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from portside.builder.wire.packet_stream import (
    GO_CHAR,
    GO_DEVICE,
    GO_DIR,
    GO_PIPE,
    GO_SETGID,
    GO_SETUID,
    GO_STICKY,
    GO_SYMLINK,
    PacketStream,
)
from portside.builder.wire.proto.fstypes_pb2 import Packet, Stat
from portside.model.errors import Unavailable
from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits
from portside.store.decompress import plain
from portside.store.roots import open_beneath, open_root
from portside.store.tar_pack import read_xattrs
from portside.store.tar_reader import TarReader
from portside.store.tar_unpack import Unpacker
from portside.store.trees import OPEN_DIR, OPEN_FILE

DATA = 32 << 10
"""Bytes of one packet, as fsutil sends them."""


def send(source: Rootfs, target: int, progress: Callable[[int], None]) -> int:
    root = open_root(source)
    if source.driver != "bind":
        root = os.open(f"/proc/self/fd/{root}", OPEN_DIR)
    stream = PacketStream(target)
    paths: list[bytes] = []
    seen: dict[tuple[int, int], str] = {}
    for path, entry in _walk(root, b""):
        _note_links(entry, root, path, seen)
        stream.send(Packet(type=Packet.PACKET_STAT, stat=entry))
        paths.append(path)
    stream.send(Packet(type=Packet.PACKET_STAT))
    total = 0
    for packet in stream.packets():
        if packet.type == Packet.PACKET_REQ and len(paths) > packet.ID:
            total += _file(stream, root, paths[packet.ID], packet.ID)
            progress(total)
        elif packet.type == Packet.PACKET_FIN:
            stream.send(Packet(type=Packet.PACKET_FIN))
            break
        elif packet.type == Packet.PACKET_ERR:
            raise Unavailable(f"error from receiver: {packet.data.decode('utf-8', 'replace')}")
    stream.end()
    return total


def stage(target: str, limits: Limits, source: int) -> int:
    """Returns the number of entries."""
    os.umask(0)
    os.mkdir(target, 0o755)
    count = 0
    with open(source, "rb", buffering=0) as file:
        unpacker = Unpacker(os.open(target, OPEN_DIR), limits=limits)
        reader = TarReader(plain(file), limits)
        for entry in reader:
            unpacker.apply(entry, reader)
            count += 1
        reader.source.drain()
        unpacker.finish()
        unpacker.close()
    return count


def _walk(fd: int, path: bytes) -> Iterator[tuple[bytes, Stat]]:
    """Entries in the order in which fsutil compares paths: a directory's before its sibling."""
    for text in sorted(os.listdir(fd), key=os.fsencode):
        name = os.fsencode(text)
        where = path + b"/" + name if path else name
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISSOCK(found.st_mode):
            continue
        yield where, entry_of(fd, name, where, found)
        if stat.S_ISDIR(found.st_mode):
            child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=fd)
            try:
                yield from _walk(child, where)
            finally:
                os.close(child)


def entry_of(fd: int, name: bytes, path: bytes, found: os.stat_result) -> Stat:
    """An entry of the directory ``fd`` as clients know it."""
    mode = found.st_mode
    link = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(mode) else b""
    entry = Stat(
        path=os.fsdecode(path),
        mode=_go_mode(mode),
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size if stat.S_ISREG(mode) else 0,
        modTime=found.st_mtime_ns,
        linkname=os.fsdecode(link),
    )
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        entry.devmajor, entry.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
    for key, value in read_xattrs(b"/proc/self/fd/%d/%s" % (fd, name)).items():
        entry.xattrs[os.fsdecode(key)] = value
    return entry


def _note_links(entry: Stat, root: int, path: bytes, seen: dict[tuple[int, int], str]) -> None:
    """A regular file with a second name is a link to the first."""
    if entry.mode & (GO_DIR | GO_SYMLINK | GO_DEVICE | GO_PIPE):
        return
    found = os.stat(path, dir_fd=root, follow_symlinks=False)
    if found.st_nlink > 1:
        first = seen.setdefault((found.st_dev, found.st_ino), entry.path)
        if first != entry.path:
            entry.linkname, entry.size = first, 0


def _file(stream: PacketStream, root: int, path: bytes, number: int) -> int:
    fd = open_beneath(root, os.fsdecode(b"/" + path), OPEN_FILE)
    total = 0
    try:
        while data := os.read(fd, DATA):
            total += len(data)
            stream.send(Packet(type=Packet.PACKET_DATA, ID=number, data=data))
    finally:
        os.close(fd)
    stream.send(Packet(type=Packet.PACKET_DATA, ID=number))
    return total


def _go_mode(mode: int) -> int:
    found = mode & 0o777
    for bit, flag in ((0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)):
        if mode & bit:
            found |= flag
    if stat.S_ISDIR(mode):
        found |= GO_DIR
    elif stat.S_ISLNK(mode):
        found |= GO_SYMLINK
    elif stat.S_ISFIFO(mode):
        found |= GO_PIPE
    elif stat.S_ISCHR(mode):
        found |= GO_DEVICE | GO_CHAR
    elif stat.S_ISBLK(mode):
        found |= GO_DEVICE
    return found
