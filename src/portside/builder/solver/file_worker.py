"""File operations on a writable root: copy, mkfile, mkdir, rm, symlink. In job processes."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from portside.builder.llb import (
    Action,
    ChownOpt,
    CopyAction,
    MakeDir,
    MakeFile,
    Remove,
    Symlink,
    UserOpt,
)
from portside.builder.solver.content_hash import ContentHash
from portside.builder.solver.copy_selection import NOTHING, Entry, Selected, Selection
from portside.builder.solver.job_values import Sealed
from portside.builder.solver.layer_seal import seal
from portside.model.dockerignore import Ignore
from portside.model.errors import InvalidParameter, NotFound, SystemFailure
from portside.store.decompress import detect, plain
from portside.store.roots import OPEN_DIR, closing, missing, open_beneath, open_root
from portside.store.tar_format import parse_header
from portside.store.tar_reader import TarReader
from portside.store.tar_unpack import Unpacker
from portside.store.trees import OPEN_FILE, copy_attributes, copy_data, copy_into, remove

if TYPE_CHECKING:
    from portside.builder.solver.build_jobs import InitCache, RunFileOp, SnapshotContext

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SYMBOLIC = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)")
Owner = tuple[int, int] | None


def run_file_op(job: RunFileOp) -> Sealed:
    os.umask(0)
    told: list[tuple[str, str]] = []
    opened: list[int] = []
    try:
        for each in (job.rootfs, *job.sources):
            opened.append(open_root(each))
        root, *sources = opened
        for placed in job.actions:
            source = sources[placed.source] if placed.source >= 0 else -1
            ignored = job.ignores[placed.source] if placed.source >= 0 and job.ignores else ()
            _Worker(root, source, job, told, Ignore(ignored)).run(placed.action)
    except OSError as err:
        where = err.filename if isinstance(err.filename, str) else ""
        if isinstance(err.filename, bytes):
            where = os.fsdecode(err.filename)
        hint = ": free some space (`portside system df`)" if err.errno == errno.ENOSPC else ""
        raise SystemFailure(f"{where}: {err.strerror}{hint}") from err
    finally:
        for fd in opened:
            os.close(fd)
    return msgspec.structs.replace(seal(job), sources=_named(told))


def snapshot_context(job: SnapshotContext) -> int:
    """See :class:`SnapshotContext`. Contexts have no owners: everything is root's."""
    os.umask(0)
    os.mkdir(job.target, 0o755)
    action = CopyAction(src="/", dest="/")
    with closing(open_root(job.source)) as root, closing(os.open(job.target, OPEN_DIR)) as top:
        copier = _Copier(top, action, (0, 0), ContentHash(owners=False))
        for selected in Selection(root, action, Ignore(job.ignore)):
            copier.directory(selected, top, keep_top=True)
    return 0


def _named(told: list[tuple[str, str]]) -> str:
    if len(told) == 1:
        return f"{told[0][0]}:{told[0][1]}"
    joined = ",".join(f"{kind}:{digest}" for kind, digest in told)
    return f"multi:{hashlib.sha256(joined.encode()).hexdigest()}"


