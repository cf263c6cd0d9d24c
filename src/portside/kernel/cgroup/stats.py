"""A group's use of the machine, and its limits, as plain values in the kernel's units."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import msgspec

from portside.kernel.cgroup import files

if TYPE_CHECKING:
    from portside.kernel.cgroup.group_view import GroupView

UNLIMITED = -1
_V1_UNLIMITED = 1 << 62
"""Version 1 shows no limit as a number of pages near 2^63."""


class CpuUse(msgspec.Struct):
    """Nanoseconds of processor time, since the group was made."""

    total: int = 0
    user: int = 0
    kernel: int = 0
    percpu: list[int] = []
    """By processor; version 1 only."""
    periods: int = 0
    """Bandwidth periods that have passed while a quota was set."""
    throttled_periods: int = 0
    throttled: int = 0
    """Nanoseconds for which the group was held back by its quota."""
    quota: int = UNLIMITED
    """Microseconds of processor time in each ``period``."""
    period: int = 0
    shares: int = 0
    """``cpu.shares`` (version 1) or ``cpu.weight`` (version 2)."""
    burst: int = 0


class MemoryUse(msgspec.Struct):
    """Bytes."""

    usage: int = 0
    max_usage: int = 0
    """The highest ``usage`` so far (version 2: ``memory.peak``, Linux 5.19)."""
    limit: int = UNLIMITED
    failcnt: int = 0
    """Version 1: how often the limit was hit; version 2: ``oom`` of ``memory.events``."""
    swap_usage: int = 0
    """Version 1: memory plus swap; version 2: swap alone."""
    swap_limit: int = UNLIMITED
    reservation: int = 0
    kernel_usage: int = 0
    stat: dict[str, int] = {}
    """``memory.stat`` as it is."""
    oom_kills: int = 0
    oom_kill_disabled: bool = False


class BlkioEntry(msgspec.Struct, array_like=True, frozen=True):
    """One counter of one device. ``op``: ``read``, ``write``, ``sync``, ``async``, ``total``…"""

    major: int
    minor: int
    op: str
    value: int


class PidsUse(msgspec.Struct):
    """``pids.current`` and ``pids.max``: processes and threads."""

    current: int = 0
    limit: int = UNLIMITED


class CgroupStats(msgspec.Struct):
    """What :meth:`portside.kernel.cgroup.Cgroup.stats` returns."""

    version: int = 2
    """1 when memory is accounted by a version 1 hierarchy: the meaning of ``memory.stat``."""
    cpu: CpuUse = msgspec.field(default_factory=CpuUse)
    memory: MemoryUse = msgspec.field(default_factory=MemoryUse)
    io_bytes: list[BlkioEntry] = []
    """Bytes moved, groups below included."""
    io_operations: list[BlkioEntry] = []
    pids: PidsUse = msgspec.field(default_factory=PidsUse)
    hugetlb: dict[str, tuple[int, int, int]] = {}
    """By page size: usage, highest usage, failures."""
    cpuset_cpus: str = ""
    cpuset_mems: str = ""


def collect(group: GroupView) -> CgroupStats:
    """Read everything that Docker's ``stats`` reports; a handful of small files."""
    layout = group.layout
    stats = CgroupStats(version=1 if layout.v1("memory") else 2)
    stats.cpu = _cpu_v1(group) if layout.v1("cpuacct") else _cpu_v2(group)
    if layout.v1("memory"):
        stats.memory = _memory_v1(group.directory("memory"))
    elif "memory" in layout.unified_controllers:
        stats.memory = _memory_v2(group.directory("unified"))
    if layout.v1("blkio"):
        stats.io_bytes, stats.io_operations = _io_v1(group.directory("blkio"))
    elif "io" in layout.unified_controllers:
        stats.io_bytes, stats.io_operations = _io_v2(group.directory("unified"))
    if layout.has("pids"):
        directory = group.directory("pids")
        stats.pids.current = files.number(files.read_or(f"{directory}/pids.current"), 0)
        stats.pids.limit = files.number(files.read_or(f"{directory}/pids.max"))
    return stats


