"""Scheduling of a process: ``scheduler``, ``ioPriority``, ``execCPUAffinity`` and the
execution domain (config.md, "Linux Process"; config-linux.md, "Personality").
"""

from __future__ import annotations

import os

from portside.kernel.process import ioprio_set, personality, sched_setattr
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import IOPriority, Personality, Process, Scheduler

POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4,
            "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}  # fmt: skip
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}


def check(process: Process, domain: Personality | None) -> None:
    """Raise InvalidParameter for what no kernel could do."""
    if process.scheduler is not None:
        _check_scheduler(process.scheduler)
    if process.io_priority is not None:
        _io_class(process.io_priority)
    if process.exec_cpu_affinity is not None:
        for text in (process.exec_cpu_affinity.initial, process.exec_cpu_affinity.final):
            cpus(text)
    if domain is not None:
        if domain.domain not in DOMAINS:
            raise InvalidParameter(f"unknown personality domain {domain.domain!r}")
        if domain.flags:
            raise InvalidParameter("personality flags are not supported")


def _check_scheduler(wanted: Scheduler) -> None:
    if wanted.policy not in POLICIES:
        raise InvalidParameter(f"invalid scheduler policy: {wanted.policy!r}")
    if not -20 <= wanted.nice <= 19:
        raise InvalidParameter(f"invalid scheduler.nice: {wanted.nice}")
    if wanted.priority and wanted.policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise InvalidParameter(
            "scheduler.priority can only be specified for SchedFIFO or SchedRR policy"
        )
    deadline = (wanted.runtime, wanted.deadline, wanted.period) != (0, 0, 0)
    if deadline and wanted.policy != "SCHED_DEADLINE":
        raise InvalidParameter(
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy"
        )
    for flag in wanted.flags:
        if flag not in FLAGS:
            raise InvalidParameter(f"invalid scheduler flag: {flag!r}")


def _io_class(wanted: IOPriority) -> int:
    if wanted.class_ not in IO_CLASSES:
        raise InvalidParameter(f"invalid ioPriority.class: {wanted.class_!r}")
    if not 0 <= wanted.priority <= 7:
        raise InvalidParameter(f"invalid ioPriority.priority: {wanted.priority}")
    return IO_CLASSES[wanted.class_]


def apply(process: Process) -> None:
    """The calling process's scheduling from now on, while it has the rights."""
    wanted = process.scheduler
    if wanted is not None:
        _check_scheduler(wanted)
        flags = 0
        for flag in wanted.flags:
            flags |= FLAGS[flag]
        times = (wanted.runtime, wanted.deadline, wanted.period)
        policy = POLICIES[wanted.policy]
        try:
            sched_setattr(policy, flags, wanted.nice, wanted.priority, *times)
        except OSError as err:
            raise SystemFailure(f"error setting scheduler: {err.strerror}") from err
    priority = process.io_priority
    if priority is not None:
        try:
            ioprio_set(_io_class(priority), priority.priority)
        except OSError as err:
            raise SystemFailure(f"failed to set io priority: {err.strerror}") from err


def set_domain(wanted: Personality | None) -> None:
    """The execution domain (personality(2)), which children and execve(2) keep."""
    if wanted is None:
        return
    try:
        personality(DOMAINS[wanted.domain])
    except OSError as err:
        raise SystemFailure(f"cannot set personality {wanted.domain}: {err.strerror}") from err


def cpus(text: str) -> set[int]:
    """A list of processors such as ``0-3,7``. Raises InvalidParameter."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(first + last) > 8:
            raise InvalidParameter(f"invalid CPU list {text!r}")
        begin, end = int(first), int(last or first)
        if end < begin or end > 8191:
            raise InvalidParameter(f"invalid CPU list {text!r}")
        found.update(range(begin, end + 1))
    return found


def run_on(text: str) -> None:
    """Stay on these processors; an empty list changes nothing."""
    wanted = cpus(text)
    if not wanted:
        return
    try:
        os.sched_setaffinity(0, wanted)
    except OSError as err:
        raise SystemFailure(f"error setting CPU affinity {text}: {err.strerror}") from err
