"""Packing trees into tars: the same tree gives the same bytes.

Names are sorted, headers are ustar with PAX records only where something does not fit, and
everything is kept: owners, modes, times to the nanosecond, extended attributes (and with them
capabilities and ACLs), hard links, devices, FIFOs, holes. Sockets are left out, as in Docker.
The tree may change meanwhile (a running container's): types are checked after opening, and a
file that shrinks is filled up with zeros so that the archive stays whole.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Protocol

from portside.kernel import overlay
from portside.model.errors import NotFound, NotRunning, SystemFailure
from portside.model.rootfs import Rootfs
from portside.store import tar_format as tar
from portside.store.roots import OPEN_DIR, enter_stored, open_bare_root, open_root
from portside.store.tar_format import Entry
from portside.store.trees import OPEN_FILE, data_ranges

BUFFER = 1 << 18
SMALL = 1 << 16
"""Files up to this many bytes go through the buffer; larger ones by sendfile(2)."""
HOLES = 1 << 20
"""A file with at least this many bytes of holes is written as a sparse one."""
KINDS = {
    stat.S_IFREG: tar.REGTYPE,
    stat.S_IFDIR: tar.DIRTYPE,
    stat.S_IFLNK: tar.SYMTYPE,
    stat.S_IFCHR: tar.CHRTYPE,
    stat.S_IFBLK: tar.BLKTYPE,
    stat.S_IFIFO: tar.FIFOTYPE,
}


class Watcher(Protocol):
    """Called with every entry of a tree as it is packed, in the archive's order."""

    def __call__(
        self, path: bytes, found: os.stat_result, link: bytes, xattrs: Mapping[bytes, bytes],
        fd: int, data: bytes | None,
    ) -> None:  # fmt: skip
        """``link``: a symbolic link's target. ``fd``: the open file, -1 for what is not a regular
        one, and for a hard link to a file that was packed before. ``data``: all of its content,
        where that was read."""
        ...


_NONE: Mapping[bytes, bytes] = {}


