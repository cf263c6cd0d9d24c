"""Swarm's groups, checkpoints and plugins: answered as an engine that is not in a swarm answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portside.api import params, reply
from portside.api.router import Answer, Handler, Router
from portside.model import filters as filtering
from portside.model.errors import NotFound, NotImplementedHere, Unavailable
from portside.serving.http.messages import Request

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()

NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
    "connect this node to swarm and try again."
)
NO_SWARM = "This node is not part of a swarm"


async def _no_manager(api: Api, request: Request, _: str) -> Answer:
    raise Unavailable(NO_MANAGER)


async def _not_built(api: Api, request: Request, _: str) -> Answer:
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
    "GET /swarm", "POST /swarm/update", "GET /swarm/unlockkey", "POST /swarm/unlock",
    "GET /services", "POST /services/create", "GET /services/{id}", "DELETE /services/{id}",
    "POST /services/{id}/update", "GET /services/{id}/logs",
    "GET /nodes", "GET /nodes/{id}", "DELETE /nodes/{id}", "POST /nodes/{id}/update",
    "GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs",
    "GET /secrets", "POST /secrets/create", "GET /secrets/{id}", "DELETE /secrets/{id}",
    "POST /secrets/{id}/update",
    "GET /configs", "POST /configs/create", "GET /configs/{id}", "DELETE /configs/{id}",
    "POST /configs/{id}/update",
)  # fmt: skip
_register(_not_built, "POST /swarm/init", "POST /swarm/join")
_register(_no_swarm, "POST /swarm/leave")


# -- checkpoints: experimental in Docker, too ------------------------------------------------------


async def _no_checkpoints(api: Api, request: Request, name: str) -> Answer:
    raise NotImplementedHere("checkpoints are not supported")


_register(
    _no_checkpoints, "GET /containers/{name}/checkpoints", "POST /containers/{name}/checkpoints"
)


# -- plugins: there are none, and none can be installed ------------------------------------------


@router.add("GET", "/plugins")
async def plugins(api: Api, request: Request, _: str) -> Answer:
    filtering.check(params.filters(request), frozenset(("enabled", "capability")))
    return reply.json([])


async def _no_plugin(api: Api, request: Request, name: str) -> Answer:
    raise NotFound(f'plugin "{name}" not found')


async def _no_plugins(api: Api, request: Request, _: str) -> Answer:
    raise NotImplementedHere(
        "managed plugins are not supported: volume, network and log drivers are built in"
    )


_register(
    _no_plugin,
    "GET /plugins/{name}/json", "DELETE /plugins/{name}", "POST /plugins/{name}/enable",
    "POST /plugins/{name}/disable", "POST /plugins/{name}/upgrade", "POST /plugins/{name}/push",
    "POST /plugins/{name}/set",
)  # fmt: skip
_register(_no_plugins, "GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create")
