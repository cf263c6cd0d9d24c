"""The event bus: passes events to all listeners and never waits for one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from portside.model import filters as matching
from portside.model.events import Actor, Event
from portside.model.filters import Filters

KEPT = 1024
"""Events kept for ``since``."""
_BACKLOG = 8192
"""Events a listener may fall behind before it is cut off."""


class EventBus:
    """Keeps the last events and passes new ones on. Calling it publishes (``Publisher``)."""

    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()
        self._last_ns = 0
        self.total = 0
        """Events published since the start."""

    def __call__(
        self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None
    ) -> None:
        # Later events have later stamps, even within one tick of the clock.
        now = self._last_ns = max(time.time_ns(), self._last_ns + 1)
        event = Event(type, action, Actor(id, dict(attributes or {})), now)
        self._ring.append(event)
        self.total += 1
        for listener in tuple(self._listeners):
            listener.offer(event)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def past(self, since_ns: int, until_ns: int | None, filters: Filters) -> list[Event]:
        """Kept events from ``since`` to ``until`` (nanoseconds), oldest first."""
        return [
            event
            for event in self._ring
            if since_ns <= event.time_ns
            and (until_ns is None or event.time_ns <= until_ns)
            and matches(event, filters)
        ]

    def subscribe(self, filters: Filters) -> Listener:
        """Listen from now on; close the listener at the end."""
        return Listener(self._listeners, filters)


class Listener:
    """A queue of the events that match; iterate over it."""

    def __init__(self, registry: set[Listener], filters: Filters) -> None:
        self._registry, self._filters = registry, filters
        self._queue: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.overrun = False
        """The listener fell too far behind and gets no more events."""
        registry.add(self)

    def offer(self, event: Event) -> None:
        if not matches(event, self._filters):
            return
        if len(self._queue) >= _BACKLOG:
            self.overrun = True
            self.close()
        else:
            self._queue.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        self._registry.discard(self)

    async def get(self) -> Event | None:
        """The next event; None after an overrun."""
        while not self._queue:
            if self.overrun:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._queue.popleft()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self.get()) is not None:
            yield event


def matches(event: Event, filters: Filters) -> bool:
    """Docker's event filters: values of one key are alternatives, all keys must match."""
    if not filters:
        return True
    return matching.labels_match(filters, event.actor.attributes) and all(
        _matches_key(event, key, values) for key, values in filters.items() if values
    )


def _matches_key(event: Event, key: str, values: Sequence[str]) -> bool:
    attributes = event.actor.attributes
    match key:
        case "type":
            return event.type in values
        case "scope":
            return "local" in values
        case "event":
            return _matches_action(event.action, values)
        case "image":
            name = attributes.get("name" if event.type == "image" else "image", "")
            names = {event.actor.id, name, _without_tag(event.actor.id), _without_tag(name)}
            return any(value in names for value in values)
        case "container" | "network" | "volume" | "plugin" | "daemon" | "node" | "service" | \
            "secret" | "config":  # fmt: skip
            if event.type != key:
                return False
            names = {event.actor.id, attributes.get("name", "")}
            return any(name.startswith(value) for value in values for name in names)
    return True


def _matches_action(action: str, values: Sequence[str]) -> bool:
    loose = any(value in ("exec_create", "exec_start", "health_status") for value in values)
    if loose:
        return any(action.startswith(value) for value in values)
    return action in values


def _without_tag(name: str) -> str:
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def wire(event: Event) -> dict[str, Any]:
    """The event as ``GET /events`` shows it, with the fields older clients read."""
    message: dict[str, Any] = {}
    if event.type in ("container", "image"):
        message["status"] = event.action
        if event.actor.id:
            message["id"] = event.actor.id
        if event.type == "container" and "image" in event.actor.attributes:
            message["from"] = event.actor.attributes["image"]
    message["Type"] = event.type
    message["Action"] = event.action
    message["Actor"] = {"ID": event.actor.id, "Attributes": event.actor.attributes}
    message["scope"] = "local"
    message["time"] = event.time_ns // 10**9
    message["timeNano"] = event.time_ns
    return message
