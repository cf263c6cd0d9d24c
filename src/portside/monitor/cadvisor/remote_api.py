"""cAdvisor's HTTP API: versions 1.0 to 1.3, 2.0 and 2.1, below ``/api/``.

Errors are text with the status 500, as cAdvisor's are: its clients look at the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

import portside
from portside.model.errors import InvalidParameter, InvalidText, NotFound, PortsideError
from portside.model.golang.booleans import parse_bool
from portside.model.golang.durations import parse_duration
from portside.model.golang.quoting import quote
from portside.model.golang.timestamps import format_rfc3339, parse_rfc3339
from portside.monitor import filesystems
from portside.monitor.cadvisor import container_json
from portside.monitor.cadvisor.usage_summary import derived_stats
from portside.monitor.collector import MOST_EVENTS, Group, MonitorEvent
from portside.monitor.monitor_context import Monitor
from portside.monitor.own_api import process_list
from portside.monitor.process_reader import ProcessInfo
from portside.monitor.samples import Sample
from portside.monitor.web_requests import (
    Answer,
    Query,
    Request,
    Route,
    json_response,
    text_response,
)

VERSION = "v0.60.0"
"""The version of cAdvisor that has these interfaces, for its clients."""
_V1 = {
    "v1.0": ("containers", "machine"),
    "v1.1": ("containers", "machine", "subcontainers"),
    "v1.2": ("containers", "machine", "subcontainers", "docker"),
    "v1.3": ("containers", "machine", "subcontainers", "docker", "events"),
}
_V2_0 = ("version", "attributes", "events", "machine", "summary", "stats", "spec", "storage", "ps",
         "appmetrics")  # fmt: skip
REQUESTS = {**_V1, "v2.0": _V2_0, "v2.1": ("machinestats", *_V2_0)}
_KINDS = {
    "oom_events": "oom", "oom_kill_events": "oomKill",
    "creation_events": "containerCreation", "deletion_events": "containerDeletion",
}  # fmt: skip
_BODY = 1 << 20
_WAITING = 1000
"""Events that wait for one slow client of a stream; beyond, the oldest is dropped."""


class ApiError(PortsideError):
    """Answered as text with the status 500."""


class InfoRequest(msgspec.Struct):
    """The body of a request of version 1."""

    num_stats: int = 60
    start: str = ""
    end: str = ""


class Options(msgspec.Struct):
    """The parameters of a request of version 2."""

    type: str = "name"
    count: int = 64
    recursive: bool = False
    max_age: int | None = None


# -- parameters -----------------------------------------------------------------------------


async def info_request(request: Request) -> InfoRequest:
    """The JSON body, which may be missing; raises ApiError."""
    body = await request.body(_BODY)
    if not body.strip():
        return InfoRequest()
    try:
        return msgspec.json.decode(body, type=InfoRequest)
    except msgspec.MsgspecError as err:
        raise ApiError(f"unable to decode the json value: {err}") from err


def options_of(request: Request) -> Options:
    query, options = request.query, Options()
    if kind := query.get("type"):
        if kind not in ("name", "docker", "podman"):
            raise ApiError(f"unknown 'type' {quote(kind[:40])}")
        options.type = kind
    if count := query.get("count"):
        try:
            options.count = int(count) if len(count) < 20 else -2
        except ValueError:
            raise ApiError(f"failed to parse 'count' option: {count[:40]}") from None
        if options.count < -1:
            raise ApiError(
                f"invalid 'count' option: only -1 and larger values allowed, not {count[:40]}"
            )
    options.recursive = query.get("recursive") == "true"
    if age := query.get("max_age"):
        try:
            options.max_age = parse_duration(age)
        except InvalidText as err:
            raise ApiError(f"failed to parse 'max_age' option: {err}") from err
    return options


def _moment(text: str) -> int:
    """Nanoseconds; 0 for none and for Go's zero time."""
    if not text or text.startswith("0001-"):
        return 0
    try:
        return parse_rfc3339(text)
    except InvalidText as err:
        raise ApiError(f"unable to decode the json value: {err}") from err


