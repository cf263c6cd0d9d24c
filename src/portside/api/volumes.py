"""The Volume group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portside.api import params, reply
from portside.api.router import Answer, Router
from portside.model.errors import PortsideError, Unavailable
from portside.model.volume import VolumeCreate
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()


@router.add("GET", "/volumes")
async def list_volumes(api: Api, request: Request, _: str) -> Answer:
    return reply.json(api.engine.volumes.list(params.filters(request)))


@router.add("POST", "/volumes/create")
async def create(api: Api, request: Request, _: str) -> Answer:
    body = await params.json(request, VolumeCreate)
    if body.cluster_volume_spec is not None:
        raise _not_in_a_swarm()
    return reply.json(await api.engine.volumes.create(body), 201)


@router.add("GET", "/volumes/{name}")
async def inspect(api: Api, request: Request, name: str) -> Answer:
    return reply.json(api.engine.volumes.get(name))


@router.add("PUT", "/volumes/{name}", since=(1, 42))
async def update(api: Api, request: Request, name: str) -> Answer:
    """Docker changes cluster volumes here; outside a swarm it has none."""
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


def _not_in_a_swarm() -> PortsideError:
    from portside.api.swarm import NO_MANAGER

    return Unavailable(NO_MANAGER)


@router.add("DELETE", "/volumes/{name}")
async def remove(api: Api, request: Request, name: str) -> Answer:
    await api.engine.volumes.remove(name, force=params.boolean(request, "force"))
    return Response(204)


@router.add("POST", "/volumes/prune", since=(1, 25))
async def prune(api: Api, request: Request, _: str) -> Answer:
    filters = params.filters(request)
    if request.version < (1, 42):  # until then unused named volumes were pruned, too
        filters["all"] = ["true"]
    return reply.json(await api.engine.volumes.prune(filters))
