"""The runtime-spec's mounts.

Every destination is resolved beneath the container's root by openat2(2) and mounted on by
descriptor: a link in the image, or one swapped while we look, leads nowhere else
(CVE-2021-30465 and similar weaknesses).
"""

from __future__ import annotations

import errno
import os
import stat

from portside.kernel import fsopen, idmapped, selinux
from portside.kernel.cgroup import detect
from portside.kernel.light_stdlib import contextmanager, suppress
from portside.kernel.mount import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    OPEN_TREE_CLONE,
    PROC_SUPER_MAGIC,
    filesystem_of,
    mount_setattr,
    move_mount,
    open_tree,
)
from portside.kernel.openat2 import (
    IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    openat2,
)
from portside.kernel.overlay import overlay
from portside.kernel.overlay import prepare as prepare_overlay
from portside.kernel.process import CLONE_NEWNS, setns
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import MOUNT_CONTEXT_TYPE, IDMapping, Mount, Spec
from portside.model.rootfs import Rootfs
from portside.runtime import tmpcopyup
from portside.runtime.rootfs import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "relatime": (0, MOUNT_ATTR__ATIME),
    "atime": (0, MOUNT_ATTR__ATIME),
    "norelatime": (0, 0),  # the kernel's default is relatime, with or without it
    "nostrictatime": (0, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}
_PROPAGATION = {
    "private": MS_PRIVATE,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}
_IGNORED = frozenset(
    "bind rbind defaults async remount tmpcopyup z Z nocopy copy idmap ridmap norro nomand "
    "loud silent iversion noiversion".split()
)
"""Options that say what other fields say already, or nothing here."""
WRONG_KIND = (
    "not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if "
    "the specified host path exists and is the expected type"
)
_OF_SUPERBLOCK = frozenset("sync dirsync mand lazytime nolazytime".split())
"""Options of a file system, not of a mount of it: they mean nothing to a bind mount."""
CONTEXT_OPTIONS = ("context", "fscontext", "defcontext", "rootcontext")
LABEL = "io.portside.label="
"""Our own option: :attr:`Parsed.label`."""
MAX_LINKS = 40
"""Links followed on the way to a mount's destination, as many as the kernel would
(path_resolution(7))."""


def known_options() -> list[str]:
    """Mount options that are not the file system's own."""
    recursive = [f"r{option}" for option in (*_ATTRIBUTES, *_PROPAGATION)]
    return sorted(
        {"bind", "rbind", *_ATTRIBUTES, *_PROPAGATION, *recursive, *_IGNORED, *_OF_SUPERBLOCK}
    )


def prepare() -> None:
    """Learn the host's control group hierarchies and its overlay before the fork."""
    detect()
    prepare_overlay()


def _parts(kind: str, option: str) -> list[str]:
    """An option of a file system may be several, as mount(2) reads them; these have commas of their
    own: a list of memory nodes, the categories of an SELinux label, directories."""
    if kind != "tmpfs" or option.partition("=")[0] in ("mpol", *CONTEXT_OPTIONS):
        return [option]
    return option.split(",")


class Parsed:
    """A mount's options, distinguished."""

    def __init__(self, mount: Mount) -> None:
        self.set = self.clear = self.recursive_set = self.recursive_clear = 0
        self.propagation = 0
        self.recursive_propagation = False
        self.recursive = "rbind" in mount.options
        self.bind = self.recursive or "bind" in mount.options or mount.type == "bind"
        self.data: list[str] = []
        self.copy_up = "tmpcopyup" in mount.options
        self.maps_below = "idmap" not in mount.options or "ridmap" in mount.options
        """Whether owners are mapped below the source as well (runtime-spec, config.md)."""
        self.label = ""
        """Of the file system's root, set once it is mounted."""
        for option in mount.options:
            for part in _parts(mount.type, option):
                self._take(part)

    def contexts(self) -> list[str]:
        """The file system's own options that label it (SELinux)."""
        return [option for option in self.data if option.partition("=")[0] in CONTEXT_OPTIONS]

    def _take(self, option: str) -> None:
        if option in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option]
            self.set, self.clear = (self.set & ~off) | on, (self.clear & ~on) | off
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option[1:]]
            self.recursive_set |= on
            self.recursive_clear |= off
        elif option in _PROPAGATION or (option[1:] in _PROPAGATION and option[0] == "r"):
            self.recursive_propagation = option not in _PROPAGATION
            self.propagation = _PROPAGATION[option.removeprefix("r")]
        elif option.startswith(LABEL):
            self.label = option.removeprefix(LABEL)
        elif option and option not in _IGNORED:
            self.data.append(option)