def _samples(group: Group, query: InfoRequest) -> list[Sample]:
    start, end = _moment(query.start), _moment(query.end)
    found = [
        sample
        for sample in group.history.samples
        if sample.time_ns >= start and (not end or sample.time_ns <= end)
    ]
    return _newest(found, query.num_stats)


def _newest(samples: list[Sample], count: int) -> list[Sample]:
    """The last ones; -1 is all."""
    if count < 0:
        return samples
    return samples[-count:] if count else []


def _named(monitor: Monitor, name: str) -> Group:
    path = posixpath.normpath("/" + name)
    group = monitor.find(path)
    if group is None:
        raise ApiError(f"unknown container {quote(path[:200])}")
    return group


def _docker(monitor: Monitor, name: str) -> Group:
    """A container by its name or ID."""
    group = monitor.find(name.strip("/"))
    if group is None or not group.container:
        raise ApiError(f"unable to find Docker container {quote(name.strip('/')[:200])}")
    return group


def requested(monitor: Monitor, name: str, options: Options) -> list[Group]:
    """The groups of a request of version 2, sampled anew on request."""
    if options.type == "name":
        group = _named(monitor, name)
        groups = monitor.below(group) if options.recursive else [group]
    elif options.type == "docker":
        if name.strip("/"):
            group = _docker(monitor, name)
            groups = monitor.below(group) if options.recursive else [group]
        else:
            groups = list(monitor.collector.by_container.values())
    else:
        raise ApiError("podman containers are not known to this engine")
    if options.max_age is not None:
        oldest = monitor.now_ns() - options.max_age
        monitor.collector.refresh(
            group.name
            for group in groups
            if group.history.last is None or group.history.last.time_ns < oldest
        )
    return groups


# -- requests -------------------------------------------------------------------------------


async def _machine(monitor: Monitor, _request: Request, _name: str) -> Answer:
    return json_response(monitor.machine)


async def _containers(monitor: Monitor, request: Request, name: str) -> Answer:
    query = await info_request(request)
    try:
        group = _named(monitor, name)
    except ApiError as err:
        shown = posixpath.normpath("/" + name)
        raise ApiError(f"failed to get container {quote(shown[:200])} with error: {err}") from err
    return json_response(_info(monitor, group, query))


def _info(monitor: Monitor, group: Group, query: InfoRequest) -> container_json.Json:
    children = sorted(monitor.children(group), key=lambda child: child.name)
    return container_json.info_json(group, _samples(group, query), children, monitor.settings)


async def _subcontainers(monitor: Monitor, request: Request, name: str) -> Answer:
    query = await info_request(request)
    groups = monitor.below(_named(monitor, name))
    groups.sort(key=lambda group: group.name)
    return json_response([_info(monitor, group, query) for group in groups])


async def _docker_containers(monitor: Monitor, request: Request, name: str) -> Answer:
    query = await info_request(request)
    wanted = name.strip("/")
    if "/" in wanted:
        shown = " ".join(wanted[:200].split("/"))
        raise ApiError(f"unknown request for Docker container [{shown}]")
    if wanted:
        try:
            groups = [_docker(monitor, wanted)]
        except ApiError as err:
            raise ApiError(
                f"failed to get Docker container {quote(wanted[:200])} with error: {err}"
            ) from err
    else:
        groups = list(monitor.collector.by_container.values())
    return json_response({group.name: _info(monitor, group, query) for group in groups})


async def _version(_monitor: Monitor, _request: Request, _name: str) -> Answer:
    return json_response(VERSION)


def versions(monitor: Monitor) -> dict[str, str]:
    """Of the kernel, the system, the engine and this program."""
    engine = monitor.collector.engine
    return {
        "kernel_version": monitor.kernel,
        "container_os_version": monitor.system,
        "docker_version": engine.version,
        "docker_api_version": engine.api,
        "cadvisor_version": VERSION,
        "cadvisor_revision": f"portside {portside.__version__}",
    }


