"""Which limits this machine's kernel can hold, for ``info``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from portside.kernel.cgroup.layout import detect


@dataclass(frozen=True, slots=True)
class Limits:
    version: str
    """``1`` or ``2``: which cgroup version has the controllers."""
    memory: bool
    swap: bool
    cpu: bool
    cpuset: bool
    pids: bool
    oom_kill_disable: bool


@cache
def limits() -> Limits:
    layout = detect()
    v1_memory = layout.v1("memory")
    return Limits(
        version="2" if layout.mode == "v2" else "1",
        memory=layout.has("memory"),
        swap=_has_swap(v1_memory),
        cpu=layout.has("cpu"),
        cpuset=layout.has("cpuset"),
        pids=layout.has("pids"),
        oom_kill_disable=bool(v1_memory),
    )


def _has_swap(v1_memory: str) -> bool:
    if v1_memory:
        return Path(v1_memory, "memory.memsw.limit_in_bytes").exists()
    return Path("/proc/swaps").exists()
