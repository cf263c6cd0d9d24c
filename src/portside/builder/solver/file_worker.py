"""File operations on a writable root: copy, mkfile, mkdir, rm, symlink. In job processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

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
from portside.builder.solver.copied_layers import EarlierLayer, MadeFiles
from portside.builder.solver.copy_selection import NOTHING, Selected, Selection, followed
from portside.builder.solver.file_digests import FileDigests
from portside.builder.solver.job_values import Earlier, Placed
from portside.builder.solver.tree_copier import (
    CREATE,
    Copies,
    Owner,
    TreeCopier,
    WritableRoot,
    make_room,
)
from portside.model.dockerignore import Ignore
from portside.model.errors import InvalidParameter, NotFound, SystemFailure
from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits
from portside.store.decompress import detect, plain
from portside.store.roots import (
    OPEN_DIR,
    closing,
    missing,
    open_beneath,
    open_root,
    resolved,
)
from portside.store.tar_format import parse_header
from portside.store.tar_reader import TarReader
from portside.store.tar_unpack import Unpacker
from portside.store.trees import OPEN_FILE, copy_into, remove

MAX_LINKS = 40
"""Links that one path may lead through; the kernel has the same limit (path_resolution(7))."""


def run_file_op(
    rootfs: Rootfs, actions: Sequence[Placed], sources: Sequence[Rootfs], limits: Limits, *,
    ignores: Sequence[Sequence[str]] = (), digests: Sequence[str] = (),
    private: Sequence[bool] = (), keep: Sequence[str] = (), earlier: Earlier | None = None,
    made: str = "",
) -> tuple[FileDigests, str]:  # fmt: skip
    """The digests of the files made, and what was copied (``Sealed.sources``). See
    :class:`portside.builder.solver.build_jobs.RunFileOp`."""
    os.umask(0)
    known = [
        FileDigests(path, private=own)
        for path, own in zip(
            digests or [""] * len(sources), private or [False] * len(sources), strict=True
        )
    ]
    copies = FileDigests(private=True)
    kept = frozenset(os.fsencode(path.strip("/")) for path in keep)
    if rootfs.driver != "overlay":
        earlier, made = None, ""  # there the root has the files of all layers
    before, files = EarlierLayer(earlier), MadeFiles()
    copied: list[tuple[str, str]] = []
    with ExitStack() as opened:
        try:
            opened.callback(before.close)
            root = opened.enter_context(contextlib.closing(WritableRoot(rootfs)))
            roots = [opened.enter_context(closing(open_root(each))) for each in sources]
            for placed in actions:
                number = placed.source
                source = Source()
                if number >= 0:
                    ignored = Ignore(ignores[number] if ignores else ())
                    source = Source(roots[number], ignored, known[number])
                made_by = Copies(copies, before, files)
                FileWorker(root, source, limits, copied, made_by, kept).run(placed.action)
        except OSError as err:
            where = err.filename if isinstance(err.filename, str) else ""
            if isinstance(err.filename, bytes):
                where = os.fsdecode(err.filename)
            hint = ": free some space (`portside system df`)" if err.errno == errno.ENOSPC else ""
            raise SystemFailure(f"{where}: {err.strerror}{hint}") from err
    for each in known:
        each.save()
    if all(isinstance(each.action, CopyAction) and not each.action.attempt_unpack
           for each in actions):  # fmt: skip
        files.save(made)
    return copies, _named(copied)


def snapshot_context(
    source: Rootfs, ignore: Sequence[str], target: str, include: Sequence[str] = (),
    follow: Sequence[str] = (),
) -> None:  # fmt: skip
    """See :class:`portside.builder.solver.build_jobs.SnapshotContext`. Contexts have no
    owners: everything is root's."""
    os.umask(0)
    os.mkdir(target, 0o755)
    action = CopyAction(src="/", dest="/")
    absent = Ignore(ignore)
    nothing = FileDigests()
    writable = WritableRoot(Rootfs("bind", upper=target))
    with closing(open_root(source)) as below, contextlib.closing(writable) as root:
        if include or follow:
            wanted = [*include, *followed(below, follow)]
            action = CopyAction(src="/", dest="/", exclude=tuple(ignore))
            absent = Ignore(["**", *(f"!{pattern}" for pattern in wanted)])
        copies = Copies(nothing)
        copier = TreeCopier(root, action, (0, 0), ContentHash(owners=False), nothing, copies)
        for selected in Selection(below, action, absent):
            copier.directory(selected, os.open(target, OPEN_DIR), keep_top=True)