class _Worker:
    """One action on one root."""

    def __init__(
        self, root: int, source: int, job: RunFileOp, told: list[tuple[str, str]],
        ignore: Ignore = NOTHING,
    ) -> None:  # fmt: skip
        self._root, self._source, self._job, self._told = root, source, job, told
        self._ignore = ignore

    def run(self, action: Action) -> None:
        if isinstance(action, CopyAction):
            self._copy(action)
        elif isinstance(action, MakeFile):
            self._make_file(action)
        elif isinstance(action, MakeDir):
            self._make_dir(action)
        elif isinstance(action, Remove):
            self._remove(action)
        else:
            self._symlink(action)

    # -- owners --------------------------------------------------------------------------

    def _owner(self, chown: ChownOpt | None) -> Owner:
        """(uid, gid); a user's number alone is the group's, too."""
        if chown is None:
            return None
        uid = gid = 0
        if chown.user is not None:
            uid, gid = self._user(chown.user)
        if chown.group is not None:
            gid = self._group(chown.group)
        return uid, gid

    def _user(self, user: UserOpt) -> tuple[int, int]:
        if user.id >= 0:
            return user.id, user.id
        for fields in self._lines("/etc/passwd", 4):
            if fields[0] == user.name and fields[2].isdigit() and fields[3].isdigit():
                return int(fields[2]), int(fields[3])
        raise InvalidParameter(
            f"unable to convert uid/gid chown string to host mapping: can't find uid for user "
            f"{user.name}: no such user: {user.name}"
        )

    def _group(self, group: UserOpt) -> int:
        if group.id >= 0:
            return group.id
        for fields in self._lines("/etc/group", 3):
            if fields[0] == group.name and fields[2].isdigit():
                return int(fields[2])
        raise InvalidParameter(
            f"unable to convert uid/gid chown string to host mapping: can't find gid for group "
            f"{group.name}: no such group: {group.name}"
        )

    def _lines(self, path: str, count: int) -> Iterator[list[str]]:
        try:
            fd = open_beneath(self._root, path, OPEN_FILE & ~os.O_NOFOLLOW)
        except OSError as err:
            if missing(err):
                return
            raise
        with os.fdopen(fd, "rb") as file:
            for line in file.read(8 << 20).decode("utf-8", "surrogateescape").splitlines():
                fields = line.strip().split(":")
                if len(fields) >= count:
                    yield fields

    # -- directories ---------------------------------------------------------------------

    def _directory(self, path: str, owner: Owner, mode: int = 0o755, timestamp: int = -1) -> int:
        """A descriptor of ``path``, which is made with its parents where it is missing."""
        try:
            return open_beneath(self._root, path, OPEN_DIR)
        except FileNotFoundError:
            pass
        parent, _, last = path.rstrip("/").rpartition("/")
        above = self._directory(parent or "/", owner, 0o755, timestamp)
        try:
            os.mkdir(last, mode, dir_fd=above)  # EEXIST: a link that leads nowhere
            fd = os.open(last, OPEN_DIR | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
        try:
            os.fchown(fd, *(owner or (0, 0)))
            os.fchmod(fd, mode)
            _stamp(fd, timestamp)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_dir(self, action: MakeDir) -> None:
        owner = self._owner(action.owner)
        path = _clean(action.path)
        if not action.make_parents:
            parent, _, last = path.rpartition("/")
            with closing(open_beneath(self._root, parent or "/", OPEN_DIR)) as above:
                os.mkdir(last, action.mode, dir_fd=above)
        try:
            os.close(self._directory(path, owner, action.mode, action.timestamp))
        except NotADirectoryError:
            raise InvalidParameter(f"mkdir {path}: file exists and is not a directory") from None

    def _make_file(self, action: MakeFile) -> None:
        path = _clean(action.path)
        parent, _, last = path.rpartition("/")
        above = open_beneath(self._root, parent or "/", OPEN_DIR)
        try:
            _make_room(above, os.fsencode(last), path)
            fd = os.open(last, CREATE, 0o600, dir_fd=above)
        finally:
            os.close(above)
        with os.fdopen(fd, "wb") as file:
            file.write(action.data)
            file.flush()
            os.fchown(fd, *(self._owner(action.owner) or (0, 0)))
            os.fchmod(fd, action.mode)
            _stamp(fd, action.timestamp)

    def _symlink(self, action: Symlink) -> None:
        path = _clean(action.new_path)
        parent, _, last = path.rpartition("/")
        with closing(open_beneath(self._root, parent or "/", OPEN_DIR)) as above:
            os.symlink(action.old_path, last, dir_fd=above)
            uid, gid = self._owner(action.owner) or (0, 0)
            os.chown(last, uid, gid, dir_fd=above, follow_symlinks=False)

    def _remove(self, action: Remove) -> None:
        paths = [_clean(action.path)]
        if action.allow_wildcard:
            pattern = CopyAction(src=paths[0], dest="/", allow_wildcard=True,
                                 allow_empty_wildcard=True)  # fmt: skip
            paths = [item.path for item in Selection(self._root, pattern)]
        for path in paths:
            parent, _, last = path.rpartition("/")
            try:
                above = open_beneath(self._root, parent or "/", OPEN_DIR)
            except OSError as err:
                if missing(err) and action.allow_not_found:
                    continue
                raise
            with closing(above):
                try:
                    os.stat(last, dir_fd=above, follow_symlinks=False)
                except FileNotFoundError:
                    if action.allow_not_found:
                        continue
                    raise
                remove(above, os.fsencode(last))

    # -- copying -------------------------------------------------------------------------

    def _copy(self, action: CopyAction) -> None:
        if self._source < 0:
            raise NotFound(f'"{action.src}": not found: the source is empty')
        owner = self._owner(action.owner)
        for selected in Selection(self._source, action, self._ignore):
            self._one(action, selected, owner)

    def _one(self, action: CopyAction, selected: Selected, owner: Owner) -> None:
        if (
            not selected.is_dir
            and action.attempt_unpack
            and self._unpacked(action, selected, owner)
        ):
            return
        dest = self._target(action, selected)
        digest = ContentHash(owners=False)
        copier = _Copier(self._root, action, owner, digest)
        if selected.is_dir:
            with closing(self._directory(dest, owner)) as top:
                copier.directory(selected, top, keep_top=action.dir_copy_contents)
        else:
            parent, _, last = dest.rpartition("/")
            with closing(self._directory(parent or "/", owner)) as above:
                copier.single(selected, above, os.fsencode(last))
        kind = "dir" if selected.is_dir else "file"
        self._told.append((kind, digest.hexdigest().partition(":")[2]))

    def _target(self, action: CopyAction, selected: Selected) -> str:
        """Where the thing itself goes."""
        dest, name = action.dest, selected.named
        if action.parents:
            inside = posixpath.relpath(selected.path, action.parents)
            return _clean(posixpath.join(dest, inside))
        if selected.is_dir and action.dir_copy_contents:
            return _clean(dest)
        if dest.endswith("/") or self._is_dir(dest):
            return _clean(posixpath.join(dest, name))
        return _clean(dest)

    def _is_dir(self, path: str) -> bool:
        try:
            os.close(open_beneath(self._root, path, OPEN_DIR))
        except OSError as err:
            if missing(err):
                return False
            raise
        return True

    def _unpacked(self, action: CopyAction, selected: Selected, owner: Owner) -> bool:
        """Unpack a local archive into the destination; False when it is none."""
        entry = next(iter(selected.walk()))
        if not stat.S_ISREG(entry.found.st_mode):
            return False
        fd = os.open(entry.name, OPEN_FILE, dir_fd=entry.dir_fd)
        with os.fdopen(fd, "rb", buffering=0) as file:
            if not is_archive(fd):
                if action.unpack_fails:
                    raise InvalidParameter(f"{selected.path} is not an archive")
                return False
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            os.close(self._directory(_clean(action.dest), owner))
            unpacker = Unpacker(
                self._root, base=os.fsencode(_clean(action.dest)), limits=self._job.limits,
                chown=owner if action.owner and not _is_default(action.owner) else None,
            )  # fmt: skip
            reader = TarReader(plain(file), self._job.limits)
            try:
                for member in reader:
                    unpacker.apply(member, reader)
                reader.source.drain()
                unpacker.finish()
            finally:
                unpacker.close()
        self._told.append(("file", digest))
        return True


def _is_default(owner: ChownOpt) -> bool:
    """Root for what has no owner; an archive's members have owners of their own."""
    return owner == ChownOpt(user=UserOpt(id=0), group=UserOpt(id=0))


class _Copier:
    """Copies one selected thing."""

    def __init__(self, root: int, action: CopyAction, owner: Owner, digest: ContentHash) -> None:
        self._root, self._action, self._owner, self._digest = root, action, owner, digest
        self._mode = _mode_of(action.mode)
        self._links: dict[tuple[int, int], bytes] = {}

    def directory(self, selected: Selected, top: int, *, keep_top: bool) -> None:
        """Lay a directory's content into ``top``."""
        self._top = top
        times: list[tuple[bytes, os.stat_result]] = []
        made: set[bytes] = set()
        for entry in selected.walk():
            self._digest.entry(entry.dir_fd, entry.name, entry.path, entry.found)
            if not entry.path:
                if not keep_top:
                    self._attributes(entry, top)
                continue
            parent, _, last = entry.path.rpartition(b"/")
            above = self._parent(parent, made)
            try:
                self._place(entry, above, last)
            finally:
                os.close(above)
            if stat.S_ISDIR(entry.found.st_mode):
                made.add(entry.path)
                times.append((entry.path, entry.found))
        for path, found in reversed(times):
            self._retime(path, found)

    def _parent(self, path: bytes, made: set[bytes]) -> int:
        """A directory of the copy; made where patterns left it out and took something in it."""
        fd = os.dup(self._top)
        for count, name in enumerate(path.split(b"/") if path else [], 1):
            with closing(fd):
                try:
                    child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=fd)
                except FileNotFoundError:
                    os.mkdir(name, 0o755, dir_fd=fd)
                    os.chown(name, *(self._owner or (0, 0)), dir_fd=fd, follow_symlinks=False)
                    child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=fd)
                    made.add(b"/".join(path.split(b"/")[:count]))
            fd = child
        return fd

    def _retime(self, path: bytes, found: os.stat_result) -> None:
        with closing(self._parent(path, set())) as above:
            self._times(above, found)

    def single(self, selected: Selected, above: int, name: bytes) -> None:
        """Copy what is no directory as ``name`` into ``above``."""
        self._top = above
        for entry in selected.walk():
            self._digest.entry(entry.dir_fd, entry.name, entry.path, entry.found)
            self._place(entry, above, name)

    def _place(self, entry: Entry, above: int, name: bytes) -> None:
        kind = entry.found.st_mode
        if stat.S_ISDIR(kind):
            self._dir(entry, above, name)
            return
        if stat.S_ISSOCK(kind):
            return
        _make_room(above, name, os.fsdecode(entry.path or name))
        key = (entry.found.st_dev, entry.found.st_ino)
        if entry.found.st_nlink > 1 and entry.path and self._linked(key, entry, above, name):
            return
        if stat.S_ISREG(kind):
            self._file(entry, above, name)
        elif stat.S_ISLNK(kind):
            os.symlink(os.readlink(entry.name, dir_fd=entry.dir_fd), name, dir_fd=above)
            self._node(entry, above, name)
        else:
            os.mknod(name, kind, entry.found.st_rdev, dir_fd=above)
            self._node(entry, above, name)

    def _linked(self, key: tuple[int, int], entry: Entry, above: int, name: bytes) -> bool:
        first = self._links.setdefault(key, entry.path)
        if first == entry.path:
            return False
        parent, _, last = first.rpartition(b"/")
        there = self._parent(parent, set())
        try:
            os.link(last, name, src_dir_fd=there, dst_dir_fd=above, follow_symlinks=False)
        finally:
            os.close(there)
        return True

    def _dir(self, entry: Entry, above: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=above)
        except FileExistsError:
            found = os.stat(name, dir_fd=above, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                raise InvalidParameter(
                    f"cannot copy to non-directory: {os.fsdecode(entry.path)}"
                ) from None
        fd = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=above)
        try:
            self._attributes(entry, fd)
        finally:
            os.close(fd)

    def _file(self, entry: Entry, above: int, name: bytes) -> None:
        source = os.open(entry.name, OPEN_FILE, dir_fd=entry.dir_fd)
        try:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, "changed while it was copied", entry.name)
            target = os.open(name, CREATE, 0o600, dir_fd=above)
            try:
                copy_data(source, target, found.st_size)
                copy_attributes(source, target, self._changed(found))
                self._times(target, found)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _attributes(self, entry: Entry, target: int) -> None:
        source = os.open(entry.name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=entry.dir_fd)
        try:
            copy_attributes(source, target, self._changed(entry.found))
        finally:
            os.close(source)

    def _changed(self, found: os.stat_result) -> os.stat_result:
        """The attributes with the wanted owner and mode."""
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


