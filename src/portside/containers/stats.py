"""Samples of what a container uses, in the shape of Docker's ``stats``.

One sample costs about half a millisecond of reading small files. The machine's own numbers
are read once for all containers of a round: pass the same ``SystemUse`` to each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec

from portside.containers.container import Container
from portside.containers.core import Core
from portside.containers.processes import cgroup_of
from portside.kernel.cgroup import Cgroup
from portside.kernel.cgroup.stats import BlkioEntry as KernelEntry
from portside.kernel.cgroup.stats import CgroupStats
from portside.kernel.usage import LinkUse, SystemUse, links_of, system_use
from portside.model.stats import (
    NEVER,
    UNLIMITED,
    BlkioEntry,
    BlkioStats,
    CpuStats,
    CpuUsage,
    MemoryStats,
    NetworkStats,
    PidsStats,
    StatsResponse,
    ThrottlingData,
)


def sample(
    identifier: str,
    name: str,
    group: Cgroup | None,
    *,
    pid: int = 0,
    previous: StatsResponse | None = None,
    system: SystemUse | None = None,
) -> StatsResponse:
    """One sample. ``name`` is with its leading slash.

    ``group`` None: the container does not run, and everything is empty, as Docker answers.
    ``pid``: its init when it has a network of its own to count; 0 leaves networks out (the
    host's network, or none). ``previous``: the last sample, whose processor time becomes
    ``precpu_stats``.
    """
    if group is None:
        return StatsResponse(name=name, id=identifier)
    system = system or system_use()
    links = links_of(pid) if pid else {}
    return build(identifier, name, group.stats(), links, system, previous, time.time_ns())


def build(
    identifier: str,
    name: str,
    stats: CgroupStats,
    links: dict[str, LinkUse],
    system: SystemUse,
    previous: StatsResponse | None,
    now_ns: int,
) -> StatsResponse:
    """The response from what was read; pure."""
    return StatsResponse(
        name=name,
        id=identifier,
        read=_stamp(now_ns),
        preread=previous.read if previous else NEVER,
        pids_stats=_pids(stats),
        blkio_stats=_blkio(stats),
        cpu_stats=_cpu(stats, system),
        precpu_stats=previous.cpu_stats if previous else CpuStats(),
        memory_stats=_memory(stats, system),
        networks=_networks(links),
    )


def _stamp(now_ns: int) -> str:
    """RFC 3339 with nanoseconds."""
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _pids(stats: CgroupStats) -> PidsStats:
    limit = stats.pids.limit
    if limit < 0:  # version 1 says nothing, version 2 the largest number
        limit = 0 if stats.version == 1 else UNLIMITED
    return PidsStats(current=stats.pids.current, limit=limit)


def _blkio(stats: CgroupStats) -> BlkioStats:
    def entries(found: list[KernelEntry]) -> list[BlkioEntry] | None:
        if not found:
            return [] if stats.version == 1 else None
        return [BlkioEntry(major=e.major, minor=e.minor, op=e.op, value=e.value) for e in found]

    blkio = BlkioStats(
        io_service_bytes_recursive=entries(stats.io_bytes),
        io_serviced_recursive=entries(stats.io_operations),
    )
    if stats.version == 1:
        for field in BlkioStats.__struct_fields__[2:]:
            setattr(blkio, field, [])
    return blkio


def _cpu(stats: CgroupStats, system: SystemUse) -> CpuStats:
    cpu = stats.cpu
    return CpuStats(
        cpu_usage=CpuUsage(
            total_usage=cpu.total,
            percpu_usage=cpu.percpu or msgspec.UNSET,
            usage_in_kernelmode=cpu.kernel,
            usage_in_usermode=cpu.user,
        ),
        system_cpu_usage=system.cpu,
        online_cpus=system.online_cpus,
        throttling_data=ThrottlingData(
            periods=cpu.periods,
            throttled_periods=cpu.throttled_periods,
            throttled_time=cpu.throttled,
        ),
    )


def _memory(stats: CgroupStats, system: SystemUse) -> MemoryStats:
    """Without a limit, the limit is the machine."""
    memory = stats.memory
    limit = memory.limit if 0 <= memory.limit <= system.memory else system.memory
    return MemoryStats(
        usage=memory.usage,
        max_usage=memory.max_usage if stats.version == 1 else 0,
        stats=memory.stat,
        failcnt=memory.failcnt,
        limit=limit,
    )


def _networks(links: dict[str, LinkUse]) -> dict[str, NetworkStats] | msgspec.UnsetType:
    if not links:
        return msgspec.UNSET
    return {
        name: NetworkStats(
            rx_bytes=use.rx_bytes,
            rx_packets=use.rx_packets,
            rx_errors=use.rx_errors,
            rx_dropped=use.rx_dropped,
            tx_bytes=use.tx_bytes,
            tx_packets=use.tx_packets,
            tx_errors=use.tx_errors,
            tx_dropped=use.tx_dropped,
        )
        for name, use in links.items()
    }


# -- once a second -------------------------------------------------------------------------


_PERIOD = 1.0
_SHORT = 0.1
"""Seconds between the two samples of ``stats --no-stream``: enough for a percentage."""
_last_look: tuple[float, SystemUse] | None = None


def _system() -> SystemUse:
    """The machine's counters, read once for all who ask at about the same moment."""
    global _last_look
    now = time.monotonic()
    if _last_look is None or now - _last_look[0] > 0.05:
        _last_look = (now, system_use())
    return _last_look[1]


def take(core: Core, container: Container, previous: StatsResponse | None) -> StatsResponse:
    """One sample now; of a container that does not run an empty one."""
    record = container.record
    group = cgroup_of(core, container) if record.running else None
    shares = record.host.network_mode in ("host", "none")
    return sample(
        record.id,
        f"/{record.name}",
        group,
        pid=0 if shares else record.pid,
        previous=previous,
        system=_system(),
    )


async def stats_samples(
    core: Core, container: Container, *, stream: bool, one_shot: bool
) -> AsyncIterator[StatsResponse]:
    """Samples as the client wants them: many, one whole, or one at once."""
    previous = None
    if not stream:
        if not one_shot and container.record.running:
            previous = take(core, container, None)
            await asyncio.sleep(_SHORT)
        yield take(core, container, previous)
        return
    while not container.removed:
        previous = take(core, container, previous)
        yield previous
        await asyncio.sleep(_PERIOD)


def encode(found: StatsResponse) -> bytes:
    return msgspec.json.encode(found) + b"\n"
