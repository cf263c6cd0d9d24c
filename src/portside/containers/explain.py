"""Namespaces, mounts and limits of a running container, read from the kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from portside.containers.container import Container
from portside.containers.core import Core
from portside.containers.processes import cgroup_of
from portside.kernel.cgroup import Cgroup
from portside.kernel.cgroup.machine import machine
from portside.kernel.mountinfo_text import unescaped
from portside.model import capabilities
from portside.model.container import HostConfig
from portside.model.errors import NotFound
from portside.model.explain import (
    DeviceFact,
    Explanation,
    LayerFact,
    LimitFact,
    MountFact,
    NamespaceFact,
)
from portside.model.network import PathStep
from portside.runtime.messages import StateFile

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_SETS = {"CapEff": "effective", "CapPrm": "permitted", "CapInh": "inheritable",
         "CapBnd": "bounding", "CapAmb": "ambient"}  # fmt: skip
_SECCOMP = {"0": "disabled", "1": "strict", "2": "filter"}


def explain(core: Core, container: Container, network: Sequence[PathStep]) -> Explanation:
    """Everything there is to say; reads proc(5), so run it off the event loop."""
    record = container.record
    found = Explanation(
        id=record.id,
        name=record.name,
        status=record.status,
        command=(*(record.config.entrypoint or ()), *(record.config.cmd or ())),
        layers=_layers(core, record.id),
        network=tuple(network),
    )
    found.written = sum(item.size for item in found.layers if item.role == "upper")
    if not record.running:
        return found
    group = cgroup_of(core, container)
    found.pid, found.monitor = record.pid, _monitor(core, record.id)
    found.cgroup, found.cgroup_paths = group.path, dict(group.paths())
    found.limits = _limits(group)
    found.namespaces = _namespaces(core, record.pid, record.id)
    found.mounts = _mounts(record.pid)
    found.blkio, found.devices = _blkio(record.host), _devices(record.host)
    with suppress(OSError):
        found.processes = tuple(sorted(group.pids()))
        found.id_mappings = _id_mappings(record.pid)
        _status(found, Path(f"/proc/{record.pid}/status").read_text())
        found.ulimits = _ulimits(Path(f"/proc/{record.pid}/limits").read_text())
    return found


def _monitor(core: Core, identifier: str) -> int:
    with suppress(OSError, msgspec.MsgspecError):
        return StateFile.read(core.state_dir(identifier)).monitor_pid
    return 0


def _layers(core: Core, identifier: str) -> tuple[LayerFact, ...]:
    layers = core.store.layers
    try:
        rootfs = core.store.writables.rootfs(identifier)
        chain = core.store.writables.chain_of(identifier)
    except NotFound:
        return ()
    sizes = [layer.size for layer in layers.stack(chain)] if chain else []
    found = [LayerFact("upper", rootfs.upper, _size(rootfs.upper))]
    if rootfs.work:
        found.append(LayerFact("work", rootfs.work))
    padded = sizes + [-1] * (len(rootfs.lower) - len(sizes))
    found += [LayerFact("lower", path, size)
              for path, size in zip(rootfs.lower, padded, strict=False)]  # fmt: skip
    return tuple(found)


def _size(path: str) -> int:
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):
                total += os.lstat(f"{directory}/{name}").st_size
    return total


def _inode(pid: int | str, kind: str) -> int:
    try:
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
    except OSError:
        return 0


def _namespaces(core: Core, pid: int, identifier: str) -> tuple[NamespaceFact, ...]:
    others = [item for item in core.containers.values()
              if item.record.running and item.id != identifier]  # fmt: skip
    found = []
    for kind in _NAMESPACES:
        inode = _inode(pid, kind)
        if not inode:
            continue
        shared = ["the host"] if inode == _inode("self", kind) else []
        shared += [other.name for other in others if _inode(other.record.pid, kind) == inode]
        found.append(NamespaceFact(kind, inode, tuple(shared)))
    return tuple(found)


def _limits(group: Cgroup) -> tuple[LimitFact, ...]:
    from portside.kernel.cgroup.stats import collect_all

    stats = collect_all(group)
    memory, cpu = stats.memory, stats.cpu
    quota = cpu.quota if cpu.quota > 0 else -1
    both = machine().cgroup_version == 1  # where swap is counted with the memory
    return (
        LimitFact("memory", memory.limit, memory.usage, "bytes"),
        LimitFact(
            "memory and swap" if both else "swap", memory.swap_limit, memory.swap_usage, "bytes"
        ),
        LimitFact("pids", stats.pids.limit, stats.pids.current, "tasks"),
        LimitFact("cpu quota in each period", quota, cpu.period, "microseconds"),
        LimitFact("cpu weight", -1, cpu.shares, "shares"),
        LimitFact("cpu time", -1, cpu.total, "nanoseconds"),
    )


def _blkio(host: HostConfig) -> dict[str, str]:
    found = {"weight": str(host.blkio_weight)} if host.blkio_weight else {}
    for device in host.blkio_weight_device or ():
        found[f"weight of {device.path}"] = str(device.weight)
    for what, unit, devices in (
        ("reading", "bytes/s", host.blkio_device_read_bps),
        ("writing", "bytes/s", host.blkio_device_write_bps),
        ("reading", "operations/s", host.blkio_device_read_iops),
        ("writing", "operations/s", host.blkio_device_write_iops),
    ):
        for throttled in devices or ():
            found[f"{what} {throttled.path}, {unit}"] = str(throttled.rate)
    return found


def _devices(host: HostConfig) -> tuple[DeviceFact, ...]:
    if host.privileged:
        return (DeviceFact("/dev", "/dev", "rwm"),)
    return tuple(
        DeviceFact(
            item.path_in_container or item.path_on_host,
            item.path_on_host,
            item.cgroup_permissions or "rwm",
        )
        for item in host.devices or ()
    )


def _ulimits(text: str) -> dict[str, tuple[str, str]]:
    """``Max open files   1024   524288   files``: names have spaces, columns two of them."""
    found = {}
    for line in text.splitlines()[1:]:
        name, soft, hard = (part.strip() for part in (line[:26], line[26:47], line[47:68]))
        found[name.removeprefix("Max ")] = (soft, hard)
    return found


def _mounts(pid: int) -> tuple[MountFact, ...]:
    found = []
    with suppress(OSError):
        own = [_Mounted.of(line) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            mounted = _Mounted.of(line)
            source = mounted.path_within(own) if mounted.root != "/" else ""
            found.append(
                MountFact(mounted.target, mounted.type, source or mounted.source, mounted.options)
            )
    return tuple(found)


class _Mounted(msgspec.Struct, frozen=True):
    """One line of proc_pid_mountinfo(5)."""

    device: str
    root: str
    """The path within the file system that is mounted."""
    target: str
    options: str
    type: str
    source: str

    @classmethod
    def of(cls, line: str) -> _Mounted:
        left, _, right = line.partition(" - ")
        head, tail = left.split(" "), right.split(" ")
        device, root, target, options = head[2], unescaped(head[3]), unescaped(head[4]), head[5]
        return cls(device, root, target, options, tail[0], unescaped(tail[1]))

    def path_within(self, mounts: list[_Mounted]) -> str:
        """Path of the same directory or file below one of these mounts; "" without one."""
        holders = [
            (len(other.root), other)
            for other in mounts
            if other.device == self.device
            and (self.root == other.root or self.root.startswith(f"{other.root.rstrip('/')}/"))
        ]
        if not holders:
            return ""
        _, best = max(holders, key=lambda pair: pair[0])
        inside = self.root[len(best.root.rstrip("/")) :]
        return (best.target.rstrip("/") + inside) or "/"


def _id_mappings(pid: int) -> dict[str, tuple[str, ...]]:
    """Mappings of its user namespace (user_namespaces(7)), unless it is our own."""
    if _inode(pid, "user") == _inode("self", "user"):
        return {}
    files = {"users": "uid_map", "groups": "gid_map"}
    return {
        kind: tuple(
            ":".join(line.split()) for line in Path(f"/proc/{pid}/{name}").read_text().splitlines()
        )
        for kind, name in files.items()
    }


def _status(found: Explanation, text: str) -> None:
    """Identity, capabilities and seccomp from ``/proc/PID/status``."""
    lines = dict(line.partition(":")[::2] for line in text.splitlines())
    values = {key: value.split() for key, value in lines.items()}
    found.inner_pid = int(values.get("NSpid", ["1"])[-1])
    found.cpus = lines.get("Cpus_allowed_list", "").strip()
    found.memory_nodes = lines.get("Mems_allowed_list", "").strip()
    found.uid, found.gid = int(values["Uid"][1]), int(values["Gid"][1])
    found.groups = tuple(map(int, values.get("Groups", ())))
    found.no_new_privileges = values.get("NoNewPrivs", ["0"])[0] == "1"
    mode = values.get("Seccomp", ["0"])[0]
    count = values.get("Seccomp_filters", ["0"])[0]
    found.seccomp = _SECCOMP.get(mode, mode) + (f" ({count})" if mode == "2" else "")
    found.capabilities = {
        name: capabilities.decode(int(values[key][0], 16)) for key, name in _SETS.items()
    }
