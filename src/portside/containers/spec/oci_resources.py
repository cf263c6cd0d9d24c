"""Docker's ``Resources`` as the runtime-spec's ``linux.resources``, and the device nodes of a
container: ``--device``, and all of the host's when privileged."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from portside.kernel.cgroup.devices import DEFAULT_DEVICES
from portside.model import ociruntime as oci
from portside.model.container import DeviceMapping, Resources, ThrottleDevice, WeightDevice
from portside.model.errors import InvalidParameter

PERIOD_OF_NANO_CPUS = 100_000
"""Microseconds of the period that ``--cpus`` implies."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_RULE = re.compile(r"^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$")


def resources(limits: Resources, privileged: bool = False) -> oci.Resources:
    """Everything but the rules of ``--device`` nodes, which :func:`device_nodes` returns.

    Raises InvalidParameter for a block device that does not exist.
    """
    return oci.Resources(
        devices=device_rules(limits.device_cgroup_rules or (), privileged),
        memory=_memory(limits),
        cpu=_cpu(limits),
        pids=_pids(limits),
        block_io=_block_io(limits),
    )


def update_resources(limits: Resources, before: Resources | None = None) -> oci.Resources:
    """For ``update`` of a running container: no devices, only what was given.

    Rules of block devices that ``before`` has and ``limits`` has not are taken back: a rate or
    weight of 0 does that.
    """
    io = _block_io(limits)
    if before is not None:
        gone = _block_io(_without_rules(before, limits))
        if gone is not None:
            io = _joined(io or oci.BlockIO(), gone)
    return oci.Resources(memory=_memory(limits), cpu=_cpu(limits), pids=_pids(limits), block_io=io)


_DEVICE_RULES = ("blkio_weight_device", "blkio_device_read_bps", "blkio_device_write_bps",
                 "blkio_device_read_iops", "blkio_device_write_iops")  # fmt: skip


def _without_rules(before: Resources, after: Resources) -> Resources:
    """Rules with 0 for each device that lost its rule; one that is gone needs none."""
    found = Resources()
    for name in _DEVICE_RULES:
        kept = {device.path for device in getattr(after, name) or ()}
        lost = (d for d in getattr(before, name) or () if d.path not in kept)
        zeroed = tuple(type(d)(path=d.path) for d in lost if Path(d.path).is_block_device())
        setattr(found, name, zeroed or None)
    return found


def _joined(one: oci.BlockIO, other: oci.BlockIO) -> oci.BlockIO:
    """Both lists of rules, the other's first."""
    names = ("weight_device", "throttle_read_bps_device", "throttle_write_bps_device",
             "throttle_read_iops_device", "throttle_write_iops_device")  # fmt: skip
    rules = {name: (*getattr(other, name), *getattr(one, name)) for name in names}
    return msgspec.structs.replace(one, **rules)


def device_rules(given: Iterable[str], privileged: bool) -> tuple[oci.DeviceCgroup, ...]:
    """Docker's default list, then ``--device-cgroup-rule`` in order; all when privileged."""
    if privileged:
        return (oci.DeviceCgroup(True, "a", None, None, "rwm"),)
    rules = [
        oci.DeviceCgroup(allow, kind, _wild(major), _wild(minor), access)
        for allow, kind, major, minor, access in DEFAULT_DEVICES
    ]
    for text in given:
        matched = _RULE.match(text)
        if not matched:
            raise InvalidParameter(f'invalid device cgroup rule format: "{text}"')
        kind, major, minor, access = matched.groups()
        rules.append(oci.DeviceCgroup(True, kind, _maybe(major), _maybe(minor), access))
    return tuple(rules)


def _wild(number: int) -> int | None:
    return None if number < 0 else number


def _maybe(text: str) -> int | None:
    return None if text == "*" else int(text)


def _memory(limits: Resources) -> oci.Memory | None:
    memory = oci.Memory(
        limit=limits.memory or None,
        reservation=limits.memory_reservation or None,
        swap=limits.memory_swap or None,
        kernel=limits.kernel_memory or None,
        kernel_tcp=limits.kernel_memory_tcp or None,
        disable_oom_killer=limits.oom_kill_disable or None,
    )
    if limits.memory_swappiness is not None and limits.memory_swappiness >= 0:
        memory.swappiness = limits.memory_swappiness
    return memory if memory != oci.Memory() else None


def _cpu(limits: Resources) -> oci.CPU | None:
    cpu = oci.CPU(
        shares=limits.cpu_shares or None,
        quota=limits.cpu_quota or None,
        period=limits.cpu_period or None,
        realtime_runtime=limits.cpu_realtime_runtime or None,
        realtime_period=limits.cpu_realtime_period or None,
        cpus=limits.cpuset_cpus or None,
        mems=limits.cpuset_mems or None,
    )
    if limits.nano_cpus > 0:
        cpu.period = PERIOD_OF_NANO_CPUS
        cpu.quota = limits.nano_cpus * PERIOD_OF_NANO_CPUS // 1_000_000_000
    return cpu if cpu != oci.CPU() else None


def _pids(limits: Resources) -> oci.Pids | None:
    if limits.pids_limit is None:
        return None
    return oci.Pids(limits.pids_limit if limits.pids_limit > 0 else -1)


def _block_io(limits: Resources) -> oci.BlockIO | None:
    io = oci.BlockIO(
        weight=limits.blkio_weight or None,
        weight_device=_each(limits.blkio_weight_device, _weight),
        throttle_read_bps_device=_each(limits.blkio_device_read_bps, _throttle),
        throttle_write_bps_device=_each(limits.blkio_device_write_bps, _throttle),
        throttle_read_iops_device=_each(limits.blkio_device_read_iops, _throttle),
        throttle_write_iops_device=_each(limits.blkio_device_write_iops, _throttle),
    )
    return io if io != oci.BlockIO() else None


def _each(values: tuple[_T, ...] | None, convert: Callable[[_T], _R]) -> tuple[_R, ...]:
    return tuple(convert(value) for value in values or ())


def _weight(device: WeightDevice) -> oci.WeightDevice:
    major, minor = _number(device.path)
    return oci.WeightDevice(major, minor, device.weight)


def _throttle(device: ThrottleDevice) -> oci.ThrottleDevice:
    major, minor = _number(device.path)
    return oci.ThrottleDevice(major, minor, device.rate)


def _number(path: str) -> tuple[int, int]:
    """Major and minor number of a block device. Raises InvalidParameter."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise InvalidParameter(f"{path}: {(error.strerror or '').lower()}") from error
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidParameter(f"{path} is not a block device: its I/O cannot be limited")
    return os.major(found.st_rdev), os.minor(found.st_rdev)


# -- device nodes ---------------------------------------------------------------------------------


_SKIPPED_DIRECTORIES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
"""Below /dev, not for a container: it has its own, or they hold no devices."""


def device_nodes(
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


def all_device_nodes() -> list[oci.Device]:
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