def collect_all(group: GroupView) -> CgroupStats:
    """As :func:`collect`, with what only ``explain`` and the OCI runtime's ``events`` show."""
    stats = collect(group)
    if group.layout.has("cpu"):
        _bandwidth(group, stats.cpu)
    if group.layout.has("cpuset"):
        directory = group.directory("cpuset")
        stats.cpuset_cpus = files.read_or(f"{directory}/cpuset.cpus").strip()
        stats.cpuset_mems = files.read_or(f"{directory}/cpuset.mems").strip()
    if group.layout.has("hugetlb"):
        stats.hugetlb = _hugetlb(group)
    return stats


def _cpu_v1(group: GroupView) -> CpuUse:
    directory = group.directory("cpuacct")
    use = CpuUse(total=files.number(files.read_or(f"{directory}/cpuacct.usage"), 0))
    use.percpu = [int(n) for n in files.read_or(f"{directory}/cpuacct.usage_percpu").split()]
    if all_text := files.read_or(f"{directory}/cpuacct.usage_all"):
        for line in all_text.splitlines()[1:]:  # "cpu user system" heads the table
            _, user, kernel = line.split()
            use.user += int(user)
            use.kernel += int(kernel)
    else:
        ticks = files.keyed(files.read_or(f"{directory}/cpuacct.stat"))
        use.user = ticks.get("user", 0) * 10_000_000
        use.kernel = ticks.get("system", 0) * 10_000_000
    if group.layout.has("cpu"):
        throttling = files.keyed(files.read_or(f"{group.directory('cpu')}/cpu.stat"))
        use.periods = throttling.get("nr_periods", 0)
        use.throttled_periods = throttling.get("nr_throttled", 0)
        use.throttled = throttling.get("throttled_time", 0)
    return use


def _cpu_v2(group: GroupView) -> CpuUse:
    """``cpu.stat`` counts time in every version 2 group, with the controller or without."""
    if not group.layout.unified:
        return CpuUse()
    stat = files.keyed(files.read_or(f"{group.directory('unified')}/cpu.stat"))
    return CpuUse(
        total=stat.get("usage_usec", 0) * 1000,
        user=stat.get("user_usec", 0) * 1000,
        kernel=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled=stat.get("throttled_usec", 0) * 1000,
    )


def _bandwidth(group: GroupView, use: CpuUse) -> None:
    directory = group.directory("cpu")
    if group.layout.v1("cpu"):
        use.quota = files.number(files.read_or(f"{directory}/cpu.cfs_quota_us"))
        use.period = files.number(files.read_or(f"{directory}/cpu.cfs_period_us"), 0)
        use.burst = files.number(files.read_or(f"{directory}/cpu.cfs_burst_us"), 0)
        use.shares = files.number(files.read_or(f"{directory}/cpu.shares"), 0)
        return
    quota, _, period = files.read_or(f"{directory}/cpu.max").strip().partition(" ")
    use.quota, use.period = files.number(quota), files.number(period, 0)
    use.burst = files.number(files.read_or(f"{directory}/cpu.max.burst"), 0)
    use.shares = files.number(files.read_or(f"{directory}/cpu.weight"), 0)


def _v1_limit(text: str) -> int:
    value = files.number(text)
    return UNLIMITED if value >= _V1_UNLIMITED else value


def _memory_v1(directory: str) -> MemoryUse:
    def one(file: str) -> int:
        return files.number(files.read_or(f"{directory}/memory.{file}"), 0)

    control = files.keyed(files.read_or(f"{directory}/memory.oom_control"))
    return MemoryUse(
        usage=one("usage_in_bytes"),
        max_usage=one("max_usage_in_bytes"),
        limit=_v1_limit(files.read_or(f"{directory}/memory.limit_in_bytes")),
        failcnt=one("failcnt"),
        swap_usage=one("memsw.usage_in_bytes"),
        swap_limit=_v1_limit(files.read_or(f"{directory}/memory.memsw.limit_in_bytes")),
        reservation=max(0, _v1_limit(files.read_or(f"{directory}/memory.soft_limit_in_bytes"))),
        kernel_usage=one("kmem.usage_in_bytes"),
        stat=files.keyed(files.read_or(f"{directory}/memory.stat")),
        oom_kills=control.get("oom_kill", 0),
        oom_kill_disabled=control.get("oom_kill_disable", 0) == 1,
    )


