"""From a runtime-spec ``linux.resources`` value to the files that must be written, in order.

Pure: nothing here touches the kernel, so what a container's limits become can be printed
and tested. The names of files and their units are those of ``cgroup-v1/*.rst`` and
``cgroup-v2.rst``; the conversions between the two versions are runc's.
"""

from __future__ import annotations

import msgspec

from portside.kernel.cgroup.layout import Layout
from portside.model.errors import InvalidParameter, SystemFailure

_MINIMUM_SHARES, MAXIMUM_SHARES = 2, 262_144

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portside.model.ociruntime import (
        CPU,
        BlockIO,
        HugepageLimit,
        Memory,
        NetworkResources,
        Rdma,
        Resources,
    )

PERIOD_DEFAULT = 100_000
"""Microseconds of a CPU bandwidth period when only the quota is given."""


class Write(msgspec.Struct, frozen=True):
    """One write into one file of the container's group.

    ``controller`` is the version 1 name, or ``unified`` for the version 2 hierarchy.
    ``swaps_with_next``: the kernel may refuse this write until the next one is done, and
    the other way round (memory and memory+swap; period and quota), depending on the values
    that are there now. The pair is then tried in the other order.
    """

    controller: str
    file: str
    value: str
    swaps_with_next: bool = False
    optional: bool = False
    """Not an error when the file does not exist (the value is the kernel's default)."""


def plan(layout: Layout, resources: Resources) -> list[Write]:
    """Every write for ``resources`` except those for devices, in the order to make them.

    Raises InvalidParameter for values that contradict each other, and SystemFailure when a
    limit is asked for whose controller is not there.
    """
    writes: list[Write] = []
    if layout.mode == "none":
        return writes  # the request was already warned about limits without control groups
    if resources.memory is not None:
        writes += _either(layout, "memory", list(_memory(layout, resources.memory)))
    if resources.cpu is not None:
        writes += _cpu(layout, resources.cpu)
    if resources.pids is not None and resources.pids.limit is not None:
        limit = resources.pids.limit
        value = str(limit) if limit > 0 else "max"
        writes += _either(layout, "pids", [Write(_side(layout, "pids"), "pids.max", value)])
    if resources.block_io is not None:
        writes += _either(layout, "blkio", list(_block_io(layout, resources.block_io)))
    if resources.hugepage_limits:
        writes += _either(layout, "hugetlb", list(_hugetlb(layout, resources.hugepage_limits)))
    if resources.network is not None:
        writes += list(_network(layout, resources.network))
    if resources.rdma:
        writes += _either(layout, "rdma", list(_rdma(layout, resources.rdma)))
    if resources.unified:
        writes += _unified(layout, resources.unified)
    return writes


def shares_to_weight(shares: int) -> int:
    """``cpu.shares`` (2 to 262144, default 1024) as ``cpu.weight`` (1 to 10000, default 100).

    The curve that runc uses since its 1.3.2: quadratic in the logarithms, through the
    minimum, the default and the maximum of both scales.
    """
    if shares == 0:
        return 0
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    import math  # a library of its own that few containers need

    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612.0 - 7.0 / 34.0))


def blkio_to_io_weight(weight: int) -> int:
    """``blkio.weight`` (10 to 1000) as ``io.weight`` (1 to 10000), linear."""
    return 0 if weight == 0 else 1 + (weight - 10) * 9999 // 990


def swap_to_v2(memory_swap: int, memory: int) -> int:
    """Memory plus swap (version 1, and Docker's flag) as swap alone; 0 means not set.

    -1 is unlimited. Raises InvalidParameter when the two contradict each other.
    """
    if memory == -1 and memory_swap == 0:
        return -1  # unlimited memory with bounded swap would make no sense
    if memory_swap in (-1, 0):
        return memory_swap
    if memory in (0, -1):
        raise InvalidParameter("unable to set swap limit without memory limit")
    if memory < 0 or memory_swap < memory:
        raise InvalidParameter("memory+swap limit should be >= memory limit")
    return memory_swap - memory


def _side(layout: Layout, controller: str) -> str:
    return controller if layout.v1(controller) else "unified"


def _either(layout: Layout, controller: str, writes: list[Write]) -> list[Write]:
    """``writes``, when their controller is there."""
    if writes and not layout.has(controller):
        names = ", ".join(dict.fromkeys(write.file for write in writes))
        raise SystemFailure(
            f"cannot set {names}: the {controller} controller is not mounted or not enabled here "
            "(see /proc/cgroups and cgroup.controllers)"
        )
    return writes


def _number(value: int) -> str:
    return "max" if value == -1 else str(value)