async def _attributes(monitor: Monitor, _request: Request, _name: str) -> Answer:
    found = versions(monitor)
    del found["cadvisor_revision"]
    machine = msgspec.to_builtins(monitor.machine)
    for name in (
        "num_cores", "cpu_frequency_khz", "memory_capacity", "machine_id", "system_uuid",
        "hugepages", "filesystems", "disk_map", "network_devices", "topology", "cloud_provider",
        "instance_type",
    ):  # fmt: skip
        found[name] = machine[name]
    return json_response(found)


async def _summary(monitor: Monitor, request: Request, name: str) -> Answer:
    groups = requested(monitor, name, options_of(request))
    return json_response({group.name: derived_stats(group) for group in groups})


async def _stats(monitor: Monitor, request: Request, name: str) -> Answer:
    options = options_of(request)
    groups = requested(monitor, name, options)
    if request.rest.startswith("v2.0/"):
        return json_response(
            {
                group.name: container_json.stats_deprecated(
                    group, _newest(list(group.history.samples), options.count)
                )
                for group in groups
            }
        )
    return json_response(
        {
            group.name: {
                "spec": container_json.spec_v2(group, monitor.settings),
                "stats": container_json.stats_v2(
                    group, _newest(list(group.history.samples), options.count)
                ),
            }
            for group in groups
            if group.name != "/"
        }
    )


async def _machine_stats(monitor: Monitor, request: Request, _name: str) -> Answer:
    options = options_of(request)
    group = requested(monitor, "/", Options(count=options.count, max_age=options.max_age))[0]
    samples = _newest(list(group.history.samples), options.count)
    return json_response(container_json.machine_stats(samples))


async def _spec(monitor: Monitor, request: Request, name: str) -> Answer:
    groups = requested(monitor, name, options_of(request))
    return json_response(
        {group.name: container_json.spec_v2(group, monitor.settings) for group in groups}
    )


async def _storage(monitor: Monitor, request: Request, _name: str) -> Answer:
    options_of(request)
    rootfs = monitor.settings.host_root
    if "uuid" in request.query:
        uuid = request.query.get("uuid")
        raise ApiError(f"no file system has the UUID {quote(uuid[:80])}: cadvisor: no such device")
    wanted = request.query.get("label", "")
    data_root = monitor.collector.engine.root
    found = []
    mounts = filesystems.mounts("/proc", rootfs, data_root)
    images = filesystems.mount_of(data_root, mounts, rootfs) if data_root else None
    for mount in mounts:
        labels = ["root"] if mount.mountpoint == "/" else []
        labels += ["docker-images"] if mount == images else []
        use = filesystems.use(mount, rootfs)
        if use is None or (wanted and wanted not in labels):
            continue
        found.append(
            {
                "timestamp": format_rfc3339(monitor.now_ns()), "device": use.device,
                "mountpoint": use.mountpoint, "capacity": use.capacity,
                "available": use.available, "usage": use.usage, "labels": labels,
                "inodes": use.inodes, "inodes_free": use.inodes_free,
            }
        )  # fmt: skip
    if wanted and not found:
        raise ApiError(f"non-existent label {quote(wanted[:80])}")
    return json_response(found)


async def _ps(monitor: Monitor, request: Request, name: str) -> Answer:
    options = options_of(request)
    try:
        group = (_docker if options.type == "docker" else _named)(monitor, name)
    except ApiError as err:
        raise ApiError(f"process listing failed: {err}") from err
    found = process_list(monitor, group)
    return json_response([msgspec.convert(one, ProcessInfo, from_attributes=True) for one in found])


async def _app_metrics(monitor: Monitor, request: Request, name: str) -> Answer:
    requested(monitor, name, options_of(request))
    return json_response({posixpath.normpath("/" + name): {}})


# -- events ---------------------------------------------------------------------------------


def event_json(event: MonitorEvent) -> dict[str, Any]:
    """cAdvisor's ``Event``."""
    data: dict[str, Any] = {}
    if event.type == "oomKill":
        data["oom"] = {
            "pid": event.pid, "process_name": event.process, "constraint": event.constraint,
        }  # fmt: skip
    elif event.type == "containerDeletion":
        data["container_deletion"] = {"exit_code": event.exit_code}
    return {
        "container_name": event.group,
        "timestamp": format_rfc3339(event.time_ns),
        "event_type": event.type,
        "event_data": data,
    }


