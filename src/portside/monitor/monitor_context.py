"""Context of all handlers: the parts of one running monitor."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable, Sequence

from portside.client.client import Client
from portside.monitor.cadvisor.exposition import Exposition, label_text
from portside.monitor.collector import Collector, Group
from portside.monitor.early_warning import Alert, EarlyWarning
from portside.monitor.history import Bucket
from portside.monitor.live_events import LiveEvents, message
from portside.monitor.machine_spec import MachineInfo, machine_info
from portside.monitor.samples import Point, Sample
from portside.monitor.settings import Settings
from portside.monitor.warning_webhooks import labels_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.monitor.exporters.exporting import Exporter
    from portside.monitor.history_file import HistoryFile
    from portside.monitor.warning_webhooks import Webhooks

_MACHINE_AGE = 60.0
"""Seconds for which what the machine is stays true."""


class Monitor:
    """One monitor. Parts that are switched off are None."""

    def __init__(self, settings: Settings, collector: Collector) -> None:
        self.settings, self.collector = settings, collector
        self.live = LiveEvents()
        self.started = time.time()
        self.warning = EarlyWarning(settings, collector)
        self.history: HistoryFile | None = None
        self.exporters: list[Exporter] = []
        self.webhooks: Webhooks | None = None
        self.engine: Callable[[], Client] | None = None
        """Makes a client of the engine, for one caller."""
        self.shows_logs = False
        self._machine: MachineInfo | None = None
        self._machine_time = 0.0

        self.groups_changed = False
        """Groups came, went or were renamed since the last message to the streams."""
        self._points: dict[str, tuple[Group, Point]] = {}

    def sampled(self, group: Group, _sample: Sample, point: Point, _bucket: Bucket | None) -> None:
        """Keep a point for the streams; points are sent once in an interval."""
        if self.live.clients:
            self._points[group.name] = (group, point)

    def send_points(self) -> None:
        """Send each stream the kept points of its groups."""
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
        self, group: Group, since: float
    ) -> list[tuple[float, Sequence[float], Sequence[float]]]:
        """Buckets on disk, before those in memory."""
        if self.history is None:
            return []
        first = next(group.history.buckets(0.0), None)
        if first is not None and first[0] <= since:
            return []  # memory goes back far enough; after a start of this program it does not
        return await self.history.read(group.name, since, first[0] if first else time.time())

    def alerts(self) -> dict[str, list[Alert]]:
        """Warnings that are on, the oldest first, and the last that ended."""
        return {"firing": self.warning.firing, "ended": list(self.warning.ended)}

    def write_own(self, out: Exposition) -> None:
        """Metrics of early warning, and of the parts that are switched on."""
        out.family("portside_alert", "gauge", "1 for each warning that is on.")
        for alert in self.warning.firing:
            labels = label_text(labels_of(alert).items())
            out.line("portside_alert", labels, 1)
        out.family("portside_alerts_total", "counter", "Warnings that began, by rule.")
        for rule, count in self.warning.fired.items():
            out.line("portside_alerts_total", label_text([("rule", rule)]), count)
        self._write_queues(out)
        if self.history is not None:
            for name, help, value in (
                ("written", "Buckets written to the history on disk.", self.history.written),
                ("lost", "Buckets that could not be written.", self.history.lost),
            ):
                out.family(f"portside_monitor_history_{name}_total", "counter", help)
                out.line(f"portside_monitor_history_{name}_total", "", value)

    def _write_queues(self, out: Exposition) -> None:
        """Metrics of exporters and webhooks: batches sent and lost."""
        queues = [exporter.queue for exporter in self.exporters]
        queues += [hook.queue for hook in self.webhooks.hooks] if self.webhooks else []
        for name, kind, help in (
            ("sent_total", "counter", "Batches that were taken."),
            ("dropped_total", "counter", "Batches lost because too many waited."),
            ("rejected_total", "counter", "Batches that the other side refused."),
            ("failures_total", "counter", "Attempts that failed and were repeated."),
            ("waiting", "gauge", "Batches that wait."),
        ):
            if queues:
                out.family(f"portside_monitor_delivery_{name}", kind, help)
            for queue in queues:
                labels = label_text([("to", queue.name)])
                value = getattr(queue, name.removesuffix("_total"))
                out.line(f"portside_monitor_delivery_{name}", labels, value)

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
        """Bytes of memory that this process uses."""
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
