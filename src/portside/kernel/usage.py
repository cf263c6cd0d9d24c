"""Machine-wide processor time and a process's network counters (proc(5))."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SystemUse:
    """One look at the whole machine."""

    cpu: int
    """Nanoseconds that all processors together have passed, idle or not, since boot."""
    online_cpus: int
    memory: int
    """Bytes of memory in the machine."""


@dataclass(frozen=True, slots=True)
class LinkUse:
    """Counters of one network interface since it was made."""

    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


def system_use() -> SystemUse:
    """Read once for all containers that are looked at together."""
    with open("/proc/stat") as file:
        cpu, online = parse_stat(file.read())
    return SystemUse(cpu, online, memory_total())


def parse_stat(text: str) -> tuple[int, int]:
    """Nanoseconds and number of processors from ``/proc/stat``.

    The sum ends before ``steal``: time that a hypervisor took is not this machine's.
    """
    total = online = 0
    for line in text.splitlines():
        if line.startswith("cpu "):
            ticks = sum(int(word) for word in line.split()[1:8])
            total = ticks * 1_000_000_000 // _clock_ticks()
        elif line.startswith("cpu"):
            online += 1
        else:
            break
    return total, online


@functools.cache
def _clock_ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


@functools.cache
def memory_total() -> int:
    """Bytes of memory (``MemTotal``)."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return 0


def links_of(pid: int) -> dict[str, LinkUse]:
    """Interfaces in the network namespace of ``pid``, without the loopback.

    Empty when the process is gone.
    """
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            return parse_net_dev(file.read())
    except OSError:
        return {}


def parse_net_dev(text: str) -> dict[str, LinkUse]:
    """The table of ``/proc/PID/net/dev``: eight columns received, eight sent."""
    found: dict[str, LinkUse] = {}
    for line in text.splitlines()[2:]:
        name, colon, rest = line.partition(":")
        name, columns = name.strip(), rest.split()
        if not colon or name == "lo" or len(columns) < 12:
            continue
        numbers = [int(column) for column in columns]
        found[name] = LinkUse(*numbers[0:4], *numbers[8:12])
    return found
