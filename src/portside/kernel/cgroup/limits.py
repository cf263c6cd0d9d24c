"""Limits as users give them: what contradicts itself, exceeds the machine or cannot be had.

The texts are Docker's, since clients and their users match on them. A limit whose
controller is missing is dropped with a warning, as Docker does; one that makes no sense is
an error.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, TypeVar

from portside.kernel.cgroup.machine import Machine
from portside.kernel.cgroup.plan import MAXIMUM_SHARES
from portside.model.errors import InvalidParameter, LimitUnsupported

if TYPE_CHECKING:
    from portside.model.container import Resources

_R = TypeVar("_R", bound="Resources")

MINIMUM_MEMORY = 6 << 20
"""Bytes. Not the kernel's limit: less than that does not start anything useful."""
_MAXIMUM_CPU = 8192
"""Highest processor number a list may name; bounds what a hostile list can make us build."""


def check(resources: _R, machine: Machine, update: bool = False) -> tuple[_R, list[str]]:
    """``resources`` without what cannot be had here, and the warnings that go with that.

    ``update``: the values change those of an existing container, so a swap limit may come
    without the memory limit. Raises InvalidParameter.
    """
    found = copy.copy(resources)
    warnings: list[str] = []
    _memory(found, machine, update, warnings)
    _processes(found, machine, warnings)
    _cpu(found, machine, warnings)
    _realtime(found, machine)
    _cpuset(found, machine, warnings)
    _block_io(found, machine, warnings)
    return found, warnings


def swap_default(memory: int, memory_swap: int) -> int:
    """Docker's memory plus swap for a container that asks for memory alone: twice that."""
    return memory * 2 if memory > 0 and memory_swap == 0 else memory_swap