def _mode_of(text: str):  # type: ignore[no-untyped-def]
    """A function from a file's mode to its permissions; None for an empty text."""
    if not text:
        return None
    if text.isdigit():
        return lambda _: int(text, 8) & 0o7777
    return lambda mode: _symbolic(text, mode)


def _symbolic(text: str, mode: int) -> int:
    """chmod(1): ``u=rwX,go-w``."""
    found = stat.S_IMODE(mode)
    for clause in text.split(","):
        match = _SYMBOLIC.fullmatch(clause)
        if match is None:
            raise InvalidParameter(f"invalid chmod parameter: '{text}'")
        who = match[1] or "a"
        for operator, letters in re.findall(r"([-+=])([rwxXst]*)", match[2]):
            found = _clause(found, mode, who, operator, letters)
    return found


def _clause(found: int, mode: int, who: str, operator: str, letters: str) -> int:
    executable = stat.S_ISDIR(mode) or bool(found & 0o111)
    bits = 0
    for letter in letters:
        if letter == "X" and not executable:
            continue
        bits |= {"r": 4, "w": 2, "x": 1, "X": 1}.get(letter, 0)
    mask = special = 0
    for name, shift, extra in (("u", 6, 0o4000), ("g", 3, 0o2000), ("o", 0, 0)):
        if name in who or "a" in who:
            mask |= 7 << shift
            special |= extra if "s" in letters else 0
    wanted = (bits * 0o111 & mask) | special | (0o1000 if "t" in letters else 0)
    if operator == "+":
        return found | wanted
    return (found & ~wanted) if operator == "-" else (found & ~mask) | wanted