def _memory(layout: Layout, memory: Memory) -> Iterator[Write]:
    """``kernel`` and its TCP variant are ignored as every runtime does since kernel 5.15."""
    if (
        memory.swappiness is not None
        and not 0 <= memory.swappiness <= 100
        and (memory.swappiness not in (-1, 2**64 - 1))
    ):
        raise InvalidParameter(
            f"invalid memory swappiness {memory.swappiness}: the range is 0 to 100"
        )
    if not layout.v1("memory"):
        yield from _memory_v2(memory)
        return
    side = "memory"
    limit, swap = memory.limit or 0, memory.swap or 0
    if limit == -1 and not swap:
        swap = -1  # memory cannot become unlimited while memory+swap is bounded
    if limit:
        yield Write(side, "memory.limit_in_bytes", str(limit), swaps_with_next=bool(swap))
    if swap:
        yield Write(side, "memory.memsw.limit_in_bytes", str(swap), optional=swap == -1)
    if memory.reservation:
        yield Write(side, "memory.soft_limit_in_bytes", str(memory.reservation))
    if memory.kernel_tcp:
        yield Write(side, "memory.kmem.tcp.limit_in_bytes", str(memory.kernel_tcp), optional=True)
    if memory.disable_oom_killer is not None:
        killer = "1" if memory.disable_oom_killer else "0"
        # The kernel's default is 0: written only to take a former 1 back.
        yield Write(side, "memory.oom_control", killer, optional=not memory.disable_oom_killer)
    if memory.swappiness is not None and 0 <= memory.swappiness <= 100:
        yield Write(side, "memory.swappiness", str(memory.swappiness))


def _memory_v2(memory: Memory) -> Iterator[Write]:
    limit = memory.limit or 0
    swap = swap_to_v2(memory.swap or 0, limit)
    if swap or memory.swap:
        value = _number(swap)
        yield Write("unified", "memory.swap.max", value, optional=value in ("max", "0"))
    if limit:
        yield Write("unified", "memory.max", _number(limit))
    if memory.reservation:
        yield Write("unified", "memory.low", _number(memory.reservation))


def _cpu(layout: Layout, cpu: CPU) -> list[Write]:
    bandwidth = _cpu_v1(cpu) if layout.v1("cpu") else _cpu_v2(cpu)
    side = _side(layout, "cpuset")
    files = (("cpuset.cpus", cpu.cpus), ("cpuset.mems", cpu.mems))
    sets = [Write(side, file, value) for file, value in files if value]
    return _either(layout, "cpu", list(bandwidth)) + _either(layout, "cpuset", sets)


def _cpu_v1(cpu: CPU) -> Iterator[Write]:
    if cpu.idle is not None:
        yield Write("cpu", "cpu.idle", str(cpu.idle), optional=cpu.idle == 0)
    if cpu.shares:
        # the kernel takes what is nearest to it, without an error
        if cpu.shares > MAXIMUM_SHARES:
            raise InvalidParameter(f"the maximum allowed cpu-shares is {MAXIMUM_SHARES}")
        if cpu.shares < _MINIMUM_SHARES:
            raise InvalidParameter(f"the minimum allowed cpu-shares is {_MINIMUM_SHARES}")
        yield Write("cpu", "cpu.shares", str(cpu.shares))
    # Real time: the runtime must fit the period that is there, as with quota below.
    if cpu.realtime_period:
        pair = bool(cpu.realtime_runtime)
        yield Write("cpu", "cpu.rt_period_us", str(cpu.realtime_period), swaps_with_next=pair)
    if cpu.realtime_runtime:
        yield Write("cpu", "cpu.rt_runtime_us", str(cpu.realtime_runtime))
    if cpu.period:
        pair = bool(cpu.quota)
        yield Write("cpu", "cpu.cfs_period_us", str(cpu.period), swaps_with_next=pair)
    if cpu.quota:
        yield Write("cpu", "cpu.cfs_quota_us", str(cpu.quota if cpu.quota > 0 else -1))
    if cpu.burst is not None:
        yield Write("cpu", "cpu.cfs_burst_us", str(cpu.burst), optional=cpu.burst == 0)


def _cpu_v2(cpu: CPU) -> Iterator[Write]:
    if cpu.realtime_period or cpu.realtime_runtime:
        raise InvalidParameter("cgroup v2 has no limits for real-time scheduling")
    if cpu.idle is not None:
        yield Write("unified", "cpu.idle", str(cpu.idle), optional=cpu.idle == 0)
    if cpu.shares:
        yield Write("unified", "cpu.weight", str(shares_to_weight(cpu.shares)))
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        yield Write("unified", "cpu.max", f"{quota} {cpu.period or PERIOD_DEFAULT}")
    if cpu.burst is not None:
        yield Write("unified", "cpu.max.burst", str(cpu.burst), optional=cpu.burst == 0)


