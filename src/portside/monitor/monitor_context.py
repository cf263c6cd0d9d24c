"""What every handler needs: the parts of one running monitor."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Sequence

import msgspec
from aiohttp import web

from portside.monitor.cadvisor.exposition import Exposition
from portside.monitor.collector import Collector, Group
from portside.monitor.history import Bucket
from portside.monitor.live_events import LiveEvents, message
from portside.monitor.machine_spec import MachineInfo, machine_info
from portside.monitor.samples import Point, Sample
from portside.monitor.settings import Settings

_MACHINE_AGE = 60.0
"""Seconds for which what the machine is stays true."""


class Monitor:
    """One monitor. Parts that are switched off are None."""

    def __init__(self, settings: Settings, collector: Collector) -> None:
        self.settings, self.collector = settings, collector
        self.live = LiveEvents()
        self.started = time.time()
        self._machine: MachineInfo | None = None
        self._machine_time = 0.0

        self.groups_changed = False
        """Groups came, went, or got other names since the streams were told."""
        self._points: dict[str, tuple[Group, Point]] = {}

    def sampled(self, group: Group, _sample: Sample, point: Point, _bucket: Bucket | None) -> None:
        """Remember a point for the streams; they go out once in an interval."""
        if self.live.clients:
            self._points[group.name] = (group, point)

    def send_points(self) -> None:
        """Send the points that have gathered, to each stream those that it wants."""
        if self.groups_changed:
            self.groups_changed = False
            self.live.send("groups", {})
        points, self._points = self._points, {}
        if not points or not self.live.clients:
            return
        now = time.time()
        prepared: dict[object, bytes] = {}
        for client in self.live.clients:
            key = (client.groups, client.containers_only)
            if key not in prepared:
                found = {
                    name: point
                    for name, (group, point) in points.items()
                    if (client.groups is None or name in client.groups)
                    and (group.container or not client.containers_only)
                }
                prepared[key] = message("points", {"time": now, "points": found}) if found else b""
            if prepared[key]:
                client.put(prepared[key])

    async def older(
        self, _group: Group, _since: float
    ) -> list[tuple[float, Sequence[float], Sequence[float]]]:
        """Buckets on disk, before those in memory."""
        return []

    def alerts(self) -> dict[str, list[object]]:
        """Warnings that are on, and the last that ended."""
        return {"firing": [], "ended": []}

    def write_own(self, out: Exposition) -> None:
        """Metrics of the parts that are switched on."""

    @staticmethod
    def now_ns() -> int:
        return time.time_ns()

    @property
    def kernel(self) -> str:
        return os.uname().release

    @functools.cached_property
    def system(self) -> str:
        """``PRETTY_NAME`` of os-release(5)."""
        root = self.settings.host_root
        for path in (f"{root}/etc/os-release", f"{root}/usr/lib/os-release"):
            try:
                with open(path) as file:
                    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', file.read(), re.MULTILINE)
            except OSError:
                continue
            if found:
                return found[1]
        return "Linux"

    @staticmethod
    def resident() -> int:
        """Bytes of memory that this process takes."""
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def machine(self) -> MachineInfo:
        now = time.monotonic()
        if self._machine is None or now - self._machine_time > _MACHINE_AGE:
            self._machine = machine_info(self.settings.host_root)
            self._machine_time = now
        return self._machine

    def children(self, group: Group) -> list[Group]:
        """The groups directly below one."""
        prefix = "/" if group.name == "/" else f"{group.name}/"
        return [
            other
            for name, other in self.collector.groups.items()
            if name != "/" and name.startswith(prefix) and "/" not in name[len(prefix) :]
        ]

    def below(self, group: Group) -> list[Group]:
        """A group and all groups below it."""
        prefix = "/" if group.name == "/" else f"{group.name}/"
        groups = self.collector.groups.items()
        return [other for name, other in groups if other is group or name.startswith(prefix)]

    def find(self, text: str) -> Group | None:
        """A group by its path, or a container by name, ID or the beginning of its ID."""
        groups, by_container = self.collector.groups, self.collector.by_container
        if text.startswith("/"):
            path = text.rstrip("/") or "/"
            if path in groups:
                return groups[path]
            text = text.removeprefix("/docker/").lstrip("/")
        if text in by_container:
            return by_container[text]
        if not text:
            return None
        for group in by_container.values():
            if group.facts is not None and group.facts.name == text:
                return group
        found = [g for identifier, g in by_container.items() if identifier.startswith(text)]
        return found[0] if len(found) == 1 and len(text) >= 4 else None


MONITOR = web.AppKey("monitor", Monitor)


def monitor_of(request: web.Request) -> Monitor:
    return request.app[MONITOR]


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )
