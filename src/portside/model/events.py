"""Events as the Docker Engine API shows them (``GET /events``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec


class Actor(msgspec.Struct, frozen=True):
    """The object an event is about."""

    id: str = msgspec.field(name="ID")
    attributes: dict[str, str] = msgspec.field(name="Attributes", default_factory=dict)


class Event(msgspec.Struct, frozen=True):
    """One event; ``type`` is container, image, network, volume, daemon, builder or plugin."""

    type: str = msgspec.field(name="Type")
    action: str = msgspec.field(name="Action")
    actor: Actor = msgspec.field(name="Actor")
    time_ns: int = msgspec.field(name="timeNano")
    """Nanoseconds since the epoch."""


class Publisher(Protocol):
    """How a service informs the rest of the engine of an event; never blocks, never raises."""

    def __call__(
        self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None
    ) -> None: ...
