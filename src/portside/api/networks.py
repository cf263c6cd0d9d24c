"""The Network group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from portside.api import params, reply, request_versions
from portside.api.router import Answer, Router
from portside.containers.container_networks import disconnect_by_name, network_connect
from portside.model.errors import InvalidParameter, InvalidText
from portside.model.golang.booleans import parse_bool
from portside.model.network import (
    NetworkConnect,
    NetworkCreate,
    NetworkDisconnect,
    NetworksPruned,
)
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()


@router.add("GET", "/networks")
async def list_networks(api: Api, request: Request, _: str) -> Answer:
    found = api.engine.networks.list(params.filters(request))
    detailed = request.version < (1, 28)
    return reply.json([network.wire(request.version, containers=detailed) for network in found])


@router.add("GET", "/networks/")
async def list_networks_slash(api: Api, request: Request, _: str) -> Answer:
    return await list_networks(api, request, _)


@router.add("GET", "/networks/{name}")
async def inspect(api: Api, request: Request, name: str) -> Answer:
    scope = params.text(request, "scope")
    verbose = params.text(request, "verbose")
    try:
        parse_bool(verbose or "false")
    except InvalidText as err:
        raise InvalidParameter(f"invalid value for verbose: {verbose}: {err}") from None
    network = api.engine.networks.inspect(name)
    if scope and scope != network.scope:
        from portside.model.errors import NotFound

        raise NotFound(f"network {name} not found")
    return reply.json(network.wire(request.version))


@router.add("POST", "/networks/create")
async def create(api: Api, request: Request, _: str) -> Answer:
    body = await params.json(request, NetworkCreate)
    body = request_versions.network(body, request.version)
    if not body.driver:
        body = msgspec.structs.replace(body, driver="bridge")
    return reply.json(await api.engine.networks.create(body), 201)


@router.add("DELETE", "/networks/{name}")
async def remove(api: Api, request: Request, name: str) -> Answer:
    await api.engine.networks.remove(name)
    return Response(204)


@router.add("POST", "/networks/{name}/connect")
async def connect(api: Api, request: Request, name: str) -> Answer:
    body = await params.json(request, NetworkConnect)
    containers = api.engine.containers
    container = containers.find(body.container)
    await network_connect(containers, container, name, body.endpoint_config)
    return Response(200)


@router.add("POST", "/networks/{name}/disconnect")
async def disconnect(api: Api, request: Request, name: str) -> Answer:
    body = await params.json(request, NetworkDisconnect)
    await disconnect_by_name(api.engine.containers, body.container, name, body.force)
    return Response(200)


@router.add("POST", "/networks/prune", since=(1, 25))
async def prune(api: Api, request: Request, _: str) -> Answer:
    names = await api.engine.networks.prune(params.filters(request))
    api.engine.events("network", "prune", "", {"reclaimed": "0"})
    return reply.json(NetworksPruned(tuple(names) or None))
