"""Checks of what a user asks of the machine, before anything is made."""

from __future__ import annotations

from typing import TypeVar

from portside.kernel.cgroup import detect, limits
from portside.kernel.cgroup.machine import machine
from portside.model.container import HostConfig, Resources
from portside.model.errors import InvalidParameter
from portside.model.paths import rootless_user

_R = TypeVar("_R", bound=Resources)


def _undelegated() -> str:
    """Why an engine without root has no limits, and what to do; empty where it has some."""
    if not rootless_user() or detect().mode != "none":
        return ""
    return (
        "no control group was delegated to this user's engine: on a system with systemd and "
        "version 2, install it as the user's service: portside daemon stop; portside daemon install"
    )


def check_limits(host: _R, *, update: bool = False) -> tuple[_R, list[str]]:
    """The limits as they can be had here, with warnings. Raises InvalidParameter."""
    here = machine()
    try:
        found, warnings = limits.check(host, here, update)
    except InvalidParameter as err:
        hint = _undelegated()
        raise (InvalidParameter(f"{err}: {hint}") if hint else err) from None
    if warnings and (hint := _undelegated()):
        warnings.append(hint)
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