def _memory(limits: Resources, machine: Machine, update: bool, warnings: list[str]) -> None:
    if limits.memory_swappiness == -1:
        limits.memory_swappiness = None
    if limits.memory != 0 and limits.memory < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if limits.memory > 0 and not machine.memory_limit:
        warnings.append(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. "
            "Limitation discarded."
        )
        limits.memory, limits.memory_swap = 0, -1
    if limits.memory > 0 and limits.memory_swap != -1 and not machine.swap_limit:
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap."
        )
        limits.memory_swap = -1
    if limits.memory > 0 and 0 < limits.memory_swap < limits.memory:
        raise InvalidParameter(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if limits.memory == 0 and limits.memory_swap > 0 and not update:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if limits.memory_swap < -1:
        raise InvalidParameter(
            f"invalid memoryswap limit {limits.memory_swap}: use -1 for no limit"
        )
    _swappiness(limits, machine, warnings)
    _reservation(limits, machine, warnings)
    _kernel_memory(limits, machine, warnings)
    _oom_killer(limits, machine, warnings)


def _swappiness(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if limits.memory_swappiness is not None and not machine.memory_swappiness:
        warnings.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not "
            "mounted. Memory swappiness discarded."
        )
        limits.memory_swappiness = None
    if limits.memory_swappiness is not None and not 0 <= limits.memory_swappiness <= 100:
        raise InvalidParameter(
            f"Invalid value: {limits.memory_swappiness}, valid memory swappiness range is 0-100"
        )


def _reservation(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if limits.memory_reservation > 0 and not machine.memory_reservation:
        warnings.append(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not "
            "mounted. Limitation discarded."
        )
        limits.memory_reservation = 0
    if limits.memory_reservation != 0 and limits.memory_reservation < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < limits.memory < limits.memory_reservation:
        raise InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )


def _kernel_memory(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if limits.kernel_memory > 0 and not machine.kernel_memory:
        warnings.append(
            "Your kernel does not support kernel memory limit capabilities or the cgroup is not "
            "mounted. Limitation discarded."
        )
        limits.kernel_memory = 0
    if limits.kernel_memory_tcp > 0 and not machine.kernel_memory_tcp:
        warnings.append(
            "Your kernel does not support kernel memory TCP limit capabilities or the cgroup is "
            "not mounted. Limitation discarded."
        )
        limits.kernel_memory_tcp = 0


def _oom_killer(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if limits.oom_kill_disable is not None and not machine.oom_kill_disable:
        if limits.oom_kill_disable:
            warnings.append(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded."
            )
        limits.oom_kill_disable = None
    if limits.oom_kill_disable and limits.memory == 0:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can "
            "result in the system running out of resources."
        )


def _processes(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if limits.pids_limit is not None and not machine.pids_limit:
        if limits.pids_limit > 0:
            warnings.append(
                "Your kernel does not support PIDs limit capabilities or the cgroup is not "
                "mounted. PIDs limit discarded."
            )
        limits.pids_limit = None
    if limits.pids_limit is not None and limits.pids_limit < -1:
        raise InvalidParameter(f"invalid PIDs limit {limits.pids_limit}: use -1 for no limit")


def _cpu(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if limits.nano_cpus > 0 and limits.cpu_period > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if limits.nano_cpus > 0 and limits.cpu_quota > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if limits.nano_cpus > 0 and not machine.cpu_cfs:
        raise LimitUnsupported(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the "
            "cgroup is not mounted"
        )
    if limits.nano_cpus != 0 and not 0 < limits.nano_cpus <= machine.cpus * 1_000_000_000:
        raise InvalidParameter(
            f"range of CPUs is from 0.01 to {machine.cpus}.00, as there are only "
            f"{machine.cpus} CPUs available"
        )
    if 0 < limits.nano_cpus < 10_000_000:
        # The kernel's shortest quota is a millisecond, of the 100 that a period has.
        raise InvalidParameter(
            f"range of CPUs is from 0.01 to {machine.cpus}.00, as there are only "
            f"{machine.cpus} CPUs available"
        )
    _shares(limits, machine, warnings)
    if (limits.cpu_period != 0 or limits.cpu_quota != 0) and not machine.cpu_cfs:
        warnings.append(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
        )
        limits.cpu_period = limits.cpu_quota = 0
    if limits.cpu_period != 0 and not 1000 <= limits.cpu_period <= 1_000_000:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < limits.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if limits.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
        limits.cpu_percent = 0


def _shares(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if limits.cpu_shares > 0 and not machine.cpu_shares:
        warnings.append(
            "Your kernel does not support CPU shares or the cgroup is not mounted. "
            "Shares discarded."
        )
        limits.cpu_shares = 0
    if limits.cpu_shares < 0:
        raise InvalidParameter(
            f"invalid CPU shares ({limits.cpu_shares}): value must be a positive integer"
        )
    if machine.cgroup_version == 1 and limits.cpu_shares > MAXIMUM_SHARES:
        # The kernel would clamp it in silence, and inspect would show a wrong value.
        raise InvalidParameter(
            f"invalid CPU shares ({limits.cpu_shares}): "
            f"the maximum allowed cpu-shares is {MAXIMUM_SHARES}"
        )


def _realtime(limits: Resources, machine: Machine) -> None:
    runtime, period = limits.cpu_realtime_runtime, limits.cpu_realtime_period
    if (runtime != 0 or period != 0) and not machine.cpu_realtime:
        raise LimitUnsupported("Your kernel does not support CPU real-time scheduler")
    if runtime != 0 and period != 0 and runtime > period:
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")


def _cpuset(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if (limits.cpuset_cpus or limits.cpuset_mems) and not machine.cpuset:
        warnings.append(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
        )
        limits.cpuset_cpus = limits.cpuset_mems = ""
    for kind, name, wanted, available in (
        ("CPUs", "cpus", limits.cpuset_cpus, machine.cpuset_cpus),
        ("memory nodes", "mems", limits.cpuset_mems, machine.cpuset_mems),
    ):
        try:
            missing = parse_list(wanted) - parse_list(available)
        except ValueError as error:
            raise InvalidParameter(f"Invalid value {wanted} for cpuset {name}: {error}") from error
        if missing:
            raise InvalidParameter(
                f"Requested {kind} are not available - requested {wanted}, available: {available}"
            )


def parse_list(text: str) -> set[int]:
    """The numbers of a list such as ``0-3,8`` (cpuset(7), "List format"). Raises ValueError."""
    numbers: set[int] = set()
    if not text.strip():
        return numbers
    for part in text.strip().split(","):
        matched = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        if not matched:
            raise ValueError(f"invalid format: {text}")
        low, high = int(matched[1]), int(matched[2] or matched[1])
        if high < low:
            raise ValueError(f"invalid format: {text}")
        if high > _MAXIMUM_CPU:
            raise ValueError(f"value out of range, maximum is {_MAXIMUM_CPU}")
        numbers.update(range(low, high + 1))
    return numbers


def _block_io(limits: Resources, machine: Machine, warnings: list[str]) -> None:
    if limits.blkio_weight > 0 and not machine.blkio_weight:
        warnings.append(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. "
            "Weight discarded."
        )
        limits.blkio_weight = 0
    weights = [limits.blkio_weight, *(d.weight for d in limits.blkio_weight_device or ())]
    if any(weight != 0 and not 10 <= weight <= 1000 for weight in weights):
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    for value, what in (
        (limits.io_maximum_bandwidth, "bandwidth"),
        (limits.io_maximum_iops, "IOPs"),
    ):
        if value:
            raise InvalidParameter(
                f"invalid QoS settings: linux does not support configuration of maximum {what}"
            )
    if limits.blkio_weight_device and not machine.blkio_weight_device:
        warnings.append(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. "
            "Weight-device discarded."
        )
        limits.blkio_weight_device = None
    for field, works, what in (
        ("blkio_device_read_bps", machine.blkio_read_bps, "BPS Block I/O read"),
        ("blkio_device_write_bps", machine.blkio_write_bps, "BPS Block I/O write"),
        ("blkio_device_read_iops", machine.blkio_read_iops, "IOPS Block read"),
        ("blkio_device_write_iops", machine.blkio_write_iops, "IOPS Block write"),
    ):
        if getattr(limits, field) and not works:
            kind, _, way = what.replace("Block I/O ", "").replace("Block ", "").partition(" ")
            warnings.append(
                f"Your kernel does not support {what} limit or the cgroup is not mounted. "
                f"Block I/O {kind} {way} limit discarded."
            )
            setattr(limits, field, None)
