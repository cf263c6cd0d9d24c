"""Device nodes and the links beside them in a container's ``/dev`` (runtime-spec,
config-linux.md, "Devices" and "Default Devices")."""

from __future__ import annotations

import os
import stat

from portside.kernel import mount
from portside.kernel.light_stdlib import suppress
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import Device, Spec
from portside.runtime.mounts import Parsed, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DEVICES = (
    Device("/dev/null", "c", 1, 3),
    Device("/dev/zero", "c", 1, 5),
    Device("/dev/full", "c", 1, 7),
    Device("/dev/tty", "c", 5, 0),
    Device("/dev/random", "c", 1, 8),
    Device("/dev/urandom", "c", 1, 9),
)
"""Nodes every container has; ptmx is a link."""
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
)


_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def make_devices(root: int, spec: Spec) -> None:
    """All nodes and links, in the container's own /dev."""
    assert spec.linux is not None
    before = os.umask(0)
    try:
        if not any(m.destination.rstrip("/") == "/dev" and Parsed(m).bind for m in spec.mounts):
            _make_defaults(root, {device.path for device in spec.linux.devices})
        for device in spec.linux.devices:
            directory, _, name = device.path.rpartition("/")
            parent = resolve(root, directory or "/", True)
            try:
                _mknod(root, device, parent, name)
            finally:
                os.close(parent)
    finally:
        os.umask(before)


def _make_defaults(root: int, given: set[str]) -> None:
    """Device nodes of every container, except those that its configuration describes itself."""
    dev = resolve(root, "/dev", True)
    try:
        for device in DEFAULT_DEVICES:
            if device.path not in given:
                _mknod(root, device, dev, device.path.removeprefix("/dev/"))
        for target, name in _LINKS:
            if name == "core" and not os.path.exists(target):
                continue  # a kernel without it
            with suppress(FileExistsError):
                os.symlink(target, name, dir_fd=dev)
    finally:
        os.close(dev)


def _mknod(root: int, device: Device, parent: int, name: str) -> None:
    if device.type not in _KINDS:
        raise InvalidParameter(f"device {device.path}: unknown type {device.type!r}")
    mode = _KINDS[device.type] | (0o666 if device.file_mode is None else device.file_mode & 0o777)
    try:
        os.mknod(name, mode, os.makedev(device.major, device.minor), dir_fd=parent)
        if device.uid or device.gid:
            os.chown(name, device.uid or 0, device.gid or 0, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        pass
    except PermissionError:  # in a user namespace nodes cannot be made: the host's is shown
        _bind_node(root, device)


def _bind_node(root: int, device: Device) -> None:
    """Show the host's node of the device: usually the one of the same name."""
    tree = _same_node(device, device.path)
    if tree < 0:
        others = _nodes_of_host(device)
        tree = next((one for path in others if (one := _same_node(device, path)) >= 0), -1)
    if tree < 0:
        raise SystemFailure(
            f"device {device.path}: the host has no node of {device.major}:{device.minor} below "
            "/dev, and a user namespace cannot make nodes"
        )
    try:
        target = resolve(root, device.path, False)
        try:
            mount.move_mount(tree, target, device.path)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def _same_node(device: Device, path: str) -> int:
    """A detached copy of the host's node at ``path``; -1 when it is not this device."""
    try:
        tree = mount.open_tree(mount.AT_FDCWD, path, mount.OPEN_TREE_CLONE)
    except FileNotFoundError:
        return -1
    if _is_node(device, os.fstat(tree)):
        return tree
    os.close(tree)
    return -1


def _is_node(device: Device, found: os.stat_result) -> bool:
    if stat.S_IFMT(found.st_mode) != _KINDS[device.type]:
        return False
    return device.type == "p" or found.st_rdev == os.makedev(device.major, device.minor)


def _nodes_of_host(device: Device) -> Iterator[str]:
    """Where else below /dev it is."""
    if device.type == "p":
        return
    for directory, below, names in os.walk("/dev"):
        if "pts" in below:
            below.remove("pts")
        for name in names:
            path = f"{directory}/{name}"
            with suppress(OSError):  # gone meanwhile
                if _is_node(device, os.lstat(path)):
                    yield path
