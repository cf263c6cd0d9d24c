"""``stats``: samples of a container once a second, and one machine-wide look a round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from portside.containers.container import Container
from portside.containers.core import Core
from portside.containers.start import cgroup_of
from portside.containers.stats import sample
from portside.kernel.usage import SystemUse, system_use
from portside.model.stats import StatsResponse

_PERIOD = 1.0
_SHORT = 0.1
"""Seconds between the two samples of ``stats --no-stream``: enough for a percentage."""
_last_look: tuple[float, SystemUse] | None = None


def _system() -> SystemUse:
    """The machine's counters, read once for all who ask at about the same moment."""
    global _last_look
    now = time.monotonic()
    if _last_look is None or now - _last_look[0] > 0.05:
        _last_look = (now, system_use())
    return _last_look[1]


def take(core: Core, container: Container, previous: StatsResponse | None) -> StatsResponse:
    """One sample now; of a container that does not run an empty one."""
    record = container.record
    group = cgroup_of(core, container) if record.running else None
    shares = record.host.network_mode in ("host", "none")
    return sample(
        record.id,
        f"/{record.name}",
        group,
        pid=0 if shares else record.pid,
        previous=previous,
        system=_system(),
    )


async def samples(
    core: Core, container: Container, *, stream: bool, one_shot: bool
) -> AsyncIterator[StatsResponse]:
    """Samples as the client wants them: many, one whole, or one at once."""
    previous = None
    if not stream:
        if not one_shot and container.record.running:
            previous = take(core, container, None)
            await asyncio.sleep(_SHORT)
        yield take(core, container, previous)
        return
    while not container.removed:
        previous = take(core, container, previous)
        yield previous
        await asyncio.sleep(_PERIOD)


def encode(found: StatsResponse) -> bytes:
    return msgspec.json.encode(found) + b"\n"
