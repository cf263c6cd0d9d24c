"""Device nodes of a container: ``--device``, and all of the host's when privileged."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from portside.model import ociruntime as oci
from portside.model.container import DeviceMapping
from portside.model.errors import InvalidParameter

_SKIPPED_DIRECTORIES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
"""Below /dev, not for a container: it has its own, or they hold no devices."""


def mapped(
    devices: Iterable[DeviceMapping],
) -> tuple[list[oci.Device], list[oci.DeviceCgroup]]:
    """Nodes and the rules that allow them; a directory gives every device below it.

    Raises InvalidParameter with Docker's text when a device does not exist.
    """
    nodes: list[oci.Device] = []
    rules: list[oci.DeviceCgroup] = []
    for device in devices:
        inside = device.path_in_container or device.path_on_host
        access = device.cgroup_permissions or "rwm"
        for node in _resolve(device.path_on_host, inside):
            nodes.append(node)
            rules.append(oci.DeviceCgroup(True, node.type, node.major, node.minor, access))
    return nodes, rules


def all_of_host() -> list[oci.Device]:
    """Every device node below /dev, for a privileged container."""
    return [node for node in _walk("/dev", "/dev") if node.path != "/dev/console"]


def _resolve(path: str, inside: str) -> list[oci.Device]:
    target = os.path.realpath(path)  # /dev/disk/by-id/… names are links
    try:
        found = Path(target).stat()
    except OSError as error:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{path}": '
            "no such file or directory"
        ) from error
    if stat.S_ISDIR(found.st_mode):
        below = list(_walk(target, inside))
        if not below:
            raise InvalidParameter(
                f'error gathering device information while adding custom device "{path}": '
                "not a device node"
            )
        return below
    if not _is_device(found.st_mode):
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{path}": '
            "not a device node"
        )
    return [_node(found, inside)]


def _walk(directory: str, inside: str) -> Iterator[oci.Device]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = posixpath.join(inside, entry.name)
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED_DIRECTORIES:
                    yield from _walk(entry.path, path)
                continue
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # gone meanwhile
        if _is_device(found.st_mode):
            yield _node(found, path)


def _is_device(mode: int) -> bool:
    return stat.S_ISBLK(mode) or stat.S_ISCHR(mode)


def _node(found: os.stat_result, path: str) -> oci.Device:
    return oci.Device(
        path=path,
        type="b" if stat.S_ISBLK(found.st_mode) else "c",
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        file_mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )
