"""A group's limits, in the units of cAdvisor's specification."""

from __future__ import annotations

import os

import msgspec

from portside.kernel.cgroup import Layout
from portside.kernel.cgroup.files import number, read_or

UNLIMITED = (1 << 64) - 1
"""How cAdvisor writes "no limit" of memory on version 2, and of swap."""
_V1_UNLIMITED = 1 << 62
"""Version 1 shows no limit as a number of pages near 2^63."""


class GroupSpec(msgspec.Struct, frozen=True):
    shares: int = 0
    """``cpu.shares``; version 2's weight is converted to the same scale."""
    quota: int = 0
    """Microseconds of processor time in each period; 0: no quota."""
    period: int = 0
    cpus: str = ""
    """Processors it may use, as ``0-3,8``."""
    memory_limit: int = UNLIMITED
    swap_limit: int = UNLIMITED
    """As cAdvisor shows it: memory and swap together on version 1, swap alone on version 2."""
    reservation: int = 0
    pids_limit: int = 0
    """0: no limit."""
    created_ns: int = 0
    """When the group's directory was made."""
    swap_is_total: bool = True
    """``swap_limit`` counts memory, too (version 1)."""

    @property
    def total_limit(self) -> int:
        """Memory and swap together, as ``docker update --memory-swap`` sets it."""
        if self.swap_limit >= _V1_UNLIMITED or self.swap_is_total:
            return self.swap_limit
        return self.memory_limit + self.swap_limit

    @property
    def has_memory_limit(self) -> bool:
        return 0 < self.memory_limit < _V1_UNLIMITED

    @property
    def cores(self) -> float:
        """How many processors the quota allows; 0: no quota."""
        return self.quota / self.period if self.quota > 0 and self.period else 0.0


def read_spec(layout: Layout, name: str) -> GroupSpec:
    """Read the limits of a group; a missing file means unlimited."""
    inside = "" if name == "/" else name
    v1_cpu, v1_memory = layout.v1("cpu"), layout.v1("memory")
    unified = f"{layout.unified}{inside}" if layout.unified else ""
    cpu = _cpu_v1(f"{v1_cpu}{inside}") if v1_cpu else _cpu_v2(unified)
    if v1_memory:
        memory = _memory_v1(f"{v1_memory}{inside}")
    elif name == "/":
        memory = (_memory_total(), UNLIMITED, 0)
    else:
        memory = _memory_v2(unified)
    sets = layout.v1("cpuset")
    cpus = read_or(f"{sets}{inside}/cpuset.cpus") if sets else ""
    if not sets and unified:
        cpus = read_or(f"{unified}/cpuset.cpus.effective")
    pids = f"{layout.v1('pids')}{inside}" if layout.v1("pids") else unified
    return GroupSpec(
        *cpu, cpus.strip(), *memory, max(0, number(read_or(f"{pids}/pids.max"), 0)),
        _created(layout, inside), bool(v1_memory),
    )  # fmt: skip


def _cpu_v1(directory: str) -> tuple[int, int, int]:
    shares = number(read_or(f"{directory}/cpu.shares"), 0)
    quota = number(read_or(f"{directory}/cpu.cfs_quota_us"), 0)
    return shares, max(0, quota), number(read_or(f"{directory}/cpu.cfs_period_us"), 0)


def _cpu_v2(directory: str) -> tuple[int, int, int]:
    weight = number(read_or(f"{directory}/cpu.weight"), 0)
    quota, _, period = read_or(f"{directory}/cpu.max").strip().partition(" ")
    # the inverse of how runtimes map shares (2 to 262144) to weights (1 to 10000)
    shares = 2 + (weight - 1) * 262142 // 9999 if weight else 0
    return shares, number(quota, 0), number(period, 0)


def _v1_limit(directory: str, file: str) -> int:
    return number(read_or(f"{directory}/{file}"), UNLIMITED)


def _memory_v1(directory: str) -> tuple[int, int, int]:
    reservation = _v1_limit(directory, "memory.soft_limit_in_bytes")
    return (
        _v1_limit(directory, "memory.limit_in_bytes"),
        _v1_limit(directory, "memory.memsw.limit_in_bytes"),
        reservation,
    )


def _memory_v2(directory: str) -> tuple[int, int, int]:
    return (
        number(read_or(f"{directory}/memory.max", "max"), UNLIMITED),
        number(read_or(f"{directory}/memory.swap.max", "max"), UNLIMITED),
        max(0, number(read_or(f"{directory}/memory.low", "0"), UNLIMITED)),
    )


def _memory_total() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _created(layout: Layout, inside: str) -> int:
    """The oldest change of the group's directories, as cAdvisor uses it."""
    times = []
    for mount in layout.mounts():
        try:
            times.append(os.stat(f"{mount}{inside}").st_ctime_ns)
        except OSError:
            continue
    return min(times, default=0)
