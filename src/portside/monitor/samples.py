"""Samples: what one control group used up to one moment, small enough to keep many.

A sample of an idle group shares all but its time with the one before it. The numbers are
packed (:data:`SCALARS`), what has a varying length is kept as the kernel wrote it and parsed
when somebody asks. :func:`view` gives names to everything.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

SCALARS: Final = (
    "cpu_total", "cpu_user", "cpu_system",  # nanoseconds
    "cfs_periods", "cfs_throttled_periods", "cfs_throttled_time",  # time in nanoseconds
    "cfs_burst_periods", "cfs_burst_time",
    "memory_usage", "memory_max_usage", "memory_cache", "memory_rss", "memory_swap",
    "memory_mapped_file", "memory_working_set", "memory_active_file", "memory_inactive_file",
    "memory_kernel",  # bytes
    "memory_failcnt", "pgfault", "pgmajfault",
    "memory_file_dirty", "memory_file_writeback",
    "pgscan", "pgsteal", "refault_file", "refault_anon",
    "memory_events_high", "memory_events_max", "oom_events",
    "threads",
    "rx_bytes", "rx_packets", "rx_errors", "rx_dropped",
    "tx_bytes", "tx_packets", "tx_errors", "tx_dropped",  # all interfaces together
    "read_bytes", "write_bytes", "reads", "writes",  # all block devices together
    "pressure_cpu", "pressure_memory", "pressure_io",  # "some" avg10, hundredths of a percent
)  # fmt: skip
"""Names of the packed numbers. Counters count from the group's creation."""
INDEX: Final = {name: number for number, name in enumerate(SCALARS)}
PACKED: Final = struct.Struct(f"<{len(SCALARS)}q")
LINK: Final = struct.Struct("<8q")
"""One interface: received bytes, packets, errors, dropped; sent the same."""

SERIES: Final = (
    "cpu", "throttled", "memory", "working_set", "cache", "rss", "swap",
    "net_rx", "net_tx", "io_read", "io_write", "threads",
    "pressure_cpu", "pressure_memory", "pressure_io", "load",
)  # fmt: skip
"""The series of charts. ``cpu``: cores in use; ``throttled``: share (0 to 1) of the quota's periods
in which the group was held back; memory in bytes; ``net_…`` and ``io_…`` in bytes per second;
``pressure_…``: percent of the last ten seconds in which something waited (PSI, "some");
``load``: runnable tasks, smoothed over ten seconds (the machine: its load average of a minute).
"""
Point = tuple[float, ...]
"""The values of :data:`SERIES` at one moment."""


class PressureLine(msgspec.Struct, frozen=True):
    """``total`` in microseconds, averages in percent (Documentation/accounting/psi.rst)."""

    total: int = 0
    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0


class Pressure(msgspec.Struct, frozen=True):
    some: PressureLine = PressureLine()
    full: PressureLine = PressureLine()


class Link(msgspec.Struct, frozen=True):
    """Counters of one network interface."""

    name: str
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class DiskCounters(msgspec.Struct, frozen=True):
    """One block device: bytes and operations by ``Read``, ``Write``, ``Discard``, ``Total``."""

    major: int
    minor: int
    bytes: dict[str, int]
    operations: dict[str, int]
    cost: dict[str, int] = {}
    """``cost.usage``, ``cost.wait``, ``cost.indebt``, ``cost.indelay`` in microseconds."""


class Ulimit(msgspec.Struct, frozen=True):
    """-1 is unlimited."""

    name: str
    soft: int
    hard: int


class FileSystemUse(msgspec.Struct, frozen=True):
    """Bytes. For a container ``usage`` is its own, for the machine all of the file system's."""

    device: str
    type: str
    mountpoint: str
    capacity: int
    usage: int
    available: int
    inodes: int = 0
    inodes_free: int = 0
    base_usage: int = 0
    """The part of ``usage`` that the container's writable layer uses."""
    major: int = 0
    minor: int = 0
    counters: tuple[int, ...] = ()
    """The first eleven fields of the block device in ``/proc/diskstats``: the machine's only."""


DISK_FIELDS: Final = (
    "reads_completed", "reads_merged", "sectors_read", "read_time",
    "writes_completed", "writes_merged", "sectors_written", "write_time",
    "io_in_progress", "io_time", "weighted_io_time",
)  # fmt: skip
"""Names of :attr:`FileSystemUse.counters`; times in milliseconds
(Documentation/admin-guide/iostats.rst)."""