class TarWriter:
    """Write entries to a descriptor; :meth:`close` ends the archive. Files younger than
    ``latest`` (nanoseconds since the epoch) are written as of that time."""

    def __init__(self, out: int, latest: int | None = None) -> None:
        self._out, self._latest = out, latest
        self._buffer = bytearray()
        self._links: dict[tuple[int, int], bytes] = {}
        self.watcher: Watcher | None = None
        self.closed: frozenset[int] = frozenset()
        """Devices of file systems that :meth:`tree` shows as empty directories."""
        self.left_out: frozenset[bytes] = frozenset()
        """Paths that :meth:`tree` leaves out, with all that is in them."""

    def new_root(self) -> None:
        """What follows is a tree of its own: no file of it is a link to one that was before."""
        self._links.clear()

    def entry(self, entry: Entry, data: bytes = b"") -> None:
        """Write an entry; ``data`` is its content, if any."""
        self._put(tar.build(entry) + data + bytes(tar.padding(len(data))))

    def node(
        self, dir_fd: int, name: bytes, path: bytes, found: os.stat_result | None = None
    ) -> int:
        """Add what ``name`` in ``dir_fd`` is, called ``path`` in the archive; ``found`` is its
        state, if that is known.

        A directory's descriptor is returned, to continue with; -1 for everything else.
        FileNotFoundError when it has vanished.
        """
        if found is None:
            found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFSOCK:
            return -1
        if kind == stat.S_IFDIR:
            fd = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=dir_fd)
            self.directory(fd, path)
            return fd
        if self._hard_link(found, path):
            return -1
        if kind == stat.S_IFREG:
            fd = os.open(name, OPEN_FILE, dir_fd=dir_fd)
            try:
                self.file(fd, path)
            finally:
                os.close(fd)
            return -1
        entry = self._describe(found, path, KINDS[kind])
        if kind == stat.S_IFLNK:
            entry.linkname = os.readlink(name, dir_fd=dir_fd)
        entry.xattrs = read_xattrs(b"/proc/self/fd/%d/%s" % (dir_fd, name))
        self.entry(entry)
        if self.watcher is not None:
            self.watcher(path, found, entry.linkname, entry.xattrs, -1, None)
        return -1

    def directory(self, fd: int, path: bytes) -> None:
        found = os.fstat(fd)
        entry = self._describe(found, path + b"/", tar.DIRTYPE)
        entry.xattrs = read_xattrs(fd)
        self.entry(entry)
        if self.watcher is not None:
            self.watcher(path, found, b"", entry.xattrs, -1, None)

    def file(self, fd: int, path: bytes) -> None:
        """Add an open file; OSError ESTALE when it is not a regular one (any more)."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.ESTALE, "changed while it was read", os.fsdecode(path))
        entry = self._describe(found, path, tar.REGTYPE)
        entry.xattrs = read_xattrs(fd)
        entry.size = found.st_size
        if entry.size - found.st_blocks * 512 >= HOLES:
            ranges = data_ranges(fd, entry.size)
            if entry.size - sum(end - start for start, end in ranges) >= HOLES:
                self._sparse(entry, fd, ranges)
                if self.watcher is not None:
                    self.watcher(path, found, b"", entry.xattrs, fd, None)
                return
        data = None
        if entry.size <= SMALL:
            data = _read(fd, 0, entry.size)
            self._put(tar.build(entry) + data + bytes(-entry.size % tar.BLOCK))
        else:
            self._put(tar.build(entry))
            self._data(fd, 0, entry.size)
            self._put(bytes(tar.padding(entry.size)))
        if self.watcher is not None:
            self.watcher(path, found, b"", entry.xattrs, fd, data)

    def tree(self, fd: int, path: bytes, prefix: bytes | None = None) -> None:
        """Everything in the directory ``fd`` (not itself), beneath ``path``, sorted."""
        if prefix is None:
            prefix = path + b"/" if path else b""
        for name in sorted(os.fsencode(text) for text in os.listdir(fd)):
            if prefix + name in self.left_out:
                continue
            try:
                child = self.node(fd, name, prefix + name)
            except FileNotFoundError:
                continue  # removed while we look
            if child >= 0:
                try:
                    if self.closed and os.fstat(child).st_dev in self.closed:
                        continue
                    self.tree(child, prefix + name)
                finally:
                    os.close(child)

    def close(self) -> None:
        self._put(bytes(2 * tar.BLOCK))
        self._flush()

    # -- inside --------------------------------------------------------------------------

    def _describe(self, found: os.stat_result, path: bytes, kind: bytes) -> Entry:
        entry = describe(found, path, kind)
        if self._latest is not None:
            entry.mtime = min(entry.mtime, self._latest)
        return entry

    def _hard_link(self, found: os.stat_result, path: bytes) -> bool:
        if found.st_nlink < 2:
            return False
        key = (found.st_dev, found.st_ino)
        first = self._links.setdefault(key, path)
        if first == path:
            return False
        entry = self._describe(found, path, tar.LNKTYPE)
        entry.linkname = first
        self.entry(entry)
        if self.watcher is not None:
            self.watcher(path, found, b"", _NONE, -1, None)
        return True

    def _sparse(self, entry: Entry, fd: int, ranges: list[tuple[int, int]]) -> None:
        """GNU tar's PAX format 1.0: the real name and size in records, the map first in the
        data. The last range ends at the file's end, be it empty."""
        if not ranges or ranges[-1][1] != entry.size:
            ranges = [*ranges, (entry.size, entry.size)]
        numbers = [len(ranges)] + [n for start, end in ranges for n in (start, end - start)]
        table = b"".join(b"%d\n" % number for number in numbers)
        table += bytes(tar.padding(len(table)))
        stored = len(table) + sum(end - start for start, end in ranges)
        records = {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": entry.name,
            b"GNU.sparse.realsize": b"%d" % entry.size,
        }
        entry.stored = stored
        head, _, last = entry.name.rpartition(b"/")
        entry.name = (head + b"/" if head else b"") + b"GNUSparseFile.0/" + last
        self._put(tar.build(entry, records) + table)
        for start, end in ranges:
            self._data(fd, start, end - start)
        self._put(bytes(tar.padding(stored)))

    def _data(self, fd: int, offset: int, size: int) -> None:
        if size <= SMALL:
            self._put(_read(fd, offset, size))
            return
        self._flush()
        while size:
            try:
                done = os.sendfile(self._out, fd, offset, min(size, 1 << 30))
            except OSError as err:
                if err.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                done = os.write(self._out, os.pread(fd, min(size, BUFFER), offset))
            if not done:
                break
            offset, size = offset + done, size - done
        while size:  # it has shrunk
            self._put(bytes(min(size, BUFFER)))
            size -= min(size, BUFFER)

    def _put(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= BUFFER:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(self._buffer)
        while view:
            view = view[os.write(self._out, view) :]
        self._buffer = bytearray()


def _read(fd: int, offset: int, size: int) -> bytes:
    """``size`` bytes, zeros for what is not there any more."""
    data = os.pread(fd, size, offset)
    while 0 < len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data if len(data) == size else data + bytes(size - len(data))


def describe(found: os.stat_result, path: bytes, kind: bytes) -> Entry:
    """An entry with a file's owner, mode, time and device number."""
    entry = Entry(
        path, kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid,
        mtime=found.st_mtime_ns,
    )  # fmt: skip
    if kind in (tar.CHRTYPE, tar.BLKTYPE):
        entry.major, entry.minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    return entry


def read_xattrs(target: int | bytes) -> dict[bytes, bytes]:
    """Extended attributes, without overlay's own and SELinux's (which is the host's label)."""
    follow = isinstance(target, int)
    try:
        keys = os.listxattr(target, follow_symlinks=follow)
    except OSError as err:
        if err.errno == errno.ENOTSUP:
            return {}
        raise
    found = {}
    for key in keys:
        if key.startswith(overlay.XATTR) or key == "security.selinux":
            continue
        try:
            found[os.fsencode(key)] = os.getxattr(target, key, follow_symlinks=follow)
        except OSError as err:
            if err.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
    return found


def pack_root(rootfs: Rootfs, pid: int, out: int, left_out: frozenset[bytes]) -> int:
    """Write a whole root as a tar (``docker export``), through the process ``pid`` while that
    runs (0: none), without what is mounted in it, and without the paths ``left_out``."""
    try:
        root_fd = open_bare_root(pid) if pid else open_root(rootfs)
        if not pid:
            enter_stored(rootfs)
    except NotRunning:  # it has just ended: then its overlay is mounted nowhere any more
        root_fd = open_root(rootfs)
        enter_stored(rootfs)
    try:
        top = os.open(".", OPEN_DIR, dir_fd=root_fd)
    except FileNotFoundError as err:
        raise NotFound(f"the root is gone: {err}") from err
    writer = TarWriter(out)
    writer.left_out = left_out
    try:
        writer.tree(top, b"")
    except OSError as err:
        raise SystemFailure(f"cannot pack {err.filename}: {err.strerror}") from err
    writer.close()
    return 0
