"""The Container group: create, start, stop, remove, list, inspect, wait."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from portside.api import params, reply, request_versions, versions
from portside.api.router import Answer, Router
from portside.api.swarm import NO_CHECKPOINTS
from portside.containers.container_networks import remove_link
from portside.containers.create import CreateOptions, create_container
from portside.containers.exit import check_condition, wait_container, waited
from portside.containers.inspect import inspect_container, list_containers
from portside.containers.remove import prune_containers, remove_container
from portside.containers.start import restart_container, start_container
from portside.containers.stop import (
    kill_by_name,
    pause_container,
    stop_container,
    unpause_container,
)
from portside.model import jsontext
from portside.model.container import decode_create
from portside.model.errors import InvalidParameter, NotImplementedHere, PortsideError, reworded
from portside.model.platform import Platform
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()

_EMPTY_BODY = 7
"""Bytes of a start's body that is as good as none: clients send ``null`` and ``{}``."""


@router.add("GET", "/containers/json", cancellable=True)
async def get_list(api: Api, request: Request, _: str) -> Answer:
    found = await list_containers(
        api.engine.containers,
        params.filters(request),  # parameters before and since ended with API 1.23: as in dockerd
        all=params.boolean(request, "all"),
        limit=params.number(request, "limit", 0) or 0,
        size=params.boolean(request, "size"),
    )
    return reply.json([versions.summary(item.wire(), request.version) for item in found])


@router.add("POST", "/containers/create")
async def create(api: Api, request: Request, _: str) -> Answer:
    body = await params.json_bytes(request)
    if body.strip() in (b"null", b"{}"):
        raise InvalidParameter("config cannot be empty in order to create a container")
    wanted = decode_create(body)
    warnings = request_versions.create(wanted, request.version, api.engine.cgroup_version)
    platform = params.text(request, "platform") if request.version >= (1, 41) else ""
    options = CreateOptions(
        params.text(request, "name"),
        wanted,
        Platform.parse(platform) if platform else None,
        request_versions.read_only_non_recursive(request.version),
    )
    created = await create_container(api.engine.containers, options)
    created.warnings = (*created.warnings, *warnings)
    return reply.json(created, 201)


@router.add("GET", "/containers/{name}/json")
async def inspect(api: Api, request: Request, name: str) -> Answer:
    size = params.boolean(request, "size")
    containers = api.engine.containers
    found = await inspect_container(containers, containers.find(name), size)
    return reply.json(versions.container(found.wire(), request.version))


@router.add("POST", "/containers/{name}/start")
async def start(api: Api, request: Request, name: str) -> Answer:
    length = request.head.length
    if length is None or length > _EMPTY_BODY:
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 and "
            "removed in v1.24"
        )
    if params.text(request, "checkpoint"):
        raise InvalidParameter("checkpoints are not supported")
    containers = api.engine.containers
    container = containers.find(name)
    await start_container(containers, container)
    if not params.boolean(request, "timings"):
        return Response(204)
    # With the answer: a container that is removed at its end may be gone before another request.
    return Response(204, headers={"Portside-Timings": jsontext.dumps(container.timings)})


@router.add("POST", "/containers/{name}/stop")
async def stop(api: Api, request: Request, name: str) -> Answer:
    containers, timeout = api.engine.containers, params.number(request, "t")
    word = await stop_container(containers, containers.find(name), _stop_signal(request), timeout)
    return Response(204, headers={"Portside-Warning": word} if word else None)


@router.add("POST", "/containers/{name}/restart")
async def restart(api: Api, request: Request, name: str) -> Answer:
    containers, timeout = api.engine.containers, params.number(request, "t")
    found = containers.find(name)
    try:
        await restart_container(containers, found, _stop_signal(request), timeout)
    except PortsideError as err:
        raise reworded(err, f"Cannot restart container {name}: {err}") from err
    return Response(204)


def _stop_signal(request: Request) -> str:
    """The signal instead of the container's own; API 1.42 on."""
    return params.text(request, "signal") if request.version >= (1, 42) else ""


@router.add("POST", "/containers/{name}/kill")
async def kill(api: Api, request: Request, name: str) -> Answer:
    await kill_by_name(api.engine.containers, name, params.text(request, "signal"))
    return Response(204)


@router.add("POST", "/containers/{name}/pause")
async def pause(api: Api, request: Request, name: str) -> Answer:
    await pause_container(api.engine.containers, api.engine.containers.find(name))
    return Response(204)


@router.add("POST", "/containers/{name}/unpause")
async def unpause(api: Api, request: Request, name: str) -> Answer:
    await unpause_container(api.engine.containers, api.engine.containers.find(name))
    return Response(204)


@router.add("POST", "/containers/{name}/wait", cancellable=True)
async def wait(api: Api, request: Request, name: str) -> Answer:
    """The head is sent at once: clients start the container when they have seen it."""
    condition = params.text(request, "condition") if request.version >= (1, 30) else ""
    check_condition(condition)  # before the container is looked for, as dockerd
    future = wait_container(api.engine.containers.find(name), condition)
    stream = request.start(200, reply.JSON)
    try:
        result = await future
    except asyncio.CancelledError:
        future.cancel()
        raise
    await stream.write(reply.line(waited(result).wire())[:-2] + b"\n")
    return stream


_CHECKPOINT = re.compile(r"[^/]+/checkpoints/[^/]+")


@router.add("DELETE", "/containers/{name}")
async def remove(api: Api, request: Request, name: str) -> Answer:
    if params.boolean(request, "link"):
        await remove_link(api.engine.containers, name)
        return Response(204)
    containers = api.engine.containers
    if _CHECKPOINT.fullmatch(name):
        raise NotImplementedHere(NO_CHECKPOINTS)
    force, volumes = params.boolean(request, "force"), params.boolean(request, "v")
    container = containers.find(name)
    await remove_container(containers, container, force=force, volumes=volumes, name=name)
    return Response(204)


@router.add("POST", "/containers/prune", since=(1, 25))
async def prune(api: Api, request: Request, _: str) -> Answer:
    pruned = await prune_containers(api.engine.containers, params.filters(request))
    api.engine.events("container", "prune", "", {"reclaimed": str(pruned.space_reclaimed)})
    return reply.json(pruned)
