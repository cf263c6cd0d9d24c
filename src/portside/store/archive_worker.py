"""The worker's side of ``docker cp``; see ``store/container_archive.py``."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from portside.kernel import mount as mnt
from portside.kernel.idmapped import map_owners
from portside.kernel.process import CLONE_NEWNS, unshare
from portside.model.errors import InvalidParameter, NotFound, NotRunning, SystemFailure
from portside.model.golang.timestamps import format_rfc3339
from portside.model.idmap import IDMappings
from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits, PathStat, View, go_mode
from portside.store.decompress import plain
from portside.store.roots import OPEN_DIR, enter_stored, missing, open_beneath, open_root
from portside.store.tar_pack import TarWriter
from portside.store.tar_reader import TarReader
from portside.store.tar_unpack import Unpacker

MAX_LINKS = 255
"""Links followed to find a path's target; Docker's limit."""


def open_view(view: View) -> int:
    """The root of a container as a directory descriptor to walk from."""
    os.umask(0)  # what is made in a container has the mode that is asked for
    try:
        if view.pid:
            return open_root(view.pid)
    except NotRunning:
        if view.rootfs is None:
            raise
    if view.rootfs is None:
        raise NotFound(f"container {view.name} has no root file system")
    root = open_root(view.rootfs)
    if view.mounts:
        _mount_into(root, view)
    if view.working_dir and not view.read_only:
        _make_directories(root, view.working_dir, view.rootfs)
    if view.read_only and (view.mounts or view.rootfs.driver == "overlay"):
        mnt.mount_setattr(root, set=mnt.MOUNT_ATTR_RDONLY, about="the root")
    enter_stored(view.rootfs)
    return root


def _make_directories(root: int, path: str, rootfs: Rootfs) -> None:
    """Make ``path`` with its parents; the container's start reports what is in the way."""
    above = ""
    for name in path.strip("/").split("/"):
        try:
            parent = open_beneath(root, above, OPEN_DIR)
        except OSError:
            return
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
            if rootfs.stored_uids:
                owner = IDMappings(rootfs.stored_uids, rootfs.stored_gids).root
                os.chown(name, *owner, dir_fd=parent)
        os.close(parent)
        above = f"{above}/{name}".strip("/")


def _mount_into(root: int, view: View) -> None:
    """Stack a stopped container's mounts on its root, in a mount namespace of our own."""
    assert view.rootfs is not None
    unshare(CLONE_NEWNS)
    mnt.mount("", "/", "", mnt.MS_REC | mnt.MS_PRIVATE)
    if view.rootfs.driver == "overlay":
        place = os.open(Path(view.rootfs.lower[0]).parent / "empty", OPEN_DIR)
        mnt.move_mount(root, place)
        os.close(place)
    else:  # a plain directory: a mount in our own namespace, onto which others can be moved
        mnt.mount(view.rootfs.upper, view.rootfs.upper, "", mnt.MS_BIND)
        again = os.open(view.rootfs.upper, OPEN_DIR)
        os.dup2(again, root, inheritable=False)
        os.close(again)
    for mount in sorted(view.mounts, key=lambda each: each.destination.count("/")):
        try:
            flags = mnt.OPEN_TREE_CLONE | mnt.AT_RECURSIVE
            tree = mnt.open_tree(mnt.AT_FDCWD, mount.source, flags)
        except OSError as err:
            if missing(err):
                continue  # its volume is gone: the container's start reports it
            raise
        if mount.uid_mappings:
            with suppress(SystemFailure):  # then the host's owners are shown
                map_owners(tree, mount.uid_mappings, mount.gid_mappings)
        if mount.read_only:
            mnt.mount_setattr(tree, set=mnt.MOUNT_ATTR_RDONLY, about=mount.destination)
        target = _mount_point(root, mount.destination, mount.source)
        mnt.move_mount(tree, target)
        os.close(tree)
        os.close(target)


def _mount_point(root: int, path: str, source: str) -> int:
    """The place of a mount, made when it is not there yet, as a start would."""
    try:
        return open_beneath(root, path, os.O_PATH | os.O_CLOEXEC)
    except OSError as err:
        if not missing(err):
            raise
    maker = Unpacker(root)
    parent, _, last = os.path.normpath(path).strip("/").rpartition("/")
    dir_fd = maker._directory(os.fsencode(parent))
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.mkdir(last, 0o755, dir_fd=dir_fd)
    else:
        os.close(os.open(last, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644, dir_fd=dir_fd))
    maker.close()
    return open_beneath(root, path, os.O_PATH | os.O_CLOEXEC)


def absolute(path: str) -> tuple[str, str, bool]:
    """Docker's reading of a path: (directory, last component, must be a directory).

    The directory part is resolved in the root; the last component is taken as it is, unless
    the path ends in ``/`` or ``/.``, which asks for the directory itself.
    """
    if "\0" in path or not path:
        raise InvalidParameter("invalid path: it is empty or holds a zero byte")
    asserted = path.endswith(("/", "/.")) or path == "."
    clean = os.path.normpath("/" + path)
    clean = "/" + clean.lstrip("/")
    if asserted or clean == "/":
        return clean, "", True
    parent, _, last = clean.rpartition("/")
    return parent or "/", last, False