def of_file_system(options: Parsed) -> list[str]:
    """What a new file system would be given, but for what bind mounts ignore."""
    return [option for option in options.data if option not in _OF_SUPERBLOCK]


class Mappers:
    """User namespaces by their mappings, for idmapped mounts: each is made once in a start, and
    the container's own (``existing``, -1 for none yet) serves where its mappings are wanted."""

    def __init__(self, spec: Spec, existing: int = -1) -> None:
        assert spec.linux is not None
        self._found: dict[tuple[object, object], int] = {}
        self._existing = existing
        if existing >= 0:
            self._found[_key(spec.linux.uid_mappings, spec.linux.gid_mappings)] = existing

    def of(self, uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> int:
        """The descriptor stays ours."""
        key = _key(uids, gids)
        if key not in self._found:
            self._found[key] = idmapped.user_namespace(uids, gids)
        return self._found[key]

    def of_root(self, rootfs: Rootfs) -> int:
        """-1 when the root is not mapped."""
        return self.of(rootfs.uid_mappings, rootfs.gid_mappings) if rootfs.uid_mappings else -1

    def close(self) -> None:
        """Close all but the one that was there before."""
        for fd in self._found.values():
            if fd != self._existing:
                os.close(fd)


def _key(*mappings: tuple[IDMapping, ...]) -> tuple[object, object]:
    uids, gids = (tuple((m.container_id, m.host_id, m.size) for m in each) for each in mappings)
    return uids, gids


def open_shared(mounts: Iterable[Mount], mappers: Mappers | None = None) -> dict[int, int]:
    """Copies of the sources that stay the host's peers (``shared``), by the mount's ``id``, since
    several may have one destination; to be taken
    while the mounts of this namespace are still what the host's are. With ``mappers``: of all
    bind mounts and mapped overlays, for who will not have the host's rights afterwards."""
    found = {}
    for mount in mounts:
        options = Parsed(mount)
        mapped = mappers is not None and bool(mount.uid_mappings or mount.gid_mappings)
        if mappers is not None and mapped and mount.type == "overlay":
            found[id(mount)] = _mapped_overlay(mount, options, mappers)
        elif options.bind and (mappers is not None or options.propagation == MS_SHARED):
            found[id(mount)] = tree = _opened(mount, options)
            if mappers is not None and mapped:
                namespace = mappers.of(mount.uid_mappings, mount.gid_mappings)
                idmapped.map_owners_as(tree, namespace, recursive=options.maps_below)
    return found


def _mapped_overlay(mount: Mount, options: Parsed, mappers: Mappers) -> int:
    """A read-only overlay of idmapped layers, since an overlay cannot be idmapped itself."""
    lower = tuple(option[10:] for option in options.data if option.startswith("lowerdir+="))
    others = tuple(option for option in options.data if not option.startswith("lowerdir+="))
    root = Rootfs(
        "overlay",
        lower=lower,
        options=others,
        uid_mappings=mount.uid_mappings,
        gid_mappings=mount.gid_mappings,
    )
    return open_root(root, False, mappers.of_root(root))


def _opened(mount: Mount, options: Parsed) -> int:
    try:
        return _source(mount, options)
    except OSError as err:
        raise _failure(mount, err) from err


def _failure(mount: Mount, err: OSError) -> SystemFailure:
    return SystemFailure(
        f'error mounting "{mount.source or mount.type}" to rootfs at '
        f'"{mount.destination}": {err.strerror}'
    )


def mount_all(root: int, mounts: Iterable[Mount], opened: Mapping[int, int]) -> list[int]:
    """Carry out mounts in order beneath the root; ``opened`` are the sources of some.

    A tmpfs that is to be read-only still can be written to: other mounts and devices may need
    places in it. The result is for :func:`make_read_only`.
    """
    filled: list[int] = []
    for mount in mounts:
        try:
            _mount(root, mount, opened.get(id(mount), -1), filled)
        except OSError as err:
            raise _failure(mount, err) from err
    return filled


def make_read_only(filled: list[int]) -> None:
    """Close mounts, which are read-only from then on."""
    for tree in filled:
        mount_setattr(tree, set=MOUNT_ATTR_RDONLY, about="tmpfs")
        os.close(tree)


def _mount(root: int, mount: Mount, opened: int, filled: list[int]) -> None:
    options = Parsed(mount)
    if options.bind or opened >= 0:
        _bind(root, mount, options, opened)
    else:
        _new(root, mount, options, filled)


def _new(root: int, mount: Mount, options: Parsed, filled: list[int]) -> None:
    """Mount a file system of its own, read-only as a whole if it is to be read-only."""
    data = options.data
    if options.set & MOUNT_ATTR_RDONLY and mount.type != "tmpfs":
        data = [*data, "ro"]
    given = dict(option.partition("=")[::2] for option in data)
    if mount.type == "tmpfs" and "mode" not in given:
        mode = _mode_of(root, mount.destination)
        data = data if mode is None else [*data, f"mode={mode:o}"]
    try:
        tree = filesystem(mount.type, mount.source, data, options.set & ~MOUNT_ATTR_RDONLY)
        if options.label:
            selinux.set_label_of(tree, options.label)
    except PermissionError:
        # A new proc cannot be mounted of a PID namespace that our user namespace does not own
        # (--pid host).
        if mount.type != "proc":
            raise
        tree = open_tree(AT_FDCWD, "/proc", OPEN_TREE_CLONE | AT_RECURSIVE)
    if options.copy_up and mount.type == "tmpfs":
        try:
            _copy_up(root, mount.destination, tree, given)
        except BaseException:
            os.close(tree)
            raise
    if mount.type == "tmpfs" and options.set & MOUNT_ATTR_RDONLY:
        options.set &= ~MOUNT_ATTR_RDONLY
        filled.append(os.dup(tree))
    _attach(root, tree, mount.destination, directory=True, options=options, kind=mount.type)


def _mode_of(root: int, destination: str) -> int | None:
    """The mode of a directory that a tmpfs hides, which the tmpfs keeps; None when there is none.
    As runc has it."""
    try:
        place = openat2(root, destination, os.O_PATH | os.O_CLOEXEC, resolve=IN_ROOT)
    except OSError:
        return None
    try:
        found = os.fstat(place)
        return stat.S_IMODE(found.st_mode) if stat.S_ISDIR(found.st_mode) else None
    finally:
        os.close(place)


def _copy_up(root: int, destination: str, tree: int, given: Mapping[str, str]) -> None:
    """``given`` are the options of the tmpfs: a mode and an owner among them win."""
    target = resolve(root, destination, True)
    from contextlib import ExitStack

    with ExitStack() as stack:
        stack.callback(os.close, target)
        places = []
        for directory in (target, tree):
            places.append(openat2(directory, ".", os.O_RDONLY | os.O_DIRECTORY))
            stack.callback(os.close, places[-1])
        tmpcopyup.copy(*places)
        if "uid" in given or "gid" in given:
            os.fchown(places[1], int(given.get("uid", -1)), int(given.get("gid", -1)))
        if "mode" in given:
            os.fchmod(places[1], int(given["mode"], 8))


def filesystem(kind: str, source: str, data: list[str], attributes: int) -> int:
    """A new file system of a kind, mounted nowhere yet."""
    if kind == "overlay":
        lower = [option[10:] for option in data if option.startswith("lowerdir+=")]
        if lower:
            others = [option for option in data if not option.startswith("lowerdir+=")]
            return overlay(lower, options=others, attributes=attributes, private=True)
    context = fsopen.fsopen(kind)
    try:
        if source:
            fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "source", source)
        for option in data:
            key, equals, value = option.partition("=")
            if equals:
                fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, key, value)
            else:
                fsopen.fsconfig(context, fsopen.FSCONFIG_SET_FLAG, key, None)
        fsopen.fsconfig(context, fsopen.FSCONFIG_CMD_CREATE, None, None)
        return fsopen.fsmount(context, attributes)
    finally:
        os.close(context)