class HugetlbUse(msgspec.Struct, frozen=True):
    usage: int = 0
    max_usage: int = 0
    failcnt: int = 0


class Details(msgspec.Struct, frozen=True):
    """Values that cost more and are read less often. Shared by many samples."""

    time_ns: int = 0
    processes: int = 0
    descriptors: int = 0
    sockets: int = 0
    threads_max: int = 0
    """0: no limit."""
    descriptors_limit: int = 0
    """The lowest soft limit of open files among the processes; 0: none was read."""
    descriptors_highest: int = 0
    """Open descriptors of the process that is nearest to its limit."""
    ulimits: tuple[Ulimit, ...] = ()
    """Of the first process."""
    tasks: dict[str, int] = {}
    """Threads by state: sleeping, running, stopped, uninterruptible, iowait."""
    schedstat: tuple[int, int, int] = (0, 0, 0)
    """Nanoseconds run, nanoseconds waited on a run queue, time slices (living tasks)."""
    tcp: dict[str, int] = {}
    tcp6: dict[str, int] = {}
    """Sockets by state, spelled as cAdvisor does: Established, SynSent, …"""
    udp: dict[str, int] = {}
    udp6: dict[str, int] = {}
    """Listen, Dropped, RxQueued, TxQueued."""
    tcp_advanced: dict[str, int] = {}
    """The counters of Tcp and TcpExt in /proc/net/snmp and netstat, by the kernel's names."""
    hugetlb: dict[str, HugetlbUse] = {}
    """By page size: 2MB, 1GB."""
    numa: dict[str, dict[int, int]] = {}
    """Pages by kind (``file``, ``anon``, ``unevictable``; ``total_`` before it: with the groups
    below) and node."""
    filesystems: tuple[FileSystemUse, ...] = ()
    memory_migrate: int = 0


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One sample of a group. Read it with :func:`view`, :func:`scalar`, or the functions below."""

    time_ns: int
    """Nanoseconds since the epoch."""
    scalars: bytes
    per_cpu: bytes
    """Nanoseconds of each processor, 64 bits each; empty on cgroup v2, which does not count so."""
    io_bytes: bytes
    io_operations: bytes
    """As the kernel wrote them; version 2's ``io.stat`` has both and is in ``io_bytes``."""
    link_names: tuple[str, ...]
    links: bytes
    pressure: tuple[bytes, bytes, bytes]
    """The text of cpu.pressure, memory.pressure, io.pressure; empty where there is none."""
    details: Details
    load: float = 0.0


def scalar(sample: Sample, name: str) -> int:
    """One of :data:`SCALARS`."""
    return int.from_bytes(sample.scalars[INDEX[name] * 8 :][:8], "little", signed=True)


def scalars(sample: Sample) -> dict[str, int]:
    return dict(zip(SCALARS, PACKED.unpack(sample.scalars), strict=True))


def per_cpu(sample: Sample) -> list[int]:
    return list(memoryview(sample.per_cpu).cast("q")) if sample.per_cpu else []


def links(sample: Sample) -> list[Link]:
    counters = LINK.iter_unpack(sample.links)
    return [Link(name, *found) for name, found in zip(sample.link_names, counters, strict=True)]


def pressure(text: bytes) -> Pressure:
    """The two lines of a pressure file; processor pressure of old kernels has one."""
    found: dict[bytes, PressureLine] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split(b"=", 1) for pair in pairs)
        found[kind] = PressureLine(
            total=int(values.get(b"total", 0)),
            avg10=float(values.get(b"avg10", 0)),
            avg60=float(values.get(b"avg60", 0)),
            avg300=float(values.get(b"avg300", 0)),
        )
    return Pressure(found.get(b"some", PressureLine()), found.get(b"full", PressureLine()))


