"""What a build reports while it runs, in the terms of BuildKit's Status stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from portside.builder.llb import Vertex


@dataclass(frozen=True, slots=True)
class Started:
    vertex: Vertex
    at: float = field(default_factory=time.time)
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Completed:
    vertex: Vertex
    cached: bool = False
    error: str = ""
    cancelled: bool = False
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Log:
    """Output of a step; ``stream`` is 1 or 2."""

    vertex: Vertex
    stream: int
    data: bytes
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Status:
    """How far a part of a vertex is, such as a download; units as ``total`` has them."""

    vertex: Vertex
    name: str
    current: int
    total: int = 0
    at: float = field(default_factory=time.time)


Event: TypeAlias = Started | Completed | Log | Status
Report: TypeAlias = Callable[[Event], None]
"""Receives events in order; must not block and must not raise."""


def silent(_: Event) -> None:
    """A Report for who does not care."""