def _block_io(layout: Layout, io: BlockIO) -> Iterator[Write]:
    old = bool(layout.v1("blkio"))
    side = _side(layout, "blkio")
    if io.weight:
        # ``|`` separates alternatives: the weight's file depends on the I/O scheduler.
        files = "blkio.weight|blkio.bfq.weight" if old else "io.bfq.weight|io.weight"
        yield Write(side, files, str(io.weight))
    if io.leaf_weight and old:
        yield Write(side, "blkio.leaf_weight", str(io.leaf_weight))
    for device in io.weight_device or ():
        number = f"{device.major}:{device.minor}"
        if device.weight is not None:
            files = (
                "blkio.weight_device|blkio.bfq.weight_device" if old else "io.bfq.weight|io.weight"
            )
            yield Write(side, files, f"{number} {device.weight or (0 if old else 'default')}")
        if device.leaf_weight and old:
            yield Write(side, "blkio.leaf_weight_device", f"{number} {device.leaf_weight}")
    throttles = (
        ("read_bps", "rbps", io.throttle_read_bps_device),
        ("write_bps", "wbps", io.throttle_write_bps_device),
        ("read_iops", "riops", io.throttle_read_iops_device),
        ("write_iops", "wiops", io.throttle_write_iops_device),
    )
    for long, short, limits in throttles:
        for limit in limits or ():
            number = f"{limit.major}:{limit.minor}"
            if old:
                yield Write(side, f"blkio.throttle.{long}_device", f"{number} {limit.rate}")
            else:
                yield Write(side, "io.max", f"{number} {short}={limit.rate or 'max'}")


def _hugetlb(layout: Layout, limits: Iterable[HugepageLimit]) -> Iterator[Write]:
    old = bool(layout.v1("hugetlb"))
    side = _side(layout, "hugetlb")
    for limit in limits:
        prefix = f"hugetlb.{limit.page_size}"
        if "/" in prefix:
            raise InvalidParameter(f"invalid huge page size {limit.page_size!r}")
        end = "limit_in_bytes" if old else "max"
        yield Write(side, f"{prefix}.{end}", str(limit.limit))
        # Reservations count as well, else mmap succeeds and the first touch is a SIGBUS.
        yield Write(side, f"{prefix}.rsvd.{end}", str(limit.limit), optional=True)


def _network(layout: Layout, network: NetworkResources) -> Iterator[Write]:
    """Classes and priorities of packets, which only version 1 has."""
    if network.class_id:
        write = Write("net_cls", "net_cls.classid", str(network.class_id))
        yield from _only_v1(layout, "net_cls", [write])
    yield from _only_v1(
        layout,
        "net_prio",
        [Write("net_prio", "net_prio.ifpriomap", f"{each.name} {each.priority}")
         for each in network.priorities],
    )  # fmt: skip


def _only_v1(layout: Layout, controller: str, writes: list[Write]) -> list[Write]:
    if writes and not layout.v1(controller):
        raise SystemFailure(
            f"cannot set {writes[0].file}: the {controller} controller is not mounted here, and "
            "cgroup v2 has none like it"
        )
    return writes


def _rdma(layout: Layout, devices: dict[str, Rdma]) -> Iterator[Write]:
    for name, limit in devices.items():
        if not name or " " in name or "\n" in name:
            raise InvalidParameter(f"invalid RDMA device {name!r}")
        words = [name]
        if limit.hca_handles is not None:
            words.append(f"hca_handle={limit.hca_handles}")
        if limit.hca_objects is not None:
            words.append(f"hca_object={limit.hca_objects}")
        yield Write(_side(layout, "rdma"), "rdma.max", " ".join(words))


def _unified(layout: Layout, files: dict[str, str]) -> Iterator[Write]:
    if not layout.unified:
        raise InvalidParameter("unified resources need cgroup v2, which is not mounted here")
    for file, value in files.items():
        if not file or "/" in file or "\n" in value.rstrip("\n"):
            raise InvalidParameter(f"unified resource {file!r} must be a file name without slashes")
        controller = file.partition(".")[0]
        if controller != "cgroup" and controller not in layout.unified_controllers:
            raise SystemFailure(
                f"unified resource {file!r} can't be set: controller {controller!r} not available"
            )
        yield Write("unified", file, value)
