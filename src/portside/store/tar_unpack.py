"""Unpacking a tar beneath a root: exact, and safe whatever the archive or the tree holds.

Every name is taken apart lexically first (climbing ones are refused), its parent directory is
opened with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), so links in the tree lead
nowhere outside the root even when they are swapped meanwhile, and the last component is only
ever created (O_EXCL, O_NOFOLLOW), linked or removed relative to that directory's descriptor.

Whiteouts (image-spec, layer.md) are written in overlayfs' form (a character device 0:0, the
attribute ``trusted.overlay.opaque``), or applied to the tree, or, for ``docker cp``, are
ordinary names.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from portside.kernel import overlay
from portside.kernel.openat2 import IN_ROOT, openat2
from portside.model.digest import Digest
from portside.model.errors import Forbidden, InvalidParameter, NoSpace, SystemFailure
from portside.model.paths import rootless_user
from portside.store import tar_format as tar
from portside.store.archive_values import Limits
from portside.store.blobs import DigestMismatch
from portside.store.decompress import Pipeline
from portside.store.space import HINT, is_full
from portside.store.tar_format import Entry, Malformed
from portside.store.tar_reader import TarReader
from portside.store.trees import copy_tree, remove

OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CACHED = 256
"""Directories kept open."""
REPORT = 4 << 20
"""Compressed bytes between two progress reports."""
Digested = Callable[[os.stat_result, bytes], None]

OVERLAY, APPLY, LITERAL = "overlay", "apply", "literal"
WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"
OVERLAY_OPAQUE = overlay.OPAQUE
# what overlayfs itself would believe must not come out of an archive
FORBIDDEN_XATTRS = (b"trusted.overlay.", b"user.overlay.")
DENIED = (errno.EPERM, errno.ENOTSUP, errno.EINVAL)


class Climbing(InvalidParameter):
    """A name that leads out of the root."""

    def __init__(self, name: bytes) -> None:
        super().__init__(
            f"unsafe archive: {os.fsdecode(name)!r} leads outside the root; nothing was unpacked"
        )


def clean(name: bytes) -> bytes:
    """A name relative to the root without ``.``, ``..`` and doubled slashes; Climbing."""
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name[:-1]
    if name[:1] not in (b".", b"/") and b"/." not in name and b"//" not in name:
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise Climbing(name)
            parts.pop()
        elif part and part != b".":
            parts.append(part)
    return b"/".join(parts)


class Unpacker:
    """Apply archives beneath ``root_fd`` (kept by the caller), at ``base`` in it.

    ``chown`` gives everything to one owner; ``keep_kind`` refuses to replace a directory by
    something else or the reverse (Docker's noOverwriteDirNonDir). ``digested`` gets each file
    without holes, as fstat(2) has it when it is done, with the SHA-256 of its content. Call
    :meth:`finish` when all entries are applied, :meth:`close` in any case.
    """

    def __init__(
        self,
        root_fd: int,
        *,
        base: bytes = b"",
        whiteouts: str = LITERAL,
        limits: Limits | None = None,
        chown: tuple[int, int] | None = None,
        keep_kind: bool = False,
        digested: Digested | None = None,
    ) -> None:
        self.root_fd, self._prefix = root_fd, base.strip(b"/") + b"/" if base.strip(b"/") else b""
        self._whiteouts, self._limits = whiteouts, limits or Limits()
        self._chown, self._keep_kind, self._digested = chown, keep_kind, digested
        self._dirs: dict[bytes, int] = {}
        self._times: dict[bytes, int] = {}
        self._made: set[bytes] = set()
        self._careful = whiteouts != OVERLAY
        """Set-group-ID directories or default ACLs are about: set owner and mode always."""
        self.written = 0
        """Bytes of regular files and of links' targets so far."""

    # -- entries -------------------------------------------------------------------------

    def apply(self, entry: Entry, reader: TarReader) -> None:
        """Make one entry. OSError becomes SystemFailure with the entry's name."""
        name = clean(entry.name)
        try:
            parent, _, last = name.rpartition(b"/")
            if self._whiteouts != LITERAL and last.startswith(WHITEOUT):
                self._whiteout(parent, last)
                return
            if not last:
                self._root(entry)
                return
            self._make(entry, reader, parent, last, name)
            if self._whiteouts == APPLY:
                self._made.add(name)
        except OSError as err:
            self._check_owner(err, entry, name)
            raise self._explained(err, name) from err

    def _check_owner(self, err: OSError, entry: Entry, name: bytes) -> None:
        """After a failure: SystemFailure when the owner is not of the user namespace (chown(2),
        EINVAL), or not of the mapping of the mount (EOVERFLOW). The entry is removed then: it
        would be another's."""
        if err.errno not in (errno.EINVAL, errno.EOVERFLOW):
            return
        parent, _, last = name.rpartition(b"/")
        dir_fd = self._directory(parent, create=False)
        uid, gid = self._chown or (entry.uid, entry.gid)
        for number, owner in ((uid, (uid, -1)), (gid, (-1, gid))):
            try:
                os.chown(last, *owner, dir_fd=dir_fd, follow_symlinks=False)
            except OSError as again:
                if again.errno != err.errno:
                    return
                with suppress(OSError):
                    remove = os.rmdir if entry.type == tar.DIRTYPE else os.unlink
                    remove(last, dir_fd=dir_fd)
                raise SystemFailure(
                    f"cannot unpack {os.fsdecode(name)!r}: container ID {number} cannot be mapped "
                    "to a host ID"
                ) from err

    def _make(
        self, entry: Entry, reader: TarReader, parent: bytes, last: bytes, name: bytes
    ) -> None:
        dir_fd = self._dirs.get(parent)
        if dir_fd is None:
            dir_fd = self._directory(parent)
        kind = entry.type
        if kind == tar.REGTYPE:
            self._file(entry, reader, dir_fd, last)
        elif kind == tar.DIRTYPE:
            self._dir(entry, dir_fd, last, name)
        elif kind == tar.SYMTYPE:
            self._replacing(entry, dir_fd, last, os.symlink, entry.linkname, last)
            self.written += len(entry.linkname)  # Docker's sizes count them, too
            self._unopened(entry, dir_fd, last)
        elif kind == tar.LNKTYPE:
            self._link(entry, dir_fd, last)
        elif kind in (tar.CHRTYPE, tar.BLKTYPE, tar.FIFOTYPE):
            self._node(entry, dir_fd, last)
        else:
            raise Malformed(
                f"unsupported archive: {os.fsdecode(name)!r} is of type {kind.decode('latin-1')!r}"
            )

    def _file(self, entry: Entry, reader: TarReader, dir_fd: int, last: bytes) -> None:
        mode = entry.mode
        try:
            fd = os.open(last, CREATE, mode, dir_fd=dir_fd)
        except FileExistsError:
            self._make_way(entry, dir_fd, last)
            fd = os.open(last, CREATE, mode, dir_fd=dir_fd)
        try:
            self.written += entry.data_size if entry.size else 0
            if self.written > self._limits.total:
                raise InvalidParameter(
                    f"the archive's files are larger than the {self._limits.total} bytes allowed"
                )
            digest = self._write(entry, reader, fd)
            uid, gid = self._chown or (entry.uid, entry.gid)
            if uid or gid or self._careful:
                os.fchown(fd, uid, gid)
            if mode & 0o6000 or self._careful:
                # chown drops the set-ID bits, and in a user namespace so does each write
                os.fchmod(fd, mode)
            if entry.xattrs:
                self._set_xattrs(entry, fd)
            os.utime(fd, ns=(entry.mtime if entry.atime is None else entry.atime, entry.mtime))
            if self._digested is not None and digest is not None:
                self._digested(os.fstat(fd), digest)
        finally:
            os.close(fd)

    def _write(self, entry: Entry, reader: TarReader, fd: int) -> bytes | None:
        """The data of a file; its digest where somebody wants it and it has no holes."""
        if self._digested is None or entry.extents is not None:
            if entry.size:
                reader.write_data(entry, fd)
            return None
        digest = hashlib.sha256()
        if entry.size:
            reader.write_data(entry, fd, digest.update)
        return digest.digest()

    def _dir(self, entry: Entry, dir_fd: int, last: bytes, name: bytes) -> None:
        exists = False
        try:
            os.mkdir(last, entry.mode, dir_fd=dir_fd)
        except FileExistsError:
            found = os.stat(last, dir_fd=dir_fd, follow_symlinks=False)
            exists = stat.S_ISDIR(found.st_mode)
            if not exists:
                self._make_way(entry, dir_fd, last)
                os.mkdir(last, entry.mode, dir_fd=dir_fd)
                if self._whiteouts == OVERLAY and is_whiteout(found):
                    self._opaque(dir_fd, last)  # the lower one is hidden: stay so
        fd = os.open(last, OPEN_DIR | os.O_NOFOLLOW, dir_fd=dir_fd)
        self._keep(name, fd)
        self._dir_attributes(entry, fd, exists)
        self._times[name] = entry.mtime

    def _dir_attributes(self, entry: Entry, fd: int, exists: bool) -> None:
        uid, gid = self._chown or (entry.uid, entry.gid)
        if uid or gid or exists or self._careful:
            os.fchown(fd, uid, gid)
        if exists or self._careful or entry.mode & 0o6000:
            os.fchmod(fd, entry.mode)
        if entry.mode & stat.S_ISGID or b"system.posix_acl_default" in entry.xattrs:
            self._careful = True
        if entry.xattrs:
            self._set_xattrs(entry, fd)

    def _root(self, entry: Entry) -> None:
        if entry.type != tar.DIRTYPE:
            raise Malformed("malformed archive: an entry without a name is not a directory")
        self._dir_attributes(entry, self._directory(b""), True)
        self._times[b""] = entry.mtime

    def _link(self, entry: Entry, dir_fd: int, last: bytes) -> None:
        target = clean(entry.linkname)
        parent, _, name = target.rpartition(b"/")
        if not name:
            raise Malformed("malformed archive: a hard link to the root")
        source_fd = self._directory(parent, create=False)
        found = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            raise Malformed(f"malformed archive: a hard link to directory {os.fsdecode(target)!r}")
        if not self._same(found, dir_fd, last):  # else it is that link already
            self._replacing(
                entry, dir_fd, last, os.link, name, last, src_dir_fd=source_fd,
                follow_symlinks=False,
            )  # fmt: skip
        if not is_whiteout(found):
            self._set_again(entry, found, dir_fd, last)

    def _set_again(self, entry: Entry, found: os.stat_result, dir_fd: int, last: bytes) -> None:
        """Set owner, mode and time again: the last link's entry decides, as in Docker.

        Equal attributes are not set: a new owner would remove the file's capabilities.
        """
        uid, gid = self._chown or (entry.uid, entry.gid)
        moved = (found.st_uid, found.st_gid) != (uid, gid)
        if moved:
            os.chown(last, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            return
        if moved or stat.S_IMODE(found.st_mode) != entry.mode:
            _chmod_unopened(last, dir_fd, entry.mode)
        if found.st_mtime_ns != entry.mtime:
            os.utime(last, ns=(entry.mtime, entry.mtime), dir_fd=dir_fd, follow_symlinks=False)

    def _node(self, entry: Entry, dir_fd: int, last: bytes) -> None:
        kinds = {tar.CHRTYPE: stat.S_IFCHR, tar.BLKTYPE: stat.S_IFBLK, tar.FIFOTYPE: stat.S_IFIFO}
        device = os.makedev(entry.major, entry.minor)
        mode = kinds[entry.type] | entry.mode
        try:
            self._replacing(entry, dir_fd, last, os.mknod, last, mode, device)
        except PermissionError:
            if not rootless_user() or entry.type == tar.FIFOTYPE:
                raise
            return  # no device nodes in a user namespace; a container's /dev is made anyway
        self._unopened(entry, dir_fd, last)

    def _unopened(self, entry: Entry, dir_fd: int, last: bytes) -> None:
        """Owner, attributes and times of what must not or cannot be opened."""
        uid, gid = self._chown or (entry.uid, entry.gid)
        if uid or gid or self._careful:
            os.chown(last, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
            if entry.type != tar.SYMTYPE:
                _chmod_unopened(last, dir_fd, entry.mode)
        if entry.xattrs:
            self._set_xattrs(entry, b"/proc/self/fd/%d/%s" % (dir_fd, last))
        os.utime(last, ns=(entry.mtime, entry.mtime), dir_fd=dir_fd, follow_symlinks=False)

    def _set_xattrs(self, entry: Entry, target: int | bytes) -> None:
        follow = isinstance(target, int)
        for key, value in entry.xattrs.items():
            if key.startswith(FORBIDDEN_XATTRS):
                continue
            try:
                os.setxattr(target, key, value, follow_symlinks=follow)
            except OSError as err:
                # another file system's or another kernel's attributes: as Docker, continue;
                # but a capability that is lost breaks programs, so setting it must succeed
                if err.errno not in DENIED or key == b"security.capability":
                    raise

    # -- whiteouts -------------------------------------------------------------------------

    def _whiteout(self, parent: bytes, last: bytes) -> None:
        if last == OPAQUE:
            self._hide_all(parent)
            return
        if last.startswith(WHITEOUT + WHITEOUT):
            return  # AUFS' own bookkeeping, as Docker skips it
        name = last[len(WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise Climbing(parent + b"/" + last)
        dir_fd = self._directory(parent)
        if self._whiteouts == APPLY:
            path = parent + b"/" + name if parent else name
            if path not in self._made:
                self._remove(dir_fd, name)
            return
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=dir_fd)
        except FileExistsError:
            # this layer has the name, too: what lies below it stays hidden
            found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self._opaque(dir_fd, name)

    def _hide_all(self, parent: bytes) -> None:
        dir_fd = self._directory(parent)
        if self._whiteouts == OVERLAY:
            os.setxattr(dir_fd, OVERLAY_OPAQUE, b"y")
            return
        for name in map(os.fsencode, os.listdir(dir_fd)):
            path = parent + b"/" + name if parent else name
            if path not in self._made:
                self._remove(dir_fd, name, keep=True)

    def _opaque(self, dir_fd: int, last: bytes) -> None:
        fd = os.open(last, OPEN_DIR | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            os.setxattr(fd, OVERLAY_OPAQUE, b"y")
        finally:
            os.close(fd)

    # -- names that are taken ----------------------------------------------------------------

    def _replacing(
        self, entry: Entry, dir_fd: int, last: bytes, call: Callable[..., None],
        *args: object, **keywords: object,
    ) -> None:  # fmt: skip
        key = "dst_dir_fd" if call is os.link else "dir_fd"
        keywords[key] = dir_fd
        try:
            call(*args, **keywords)
        except FileExistsError:
            self._make_way(entry, dir_fd, last)
            call(*args, **keywords)

    def _make_way(self, entry: Entry, dir_fd: int, last: bytes) -> None:
        """Remove what holds a name that an entry of another kind, or a later one, takes."""
        found = os.stat(last, dir_fd=dir_fd, follow_symlinks=False)
        was_dir = stat.S_ISDIR(found.st_mode)
        if self._keep_kind and was_dir != (entry.type == tar.DIRTYPE):
            which = ("directory", "non-directory") if was_dir else ("non-directory", "directory")
            raise InvalidParameter(
                f"cannot overwrite {which[0]} {os.fsdecode(clean(entry.name))!r} with {which[1]}"
            )
        if was_dir or stat.S_ISLNK(found.st_mode):
            self._remove(dir_fd, last, keep=True)
        else:
            os.unlink(last, dir_fd=dir_fd)

    def _remove(self, dir_fd: int, last: bytes, keep: bool = False) -> None:
        """Remove a tree, and forget the descriptors that may be in it; ``dir_fd``, too, unless
        the caller wants to ``keep`` it."""
        held = os.dup(dir_fd)
        try:
            self._forget_dirs(keep=dir_fd if keep else -1)
            remove(held, last)
        finally:
            os.close(held)

    def _same(self, found: os.stat_result, dir_fd: int, last: bytes) -> bool:
        try:
            other = os.stat(last, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino)

    # -- directories -----------------------------------------------------------------------

    def _directory(self, path: bytes, create: bool = True) -> int:
        """A descriptor of the directory ``path``, kept open; missing parents are made."""
        fd = self._dirs.get(path)
        if fd is not None:
            return fd
        where = (self._prefix + path).rstrip(b"/") or b"."
        try:
            fd = openat2(self.root_fd, where, OPEN_DIR, resolve=IN_ROOT)
        except FileNotFoundError:
            if not create or not path:
                raise
            parent, _, last = path.rpartition(b"/")
            parent_fd = self._directory(parent)
            os.mkdir(last, 0o755, dir_fd=parent_fd)  # EEXIST: a link that leads nowhere
            if self._careful:
                os.chown(last, *(self._chown or (0, 0)), dir_fd=parent_fd, follow_symlinks=False)
            fd = os.open(last, OPEN_DIR | os.O_NOFOLLOW, dir_fd=parent_fd)
            if self._whiteouts == APPLY:
                self._made.add(path)
        self._keep(path, fd)
        return fd

    def _keep(self, path: bytes, fd: int) -> None:
        old = self._dirs.pop(path, None)
        if old is not None:
            os.close(old)
        elif len(self._dirs) >= CACHED:
            self._forget_dirs(half=True)
        self._dirs[path] = fd

    def _forget_dirs(self, keep: int = -1, half: bool = False) -> None:
        """Close descriptors: after a directory or link was replaced, names mean other things."""
        for path in list(self._dirs)[: CACHED // 2 if half else None]:
            if self._dirs[path] != keep:
                os.close(self._dirs.pop(path))

    def unpack(self, reader: TarReader) -> int:
        """Apply every entry, finish and close; the bytes that were written."""
        try:
            for entry in reader:
                self.apply(entry, reader)
            reader.source.drain()
            self.finish()
        finally:
            self.close()
        return self.written

    def finish(self) -> None:
        """Set the directories' times, which making their entries had changed."""
        for path, mtime in reversed(self._times.items()):
            where = (self._prefix + path) or b"."
            try:
                fd = openat2(self.root_fd, where, OPEN_DIR | os.O_NOFOLLOW, resolve=IN_ROOT)
            except OSError:
                continue  # replaced later in the archive
            try:
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)

    def close(self) -> None:
        self._forget_dirs()

    def _explained(self, err: OSError, name: bytes) -> SystemFailure | InvalidParameter | Forbidden:
        what = f"cannot unpack {os.fsdecode(name)!r}: {(err.strerror or '').lower()}"
        if is_full(err):
            return NoSpace(f"{what}: {HINT}")
        if err.errno == errno.EROFS:
            return Forbidden(f"{what}: container rootfs or volume is marked read-only")
        if err.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EEXIST):
            return Malformed(f"malformed archive: {what}")
        if err.errno == errno.ENOENT and not isinstance(err.filename, int):
            return Malformed(f"malformed archive: {what} (a link or its target is missing)")
        return SystemFailure(what)


def is_whiteout(found: os.stat_result) -> bool:
    """overlayfs' mark of a deleted name: a character device 0:0."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _chmod_unopened(last: bytes, dir_fd: int, mode: int) -> None:
    """chmod(2) knows no AT_SYMLINK_NOFOLLOW: through an O_PATH descriptor's link in /proc."""
    fd = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def unpack_layer(
    blob: str, compression: str, expected: Digest, target: str, limits: Limits,
    progress: Callable[[int], None], *, base: str, overlay: bool,
) -> int:  # fmt: skip
    """Unpack a layer's blob into the new directory ``target``; bytes of its files. ``base`` and
    ``overlay``: see :class:`portside.store.store_jobs.UnpackLayer`. Raises DigestMismatch."""
    os.umask(0)
    if base:
        copy_tree(base, target)
    else:
        os.mkdir(target, 0o755)
    root_fd = os.open(target, OPEN_DIR)
    with Path(blob).open("rb", buffering=0) as file:
        pieces = Pipeline(file, compression, expected.algorithm, limits.stream)
        reader = TarReader(pieces, limits)
        form = OVERLAY if overlay else APPLY
        unpacker = Unpacker(root_fd, whiteouts=form, limits=limits)
        reported = 0
        for entry in reader:
            unpacker.apply(entry, reader)
            if unpacker.written - reported > REPORT:
                reported = unpacker.written
                progress(pieces.position())
        reader.source.drain()
        unpacker.finish()
        unpacker.close()
        progress(pieces.position())
        actual = f"{expected.algorithm}:{pieces.hexdigest()}"
    os.close(root_fd)
    if actual != expected:
        raise DigestMismatch(expected, actual)
    return unpacker.written
