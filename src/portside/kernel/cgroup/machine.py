"""Resources that this machine's control groups can limit, for ``info`` and checks of limits."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, fields

from portside.kernel.cgroup import files
from portside.kernel.cgroup.layout import Layout, detect


@dataclass(frozen=True, slots=True)
class Machine:
    """Each flag says that the limit works here."""

    cpus: int = 1
    """Processors this process may use."""
    cpuset_cpus: str = ""
    """Processors that containers may be given, as ``0-3,8``."""
    cpuset_mems: str = ""
    memory_limit: bool = False
    swap_limit: bool = False
    memory_reservation: bool = False
    memory_swappiness: bool = False
    oom_kill_disable: bool = False
    kernel_memory: bool = False
    kernel_memory_tcp: bool = False
    cpu_shares: bool = False
    cpu_cfs: bool = False
    """Period and quota."""
    cpu_realtime: bool = False
    cpuset: bool = False
    pids_limit: bool = False
    blkio_weight: bool = False
    blkio_weight_device: bool = False
    blkio_read_bps: bool = False
    blkio_write_bps: bool = False
    blkio_read_iops: bool = False
    blkio_write_iops: bool = False
    cgroup_version: int = 2
    """The version as Docker reports it: 2 only where there is no version 1 at all."""

    @classmethod
    def everything(cls, cpus: int = 8) -> Machine:
        """A machine without gaps, for tests."""
        flags = {field.name: True for field in fields(cls) if field.type in (bool, "bool")}
        return cls(cpus=cpus, cpuset_cpus=f"0-{cpus - 1}", cpuset_mems="0", **flags)

    def warnings(self) -> list[str]:
        """``Warnings`` of ``info``, in Docker's words and order."""
        lacking = (
            (self.memory_limit, "memory limit"),
            (self.swap_limit, "swap limit"),
            (self.oom_kill_disable or self.cgroup_version == 2, "oom kill disable"),
            (self.cpu_cfs, "cpu cfs quota"),
            (self.cpu_cfs, "cpu cfs period"),
            (self.cpu_shares, "cpu shares"),
            (self.cpuset, "cpuset"),
        )
        io: tuple[tuple[bool, str], ...] = (
            (self.blkio_weight, "blkio weight"),
            (self.blkio_weight_device, "blkio weight_device"),
            (self.blkio_read_bps, "blkio throttle.read_bps_device"),
            (self.blkio_write_bps, "blkio throttle.write_bps_device"),
            (self.blkio_read_iops, "blkio throttle.read_iops_device"),
            (self.blkio_write_iops, "blkio throttle.write_iops_device"),
        )
        if self.cgroup_version == 2:
            io = tuple(
                (has, name.replace("blkio throttle.", "io.max (").replace("_device", ")"))
                if "throttle" in name
                else (has, name.replace("blkio", "io"))
                for has, name in io
            )
        return [f"WARNING: No {name} support" for has, name in (*lacking, *io) if not has]


@functools.cache
def machine() -> Machine:
    """This machine, looked at once."""
    return look(detect())


def look(layout: Layout) -> Machine:
    """Version 1 files are looked for in each hierarchy's root."""
    v1 = {name: layout.v1(name) for name in ("memory", "cpu", "cpuset", "blkio", "pids")}

    def has(controller: str, v1_file: str, v2: bool | None = None) -> bool:
        if v1[controller]:
            return os.path.exists(f"{v1[controller]}/{v1_file}")
        return layout.has(controller) if v2 is None else v2 and layout.has(controller)

    cpus, mems = _sets(layout)
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        cpuset_cpus=cpus,
        cpuset_mems=mems,
        memory_limit=has("memory", "memory.limit_in_bytes"),
        swap_limit=has("memory", "memory.memsw.limit_in_bytes", _swap_v2(layout)),
        memory_reservation=has("memory", "memory.soft_limit_in_bytes"),
        memory_swappiness=has("memory", "memory.swappiness", False),
        oom_kill_disable=has("memory", "memory.oom_control", False),
        kernel_memory=False,  # ignored by kernels since 5.16 and by every runtime
        kernel_memory_tcp=has("memory", "memory.kmem.tcp.limit_in_bytes", False),
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_cfs=has("cpu", "cpu.cfs_quota_us"),
        cpu_realtime=has("cpu", "cpu.rt_runtime_us", False),
        cpuset=has("cpuset", "cpuset.cpus"),
        pids_limit=layout.has("pids"),
        blkio_weight=_weight(layout),
        blkio_weight_device=_weight(layout) and _weighs_devices(),
        blkio_read_bps=has("blkio", "blkio.throttle.read_bps_device"),
        blkio_write_bps=has("blkio", "blkio.throttle.write_bps_device"),
        blkio_read_iops=has("blkio", "blkio.throttle.read_iops_device"),
        blkio_write_iops=has("blkio", "blkio.throttle.write_iops_device"),
        cgroup_version=2 if layout.mode == "v2" else 1,
    )


def _weight(layout: Layout) -> bool:
    """The files come and go with the I/O scheduler (BFQ), and the root has none of them."""
    mount = layout.v1("blkio")
    names = ("blkio.weight", "blkio.bfq.weight")
    if not mount:
        if "io" not in layout.unified_controllers:
            return False
        mount, names = layout.unified, ("io.weight", "io.bfq.weight")
    if any(os.path.exists(f"{mount}/{name}") for name in names):
        return True
    children = _children(mount)
    if not children:
        return os.path.exists(f"{mount}/blkio.bfq.io_serviced")
    return any(os.path.exists(f"{child}/{name}") for child in children for name in names)


def _weighs_devices() -> bool:
    """Whether any device has an I/O scheduler that knows weights (bfq-iosched.rst, CFQ)."""
    for name in os.listdir("/sys/block") if os.path.isdir("/sys/block") else ():
        text = files.read_or(f"/sys/block/{name}/queue/scheduler")
        if "[bfq]" in text or "[cfq]" in text:
            return True
    return False


def _swap_v2(layout: Layout) -> bool:
    """Only groups below the root have ``memory.swap.max``; before there are any: believe so."""
    if "memory" not in layout.unified_controllers:
        return False
    for child in _children(layout.unified):
        if os.path.exists(f"{child}/memory.max"):
            return os.path.exists(f"{child}/memory.swap.max")
    return os.path.exists("/proc/swaps")


def _children(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _sets(layout: Layout) -> tuple[str, str]:
    mount, end = layout.v1("cpuset"), ""
    if not mount:
        mount, end = layout.unified, ".effective"
    cpus = files.read_or(f"{mount}/cpuset.cpus{end}") if mount else ""
    mems = files.read_or(f"{mount}/cpuset.mems{end}") if mount else ""
    return (
        cpus.strip() or files.read_or("/sys/devices/system/cpu/online").strip(),
        mems.strip() or files.read_or("/sys/devices/system/node/online", "0").strip(),
    )
