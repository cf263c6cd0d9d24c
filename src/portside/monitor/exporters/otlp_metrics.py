"""OTLP metrics in its JSON form (OTLP/HTTP), with OpenTelemetry's names for containers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import msgspec

import portside
from portside.monitor.collector import Group
from portside.monitor.samples import View

Json = dict[str, Any]
_CUMULATIVE = 2
"""``AGGREGATION_TEMPORALITY_CUMULATIVE``."""


def _attributes(pairs: dict[str, str]) -> list[Json]:
    return [{"key": name, "value": {"stringValue": text}} for name, text in pairs.items()]


class _Points:
    """The points of one group."""

    def __init__(self, group: Group, view: View) -> None:
        self._start = str(group.created_ns)
        self._time = str(view.time_ns)
        self.metrics: list[Json] = []

    def _point(self, value: float, attributes: dict[str, str], start: bool) -> Json:
        point: Json = {"timeUnixNano": self._time, "attributes": _attributes(attributes)}
        if start:
            point["startTimeUnixNano"] = self._start
        if isinstance(value, int):
            point["asInt"] = str(value)
        else:
            point["asDouble"] = value
        return point

    def sum(self, name: str, unit: str, *values: tuple[float, dict[str, str]]) -> None:
        points = [self._point(value, attributes, True) for value, attributes in values]
        kind = {"dataPoints": points, "aggregationTemporality": _CUMULATIVE, "isMonotonic": True}
        self.metrics.append({"name": name, "unit": unit, "sum": kind})

    def gauge(self, name: str, unit: str, *values: tuple[float, dict[str, str]]) -> None:
        points = [self._point(value, attributes, False) for value, attributes in values]
        self.metrics.append({"name": name, "unit": unit, "gauge": {"dataPoints": points}})


def _metrics(group: Group, view: View) -> list[Json]:
    values, points = view.values, _Points(group, view)
    points.sum(
        "container.cpu.time", "s",
        (values["cpu_user"] / 1e9, {"cpu.mode": "user"}),
        (values["cpu_system"] / 1e9, {"cpu.mode": "system"}),
    )  # fmt: skip
    points.gauge("container.cpu.usage", "{cpu}", (float(group.history.last_point[0]), {}))
    points.gauge("container.memory.usage", "By", (values["memory_usage"], {}))
    points.gauge("container.memory.working_set", "By", (values["memory_working_set"], {}))
    points.gauge("container.memory.rss", "By", (values["memory_rss"], {}))
    points.sum(
        "container.memory.paging.faults", "{fault}",
        (values["pgmajfault"], {"system.paging.fault.type": "major"}),
        (max(0, values["pgfault"] - values["pgmajfault"]), {"system.paging.fault.type": "minor"}),
    )  # fmt: skip
    if group.spec.has_memory_limit:
        available = max(0, group.spec.memory_limit - values["memory_working_set"])
        points.gauge("container.memory.available", "By", (available, {}))
    points.sum(
        "container.disk.io", "By",
        (values["read_bytes"], {"disk.io.direction": "read"}),
        (values["write_bytes"], {"disk.io.direction": "write"}),
    )  # fmt: skip
    for link in view.links:
        name = {"network.interface.name": link.name}
        points.sum(
            "container.network.io", "By",
            (link.rx_bytes, {**name, "network.io.direction": "receive"}),
            (link.tx_bytes, {**name, "network.io.direction": "transmit"}),
        )  # fmt: skip
    for use in view.details.filesystems:
        device = {"system.device": use.device}
        points.gauge("container.filesystem.usage", "By", (use.usage, device))
        points.gauge("container.filesystem.capacity", "By", (use.capacity, device))
    points.gauge("container.thread.count", "{thread}", (values["threads"], {}))
    points.sum("container.oom.events", "{event}", (values["oom_events"], {}))
    return points.metrics


def _resource(group: Group, host: str) -> Json:
    pairs = {"host.name": host, "service.name": "portside-monitor", "cgroup.path": group.name}
    if group.container:
        pairs |= {"container.id": group.container, "container.name": group.shown}
    facts = group.facts
    if facts is not None:
        pairs["container.image.name"] = facts.image
        pairs |= {f"container.label.{name}": text for name, text in facts.labels.items()}
    return {"attributes": _attributes(pairs)}


def request(found: Iterable[tuple[Group, View]]) -> bytes:
    """An ``ExportMetricsServiceRequest``."""
    host = os.uname().nodename
    scope = {"name": "portside.monitor", "version": portside.__version__}
    return msgspec.json.encode(
        {
            "resourceMetrics": [
                {
                    "resource": _resource(group, host),
                    "scopeMetrics": [{"scope": scope, "metrics": _metrics(group, view)}],
                }
                for group, view in found
            ]
        }
    )