def _memory_v2(directory: str) -> MemoryUse:
    def one(file: str, unlimited: int = 0) -> int:
        return files.number(files.read_or(f"{directory}/memory.{file}"), unlimited)

    events = files.keyed(files.read_or(f"{directory}/memory.events"))
    stat = files.keyed(files.read_or(f"{directory}/memory.stat"))
    return MemoryUse(
        usage=one("current"),
        max_usage=one("peak"),
        limit=one("max", UNLIMITED),
        failcnt=events.get("oom", 0),
        swap_usage=one("swap.current"),
        swap_limit=one("swap.max", UNLIMITED),
        reservation=one("low", UNLIMITED),
        kernel_usage=stat.get("kernel", 0),
        stat=stat,
        oom_kills=events.get("oom_kill", 0),
    )


def _io_v1(directory: str) -> tuple[list[BlkioEntry], list[BlkioEntry]]:
    """BFQ counts what goes through it; else the throttling layer sees everything."""
    for prefix in ("blkio.bfq.io", "blkio.io", "blkio.throttle.io"):
        sizes = _blkio(files.read_or(f"{directory}/{prefix}_service_bytes_recursive"))
        if sizes:
            return sizes, _blkio(files.read_or(f"{directory}/{prefix}_serviced_recursive"))
    return [], []


def _blkio(text: str) -> list[BlkioEntry]:
    """Lines such as ``8:0 Read 4096``; the grand total at the end names no device."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and ":" in words[0]:
            major, _, minor = words[0].partition(":")
            found.append(BlkioEntry(int(major), int(minor), words[1], int(words[2])))
    return found


def _io_v2(directory: str) -> tuple[list[BlkioEntry], list[BlkioEntry]]:
    sizes: list[BlkioEntry] = []
    operations: list[BlkioEntry] = []
    kinds = {
        "rbytes": (sizes, "read"),
        "wbytes": (sizes, "write"),
        "rios": (operations, "read"),
        "wios": (operations, "write"),
    }
    for line in files.read_or(f"{directory}/io.stat").splitlines():
        device, *counters = line.split()
        major, _, minor = device.partition(":")
        if not (major.isdigit() and minor.isdigit()):
            continue
        for counter in counters:
            name, _, value = counter.partition("=")
            if name in kinds and value.isdigit():
                into, op = kinds[name]
                into.append(BlkioEntry(int(major), int(minor), op, int(value)))
    return sizes, operations


@functools.cache
def page_sizes() -> tuple[str, ...]:
    """Huge page sizes as the controller spells them: ``2MB``, ``1GB``."""
    found = []
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except OSError:
        return ()
    for name in names:
        kib = int(name.removeprefix("hugepages-").removesuffix("kB"))
        for unit, size in (("GB", 1 << 20), ("MB", 1 << 10), ("KB", 1)):
            if kib >= size:
                found.append(f"{kib // size}{unit}")
                break
    return tuple(sorted(found))


def _hugetlb(group: GroupView) -> dict[str, tuple[int, int, int]]:
    directory, old = group.directory("hugetlb"), bool(group.layout.v1("hugetlb"))
    found = {}
    for size in page_sizes():
        prefix = f"{directory}/hugetlb.{size}"
        if old:
            ends = ("usage_in_bytes", "max_usage_in_bytes", "failcnt")
            found[size] = tuple(files.number(files.read_or(f"{prefix}.{end}"), 0) for end in ends)
        else:
            failed = files.keyed(files.read_or(f"{prefix}.events")).get("max", 0)
            found[size] = (files.number(files.read_or(f"{prefix}.current"), 0), 0, failed)
    return {size: (use[0], use[1], use[2]) for size, use in found.items()}