def proc_of(pid_namespace: int, mount: Mount) -> int:
    """A detached proc that shows the PID namespace of a descriptor. Needs Linux 6.17; raises
    SystemFailure before."""
    options = Parsed(mount)
    context = fsopen.fsopen("proc")
    try:
        fsopen.fsconfig(context, fsopen.FSCONFIG_SET_FD, "pidns", None, pid_namespace)
        fsopen.fsconfig(context, fsopen.FSCONFIG_CMD_CREATE, None, None)
        return fsopen.fsmount(context, options.set)
    except OSError as err:
        raise SystemFailure(
            "sharing a PID namespace inside a user namespace needs Linux 6.17 (the option pidns "
            f"of proc): {err.strerror}"
        ) from err
    finally:
        os.close(context)


def _source(mount: Mount, options: Parsed) -> int:
    """A copy of what is mounted at a bind mount's source."""
    flags = OPEN_TREE_CLONE | (AT_RECURSIVE if options.recursive else 0)
    parts = mount.source.split("/", 4)  # /proc/PID/root/PATH
    if len(parts) == 5 and (*parts[:2], parts[3]) == ("", "proc", "root") and parts[4]:
        pid = parts[2]
        if pid.isascii() and pid.isdigit():
            return _of_a_process(pid, f"/{parts[4]}", flags)
    return open_tree(AT_FDCWD, mount.source, flags)


