"""Swarm's groups, checkpoints and plugins: answered as an engine that is not in a swarm answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from portside.api import params, reply
from portside.api.router import Answer, Handler, Router
from portside.model import filters as filtering
from portside.model.errors import (
    InvalidParameter,
    InvalidText,
    NotFound,
    NotImplementedHere,
    SystemFailure,
    Unavailable,
)
from portside.model.golang import json_reading
from portside.model.golang.numbers import atoi, parse_uint
from portside.serving.http.messages import Request

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()

NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
    "connect this node to swarm and try again."
)
NO_CHECKPOINTS = (
    "This experimental feature is disabled by default. Start the Docker daemon in "
    "experimental mode in order to enable it."
)
NO_SWARM = "This node is not part of a swarm"


class Specification(msgspec.Struct, frozen=True):
    """A body that must be a JSON object; nothing of it is used."""


async def _no_manager(api: Api, request: Request, _: str) -> Answer:
    raise Unavailable(NO_MANAGER)


async def _no_list(api: Api, request: Request, _: str) -> Answer:
    params.filters(request)
    raise Unavailable(NO_MANAGER)


async def _no_logs(api: Api, request: Request, _: str) -> Answer:
    if not (params.boolean(request, "stdout") or params.boolean(request, "stderr")):
        raise SystemFailure("Bad parameters: you must choose at least one stream")
    raise Unavailable(NO_MANAGER)


async def _no_object(api: Api, request: Request, _: str) -> Answer:
    await params.json(request, Specification)
    raise Unavailable(NO_MANAGER)


def _no_update(kind: str, *, reason: bool = True) -> Handler[Api]:
    """Refuses to change an object: its specification and ``version`` are read first."""

    async def update(api: Api, request: Request, _: str) -> Answer:
        await params.json(request, Specification)
        version = params.text(request, "version")
        try:
            parse_uint(version)
        except InvalidText as err:
            words = f" '{version}': {err}" if reason else ""
            raise InvalidParameter(f"invalid {kind} version{words}") from None
        raise Unavailable(NO_MANAGER)

    return update


class ListenRequest(msgspec.Struct, frozen=True):
    """What of ``swarm init`` and ``swarm join`` is looked at."""

    listen_addr: str = msgspec.field(name="ListenAddr", default="")


async def _not_built(api: Api, request: Request, _: str) -> Answer:
    wanted = await params.json(request, ListenRequest)
    if not wanted.listen_addr:
        raise InvalidParameter('invalid ListenAddr "": invalid empty address')
    raise NotImplementedHere(
        "swarm mode is not supported: use compose, or an orchestrator that speaks the Engine API"
    )


async def _no_swarm(api: Api, request: Request, _: str) -> Answer:
    raise Unavailable(NO_SWARM)


def _register(handler: Handler[Api], *endpoints: str) -> None:
    for endpoint in endpoints:
        method, _, path = endpoint.partition(" ")
        router.add(method, path)(handler)


_register(
    _no_manager,
    "GET /swarm", "GET /swarm/unlockkey", "GET /services/{id}", "DELETE /services/{id}",
    "GET /nodes/{id}", "DELETE /nodes/{id}", "GET /tasks/{id}", "GET /secrets/{id}",
    "DELETE /secrets/{id}", "GET /configs/{id}", "DELETE /configs/{id}",
)  # fmt: skip
_register(
    _no_list, "GET /services", "GET /nodes", "GET /tasks", "GET /secrets", "GET /configs"
)  # fmt: skip
_register(_no_logs, "GET /services/{id}/logs", "GET /tasks/{id}/logs")
_register(
    _no_object,
    "POST /swarm/unlock", "POST /services/create", "POST /secrets/create", "POST /configs/create",
)  # fmt: skip
_register(_no_update("swarm"), "POST /swarm/update")
_register(_no_update("node"), "POST /nodes/{id}/update")
_register(_no_update("service"), "POST /services/{id}/update")
_register(_no_update("secret", reason=False), "POST /secrets/{id}/update")
_register(_no_update("config", reason=False), "POST /configs/{id}/update")
_register(_not_built, "POST /swarm/init", "POST /swarm/join")
_register(_no_swarm, "POST /swarm/leave")


# -- checkpoints: experimental in Docker, too ------------------------------------------------------


async def _no_checkpoints(api: Api, request: Request, name: str) -> Answer:
    raise NotImplementedHere(NO_CHECKPOINTS)


_register(
    _no_checkpoints, "GET /containers/{name}/checkpoints", "POST /containers/{name}/checkpoints"
)


# -- plugins: there are none, and none can be installed ------------------------------------------


@router.add("GET", "/plugins")
async def plugins(api: Api, request: Request, _: str) -> Answer:
    filters = params.filters(request)
    filtering.check(filters, frozenset(("enabled", "capability")))
    filtering.boolean(filters, "enabled")
    return reply.json([])


async def _no_plugin(api: Api, request: Request, name: str) -> Answer:
    raise NotFound(f'plugin "{name}" not found')


async def _no_plugin_enabled(api: Api, request: Request, name: str) -> Answer:
    try:
        atoi(params.text(request, "timeout"))
    except InvalidText as err:
        raise SystemFailure(str(err)) from None
    return await _no_plugin(api, request, name)


async def _no_plugin_set(api: Api, request: Request, name: str) -> Answer:
    data = await params.json_bytes(request)
    json_reading.decode_body(b"[]" if data.strip() in (b"", b"null") else data, list[str])
    return await _no_plugin(api, request, name)


async def _no_plugins(api: Api, request: Request, _: str) -> Answer:
    raise NotImplementedHere(
        "managed plugins are not supported: volume, network and log drivers are built in"
    )


_register(
    _no_plugin,
    "GET /plugins/{name}/json", "DELETE /plugins/{name}", "POST /plugins/{name}/disable",
    "POST /plugins/{name}/upgrade", "POST /plugins/{name}/push",
)  # fmt: skip
_register(_no_plugin_enabled, "POST /plugins/{name}/enable")
_register(_no_plugin_set, "POST /plugins/{name}/set")
_register(_no_plugins, "GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create")
