"""Copying what was selected onto a root: each file read once, for the copy and for its digest. In
job processes.

Creating a file through an overlay costs several times what it costs in the writable layer itself
(a file in the work directory, a rename, xattrs). So names that the root does not have yet are
made in the layer directly; the overlay must be mounted afresh before it is looked at again
(overlayfs.rst, "Changes to underlying filesystems"). Names that are there are replaced through
the overlay, which knows about whiteouts and copying up.

A file that has not changed since the same copy was made before is linked from the layer that it
made then. A large file of the engine's own copy of a context is linked into the layer, too, where
its attributes are the wanted ones: neither is ever written to again. A file is linked once, so that
no tree has two names that are one file unless the source had.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from portside.builder.llb import CopyAction
from portside.builder.solver.content_hash import ContentHash
from portside.builder.solver.copied_layers import EarlierLayer, MadeFiles
from portside.builder.solver.copy_selection import Entry, Selected
from portside.builder.solver.file_digests import FileDigests, read_digest
from portside.builder.solver.mode_text import mode_change
from portside.kernel.openat2 import openat2
from portside.model.errors import InvalidParameter
from portside.model.rootfs import Rootfs
from portside.store.roots import OPEN_DIR, mount_overlay, open_beneath, open_root
from portside.store.tar_pack import read_xattrs
from portside.store.tar_unpack import is_whiteout
from portside.store.trees import BELOW, OPEN_FILE, copy_data

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
SMALL = 1 << 18
"""Bytes up to which a file is copied through memory, and digested there."""
Owner = tuple[int, int] | None


class WritableRoot:
    """A root that jobs write to, and its writable layer."""

    def __init__(self, rootfs: Rootfs) -> None:
        self._rootfs = rootfs
        self._fd = open_root(rootfs)
        self._is_stale = False
        is_overlay = rootfs.driver == "overlay"
        self._upper = os.open(rootfs.upper, OPEN_DIR) if is_overlay else -1

    @property
    def fd(self) -> int:
        """The root's descriptor to walk from; valid until :meth:`changed`."""
        if self._is_stale:
            os.close(self._fd)
            self._fd = mount_overlay(self._rootfs)
            self._is_stale = False
        return self._fd

    def layer_directory(self, fd: int) -> tuple[int, bytes]:
        """The writable layer's own directory behind one of the root, which is copied up, and its
        path in the layer."""
        if self._upper < 0:
            return os.dup(fd), b""
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode))
        path = os.readlink(b"/proc/self/fd/%d" % fd).lstrip(b"/")
        return openat2(self._upper, path or b".", OPEN_DIR, resolve=BELOW), path

    @property
    def is_layer(self) -> bool:
        """Whether files become part of a layer, which nobody writes to later."""
        return self._upper >= 0

    def changed(self) -> None:
        """The layer was written to behind the overlay's back; no descriptor of it is in use."""
        self._is_stale = self._upper >= 0

    def close(self) -> None:
        os.close(self._fd)
        if self._upper >= 0:
            os.close(self._upper)


@dataclass
class _Level:
    """A directory of the copy that is being filled."""

    path: bytes
    fd: int
    """Through the root; the same as ``layer`` in a new directory."""
    layer: int
    names: set[bytes]
    """What the root has there."""
    has_setgid: bool
    found: os.stat_result | None = None
    """The source's attributes, whose times it gets at the end."""
    inside: bytes = b""
    """Its path in the layer."""
    earlier: int = -1
    """The same directory in the layer that this copy made before; -1 if that has none."""

    def path_of(self, name: bytes) -> bytes:
        """A file's path in the layer."""
        return self.inside + b"/" + name if self.inside else name

    def close(self) -> None:
        os.close(self.layer)
        if self.earlier >= 0:
            os.close(self.earlier)
        if self.fd != self.layer:
            os.close(self.fd)


@dataclass(frozen=True)
class Copies:
    """What is made, and what was made before."""

    digests: FileDigests
    """Gets the digests of the files."""
    earlier: EarlierLayer = field(default_factory=lambda: EarlierLayer(None))
    files: MadeFiles = field(default_factory=MadeFiles)


