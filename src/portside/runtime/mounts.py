"""The runtime-spec's mounts, devices, and masked and read-only paths.

Every destination is resolved beneath the container's root by openat2(2) and mounted on by
descriptor: a link in the image, or one swapped while we look, leads nowhere else
(CVE-2021-30465 and its kin).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from portside.kernel import fsopen
from portside.kernel import mount as kernel
from portside.kernel.cgroup import detect
from portside.kernel.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import Device, Mount, Spec
from portside.runtime import idmap

_ATTRIBUTES = {
    "ro": (kernel.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, kernel.MOUNT_ATTR_RDONLY),
    "nosuid": (kernel.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, kernel.MOUNT_ATTR_NOSUID),
    "nodev": (kernel.MOUNT_ATTR_NODEV, 0),
    "dev": (0, kernel.MOUNT_ATTR_NODEV),
    "noexec": (kernel.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, kernel.MOUNT_ATTR_NOEXEC),
    "noatime": (kernel.MOUNT_ATTR_NOATIME, kernel.MOUNT_ATTR__ATIME),
    "relatime": (0, kernel.MOUNT_ATTR__ATIME),
    "strictatime": (kernel.MOUNT_ATTR_STRICTATIME, kernel.MOUNT_ATTR__ATIME),
    "nodiratime": (kernel.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, kernel.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (kernel.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, kernel.MOUNT_ATTR_NOSYMFOLLOW),
}
_PROPAGATION = {
    "private": kernel.MS_PRIVATE,
    "shared": kernel.MS_SHARED,
    "slave": kernel.MS_SLAVE,
    "unbindable": kernel.MS_UNBINDABLE,
}
_IGNORED = frozenset(
    "bind rbind defaults async sync remount tmpcopyup z Z nocopy copy idmap ridmap norro".split()
)
"""Options that say what other fields say already, or nothing here."""
_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
DEFAULT_DEVICES = (
    Device("/dev/null", "c", 1, 3),
    Device("/dev/zero", "c", 1, 5),
    Device("/dev/full", "c", 1, 7),
    Device("/dev/tty", "c", 5, 0),
    Device("/dev/random", "c", 1, 8),
    Device("/dev/urandom", "c", 1, 9),
)
"""Nodes every container has (config-linux.md, "Default Devices"); ptmx is a link."""
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
)


def prepare() -> None:
    """Learn the host's control group hierarchies before the fork."""
    detect()


class Parsed:
    """A mount's options, told apart."""

    def __init__(self, mount: Mount) -> None:
        self.set = self.clear = self.recursive_set = self.recursive_clear = 0
        self.propagation = 0
        self.recursive_propagation = False
        self.recursive = "rbind" in mount.options
        self.bind = self.recursive or "bind" in mount.options or mount.type == "bind"
        self.data: list[str] = []
        for option in mount.options:
            self._take(option)

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
        elif option not in _IGNORED:
            self.data.append(option)


def mount_all(root: int, mounts: Iterable[Mount]) -> None:
    """Carry out mounts in order beneath the root."""
    for mount in mounts:
        try:
            _mount(root, mount)
        except OSError as err:
            raise SystemFailure(
                f'error mounting "{mount.source or mount.type}" to rootfs at '
                f'"{mount.destination}": {err.strerror}'
            ) from err


def _mount(root: int, mount: Mount) -> None:
    options = Parsed(mount)
    if options.bind:
        _bind(root, mount, options)
    elif mount.type == "cgroup":
        _cgroup(root, mount, options)
    else:
        tree = filesystem(mount.type, mount.source, options.data, options.set)
        _attach(root, tree, mount.destination, directory=True, options=options)


def filesystem(kind: str, source: str, data: list[str], attributes: int) -> int:
    """A new file system of a kind, mounted nowhere yet."""
    context = fsopen.fsopen(kind)
    try:
        if source and kind not in ("proc", "sysfs", "cgroup"):
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


def _bind(root: int, mount: Mount, options: Parsed) -> None:
    flags = kernel.OPEN_TREE_CLONE | (kernel.AT_RECURSIVE if options.recursive else 0)
    tree = kernel.open_tree(kernel.AT_FDCWD, mount.source, flags)
    directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    if mount.uid_mappings or mount.gid_mappings:
        idmap.apply(tree, mount.uid_mappings, mount.gid_mappings)
    _attach(root, tree, mount.destination, directory=directory, options=options)


def _attach(root: int, tree: int, destination: str, *, directory: bool, options: Parsed) -> None:
    """Set a detached mount's attributes and attach it; the descriptor is closed."""
    try:
        if options.set or options.clear:
            kernel.mount_setattr(tree, set=options.set, clear=options.clear, about=destination)
        if options.recursive_set or options.recursive_clear:
            kernel.mount_setattr(
                tree,
                set=options.recursive_set,
                clear=options.recursive_clear,
                recursive=True,
                about=destination,
            )
        target = resolve(root, destination, directory)
        try:
            kernel.move_mount(tree, target, destination)
        finally:
            os.close(target)
        if options.propagation:
            kernel.mount_setattr(
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
        return openat2(root, path, os.O_PATH, resolve=_RESOLVE)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise InvalidParameter(f"invalid mount destination {path!r}")
    current = os.dup(root)
    try:
        walked = ""
        for part in parts[:-1] if not directory else parts:
            walked += f"/{part}"
            try:
                following = openat2(root, walked, os.O_PATH | os.O_DIRECTORY, resolve=_RESOLVE)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=current)
                following = openat2(root, walked, os.O_PATH | os.O_DIRECTORY, resolve=_RESOLVE)
            os.close(current)
            current = following
        if not directory:
            flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(parts[-1], flags, 0o755, dir_fd=current))
        return openat2(root, path, os.O_PATH, resolve=_RESOLVE)
    finally:
        os.close(current)


