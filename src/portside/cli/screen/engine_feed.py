"""The data of the live screen, collected by a thread: lists of the engine, and a stream of samples
of each container that runs, one ``poll`` over all of them."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from portside.cli.livestats import StatsSource
from portside.cli.session import Session, describe
from portside.cli.stats_table import Entry, cpu_percent, memory_used
from portside.client.client import Client, filters_text, path_of
from portside.client.errors import Refused
from portside.model.errors import PortsideError

HISTORY = 30
"""Samples of a sparkline, one a second."""
_SLOW = 15.0
"""Seconds between lists of images and volumes, besides those after events."""
_QUIET = 0.25
"""Seconds in which events are collected before the lists are read again."""
_MOST_STREAMS = 300
"""Containers that are sampled; beyond, rows have no numbers."""


class Row:
    """One container: its entry of the list, its last sample, and earlier ones."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.item = item
        self.entry = Entry(item["Id"], False)
        self.cpu: deque[float] = deque(maxlen=HISTORY)
        self.memory: deque[float] = deque(maxlen=HISTORY)

    @property
    def id(self) -> str:
        return str(self.item["Id"])

    @property
    def name(self) -> str:
        names = self.item.get("Names") or [self.id[:12]]
        return str(names[0]).removeprefix("/")

    @property
    def state(self) -> str:
        return str(self.item.get("State", ""))

    def take(self, sample: dict[str, Any]) -> None:
        self.entry.sample = sample
        self.cpu.append(cpu_percent(sample))
        self.memory.append(float(memory_used(sample)))

    def rest(self) -> None:
        """The container has stopped."""
        self.entry.sample = None


class EngineFeed:
    """Reads :attr:`rows`, :attr:`images`, :attr:`volumes` when ``changed`` was called.

    ``changed`` and ``failed`` are called by the thread.
    """

    def __init__(
        self, session: Session, changed: Callable[[], None], failed: Callable[[str], None]
    ) -> None:
        self._session, self._changed, self._failed = session, changed, failed
        self.rows: dict[str, Row] = {}
        self.images: list[dict[str, Any]] = []
        self.volumes: list[dict[str, Any]] = []
        self._sources: dict[int, StatsSource] = {}
        self._by_id: dict[str, StatsSource] = {}
        self._poll = select.poll()
        self.away = ""
        """Why the engine does not answer; empty while it does."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except (PortsideError, OSError, ValueError, KeyError) as err:
                self._lost(describe(err) if isinstance(err, PortsideError) else str(err))
            self._close_all()
            self._stopped.wait(2)

    def _lost(self, text: str) -> None:
        """Report a cause once, not at each attempt; the rows stay, without numbers."""
        if text != self.away and not self._stopped.is_set():
            self.away = text
            self._failed(text)
        self._changed()

    def _follow(self) -> None:
        client = self._session.another_client()
        kinds = {"type": ["container", "image", "volume"]}
        events = StatsSource(
            self._session.another_client().request(
                "GET", "/events", {"filters": filters_text(kinds)}
            ),
            None,
        )
        self._poll.register(events.fd, select.POLLIN)
        self._sources[events.fd] = events
        self._list(client)
        due, slow_due = 0.0, time.monotonic() + _SLOW
        while not self._stopped.is_set():
            changed = False
            for fd, _ in self._poll.poll(500):
                changed |= self._ready(fd)
            now = time.monotonic()
            if changed and not due:
                due = now + _QUIET
            if (due and now >= due) or now >= slow_due:
                self._list(client)
                due, slow_due = 0.0, now + _SLOW
            if events.ended:
                return
            self._changed()

    def _ready(self, fd: int) -> bool:
        """Read the pending messages; True when one was an event."""
        source = self._sources.get(fd)
        if source is None:
            return False
        changed = False
        for message in source.messages():
            if not isinstance(message, dict):
                continue
            if source.entry is None:
                changed |= not str(message.get("Action", "")).startswith("exec_")
            elif row := self.rows.get(source.entry.asked):
                row.take(message)
        if source.ended and source.entry is not None:
            self._drop(source)
        return changed

    def _list(self, client: Client) -> None:
        """Containers, images and volumes; streams begin and end with their containers."""
        found = client.get("/containers/json", {"all": True})
        self.images = client.get("/images/json")
        self.volumes = (client.get("/volumes") or {}).get("Volumes") or []
        rows = dict(self.rows)
        for item in found:
            row = rows.get(item["Id"])
            if row is None:
                row = rows[item["Id"]] = Row(item)
            row.item = item
            runs = row.state in ("running", "paused")
            if runs and row.id not in self._by_id and len(self._by_id) < _MOST_STREAMS:
                self._open(client, row)
            elif not runs:
                row.rest()
        self.away = ""
        known = {item["Id"] for item in found}
        self.rows = {identifier: row for identifier, row in rows.items() if identifier in known}
        for identifier in self._by_id.keys() - known:
            self._drop(self._by_id[identifier])
        self._changed()

    def _open(self, client: Client, row: Row) -> None:
        try:
            response = client.request("GET", path_of("containers", row.id, "stats"))
        except Refused:
            return  # it has ended meanwhile
        source = StatsSource(response, row.entry)
        self._sources[source.fd] = self._by_id[row.id] = source
        self._poll.register(source.fd, select.POLLIN)

    def _drop(self, source: StatsSource) -> None:
        self._sources.pop(source.fd, None)
        if source.entry is not None:
            self._by_id.pop(source.entry.asked, None)
            if row := self.rows.get(source.entry.asked):
                row.rest()
        self._poll.unregister(source.fd)
        source.close()

    def _close_all(self) -> None:
        for source in list(self._sources.values()):
            self._drop(source)