class TreeCopier:
    """Copies selected things, and digests them into ``digest``."""

    def __init__(
        self, root: WritableRoot, action: CopyAction, owner: Owner, digest: ContentHash,
        source: FileDigests, copies: Copies, keep: Collection[bytes] = (),
    ) -> None:  # fmt: skip
        """``source`` has the known digests of the source's files.
        ``keep``: directories that stay what they are where the root has them, or a link to one."""
        self._root, self._action, self._owner, self._digest = root, action, owner, digest
        self._source, self._copies = source, copies
        self._keep = keep
        self._may_link = source.is_private and root.is_layer and action.timestamp < 0
        self._mode = mode_change(action.mode)
        self._links: dict[tuple[int, int], bytes] = {}
        self._levels: list[_Level] = []

    def directory(self, selected: Selected, top: int, *, keep_top: bool) -> None:
        """Lay a directory's content into ``top``, which is closed."""
        self._enter(b"", top, None)
        try:
            for entry in selected.walk():
                if not entry.path:
                    self._add_to_digest(entry)
                    if not keep_top:
                        self._attributes(entry, top)
                    continue
                parent, _, last = entry.path.rpartition(b"/")
                self._go(parent)
                if stat.S_ISDIR(entry.found.st_mode):
                    self._add_to_digest(entry)
                    self._directory(entry, last)
                else:
                    self._place(entry, self._levels[-1], last)
            self._go(b"")
        finally:
            while self._levels:
                self._levels.pop().close()
            self._root.changed()

    def single(self, selected: Selected, above: int, name: bytes) -> None:
        """Copy something other than a directory as ``name`` into ``above``, which is closed."""
        level = _Level(b"", above, above, {name}, True)
        try:
            level.layer, level.inside = self._root.layer_directory(above)
            if _is_free(above, name) and _is_free(level.layer, name):  # where a whiteout may be
                level.names = set()
            for entry in selected.walk():
                self._place(entry, level, name)
        finally:
            level.close()
            self._root.changed()

    # -- directories ---------------------------------------------------------------------

    def _enter(self, path: bytes, fd: int, found: os.stat_result | None) -> None:
        """Continue in a directory that the root has; ``fd`` is closed whatever happens."""
        try:
            layer, inside = self._root.layer_directory(fd)
        except BaseException:
            os.close(fd)
            raise
        earlier = _below(self._copies.earlier.fd, inside or b".")
        names = {os.fsencode(text) for text in os.listdir(fd)}
        has_setgid = bool(os.fstat(fd).st_mode & stat.S_ISGID)
        self._levels.append(_Level(path, fd, layer, names, has_setgid, found, inside, earlier))

    def _go(self, path: bytes) -> None:
        """Move to a directory of the copy; directories that are left get their times. A directory
        that patterns exclude is made when a file in it is copied.
        """
        while (here := self._levels[-1].path) and path != here:
            if path.startswith(here + b"/"):
                break
            level = self._levels.pop()
            if level.found is not None:
                self._times(level.layer, level.found)
            level.close()
        while (here := self._levels[-1].path) != path:
            rest = path[len(here) :].lstrip(b"/")
            name = rest.partition(b"/")[0]
            fd = self._made(name, here + b"/" + name if here else name, None)
            if fd >= 0:
                os.fchmod(fd, 0o755)
                os.fchown(fd, *(self._owner or (0, 0)))

    def _directory(self, entry: Entry, name: bytes) -> None:
        is_new = self._made(name, entry.path, entry.found) >= 0
        if not is_new and entry.path in self._keep:
            self._levels[-1].found = None
            return
        self._attributes(entry, self._levels[-1].fd)
        self._levels[-1].has_setgid = bool(self._changed(entry.found).st_mode & stat.S_ISGID)

    def _made(self, name: bytes, path: bytes, found: os.stat_result | None) -> int:
        """Enter a directory, which is made if it is missing; its descriptor then, else -1."""
        level = self._levels[-1]
        if name not in level.names:
            os.mkdir(name, 0o700, dir_fd=level.layer)
            fd = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=level.layer)
            inside, earlier = level.path_of(name), _below(level.earlier, name)
            new = _Level(path, fd, fd, set(), level.has_setgid, found, inside, earlier)
            self._levels.append(new)
            return fd
        kind = os.stat(name, dir_fd=level.fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(kind) and path in self._keep:
            self._enter(path, open_beneath(self._levels[0].fd, os.fsdecode(path), OPEN_DIR), found)
            return -1
        if not stat.S_ISDIR(kind):
            raise InvalidParameter(f"cannot copy to non-directory: {os.fsdecode(path)}")
        self._enter(path, os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=level.fd), found)
        return -1

    # -- files ---------------------------------------------------------------------------

    def _place(self, entry: Entry, level: _Level, name: bytes) -> None:
        kind = entry.found.st_mode
        if stat.S_ISSOCK(kind):
            return
        above = level.layer
        if name in level.names:
            above = level.fd
            make_room(above, name, os.fsdecode(entry.path or name))
            self._copies.files.forget(level.path_of(name))
        if entry.found.st_nlink > 1 and entry.path and self._linked(entry, level, above, name):
            self._add_to_digest(entry)
        elif stat.S_ISREG(kind):
            content = self._unchanged(entry, level, name) if above == level.layer else None
            if content is None:
                self._file(entry, level, above, name)
            else:
                self._digest.add(entry.path, entry.found, content=content)
        elif stat.S_ISLNK(kind):
            self._add_to_digest(entry)
            os.symlink(os.readlink(entry.name, dir_fd=entry.dir_fd), name, dir_fd=above)
            self._node(entry, above, name)
        else:
            self._add_to_digest(entry)
            if is_whiteout(entry.found):
                raise OSError(errno.EPERM, "a whiteout's device number", entry.name)
            os.mknod(name, kind, entry.found.st_rdev, dir_fd=above)
            self._node(entry, above, name)

    def _add_to_digest(self, entry: Entry) -> None:
        self._digest.entry(entry.dir_fd, entry.name, entry.path, entry.found)

    def _linked(self, entry: Entry, level: _Level, above: int, name: bytes) -> bool:
        first = self._links.setdefault((entry.found.st_dev, entry.found.st_ino), entry.path)
        if first == entry.path:
            return False
        top = self._levels[0]
        parent, _, last = first.rpartition(b"/")
        begin = top.layer if above == level.layer else top.fd
        try:
            there = openat2(begin, parent or b".", OPEN_DIR, resolve=BELOW)
        except OSError:  # it was reached through a link of the root
            return False
        try:
            os.link(last, name, src_dir_fd=there, dst_dir_fd=above, follow_symlinks=False)
        finally:
            os.close(there)
        return True

    def _file(self, entry: Entry, level: _Level, above: int, name: bytes) -> None:
        source = os.open(entry.name, OPEN_FILE, dir_fd=entry.dir_fd)
        try:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, "changed while it was copied", entry.name)
            xattrs = read_xattrs(source)
            if (content := self._shared(source, found, level, name)) is not None:
                self._digest.add(entry.path, found, content=content, xattrs=xattrs)
                return
            target = os.open(name, CREATE, 0o600, dir_fd=above)
            try:
                content = self._data(source, target, found)
                changed = self._changed(found)
                if level.has_setgid or (changed.st_uid, changed.st_gid) != (0, 0):
                    os.fchown(target, changed.st_uid, changed.st_gid)
                os.fchmod(target, stat.S_IMODE(changed.st_mode))
                _set_xattrs(target, xattrs)
                self._times(target, found)
                self._copies.digests.add(os.fstat(target), content)
            finally:
                os.close(target)
            if above == level.layer and not xattrs:
                self._copies.files.add(level.path_of(name), content)
        finally:
            os.close(source)
        self._digest.add(entry.path, found, content=content, xattrs=xattrs)

    def _unchanged(self, entry: Entry, level: _Level, name: bytes) -> bytes | None:
        """Link a file that is as it was when this copy was made before; its content's digest, None
        where it has to be copied."""
        if level.earlier < 0 or (known := self._source.known(entry.found)) is None:
            return None
        path, earlier = level.path_of(name), self._copies.earlier
        if not known.is_plain or earlier.digest(path) != known.digest:
            return None
        wanted, stamp = self._changed(entry.found), self._action.timestamp
        try:
            there = os.stat(name, dir_fd=level.earlier, follow_symlinks=False)
            if (
                there.st_mode, there.st_uid, there.st_gid, there.st_size, there.st_mtime_ns,
            ) != (
                wanted.st_mode, wanted.st_uid, wanted.st_gid, wanted.st_size,
                stamp if stamp >= 0 else wanted.st_mtime_ns,
            ):  # fmt: skip
                return None
            os.link(name, name, src_dir_fd=level.earlier, dst_dir_fd=level.layer,
                    follow_symlinks=False)  # fmt: skip
        except OSError:  # the layer was removed, or there are too many links
            return None
        made = os.stat(name, dir_fd=level.layer, follow_symlinks=False)
        self._copies.digests.add(made, known.digest)
        self._copies.files.add(path, known.digest)
        return known.digest

    def _shared(
        self, source: int, found: os.stat_result, level: _Level, name: bytes
    ) -> bytes | None:
        """Link a file into the layer; its content's digest, None where it has to be copied."""
        if not self._may_link or found.st_size <= SMALL or found.st_nlink != 1:
            return None
        wanted = self._changed(found)
        if (wanted.st_mode, wanted.st_uid, wanted.st_gid) != (
            found.st_mode, found.st_uid, found.st_gid
        ):  # fmt: skip
            return None
        content = self._source.find(found)
        if content is None:
            return None
        try:
            os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=level.layer, follow_symlinks=True)
        except OSError:  # another mount, or a whiteout has the name
            return None
        linked = os.fstat(source)  # with the change time of now
        if linked.st_nlink != 2:  # another step has linked it at the same time
            os.unlink(name, dir_fd=level.layer)
            return None
        self._source.add(linked, content)
        self._copies.digests.add(linked, content)
        return content

    def _data(self, source: int, target: int, found: os.stat_result) -> bytes:
        """Copy a file's data; the digest of it."""
        if found.st_size <= SMALL:
            data = os.read(source, SMALL + 1)
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
            if len(data) <= SMALL:
                return hashlib.sha256(data).digest()
            os.ftruncate(target, 0)  # it has grown meanwhile
            os.lseek(target, 0, os.SEEK_SET)
        copy_data(source, target, os.fstat(source).st_size)
        known = self._source.find(found)
        if known is not None and _times_of(os.fstat(source)) == _times_of(found):
            return known
        os.lseek(target, 0, os.SEEK_SET)
        return read_digest(target)

    def _attributes(self, entry: Entry, target: int) -> None:
        """Set a directory's owner, mode, times and extended attributes."""
        source = os.open(entry.name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=entry.dir_fd)
        try:
            changed = self._changed(entry.found)
            os.fchown(target, changed.st_uid, changed.st_gid)
            os.fchmod(target, stat.S_IMODE(changed.st_mode))
            _set_xattrs(target, read_xattrs(source))
            os.utime(target, ns=(changed.st_atime_ns, changed.st_mtime_ns))
        finally:
            os.close(source)

    def _changed(self, found: os.stat_result) -> os.stat_result:
        """The attributes with the wanted owner and mode."""
        if self._mode is None and self._owner is None:
            return found
        mode = found.st_mode
        if self._mode is not None:
            mode = stat.S_IFMT(mode) | self._mode(mode)
        uid, gid = self._owner or (found.st_uid, found.st_gid)
        values = list(found)
        values[0], values[4], values[5] = mode, uid, gid
        named = {"st_atime_ns": found.st_atime_ns, "st_mtime_ns": found.st_mtime_ns}
        return os.stat_result(values, named)

    def _node(self, entry: Entry, above: int, name: bytes) -> None:
        changed = self._changed(entry.found)
        os.chown(name, changed.st_uid, changed.st_gid, dir_fd=above, follow_symlinks=False)
        times = (changed.st_atime_ns, changed.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=above, follow_symlinks=False)

    def _times(self, fd: int, found: os.stat_result) -> None:
        stamp = self._action.timestamp
        value = (stamp, stamp) if stamp >= 0 else (found.st_atime_ns, found.st_mtime_ns)
        os.utime(fd, ns=value)


def _below(fd: int, path: bytes) -> int:
    """A directory beneath one that may be missing (-1); -1 if it is not there."""
    if fd < 0:
        return -1
    try:
        return openat2(fd, path, OPEN_DIR | os.O_NOFOLLOW, resolve=BELOW)
    except OSError:
        return -1


def _is_free(dir_fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


def _times_of(found: os.stat_result) -> tuple[int, int, int]:
    """Size and times, which differ when a file was changed meanwhile."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _set_xattrs(target: int, xattrs: Mapping[bytes, bytes]) -> None:
    for key, value in xattrs.items():
        try:
            os.setxattr(target, key, value)
        except OSError as err:
            if err.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise


def make_room(above: int, name: bytes, shown: str) -> None:
    """Remove what has the name, unless it is a directory."""
    try:
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise InvalidParameter(f"cannot replace to directory {shown} with file")
    os.unlink(name, dir_fd=above)