def _of_a_process(pid: str, path: str, flags: int) -> int:
    """A copy of what is mounted in another container. open_tree(2) copies mounts of one's own
    namespace only, hence the visit; links there lead nowhere."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(theirs, CLONE_NEWNS, f"setns(/proc/{pid}/ns/mnt)")
        try:
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            place = openat2(root, path, os.O_PATH, resolve=IN_ROOT | RESOLVE_NO_SYMLINKS)
            os.close(root)
            tree = open_tree(place, "", flags | AT_EMPTY_PATH)
            os.close(place)
            return tree
        finally:
            setns(own, CLONE_NEWNS, "setns(/proc/self/ns/mnt)")
    finally:
        os.close(own)
        os.close(theirs)


def _bind(root: int, mount: Mount, options: Parsed, opened: int) -> None:
    tree = opened if opened >= 0 else _source(mount, options)
    directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    if opened < 0 and (mount.uid_mappings or mount.gid_mappings):
        idmapped.map_owners(
            tree, mount.uid_mappings, mount.gid_mappings, recursive=options.maps_below
        )
    kind = "proc" if mount.type == "proc" else ""
    _attach(root, tree, mount.destination, directory=directory, options=options, kind=kind)


def _attach(
    root: int, tree: int, destination: str, *, directory: bool, options: Parsed, kind: str = ""
) -> None:
    """Set a detached mount's attributes and attach it; the descriptor is closed. ``kind``: of a
    new file system."""
    try:
        if options.set or options.clear:
            mount_setattr(tree, set=options.set, clear=options.clear, about=destination)
        if options.recursive_set or options.recursive_clear:
            mount_setattr(
                tree,
                set=options.recursive_set,
                clear=options.recursive_clear,
                recursive=True,
                about=destination,
            )
        target = resolve(root, destination, directory)
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode) != directory:
                raise NotADirectoryError(errno.ENOTDIR, WRONG_KIND)
            check_place(root, target, tree, kind, destination)
            move_mount(tree, target, destination)
        finally:
            os.close(target)
        if options.propagation:
            mount_setattr(
                tree,
                propagation=options.propagation,
                recursive=options.recursive_propagation,
                about=destination,
            )
    finally:
        os.close(tree)


def resolve(root: int, path: str, directory: bool) -> int:
    """A descriptor (O_PATH) of a place beneath the root, made when it is missing."""
    with suppress(FileNotFoundError):
        return openat2(root, path, os.O_PATH, resolve=IN_ROOT)
    if ".." in path.split("/") or not path.strip("/."):
        raise InvalidParameter(f"invalid mount destination {path!r}")
    return _make(root, path, directory, MAX_LINKS)


def _make(root: int, path: str, directory: bool, links: int) -> int:
    """Make what is missing of a path. The target of a link that leads nowhere is made, too,
    inside the root: ``..`` in it is for the kernel to resolve."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    current = os.dup(root)
    try:
        walked = ""
        for part in parts[:-1] if not directory else parts:
            above, walked = walked, f"{walked}/{part}"
            try:
                following = openat2(root, walked, os.O_PATH | os.O_DIRECTORY, resolve=IN_ROOT)
            except FileNotFoundError:
                following = _make_one(root, current, above, part, True, links)
            os.close(current)
            current = following
        if not directory:
            os.close(_make_one(root, current, "/".join(parts[:-1]), parts[-1], False, links))
        return openat2(root, path, os.O_PATH, resolve=IN_ROOT)
    finally:
        os.close(current)