@dataclass(frozen=True)
class Source:
    """What an action copies from: a root, -1 for none."""

    fd: int = -1
    ignore: Ignore = NOTHING
    digests: FileDigests = field(default_factory=FileDigests)


def _named(copied: list[tuple[str, str]]) -> str:
    if len(copied) == 1:
        return f"{copied[0][0]}:{copied[0][1]}"
    joined = ",".join(f"{kind}:{digest}" for kind, digest in copied)
    return f"multi:{hashlib.sha256(joined.encode()).hexdigest()}"


class FileWorker:
    """One action on one root."""

    def __init__(
        self, root: WritableRoot, source: Source, limits: Limits, copied: list[tuple[str, str]],
        copies: Copies, keep: Collection[bytes] = (),
    ) -> None:  # fmt: skip
        """``copied`` gets kind and digest of what was copied, ``copies`` the files made. ``keep``:
        see :func:`run_file_op`."""
        self._writable, self._source, self._limits = root, source, limits
        self._copied, self._copies, self._keep = copied, copies, keep

    @property
    def _root(self) -> int:
        return self._writable.fd

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

    def _owner(self, chown: ChownOpt | None, *, must_exist: bool = True) -> Owner:
        """(uid, gid); a user's number alone is the group's, too. Unless names ``must_exist``, an
        unknown user is root and an unknown group the user's."""
        if chown is None:
            return None
        uid = gid = 0
        allowed = () if must_exist else (InvalidParameter,)
        if chown.user is not None:
            with contextlib.suppress(*allowed):
                uid, gid = self._user(chown.user)
        if chown.group is not None:
            with contextlib.suppress(*allowed):
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

    def _directory(
        self, path: str, owner: Owner, mode: int = 0o755, timestamp: int = -1,
        parents: int = 0o755,
    ) -> int:  # fmt: skip
        """A descriptor of ``path``, which is made where it is missing, as are its parents, with
        the mode ``parents``."""
        try:
            return open_beneath(self._root, path, OPEN_DIR)
        except FileNotFoundError:
            pass
        path = self._followed(path.rstrip("/"))
        parent, _, last = path.rpartition("/")
        above = self._directory(parent or "/", owner, parents, timestamp, parents)
        return self._new_directory(above, last, owner, mode, timestamp)

    def _new_directory(self, above: int, last: str, owner: Owner, mode: int, timestamp: int) -> int:
        """A descriptor of the directory ``last``, which is not there yet; closes ``above``."""
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
        owner = self._owner(action.owner, must_exist=False)
        path = _clean(action.path)
        try:
            if action.make_parents:
                fd = self._directory(path, owner, action.mode, action.timestamp)
            else:
                parent, _, last = path.rpartition("/")
                above = open_beneath(self._root, parent or "/", OPEN_DIR)
                fd = self._new_directory(above, last, owner, action.mode, action.timestamp)
            os.close(fd)
        except NotADirectoryError:
            raise InvalidParameter(f"mkdir {path}: file exists and is not a directory") from None

    def _make_file(self, action: MakeFile) -> None:
        path = _clean(action.path)
        parent, _, last = path.rpartition("/")
        above = open_beneath(self._root, parent or "/", OPEN_DIR)
        try:
            make_room(above, os.fsencode(last), path)
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
        if self._source.fd < 0:
            raise NotFound(f'"{action.src}": not found: the source is empty')
        owner = self._owner(action.owner)
        for selected in Selection(self._source.fd, action, self._source.ignore):
            self._one(action, selected, owner)

    def _one(self, action: CopyAction, selected: Selected, owner: Owner) -> None:
        if (
            not selected.is_dir
            and action.attempt_unpack
            and self._unpacked(action, selected, owner)
        ):
            return
        dest = self._target(action, selected)
        # a symbolic mode changes what is copied, not the directories made for it
        mode = int(action.mode, 8) & 0o7777 if action.mode.isdecimal() else 0o755
        digest = ContentHash(owners=False)
        copier = TreeCopier(
            self._writable, action, owner, digest, self._source.digests, self._copies, self._keep
        )
        if selected.is_dir:
            top = self._directory(dest, owner, mode, parents=mode)
            copier.directory(selected, top, keep_top=action.dir_copy_contents)
        else:
            parent, _, last = dest.rpartition("/")
            above = self._directory(parent or "/", owner, mode, parents=mode)
            copier.single(selected, above, os.fsencode(last))
        kind = "dir" if selected.is_dir else "file"
        self._copied.append((kind, digest.hexdigest().partition(":")[2]))

    def _target(self, action: CopyAction, selected: Selected) -> str:
        """The path of the copied file or directory itself."""
        dest, name = action.dest, selected.named
        if action.parents:
            inside = posixpath.relpath(selected.path, action.parents)
            return _clean(posixpath.join(dest, inside))
        if selected.is_dir and action.dir_copy_contents:
            return _clean(dest)
        if dest.endswith("/") or self._is_dir(dest):
            return _clean(posixpath.join(dest, name))
        return self._followed(_clean(dest))

    def _followed(self, path: str) -> str:
        """Where a path leads when its last part is a link, within the root, whether that exists or
        not: Docker writes through such a link. OSError when the links never end."""
        for _ in range(MAX_LINKS):
            parent, _, last = path.rpartition("/")
            try:
                with closing(open_beneath(self._root, parent or "/", OPEN_DIR)) as above:
                    place = resolved(self._root, above)
                    target = os.readlink(last, dir_fd=above)
            except OSError as err:
                if missing(err) or err.errno == errno.EINVAL:  # no link
                    return path
                raise
            path = _clean(posixpath.join(place, target))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _is_dir(self, path: str) -> bool:
        try:
            os.close(open_beneath(self._root, path, OPEN_DIR))
        except OSError as err:
            if missing(err):
                return False
            raise
        return True

    def _unpacked(self, action: CopyAction, selected: Selected, owner: Owner) -> bool:
        """Unpack a local archive into the destination; False when it is not an archive."""
        entry = next(iter(selected.walk()))
        if not stat.S_ISREG(entry.found.st_mode):
            return False
        fd = os.open(entry.name, OPEN_FILE, dir_fd=entry.dir_fd)
        with os.fdopen(fd, "rb", buffering=0) as file:
            if not is_archive(fd):
                return False
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            os.close(self._directory(_clean(action.dest), owner))
            unpacker = Unpacker(
                self._root, base=os.fsencode(_clean(action.dest)), limits=self._limits,
                chown=owner if action.owner and not _is_default(action.owner) else None,
            )  # fmt: skip
            unpacker.unpack(TarReader(plain(file), self._limits))
        self._copied.append(("file", digest))
        return True


def _is_default(owner: ChownOpt) -> bool:
    """Whether the owner is root, the default: an archive's members then keep their own owners."""
    return owner == ChownOpt(user=UserOpt(id=0), group=UserOpt(id=0))


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


def init_cache(source: Rootfs, path: str, target: str) -> int:
    """See :class:`portside.builder.solver.build_jobs.InitCache`; bytes of its files."""
    os.umask(0)
    with closing(open_root(source)) as root:
        try:
            below = open_beneath(root, path, OPEN_DIR)
        except OSError as err:
            raise NotFound(f'"{path}": not found: a cache mount begins with a directory') from err
    os.makedirs(os.path.dirname(target), 0o711, exist_ok=True)
    temporary = f"{target}.tmp"
    with closing(below):
        os.mkdir(temporary, 0o755)
        with closing(os.open(temporary, OPEN_DIR)) as made:
            size = copy_into(below, made)
    os.rename(temporary, target)
    return size
