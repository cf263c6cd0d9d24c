"""The event bus: order, filters, and listeners that fall behind."""

from __future__ import annotations

import asyncio

import pytest

from portside.engine import events
from portside.engine.events import EventBus, wire


def bus_with_history() -> EventBus:
    bus = EventBus()
    bus("container", "create", "c1", {"name": "web", "image": "nginx:1", "tier": "front"})
    bus("container", "start", "c1", {"name": "web", "image": "nginx:1", "tier": "front"})
    bus("container", "exec_create: ls", "c2", {"name": "db", "image": "postgres"})
    bus("image", "pull", "nginx:1", {"name": "nginx"})
    bus("network", "connect", "n1", {"name": "bridge", "container": "c1"})
    bus("container", "health_status: healthy", "c1", {"name": "web", "image": "nginx:1"})
    return bus


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 6),
        ({"type": ["container"]}, 4),
        ({"type": ["image", "network"]}, 2),
        ({"event": ["start"]}, 1),
        ({"event": ["exec_create"]}, 1),
        ({"event": ["health_status"]}, 1),
        ({"event": ["health_status: unhealthy"]}, 0),
        ({"container": ["web"]}, 3),
        ({"container": ["c"]}, 4),
        ({"image": ["nginx"]}, 4),
        ({"image": ["nginx:1"]}, 4),
        ({"label": ["tier"]}, 2),
        ({"label": ["tier=back"]}, 0),
        ({"label": ["tier=front"], "event": ["start", "die"]}, 1),
        ({"network": ["bridge"]}, 1),
        ({"scope": ["swarm"]}, 0),
        ({"volume": ["v"]}, 0),
    ],
)
def test_filters(filters: dict[str, list[str]], count: int) -> None:
    assert len(bus_with_history().past(0, None, filters)) == count


def test_stamps_rise_and_bound_the_past() -> None:
    bus = bus_with_history()
    stamps = [event.time_ns for event in bus.past(0, None, {})]
    assert stamps == sorted(set(stamps))
    assert len(bus.past(stamps[2], stamps[3], {})) == 2


def test_only_the_newest_are_kept() -> None:
    bus = EventBus()
    for number in range(events.KEPT + 10):
        bus("volume", "create", str(number))
    kept = bus.past(0, None, {})
    assert len(kept) == events.KEPT
    assert kept[-1].actor.id == str(events.KEPT + 9)


async def test_listeners_get_what_matches() -> None:
    bus = EventBus()
    listener = bus.subscribe({"type": ["volume"]})
    bus("image", "pull", "x")
    bus("volume", "create", "v1")
    event = await asyncio.wait_for(listener.get(), 5)
    assert event is not None
    assert event.actor.id == "v1"
    waiting = asyncio.ensure_future(listener.get())
    await asyncio.sleep(0)
    bus("volume", "destroy", "v1")
    assert (await asyncio.wait_for(waiting, 5)).action == "destroy"  # type: ignore[union-attr]
    listener.close()
    assert bus.listeners == 0


async def test_a_listener_that_never_reads_is_cut_off() -> None:
    bus = EventBus()
    listener = bus.subscribe({})
    for number in range(events._BACKLOG + 1):
        bus("volume", "create", str(number))
    assert (listener.overrun, bus.listeners) == (True, 0)


def test_the_wire_has_what_old_clients_read() -> None:
    bus = bus_with_history()
    first = wire(bus.past(0, None, {})[0])
    assert list(first) == [
        "status",
        "id",
        "from",
        "Type",
        "Action",
        "Actor",
        "scope",
        "time",
        "timeNano",
    ]
    assert (first["status"], first["id"], first["from"]) == ("create", "c1", "nginx:1")
    assert first["time"] == first["timeNano"] // 10**9
    network = wire(bus.past(0, None, {"type": ["network"]})[0])
    assert "status" not in network