def _make_one(root: int, parent: int, above: str, name: str, directory: bool, links: int) -> int:
    """Make one directory or file in ``parent``, which is ``above`` beneath the root."""
    try:
        with _unchanged_times(parent):
            if directory:
                os.mkdir(name, 0o755, dir_fd=parent)
                return openat2(root, f"{above}/{name}", os.O_PATH | os.O_DIRECTORY, resolve=IN_ROOT)
            flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(name, flags, 0o755, dir_fd=parent)
    except OSError as err:
        if err.errno not in (errno.EEXIST, errno.ELOOP) or not links:
            raise
    target = os.readlink(name, dir_fd=parent)
    place = target if target.startswith("/") else f"{above}/{target}"
    return _make(root, place, directory, links - 1)


@contextmanager
def _unchanged_times(directory: int) -> Iterator[None]:
    """A mount point that we make does not count as the container's change to its directory."""
    before = os.fstat(directory)
    yield
    os.utime(f"/proc/self/fd/{directory}", ns=(before.st_atime_ns, before.st_mtime_ns))


def mount_cgroups(root: int, mounts: Iterable[Mount], group: str, private: bool) -> None:
    """Carry out the mounts of type ``cgroup``, of the control group at path ``group``.

    ``private``: we are in a control group namespace, so that a fresh mount shows this group
    alone. Else version 1 shows the group's own directories, version 2 the whole tree, as it
    is usual.
    """
    for mount in mounts:
        if mount.type != "cgroup":
            continue
        try:
            _cgroup(root, mount, Parsed(mount), "" if private else group)
        except OSError as err:
            raise _failure(mount, err) from err


def _cgroup(root: int, mount: Mount, options: Parsed, group: str) -> None:
    layout = detect()
    plain = Parsed(Mount(destination="", options=("nosuid", "nodev", "noexec", "relatime")))
    if layout.mode == "none":
        _no_cgroups(root, mount, options)
        return
    if layout.unified and not layout.hierarchies:
        tree = _cgroup_tree("cgroup2", options, [], layout.unified, group)
        _attach(root, tree, mount.destination, directory=True, options=options)
        return
    data = ["mode=755", *options.contexts()]
    tree = filesystem("tmpfs", "tmpfs", data, options.set & ~MOUNT_ATTR_RDONLY)
    view = os.dup(tree)  # ours and fresh: nothing in it needs to be looked for from the root
    try:
        _attach(root, tree, mount.destination, directory=True, options=plain)
        for hierarchy in layout.hierarchies:
            data = list(hierarchy.controllers) or ["none", f"name={hierarchy.name}"]
            _show_hierarchy(view, "cgroup", options, data, hierarchy.mount, group)
            if len(hierarchy.controllers) > 1:
                name = os.path.basename(hierarchy.mount)
                for controller in {*hierarchy.controllers} - {name}:
                    os.symlink(name, controller, dir_fd=view)
        if layout.unified:
            _show_hierarchy(view, "cgroup2", options, [], layout.unified, group)
        if options.set & MOUNT_ATTR_RDONLY:
            mount_setattr(view, set=MOUNT_ATTR_RDONLY, about=mount.destination)
    finally:
        os.close(view)


def _no_cgroups(root: int, mount: Mount, options: Parsed) -> None:
    """Mount /sys/fs/cgroup for programs where we have no control groups: version 2 as the host has
    it, read-only, or an empty directory."""
    try:
        tree = filesystem("cgroup2", "cgroup", [], options.set | MOUNT_ATTR_RDONLY)
    except OSError:
        tree = filesystem("tmpfs", "tmpfs", ["mode=755", *options.contexts()], options.set)
    _attach(root, tree, mount.destination, directory=True, options=options)


def _show_hierarchy(
    view: int, kind: str, options: Parsed, data: list[str], host: str, group: str
) -> None:
    """Mount one hierarchy below the directory of all, under the name it has on the host."""
    name = os.path.basename(host)
    tree = _bound(host + group) if group else _cgroup_tree(kind, options, data, host, "")
    os.mkdir(name, 0o755, dir_fd=view)
    _attach(view, tree, f"/{name}", directory=True, options=options)


def _cgroup_tree(kind: str, options: Parsed, data: list[str], host: str, group: str) -> int:
    """A fresh mount; with a user namespace but none for control groups, the host's is shown."""
    try:
        return filesystem(kind, "cgroup", data, options.set)
    except PermissionError:
        if not group:
            raise
        return _bound(host)


def _bound(directory: str) -> int:
    """A copy of the host's mount of one directory."""
    return open_tree(AT_FDCWD, directory, OPEN_TREE_CLONE)