def base_name(path: str) -> str:
    """The name Docker gives to the thing: ``.`` for a path that ends in ``/.``."""
    if path.endswith("/.") or path == ".":
        return "."
    return os.path.basename(os.path.normpath("/" + path)) or "/"


class Place:
    """A path taken apart and opened: its directory, and its last component in it."""

    def __init__(self, view: View, path: str) -> None:
        self.view, self.path = view, path
        self.root = open_view(view)
        where, self.last, self.asserted = absolute(path)
        try:
            self.dir_fd = open_beneath(self.root, where, OPEN_DIR)
            name = self.last or "."
            self.found = os.stat(name, dir_fd=self.dir_fd, follow_symlinks=False)
        except OSError as err:
            raise self.explained(err) from err

    def explained(self, err: OSError) -> Exception:
        if err.errno == errno.ENOTDIR and self.asserted:
            return InvalidParameter(f"not a directory: {self.path}")
        if missing(err):
            return NotFound(f"Could not find the file {self.path} in container {self.view.name}")
        return SystemFailure(f"cannot open {self.path}: {err.strerror}")

    def stat(self) -> PathStat:
        """What ``HEAD /containers/{id}/archive`` reports of the path, with a link's target."""
        target = ""
        if stat.S_ISLNK(self.found.st_mode):
            where, last, _ = absolute(self.path)
            target = follow(self.root, f"{where}/{last}")
        return PathStat(
            base_name(self.path),
            self.found.st_size,
            go_mode(self.found.st_mode),
            format_rfc3339(self.found.st_mtime_ns),
            target,
        )


def stat_path(view: View, path: str) -> PathStat:
    return Place(view, path).stat()


def follow(root: int, path: str, links_met: list[str] | None = None) -> str:
    """Resolve a path inside the root; a part that does not exist is left unchanged.
    ``links_met`` takes the paths of the links on the way, without a leading slash."""
    todo = [part for part in path.split("/") if part][::-1]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        try:
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = open_beneath(root, "/" + "/".join([*done, part]), flags)
        except OSError:
            done.append(part)
            continue
        try:
            target = os.readlink("", dir_fd=fd)  # readlinkat(2): ENOENT for what is not a link
        except OSError:
            done.append(part)
            continue
        finally:
            os.close(fd)
        links += 1
        if links > MAX_LINKS:
            raise InvalidParameter(f"too many links in {path}")
        if links_met is not None:
            links_met.append("/".join([*done, part]))
        if target.startswith("/"):
            done = []
        todo += [each for each in target.split("/") if each][::-1]
    return "/" + "/".join(done)


_KERNEL = frozenset(
    "proc sysfs cgroup cgroup2 devpts mqueue securityfs debugfs tracefs bpf configfs".split()
)


def _kernel_devices(pid: int) -> frozenset[int]:
    """Devices of what the kernel shows as files in a running container, and of its /dev: a copy of
    the whole root does not want them, and reading some of them fails."""
    found = set()
    with suppress(OSError), open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            fields = line.split()
            kind = fields[fields.index("-") + 1]
            if kind in _KERNEL or (fields[4] == "/dev" and kind == "tmpfs"):
                major, _, minor = fields[2].partition(":")
                found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def get_archive(view: View, path: str, out: int, answer: int) -> int:
    """The stat first, so that it can go into the response's head; then the tar."""
    place = Place(view, path)
    encoded = msgspec.json.encode(place.stat())
    while encoded:
        encoded = encoded[os.write(answer, encoded) :]
    os.close(answer)
    writer = TarWriter(out)
    if view.pid and place.path.strip("/.") == "":
        writer.closed = _kernel_devices(view.pid)
    name = os.fsencode(base_name(path))
    try:
        if stat.S_ISDIR(place.found.st_mode):
            last = place.last or "."
            fd = os.open(last, OPEN_DIR | os.O_NOFOLLOW, dir_fd=place.dir_fd)
            if name == b"/":
                writer.directory(fd, b"")
                writer.tree(fd, b"", b"/")
            else:
                writer.directory(fd, name)
                writer.tree(fd, name)
        else:
            writer.node(place.dir_fd, os.fsencode(place.last), name)
    except OSError as err:
        raise SystemFailure(f"cannot read {err.filename}: {err.strerror}") from err
    writer.close()
    return 0


def put_archive(
    view: View, path: str, source: int, limits: Limits, *,
    keep_kind: bool, chown: tuple[int, int] | None,
) -> int:  # fmt: skip
    """Unpack into a directory; the whole path is followed, inside the root. Bytes of the files."""
    root = open_view(view)
    wanted, path = path, os.path.normpath("/" + path)
    try:
        target = open_beneath(root, path, os.O_PATH | os.O_CLOEXEC)
    except OSError as err:
        if missing(err):
            raise NotFound(f"Could not find the file {wanted} in container {view.name}") from err
        raise SystemFailure(f"cannot open {wanted}: {err.strerror}") from err
    if not stat.S_ISDIR(os.fstat(target).st_mode):
        raise InvalidParameter("extraction point is not a directory")
    unpacker = Unpacker(
        root,
        base=os.fsencode(path),
        limits=limits,
        chown=chown,
        keep_kind=keep_kind,
    )
    with open(source, "rb", buffering=0) as file:
        return unpacker.unpack(TarReader(plain(file), limits))
