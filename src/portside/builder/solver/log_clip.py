"""How much of a step's output is shown, as BuildKit limits it: of each stream 2 MiB in all,
and no more than 200 KiB for each second that it has run.

A step that prints more is not held up: the rest is read and dropped, and the log says so once
for each gap.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping

import msgspec

MIB = 1 << 20


class LogLimits(msgspec.Struct, frozen=True):
    """Bytes of one stream; -1 for no limit."""

    size: int = 2 * MIB
    speed: int = 200 << 10
    """For each second."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> LogLimits:
        """With BuildKit's variables ``BUILDKIT_STEP_LOG_MAX_SIZE`` and ``…_SPEED``, in bytes."""

        def number(name: str, default: int) -> int:
            text = environment.get(f"BUILDKIT_STEP_LOG_MAX_{name}", "")
            return int(text) if text.removeprefix("-").isdecimal() else default

        return cls(number("SIZE", cls().size), number("SPEED", cls().speed))


CLASSIC = LogLimits(32 * MIB, -1)
"""The classic builder shows everything, at any speed; what is kept for a slow client is bounded."""


class LogClip:
    """One stream of one step."""

    def __init__(self, limits: LogLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._begun = clock()
        self._size = 0
        self._clipping = False

    def __call__(self, data: bytes) -> bytes:
        """What is shown of ``data``."""
        limit, name = self._limit()
        left = len(data) if limit < 0 else max(0, limit - self._size)
        self._size += len(data)
        if left >= len(data):
            self._clipping = False
            return data
        shown = data[:left]
        if not self._clipping:
            self._clipping = True
            shown += f"\n[output clipped, log limit {name} reached]\n".encode()
        return shown

    def _limit(self) -> tuple[int, str]:
        """Bytes by now, and how that limit is called."""
        size, speed = self._limits.size, self._limits.speed
        if speed >= 0:
            by_now = max(1, math.ceil(self._clock() - self._begun)) * speed
            if size < 0 or by_now <= size:
                return by_now, f"{_named(speed)}/s"
        return size, _named(size)


def _named(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g}{name}"
    return f"{size}B"