def link_mtab(root: int) -> None:
    """``/etc/mtab``, where old programs look for mounts; an image that has one keeps it."""
    with suppress(OSError):  # no /etc, or a file
        etc = openat2(root, "etc", os.O_PATH | os.O_DIRECTORY, resolve=IN_ROOT)
        try:
            with _unchanged_times(etc):
                os.symlink("/proc/mounts", "mtab", dir_fd=etc)
        finally:
            os.close(etc)


_SEPARATORS = str.maketrans("./", "/.")


def write_sysctls(spec: Spec) -> None:
    """Kernel parameters of the container's namespaces (sysctl(8) names)."""
    assert spec.linux is not None
    for name, value in spec.linux.sysctl.items():
        # sysctl(8): the first separator decides what the other one means in a name
        slashes = "/" in name and name.find("/") < (name.find(".") % (len(name) + 1))
        path = "/proc/sys/" + (name if slashes else name.translate(_SEPARATORS))
        if ".." in path:
            raise InvalidParameter(f"invalid sysctl {name!r}")
        try:
            with open(path, "w") as file:
                file.write(value)
        except OSError as err:
            raise SystemFailure(f"cannot set sysctl {name} to {value!r}: {err.strerror}") from err


_OVER_PROC = frozenset(
    f"/proc/{name}"
    for name in "cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo net/dev "
    "sys/kernel/ns_last_pid sys/crypto/fips_enabled".split()
)
"""Files that are covered to show a container its own figures (lxcfs)."""


# What may be mounted over a container's /proc: almost nothing. Labels, limits and masks are read
# and written through it, by us before execve(2) and by every ``exec`` later, so an image or a
# volume must not be able to put another tree there (CVE-2019-16884, CVE-2019-19921,
# CVE-2023-27561).


def check_place(root: int, target: int, tree: int, kind: str, destination: str) -> None:
    """Whether the mount ``tree`` may go to the place ``target`` beneath ``root``.

    Raises InvalidParameter. ``kind``: the type of a new file system, empty for a bind mount.
    """
    place = _place_beneath(root, target, tree if kind == "proc" else -1)
    if kind in ("proc", "sysfs") and place != os.path.normpath("/" + destination.lstrip("/")):
        raise InvalidParameter(
            f'error mounting "{kind}" to rootfs at "{destination}": filesystem "{kind}" must be '
            "mounted on ordinary directory"
        )
    if place != "/proc" and not place.startswith("/proc/"):
        return
    if place in _OVER_PROC or filesystem_of(tree) == PROC_SUPER_MAGIC:
        return
    what = "not of type proc" if place == "/proc" else "inside /proc"
    raise InvalidParameter(
        f'error mounting to rootfs at "{destination}": "{place}" cannot be mounted because it '
        f"is {what}"
    )


def _place_beneath(root: int, target: int, proc: int) -> str:
    """Where a place is; ``proc``: a proc file system to be asked, when /proc has none."""
    if proc < 0:
        above, place = os.readlink(f"/proc/self/fd/{root}"), os.readlink(f"/proc/self/fd/{target}")
    else:
        above, place = (os.readlink(f"self/fd/{fd}", dir_fd=proc) for fd in (root, target))
    return place.removeprefix(above.rstrip("/")) or "/"


# -- SELinux labels -------------------------------------------------------------------------------


_LABELLED_ELSEWHERE = frozenset(("proc", "sysfs", "cgroup2", "selinuxfs", "securityfs", "bpf"))
"""The policy says what their files are called."""


def label_options(spec: Spec) -> tuple[str, ...]:
    """The mount options that label a new file system; none without a label or SELinux."""
    label = spec.linux.mount_label if spec.linux is not None else ""
    if not label or not selinux.enabled():
        return ()
    kind = spec.annotations.get(MOUNT_CONTEXT_TYPE, "")
    return (f"{kind if kind in CONTEXT_OPTIONS else CONTEXT_OPTIONS[0]}={label}",)


def label_mounts(spec: Spec) -> None:
    """Add the label to the options of the mounts that take it, as runc has it."""
    options = label_options(spec)
    if not options:
        return
    for mount in spec.mounts:
        if mount.type == "mqueue":  # one file system for the whole IPC namespace: no options
            mount.options = (*mount.options, LABEL + options[0].partition("=")[2])
        elif _takes(mount):
            mount.options = (*mount.options, *options)


def _takes(mount: Mount) -> bool:
    if mount.type in _LABELLED_ELSEWHERE:
        return False
    parsed = Parsed(mount)
    return not parsed.bind and not parsed.contexts()
