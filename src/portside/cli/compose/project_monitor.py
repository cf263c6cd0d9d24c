"""The events of a project's containers, live."""

from __future__ import annotations

import queue
import threading

from portside.client.client import filters_text, path_of
from portside.client.errors import Refused
from portside.compose.observed import Container, containers
from portside.compose.requests import PROJECT, REPLACE
from portside.model import jsontext
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from portside.cli.compose.log_lines import LogPrinter
    from portside.cli.compose.log_streams import LogStreams
    from portside.compose.engine_pool import EnginePool


class ProjectMonitor:
    """Puts events into a queue; reports starts and ends when the events are passed back."""

    def __init__(
        self, pool: EnginePool, project: str, services: Iterable[str], printer: LogPrinter,
        streams: LogStreams,
    ) -> None:  # fmt: skip
        self._pool, self._project = pool, project
        self._services = set(services)
        self._printer, self._streams = printer, streams
        self.queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.running: set[str] = set()
        """IDs of containers that are not over."""
        self._restarting: set[str] = set()
        self.attached: set[str] = set()
        """IDs of containers whose output is followed from before their start."""
        self.log_query: dict[str, Any] = {}
        self.on_exit: Callable[[Container, int], None] = lambda container, status: None

    def begin(self) -> None:
        """Subscribe, then list the containers."""
        client = self._pool._connect()
        filters = {"type": ["container"], "label": [f"{PROJECT}={self._project}"]}
        response = client.request("GET", "/events", {"filters": filters_text(filters)})
        threading.Thread(target=self._read, args=(response,), daemon=True).start()
        self.look(all=True)

    def look(self, *, all: bool = False) -> None:
        """Take what is there (``all``: also what does not run) as not over, before its events."""
        self.running |= {
            item.id for item in containers(self._pool, self._project, all=all)
            if not self._services or item.service in self._services
        }  # fmt: skip

    def _read(self, response: Any) -> None:
        try:
            for line in response.lines():
                self.queue.put(("event", jsontext.loads(line)))
        except PortsideError:
            pass
        self.queue.put(("ended", None))

    def take(self, event: dict[str, Any]) -> None:
        """Act on an event."""
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        container = Container(
            {"Id": actor.get("ID", ""), "Names": [f"/{attributes.get('name', '')}"],
             "Labels": attributes}
        )  # fmt: skip
        if container.is_one_off or (self._services and container.service not in self._services):
            return
        action = event.get("Action", "")
        if action == "create":
            self.running.add(container.id)
            if REPLACE in attributes:
                self._printer.status(attributes[REPLACE], "has been recreated")
        elif action == "start":
            self._started(container)
        elif action == "die":
            self._died(container, int(attributes.get("exitCode") or 0))

    def _started(self, container: Container) -> None:
        self.running.add(container.id)
        if container.id in self.attached and container.id not in self._restarting:
            return
        try:
            path = path_of("containers", container.id, "json")
            since = self._pool.get(path)["State"]["StartedAt"]
            self._streams.follow(container, {**self.log_query, "since": _seconds(since)})
        except PortsideError:
            pass  # it was removed, or it keeps no log

    def _died(self, container: Container, status: int) -> None:
        try:
            state = self._pool.get(path_of("containers", container.id, "json"))["State"]
        except Refused:
            state = {}
        if state.get("Restarting") or state.get("Running"):
            self._restarting.add(container.id)
            self._printer.status(container.short_name, f"exited with code {status} (restarting)")
            return
        self._streams.drain(container.id)
        self.attached.discard(container.id)
        self._printer.status(container.short_name, f"exited with code {status}")
        self.running.discard(container.id)
        self.on_exit(container, status)


def _seconds(stamp: str) -> str:
    from portside.model.golang.timestamps import parse_rfc3339

    moment = parse_rfc3339(stamp)
    return f"{moment // 10**9}.{moment % 10**9:09d}"
