"""Checks of what a user asks of the machine, before anything is made."""

from __future__ import annotations

from typing import TypeVar

from portside.kernel.cgroup import limits
from portside.kernel.cgroup.machine import machine
from portside.model.container import HostConfig, Resources
from portside.model.errors import InvalidParameter

_R = TypeVar("_R", bound=Resources)


def check_limits(host: _R, *, update: bool = False) -> tuple[_R, list[str]]:
    """The limits as they can be had here, with warnings. Raises InvalidParameter."""
    here = machine()
    found, warnings = limits.check(host, here, update)
    if isinstance(host, HostConfig):
        if here.oom_kill_disable and found.oom_kill_disable is None:
            found.oom_kill_disable = False  # as it is in the kernel; null where it cannot be
        if host.shm_size < 0:
            raise InvalidParameter("SHM size can not be less than 0")
        if not -1000 <= host.oom_score_adj <= 1000:
            raise InvalidParameter(
                f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
            )
    return found, warnings