def _cgroup(root: int, mount: Mount, options: Parsed) -> None:
    """The container's view of its control groups: version 2 as it is, version 1 each."""
    layout = detect()
    plain = Parsed(Mount(destination="", options=("nosuid", "nodev", "noexec", "relatime")))
    if layout.unified and not layout.hierarchies:
        tree = filesystem("cgroup2", "", options.data, options.set)
        _attach(root, tree, mount.destination, directory=True, options=options)
        return
    tree = filesystem("tmpfs", "tmpfs", ["mode=755"], options.set & ~kernel.MOUNT_ATTR_RDONLY)
    _attach(root, tree, mount.destination, directory=True, options=plain)
    for hierarchy in layout.hierarchies:
        data = list(hierarchy.controllers) or ["none", f"name={hierarchy.name}"]
        place = f"{mount.destination}/{os.path.basename(hierarchy.mount)}"
        tree = filesystem("cgroup", "", data, options.set)
        _attach(root, tree, place, directory=True, options=options)
    if layout.unified:
        place = f"{mount.destination}/{os.path.basename(layout.unified)}"
        tree = filesystem("cgroup2", "", [], options.set)
        _attach(root, tree, place, directory=True, options=options)
    if options.set & kernel.MOUNT_ATTR_RDONLY:
        target = resolve(root, mount.destination, True)
        try:
            kernel.mount_setattr(target, set=kernel.MOUNT_ATTR_RDONLY, about=mount.destination)
        finally:
            os.close(target)


def make_devices(root: int, spec: Spec) -> None:
    """Device nodes and the links beside them, in the container's own /dev."""
    assert spec.linux is not None
    dev = resolve(root, "/dev", True)
    try:
        if not any(m.destination.rstrip("/") == "/dev" and Parsed(m).bind for m in spec.mounts):
            before = os.umask(0)
            for device in DEFAULT_DEVICES:
                _mknod(root, device)
            for target, name in _LINKS:
                with suppress(FileExistsError):
                    os.symlink(target, name, dir_fd=dev)
            os.umask(before)
    finally:
        os.close(dev)
    before = os.umask(0)
    for device in spec.linux.devices:
        _mknod(root, device)
    os.umask(before)


def _mknod(root: int, device: Device) -> None:
    kinds = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
    if device.type not in kinds:
        raise InvalidParameter(f"device {device.path}: unknown type {device.type!r}")
    directory, _, name = device.path.rpartition("/")
    parent = resolve(root, directory or "/", True)
    mode = kinds[device.type] | (0o666 if device.file_mode is None else device.file_mode & 0o777)
    try:
        os.mknod(name, mode, os.makedev(device.major, device.minor), dir_fd=parent)
        if device.uid or device.gid:
            os.chown(name, device.uid or 0, device.gid or 0, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        pass
    finally:
        os.close(parent)


def write_sysctls(spec: Spec) -> None:
    """Kernel parameters of the container's namespaces (sysctl(8) names)."""
    assert spec.linux is not None
    for name, value in spec.linux.sysctl.items():
        path = "/proc/sys/" + name.replace(".", "/")
        if ".." in path:
            raise InvalidParameter(f"invalid sysctl {name!r}")
        try:
            with open(path, "w") as file:
                file.write(value)
        except OSError as err:
            raise SystemFailure(f"cannot set sysctl {name} to {value!r}: {err.strerror}") from err


def protect(spec: Spec) -> None:
    """From inside: masked paths, read-only paths, a read-only root."""
    assert spec.linux is not None and spec.root is not None
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in spec.linux.readonly_paths:
            _read_only(root, path)
        _mask(root, spec.linux.masked_paths)
        if spec.root.readonly:
            kernel.mount_setattr(root, set=kernel.MOUNT_ATTR_RDONLY, about="/")
    finally:
        os.close(root)


def _read_only(root: int, path: str) -> None:
    try:
        target = openat2(root, path, os.O_PATH, resolve=_RESOLVE)
    except (FileNotFoundError, NotADirectoryError):
        return
    tree = kernel.open_tree(
        target, "", kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE | kernel.AT_EMPTY_PATH
    )
    try:
        kernel.mount_setattr(tree, set=kernel.MOUNT_ATTR_RDONLY, recursive=True, about=path)
        kernel.move_mount(tree, target, path)
    finally:
        os.close(tree)
        os.close(target)


def _mask(root: int, paths: tuple[str, ...]) -> None:
    """Cover files with the real /dev/null and directories with an empty, read-only tmpfs."""
    null = -1
    try:
        for path in paths:
            try:
                target = openat2(root, path, os.O_PATH, resolve=_RESOLVE)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISDIR(os.fstat(target).st_mode):
                cover = filesystem("tmpfs", "tmpfs", ["nr_inodes=1"], kernel.MOUNT_ATTR_RDONLY)
            else:
                null = null if null >= 0 else _true_null(root)
                cover = kernel.open_tree(null, "", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
            try:
                kernel.move_mount(cover, target, path)
            finally:
                os.close(cover)
                os.close(target)
    finally:
        if null >= 0:
            os.close(null)


def _true_null(root: int) -> int:
    """A descriptor of /dev/null that is proven to be it (CVE-2025-31133)."""
    null = openat2(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW, resolve=_RESOLVE)
    found = os.fstat(null)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        os.close(null)
        raise OSError(errno.EPERM, "is not the null device", "/dev/null")
    return null