class EventQuery:
    """The events that a client requests; invalid parameters are ignored, as in cAdvisor."""

    def __init__(self, query: Query, name: str) -> None:
        self.name = posixpath.normpath("/" + name)
        self.stream = _boolean(query.get("stream"))
        self.below = _boolean(query.get("subcontainers"))
        everything = _boolean(query.get("all_events"))
        self.types = {
            kind for option, kind in _KINDS.items() if everything or _boolean(query.get(option))
        }
        most = query.get("max_events", "")
        self.most = int(most) if re.fullmatch(r"-?[0-9]{1,7}", most) else 10
        if self.most < 0:
            self.most = MOST_EVENTS  # cAdvisor sends all of them
        self.start = self._time(query.get("start_time", ""))
        self.end = self._time(query.get("end_time", ""))

    @staticmethod
    def _time(text: str) -> int:
        with contextlib.suppress(InvalidText):
            return parse_rfc3339(text)
        return 0

    def wants(self, event: MonitorEvent) -> bool:
        if event.type not in self.types:
            return False
        if event.time_ns < self.start or (self.end and event.time_ns > self.end):
            return False
        if event.group == self.name:
            return True
        return self.below and event.group.startswith(self.name.rstrip("/") + "/")


def _boolean(text: str) -> bool:
    try:
        return parse_bool(text) if text else False
    except ValueError:
        return False


async def _events(monitor: Monitor, request: Request, name: str) -> Answer:
    query = EventQuery(request.query, name)
    if not query.stream:
        found = [event for event in monitor.collector.events if query.wants(event)]
        found = found[-query.most :] if query.most else []
        return json_response([event_json(event) for event in found])
    return await _stream(monitor, request, query)


async def _stream(monitor: Monitor, request: Request, query: EventQuery) -> Answer:
    """One JSON document a line, as events happen."""
    waiting: deque[MonitorEvent] = deque(maxlen=_WAITING)
    some = asyncio.Event()

    def happened(event: MonitorEvent) -> None:
        if query.wants(event):
            waiting.append(event)
            some.set()

    stream = request.stream("application/json")
    listeners = monitor.collector.listeners.happened
    listeners.append(happened)
    try:
        while True:
            await some.wait()
            some.clear()
            while waiting:
                line = msgspec.json.encode(event_json(waiting.popleft())) + b"\n"
                await stream.write(line)
    finally:
        listeners.remove(happened)


_HANDLERS: dict[str, Callable[[Monitor, Request, str], Awaitable[Answer]]] = {
    "containers": _containers, "subcontainers": _subcontainers, "docker": _docker_containers,
    "machine": _machine, "events": _events, "version": _version, "attributes": _attributes,
    "summary": _summary, "stats": _stats, "spec": _spec, "storage": _storage, "ps": _ps,
    "appmetrics": _app_metrics, "machinestats": _machine_stats,
}  # fmt: skip


def _text(text: str, status: int) -> Answer:
    return text_response(f"{text}\n", status)


async def _versions_list(_request: Request) -> Answer:
    return _text(f"Supported API versions: {','.join(sorted(REQUESTS))}", 400)


async def _request(request: Request) -> Answer:
    version, _, rest = request.rest.partition("/")
    kind, _, name = rest.partition("/")
    if not version:
        return await _versions_list(request)
    if version not in REQUESTS:
        return _text(f'unsupported API version "{version[:40]}"', 500)
    if not kind:
        return _text(f'Supported request types: "{",".join(sorted(REQUESTS[version]))}"', 400)
    if kind not in REQUESTS[version]:
        return _text(f'unknown request type "{kind[:40]}"', 500)
    try:
        return await _HANDLERS[kind](request.monitor, request, name)
    except (ApiError, InvalidParameter, NotFound) as err:
        return _text(str(err), 500)


def routes() -> list[Route]:
    """Clients send the body of version 1 with GET or POST."""
    methods = ("GET", "HEAD", "POST")
    return [Route("/api", _versions_list, methods), Route("/api/*", _request, methods)]
