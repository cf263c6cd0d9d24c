"""InfluxDB's line protocol, with the measurements of cAdvisor's InfluxDB driver."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from portside.monitor.collector import Group
from portside.monitor.samples import View

_VALUES = {
    "cpu_usage_total": "cpu_total", "cpu_usage_system": "cpu_system",
    "cpu_usage_user": "cpu_user", "memory_usage": "memory_usage",
    "memory_working_set": "memory_working_set", "memory_cache": "memory_cache",
    "memory_rss": "memory_rss", "memory_swap": "memory_swap",
    "memory_mapped_file": "memory_mapped_file", "memory_max_usage": "memory_max_usage",
    "memory_failcnt": "memory_failcnt", "memory_pgfault": "pgfault",
    "memory_pgmajfault": "pgmajfault", "rx_bytes": "rx_bytes", "rx_errors": "rx_errors",
    "tx_bytes": "tx_bytes", "tx_errors": "tx_errors", "io_read_bytes": "read_bytes",
    "io_write_bytes": "write_bytes", "threads": "threads", "oom_events": "oom_events",
    "cpu_throttled_time": "cfs_throttled_time",
}  # fmt: skip
"""Measurement by name of the value."""


def _tag(text: str) -> str:
    """Tags escape commas, equal signs and spaces; a line cannot hold a line feed."""
    text = text.replace("\n", " ").replace("\\", "\\\\")
    for char in ", =":
        text = text.replace(char, f"\\{char}")
    return text


def _lines(group: Group, view: View, machine: str) -> Iterator[str]:
    tags = {"machine": machine, "container_name": group.shown}
    if group.container:
        tags["container_id"] = group.container
    if group.facts is not None and group.facts.image:
        tags["image"] = group.facts.image
    base = ",".join(f"{name}={_tag(text)}" for name, text in sorted(tags.items()) if text)
    for measurement, name in _VALUES.items():
        yield f"{measurement},{base} value={view.values[name]}i {view.time_ns}"
    for cpu, value in enumerate(view.per_cpu):
        yield f"cpu_usage_per_cpu,{base},instance={cpu} value={value}i {view.time_ns}"
    yield f"load_average,{base} value={int(view.load * 1000)}i {view.time_ns}"
    for use in view.details.filesystems:
        more = f"{base},device={_tag(use.device or 'none')},type=usage"
        yield f"fs_usage,{more} value={use.usage}i {view.time_ns}"
        more = f"{base},device={_tag(use.device or 'none')},type=limit"
        yield f"fs_limit,{more} value={use.capacity}i {view.time_ns}"


def lines(found: Iterable[tuple[Group, View]]) -> bytes:
    """All lines of these samples; times in nanoseconds."""
    machine = os.uname().nodename
    text = "\n".join(line for group, view in found for line in _lines(group, view, machine))
    return text.encode() + b"\n" if text else b""