def disks(sample: Sample) -> list[DiskCounters]:
    """Per device, in the kernel's order."""
    if b"=" in sample.io_bytes or not sample.io_operations:
        return _disks_v2(sample.io_bytes)
    found: dict[tuple[int, int], DiskCounters] = {}
    for text, is_bytes in ((sample.io_bytes, True), (sample.io_operations, False)):
        for line in text.splitlines():
            words = line.split()
            if len(words) != 3:
                continue  # the grand total
            major, _, minor = words[0].partition(b":")
            key = (int(major), int(minor))
            disk = found.setdefault(key, DiskCounters(*key, {}, {}))
            (disk.bytes if is_bytes else disk.operations)[words[1].decode()] = int(words[2])
    return list(found.values())


_V2 = {
    "rbytes": ("bytes", "Read"), "wbytes": ("bytes", "Write"), "dbytes": ("bytes", "Discard"),
    "rios": ("operations", "Read"), "wios": ("operations", "Write"),
    "dios": ("operations", "Discard"),
}  # fmt: skip


def _disks_v2(text: bytes) -> list[DiskCounters]:
    found = []
    for line in text.decode().splitlines():
        device, *counters = line.split()
        major, _, minor = device.partition(":")
        if not (major.isdigit() and minor.isdigit()):
            continue
        sizes: dict[str, int] = {}
        operations: dict[str, int] = {}
        cost: dict[str, int] = {}
        for counter in counters:
            name, _, value = counter.partition("=")
            if name in _V2 and value.isdigit():
                into, operation = _V2[name]
                (sizes if into == "bytes" else operations)[operation] = int(value)
            elif name.startswith("cost.") and value.isdigit():
                cost[name] = int(value)
        for counts in (sizes, operations):
            if counts:
                counts["Total"] = sum(counts.values())
        found.append(DiskCounters(int(major), int(minor), sizes, operations, cost))
    return found


class View(msgspec.Struct, frozen=True):
    """A sample with names to everything: what JSON consumers get."""

    time_ns: int
    values: dict[str, int]
    per_cpu: list[int]
    disks: list[DiskCounters]
    links: list[Link]
    pressure: dict[str, Pressure]
    details: Details
    load: float


def view(sample: Sample) -> View:
    names = ("cpu", "memory", "io")
    return View(
        sample.time_ns,
        scalars(sample),
        per_cpu(sample),
        disks(sample),
        links(sample),
        {name: pressure(text) for name, text in zip(names, sample.pressure, strict=True) if text},
        sample.details,
        sample.load,
    )


_RATES = ("cpu_total", "cfs_periods", "cfs_throttled_periods", "rx_bytes", "tx_bytes",
          "read_bytes", "write_bytes")  # fmt: skip
_CPU, _PERIODS, _THROTTLED, _RX, _TX, _READ, _WRITE = (INDEX[name] for name in _RATES)
_GAUGES = tuple(
    INDEX[name]
    for name in ("memory_usage", "memory_working_set", "memory_cache", "memory_rss", "memory_swap")
)
_USAGE, _SET, _CACHE, _RSS, _SWAP = _GAUGES
_THREADS = INDEX["threads"]
_PC, _PM, _PI = (INDEX[f"pressure_{name}"] for name in ("cpu", "memory", "io"))


def point(before: Sample | None, sample: Sample) -> Point:
    """The chart's values at ``sample``; rates since ``before`` (0 without one).

    A counter that went back (the group was made anew) gives the rate 0.
    """
    now = PACKED.unpack(sample.scalars)
    if before is None or sample.time_ns <= before.time_ns or before.scalars is sample.scalars:
        rates = (0.0,) * 6
    else:
        old = PACKED.unpack(before.scalars)
        seconds = (sample.time_ns - before.time_ns) / 1e9
        periods = now[_PERIODS] - old[_PERIODS]
        rates = (
            max(0, now[_CPU] - old[_CPU]) / 1e9 / seconds,
            max(0, now[_THROTTLED] - old[_THROTTLED]) / periods if periods > 0 else 0.0,
            max(0, now[_RX] - old[_RX]) / seconds,
            max(0, now[_TX] - old[_TX]) / seconds,
            max(0, now[_READ] - old[_READ]) / seconds,
            max(0, now[_WRITE] - old[_WRITE]) / seconds,
        )
    return (
        rates[0], rates[1], now[_USAGE], now[_SET], now[_CACHE], now[_RSS], now[_SWAP],
        rates[2], rates[3], rates[4], rates[5], now[_THREADS],
        now[_PC] / 100, now[_PM] / 100, now[_PI] / 100, sample.load,
    )  # fmt: skip
