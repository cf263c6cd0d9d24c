"""``--metrics-addr``: what the engine does and holds, in Prometheus's text format.

The names that dockerd's dashboards use begin with ``engine_daemon_``; what is ours alone
begins with ``portside_``. Imported only when the option is given.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import portside
from portside.engine import machine_info
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.engine.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of a histogram's buckets, in seconds."""
_ACTIONS = {
    ("POST", "/containers/create"): "create",
    ("POST", "/containers/{name}/start"): "start",
    ("DELETE", "/containers/{name}"): "delete",
    ("GET", "/containers/{name}/changes"): "changes",
    ("POST", "/commit"): "commit",
}
"""Requests whose durations dockerd reports as container actions."""
Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Counts of durations by upper bound in seconds."""

    __slots__ = ("_buckets", "_sum")

    def __init__(self) -> None:
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        total = 0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._buckets, strict=True):
            total += count
            yield _line(f"{name}_bucket", total, (*labels, ("le", bound)))
        yield _line(f"{name}_sum", self._sum, labels)
        yield _line(f"{name}_count", total, labels)


class Metrics:
    """Counts requests and reads the engine's state when it is asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._actions = {action: Histogram() for action in _ACTIONS.values()}
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._times: dict[tuple[str, str], Histogram] = {}
        self._started = time.time()

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """One request has been answered; ``path`` as in the route (``/containers/{name}``)."""
        self._requests[method, path, status] += 1
        key = (method, path)
        if key not in self._times:
            self._times[key] = Histogram()
        self._times[key].add(seconds)
        action = _ACTIONS.get(key)
        if action is not None and status < 300:
            self._actions[action].add(seconds)

    async def __call__(self, request: Request) -> Response:
        """``GET /metrics``."""
        if request.head.path != "/metrics":
            return Response(404, b"page not found\n", "text/plain; charset=utf-8")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"only GET\n", "text/plain; charset=utf-8")
        return Response(200, self.text().encode(), CONTENT_TYPE)

    def text(self) -> str:
        """All figures of this moment."""
        return "\n".join((*self._state(), *self._work(), *_process(self._started))) + "\n"

    def _state(self) -> Iterator[str]:
        engine = self._engine
        counts = engine.containers.counts()
        yield from _family("engine_daemon_container_states_containers", "gauge",
                           "Containers by state.")  # fmt: skip
        for state, number in (
            ("running", counts.running), ("paused", counts.paused), ("stopped", counts.stopped)
        ):  # fmt: skip
            yield _line("engine_daemon_container_states_containers", number, (("state", state),))
        yield from _family("engine_daemon_engine_info", "gauge", "What the engine is.")
        yield _line("engine_daemon_engine_info", 1, _identity(engine))
        for name, kind, text, value in (
            (
                "engine_daemon_engine_cpus_cpus",
                "gauge",
                "CPUs the engine may use.",
                machine_info.cpus(),
            ),
            (
                "engine_daemon_engine_memory_bytes",
                "gauge",
                "Memory of the host.",
                machine_info.memory(),
            ),
            ("engine_daemon_events_total", "counter", "Events published.", engine.events.total),
            ("engine_daemon_events_subscribers_total", "gauge", "Clients that follow events.",
             engine.events.listeners),
            ("portside_images", "gauge", "Images in the store.", engine.image_count()),
        ):  # fmt: skip
            yield from _family(name, kind, text)
            yield _line(name, value)

    def _work(self) -> Iterator[str]:
        name = "engine_daemon_container_actions_seconds"
        yield from _family(name, "histogram", "Time that container actions took.")
        for action, times in self._actions.items():
            yield from times.lines(name, (("action", action),))
        name = "portside_api_requests_total"
        yield from _family(name, "counter", "Answered requests.")
        for (method, path, status), number in sorted(self._requests.items()):
            labels = (("method", method), ("route", path), ("status", str(status)))
            yield _line(name, number, labels)
        name = "portside_api_request_seconds"
        yield from _family(name, "histogram", "Time until a request was answered or taken over.")
        for (method, path), times in sorted(self._times.items()):
            yield from times.lines(name, (("method", method), ("route", path)))


def _identity(engine: Engine) -> Labels:
    return (
        ("architecture", machine_info.machine()),
        ("commit", ""),
        ("daemon_id", engine.identity),
        ("graphdriver", engine.storage_driver),
        ("kernel", machine_info.kernel()),
        ("os", machine_info.operating_system()),
        ("os_type", "linux"),
        ("version", portside.__version__),
    )


def _process(started: float) -> Iterator[str]:
    """The engine's own process, under the names that Prometheus's clients use."""
    times = os.times()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    for name, kind, text, value in (
        ("process_cpu_seconds_total", "counter", "CPU time used.", times.user + times.system),
        ("process_resident_memory_bytes", "gauge", "Memory in use.", float(resident)),
        ("process_open_fds", "gauge", "Open descriptors.", float(machine_info.descriptors())),
        ("process_start_time_seconds", "gauge", "Start, in seconds since the epoch.", started),
    ):
        yield from _family(name, kind, text)
        yield _line(name, value)


def _family(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, value: float, labels: Iterable[tuple[str, str]] = ()) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
    return f"{name}{{{inside}}} {value:.15g}" if inside else f"{name} {value:.15g}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
