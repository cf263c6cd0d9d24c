"""The monitor's own JSON, for its page and for terminals: below ``/api/portside/v1/``.

==========================  =====================================================================
``GET groups``              :class:`GroupRow` of every group, the machine (``/``) first;
                            ``?containers=1``: containers only; ``?below=N&depth=1``: the
                            groups below N, so many levels deep; ``?limit=500``: the first of
                            them, those that use most CPU of containers (header
                            ``Portside-Total-Count``: how many there are)
``GET group?name=N``        :class:`GroupDetail`; N is a group's path, or a container's name or ID
``GET history?name=N``      :class:`~portside.monitor.history.Chart` of each name (repeat it for
                            several: removed ones are left out); ``window`` (``2m``,
                            ``1h``, ``7d``), ``points``, ``series``
``GET processes?name=N``    processes, as cAdvisor's ``ps``
``GET container?name=N``    :class:`~portside.monitor.engine_questions.ContainerPage`: how the
                            engine made it
``GET explain?name=N``      the container in the kernel's terms (``portside explain``)
``GET logs?name=N``         server-sent events: ``lines`` (``[[text, is_error], …]``), then
                            ``end``; ``tail`` lines to begin with. Only where logs are shown
``GET alerts``              warnings that are on, and the last that ended
``GET events``              what happened, newest last; ``limit``, ``name``
``GET live``                server-sent events: ``points`` every interval
                            (``{"time": s, "points": {name: [values of SERIES]}}``), ``alert``,
                            ``happened``, ``groups`` (some came or went: ask again);
                            ``?name=N`` (repeat) or ``?containers=1`` for fewer points
``GET about``               version, series and their order, intervals, the engine, what the
                            machine has
==========================  =====================================================================

Errors are ``{"message": …}``: 400 for a bad parameter, 403 where logs are not shown, 404 for an
unknown name, 503 while the engine is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import nlargest
from typing import Any

import msgspec

import portside
from portside.client.client import Client as EngineClient
from portside.client.errors import Refused
from portside.model.errors import InvalidParameter, NotFound, Unavailable
from portside.monitor.cadvisor.container_json import environment_of
from portside.monitor.collector import Group, MonitorEvent
from portside.monitor.engine_questions import (
    MOST_TAIL,
    LogTail,
    container_page,
    explanation,
)
from portside.monitor.engine_watch import ContainerFacts
from portside.monitor.group_spec import GroupSpec
from portside.monitor.group_tree import MOST
from portside.monitor.history import MOST_POINTS, chart
from portside.monitor.live_events import MOST_CLIENTS, Client, message
from portside.monitor.monitor_context import Monitor
from portside.monitor.process_reader import DatedProcess, processes
from portside.monitor.samples import SERIES, View, view
from portside.monitor.settings import seconds
from portside.monitor.visibility import unseen
from portside.monitor.web_requests import Answer, Handler, Request, Route, json_response
from portside.serving.http.messages import Stream

PATH = "/api/portside/v1"
_MOST_NAMES = 100
_MOST_EVENTS = 1000
_HEARTBEAT = 15.0
_LONGEST = 90 * 86400.0
_CPU = SERIES.index("cpu")


class GroupRow(msgspec.Struct, frozen=True):
    """One group in a list. ``point``: the values of ``SERIES``, in that order."""

    name: str
    container: str
    """ID of the container; empty for other groups."""
    shown: str
    image: str
    state: str
    health: str
    restarts: int
    created: float
    started: float
    memory_limit: int
    """Bytes; 0: none."""
    cores: float
    """How many processors the quota allows; 0: no quota."""
    pids_limit: int
    point: tuple[float, ...]
    time: float
    labels: dict[str, str] = {}
    ports: tuple[str, ...] = ()
    is_parent: bool = False
    """The group has groups below it."""


class GroupDetail(msgspec.Struct, frozen=True):
    """Everything about one group."""

    row: GroupRow
    spec: GroupSpec
    facts: ContainerFacts | None
    sample: View | None
    children: list[str]
    interval: float


def row_of(group: Group, is_parent: bool = False) -> GroupRow:
    spec, facts, last = group.spec, group.facts, group.history.last
    return GroupRow(
        name=group.name,
        container=group.container,
        shown=group.shown,
        image=facts.image if facts else "",
        state=state_of(facts) if group.container else "",
        health=facts.health if facts else "",
        restarts=facts.restarts if facts else 0,
        created=group.created_ns / 1e9,
        started=facts.started_ns / 1e9 if facts else group.created_ns / 1e9,
        memory_limit=spec.memory_limit if spec.has_memory_limit else 0,
        cores=spec.cores,
        pids_limit=spec.pids_limit,
        point=group.history.last_point,
        time=last.time_ns / 1e9 if last else 0.0,
        labels=facts.labels if facts else {},
        ports=facts.ports if facts else (),
        is_parent=is_parent,
    )


def state_of(facts: ContainerFacts | None) -> str:
    """A group that exists is running, also when the engine has reported only its creation yet."""
    return facts.state if facts is not None and facts.state != "created" else "running"


def _group(monitor: Monitor, name: str) -> Group:
    if not name:
        raise InvalidParameter("name is missing: a group's path, or a container's name or ID")
    group = monitor.find(name)
    if group is None:
        raise NotFound(f"unknown container or control group: {name[:200]}")
    return group


def whole_number(text: str, name: str, most: int, default: int) -> int:
    """A parameter from 1 to ``most``; raises InvalidParameter."""
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= most):
        raise InvalidParameter(f"{name}: {text[:40]!r} is not a number from 1 to {most}")
    return int(text)


def window_of(text: str) -> float:
    """Seconds of ``2m``, ``1h`` or ``7d``; raises InvalidParameter."""
    if not text:
        return 3600.0
    if text.endswith("d") and text[:-1].isdigit() and len(text) < 6:
        found = int(text[:-1]) * 86400.0
    else:
        found = seconds(text)
    if not 1 <= found <= _LONGEST:
        raise InvalidParameter(f"window: {text[:40]!r} is not between 1s and 90d")
    return found


def checked(handler: Handler) -> Handler:
    """Errors of this API as JSON."""

    async def call(request: Request) -> Answer:
        try:
            return await handler(request)
        except InvalidParameter as err:
            return json_response({"message": str(err)}, 400)
        except NotFound as err:
            return json_response({"message": str(err)}, 404)
        except Refused as err:
            return json_response({"message": str(err)}, 404 if err.status == 404 else 502)
        except Unavailable as err:
            return json_response({"message": str(err)}, 503)

    return call


async def _groups(request: Request) -> Answer:
    monitor, query = request.monitor, request.query
    only = query.get("containers") == "1"
    top = query.get("below", "/")
    below = "" if top == "/" else _group(monitor, top).name
    depth = whole_number(query.get("depth", ""), "depth", MOST, MOST)
    limit = whole_number(query.get("limit", ""), "limit", MOST, MOST)
    rows, total = group_rows(monitor, below, depth, limit, only)
    response = json_response(rows)
    response.headers["Portside-Total-Count"] = str(total)
    return response


def group_rows(
    monitor: Monitor, below: str, depth: int, limit: int, only: bool
) -> tuple[list[GroupRow], int]:
    """The first groups below one (the machine is empty), and how many there are.

    ``only``: containers; then the first are those that use most CPU.
    """
    groups = monitor.collector.groups
    parents = {name.rpartition("/")[0] for name in groups if name != "/"}
    chosen = [
        name
        for name in sorted(groups)
        if (groups[name].container or not only)
        and name.startswith(f"{below}/")
        and name.count("/", len(below)) <= depth
    ]
    first = chosen
    if only and len(chosen) > limit:
        first = nlargest(limit, chosen, key=lambda name: groups[name].history.last_point[_CPU])
    return [row_of(groups[name], name in parents) for name in first[:limit]], len(chosen)


async def _detail(request: Request) -> Answer:
    monitor = request.monitor
    return json_response(detail_of(monitor, _group(monitor, request.query.get("name", ""))))


def detail_of(monitor: Monitor, group: Group) -> GroupDetail:
    last = group.history.last
    return GroupDetail(
        row_of(group),
        group.spec,
        _facts_of(monitor, group),
        view(last) if last else None,
        [child.name for child in monitor.children(group)],
        group.interval,
    )


def _facts_of(monitor: Monitor, group: Group) -> ContainerFacts | None:
    """Facts without environment variables, save those that the settings name."""
    if group.facts is None:
        return None
    shown = environment_of(group, monitor.settings)
    return msgspec.structs.replace(group.facts, environment=shown)


async def _history(request: Request) -> Answer:
    monitor, query = request.monitor, request.query
    names = query.getall("name")
    if len(names) > _MOST_NAMES:
        raise InvalidParameter(f"at most {_MOST_NAMES} names in one request")
    if len(names) > 1:  # removed groups are left out
        groups = [group for name in names if (group := monitor.find(name)) is not None]
    else:
        groups = [_group(monitor, name) for name in names or [""]]
    window = window_of(query.get("window", ""))
    points = whole_number(query.get("points", ""), "points", MOST_POINTS, 240)
    wanted = query.get("series", "")
    series = tuple(wanted.split(",")) if wanted else SERIES
    if unknown := [name for name in series if name not in SERIES]:
        raise InvalidParameter(f"unknown series {unknown[0][:40]!r}: use {', '.join(SERIES)}")
    now = time.time()
    full = seconds(monitor.settings.full)
    found = []
    for group in groups:
        older = await monitor.older(group, now - window) if window > full else []
        found.append(chart(group.name, group.history, now, window, points, series, older))
    return json_response(found)


async def _processes(request: Request) -> Answer:
    monitor = request.monitor
    group = _group(monitor, request.query.get("name", ""))
    return json_response(process_list(monitor, group))


def process_list(monitor: Monitor, group: Group) -> list[DatedProcess]:
    """The processes of a group; of the machine all."""
    collector = monitor.collector
    pids = collector.all_pids() if group.name == "/" else collector.pids_of(group)
    return processes(monitor.settings.host_proc, pids, group.name)


def _of_container(monitor: Monitor, name: str) -> tuple[Callable[[], EngineClient], str]:
    """The engine's address and the container's ID; also of one that does not run."""
    group = monitor.find(name) if name else None
    identifier = group.container if group is not None else ""
    if not identifier:
        known = monitor.collector.facts.values()
        identifier = next((facts.id for facts in known if name in (facts.name, facts.id)), "")
    if not identifier:
        raise NotFound(f"unknown container: {name[:200]}")
    if monitor.engine is None:
        raise Unavailable("the engine is not known yet")
    return monitor.engine, identifier


async def _container(request: Request) -> Answer:
    client, identifier = _of_container(request.monitor, request.query.get("name", ""))
    return json_response(await asyncio.to_thread(lambda: container_page(client(), identifier)))


async def _explain(request: Request) -> Answer:
    client, identifier = _of_container(request.monitor, request.query.get("name", ""))
    return json_response(await asyncio.to_thread(lambda: explanation(client(), identifier)))


async def _logs(request: Request) -> Answer:
    monitor, query = request.monitor, request.query
    if not monitor.shows_logs:
        text = "logs are shown to authenticated users only: start the monitor with --htpasswd, \
--token-file or --tls-client-ca, or with --logs to show them to everybody who reaches it"
        return json_response({"message": text}, 403)
    client, identifier = _of_container(monitor, query.get("name", ""))
    tail = whole_number(query.get("tail", ""), "tail", MOST_TAIL, 200)
    stream = _event_stream(request)
    log = LogTail(client, identifier, tail)
    try:
        async for lines in log.lines():
            await stream.write(message("lines", lines))
        await stream.write(message("end", {"message": ""}))
    except (Refused, Unavailable) as err:
        await stream.write(message("end", {"message": str(err)}))
    finally:
        log.close()
    return stream


def _event_stream(request: Request) -> Stream:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return request.stream("text/event-stream", headers)


async def _events(request: Request) -> Answer:
    monitor, query = request.monitor, request.query
    most = whole_number(query.get("limit", ""), "limit", _MOST_EVENTS, 100)
    found: list[MonitorEvent] = list(monitor.collector.events)
    if name := query.get("name"):
        group = monitor.find(name)
        path = group.name if group is not None else name
        found = [event for event in found if event.group == path]
        if group is None and not found:  # removed groups still have events
            _group(monitor, name)
    return json_response(found[-most:])


async def _alerts(request: Request) -> Answer:
    return json_response(request.monitor.alerts())


async def _about(request: Request) -> Answer:
    return json_response(about(request.monitor))


def about(monitor: Monitor) -> dict[str, Any]:
    collector, settings = monitor.collector, monitor.settings
    return {
        "version": portside.__version__,
        "series": SERIES,
        "interval": seconds(settings.interval),
        "full": seconds(settings.full),
        "kept": seconds(settings.kept),
        "disk": bool(settings.history),
        "cgroup": collector.layout.mode,
        "logs": monitor.shows_logs,
        "engine": collector.engine if collector.engine_reached else None,
        "unseen": unseen(collector),
        "groups": len(collector.groups),
        "containers": len(collector.by_container),
        "machine": {
            "num_cores": monitor.machine.num_cores,
            "memory_capacity": monitor.machine.memory_capacity,
        },
    }


async def _live(request: Request) -> Answer:
    monitor, query = request.monitor, request.query
    if len(monitor.live.clients) >= MOST_CLIENTS:
        return json_response({"message": f"{MOST_CLIENTS} streams are open already"}, 503)
    names = query.getall("name")
    wanted = frozenset(_group(monitor, name).name for name in names[:_MOST_NAMES])
    client = Client(wanted if names else None, query.get("containers") == "1")
    stream = _event_stream(request)
    monitor.live.clients.add(client)
    try:
        await stream.write(b"retry: 2000\n\n")
        while True:
            await stream.write(await client.next(_HEARTBEAT))
    finally:
        monitor.live.clients.discard(client)


def routes() -> list[Route]:
    return [
        Route(f"{PATH}/{name}", checked(handler))
        for name, handler in (
            ("groups", _groups), ("group", _detail), ("history", _history),
            ("processes", _processes), ("events", _events), ("alerts", _alerts),
            ("container", _container), ("explain", _explain), ("logs", _logs),
            ("about", _about), ("live", _live),
        )
    ]  # fmt: skip