def _make_room(above: int, name: bytes, shown: str) -> None:
    """What stands at the name goes, unless it is a directory."""
    try:
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise InvalidParameter(f"cannot replace to directory {shown} with file")
    os.unlink(name, dir_fd=above)


def _clean(path: str) -> str:
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _stamp(fd: int, timestamp: int) -> None:
    if timestamp >= 0:
        os.utime(fd, ns=(timestamp, timestamp))


def is_archive(fd: int) -> bool:
    """Whether a file is a tar, compressed or not; the descriptor is rewound."""
    head = os.pread(fd, 512, 0)
    if detect(head[:8]):
        with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
            try:
                head = b""
                for piece in plain(file):
                    head += piece
                    if len(head) >= 512:
                        break
            except (InvalidParameter, SystemFailure):
                return False
            finally:
                os.lseek(fd, 0, os.SEEK_SET)
    if len(head) < 512 or not head.strip(b"\0"):
        return False
    try:
        parse_header(head[:512])
    except InvalidParameter:
        return False
    return True


def init_cache(job: InitCache) -> int:
    """See :class:`InitCache`."""
    os.umask(0)
    with closing(open_root(job.source)) as root:
        try:
            source = open_beneath(root, job.path, OPEN_DIR)
        except OSError as err:
            raise NotFound(
                f'"{job.path}": not found: a cache mount begins with a directory'
            ) from err
    os.makedirs(os.path.dirname(job.target), 0o711, exist_ok=True)
    temporary = f"{job.target}.tmp"
    with closing(source):
        os.mkdir(temporary, 0o755)
        with closing(os.open(temporary, OPEN_DIR)) as target:
            size = copy_into(source, target)
    os.rename(temporary, job.target)
    return size
