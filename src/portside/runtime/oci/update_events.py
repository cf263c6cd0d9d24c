"""``update`` and ``events``: a container's control group, changed and looked at."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import msgspec

from portside.kernel.cgroup import Cgroup
from portside.kernel.cgroup.stats import UNLIMITED, BlkioEntry, CgroupStats, collect_all
from portside.model.errors import InvalidParameter, InvalidText, SystemFailure
from portside.model.golang.durations import parse_duration
from portside.model.golang.numbers import parse_int
from portside.model.golang.sizes import ram_bytes
from portside.model.ociruntime import CPU, BlockIO, Memory, Pids, Resources
from portside.runtime import messages
from portside.runtime.oci.arguments import Context, Options
from portside.runtime.oci.state_store import Container

_MIN_SHARES, _MAX_SHARES = 2, 1 << 18
"""The kernel's limits of cpu.shares (MIN_SHARES and MAX_SHARES in kernel/sched/sched.h)."""


def update(context: Context, options: Options) -> int:
    """Change limits: from a file or ``-`` (JSON), or by options."""
    box = Container(context.root, options.operand())
    saved = box.load()
    if box.status(saved) == "stopped":
        raise SystemFailure("container not running")
    path = options.text("resources")
    resources = _read(path) if path else _given(options)
    Cgroup(saved.cgroup).update(resources)
    return 0


def _read(path: str) -> Resources:
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
        return messages.decode(data, Resources)
    except OSError as err:
        raise InvalidParameter(f"{path}: {err.strerror}") from err
    except msgspec.MsgspecError as err:
        raise InvalidParameter(f"resources: {err}") from err


def _bytes(options: Options, name: str) -> int | None:
    text = options.text(name)
    if not text:
        return None
    try:
        return parse_int(text) if text == "-1" else ram_bytes(text)
    except InvalidText as err:
        raise InvalidParameter(f"invalid value for {name}: {err}") from None


def _given(options: Options) -> Resources:
    number = options.number
    shares = number("cpu-share")
    if shares and shares < _MIN_SHARES:
        raise InvalidParameter(f"the minimum allowed cpu-shares is {_MIN_SHARES}")
    if shares and shares > _MAX_SHARES:
        raise InvalidParameter(f"the maximum allowed cpu-shares is {_MAX_SHARES}")
    resources = Resources(
        memory=Memory(
            limit=_bytes(options, "memory"),
            reservation=_bytes(options, "memory-reservation"),
            swap=_bytes(options, "memory-swap"),
        ),
        cpu=CPU(
            shares=shares,
            quota=number("cpu-quota"),
            burst=number("cpu-burst"),
            period=number("cpu-period"),
            realtime_period=number("cpu-rt-period"),
            realtime_runtime=number("cpu-rt-runtime"),
            cpus=options.text("cpuset-cpus") or None,
            mems=options.text("cpuset-mems") or None,
            idle=number("cpu-idle"),
        ),
    )
    if (limit := number("pids-limit")) is not None:
        resources.pids = Pids(limit)
    if (weight := number("blkio-weight")) is not None:
        resources.block_io = BlockIO(weight=weight)
    return resources


def events(context: Context, options: Options) -> int:
    """Statistics: once with ``--stats``, else every ``--interval`` until the container ends."""
    box = Container(context.root, options.operand())
    saved = box.load()
    if box.status(saved) == "stopped":
        raise SystemFailure(f"container with id {box.id} is not running")
    interval = _seconds(options.text("interval", "5s"))
    kills = 0
    while True:
        group = Cgroup(saved.cgroup)
        print(json.dumps({"type": "stats", "id": box.id, "data": figures(collect_all(group))}))
        sys.stdout.flush()
        if options.flag("stats"):
            return 0
        time.sleep(interval)
        if box.status(saved) == "stopped":
            return 0
        if (now := group.oom_kills()) > kills:
            kills = now
            print(json.dumps({"type": "oom", "id": box.id}))


def _seconds(text: str) -> float:
    nanoseconds = parse_duration(text)
    if nanoseconds <= 0:
        raise InvalidParameter(f"duration interval must be greater than 0: {text!r}")
    return nanoseconds / 1e9


def _numbers(text: str) -> list[int]:
    """``0-2,4`` one by one (cpuset(7), "List format")."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def figures(stats: CgroupStats) -> dict[str, Any]:
    """The shape that ``runc events`` gives them."""
    memory, cpu = stats.memory, stats.cpu

    def entries(found: list[BlkioEntry]) -> list[dict[str, Any]]:
        return [{"major": e.major, "minor": e.minor, "op": e.op, "value": e.value} for e in found]

    def use(usage: int, highest: int, limit: int, failures: int) -> dict[str, int]:
        unlimited = (1 << 64) - 1
        return {"limit": limit if limit >= 0 else unlimited, "usage": usage, "max": highest,
                "failcnt": failures}  # fmt: skip

    return {
        "cpu": {
            "usage": {
                "total": cpu.total,
                "percpu": cpu.percpu,
                "kernel": cpu.kernel,
                "user": cpu.user,
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled,
            },
        },
        "cpuset": {"cpus": _numbers(stats.cpuset_cpus), "mems": _numbers(stats.cpuset_mems)},
        "memory": {
            "usage": use(memory.usage, memory.max_usage, memory.limit, memory.failcnt),
            "swap": use(memory.swap_usage, 0, memory.swap_limit, 0),
            "kernel": use(memory.kernel_usage, 0, UNLIMITED, 0),
            "cache": memory.stat.get("cache", memory.stat.get("file", 0)),
            "raw": memory.stat,
        },
        "pids": {"current": stats.pids.current, "limit": max(stats.pids.limit, 0)},
        "blkio": {
            "ioServiceBytesRecursive": entries(stats.io_bytes),
            "ioServicedRecursive": entries(stats.io_operations),
        },
        "intel_rdt": {},
        "network_interfaces": None,
        "hugetlb": {
            size: {"usage": found[0], "max": found[1], "failcnt": found[2]}
            for size, found in stats.hugetlb.items()
        },
    }
