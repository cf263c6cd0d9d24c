"""The build endpoints. The builder is not part of this engine yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portside.api import params, reply
from portside.api.http.messages import Request, Response
from portside.api.router import Answer, Router
from portside.model import filters as filtering
from portside.model.errors import InvalidParameter, NotImplementedHere

if TYPE_CHECKING:
    from portside.api.app import Api

router = Router()

_TEXT = (
    "building images is not built into Portside yet: build elsewhere, then pull or load the image"
)

_FILTERS = frozenset(
    ("until", "id", "label", "label!", "parent", "type", "description", "inuse", "shared",
     "private", "unused-for", "mutable", "immutable")
)  # fmt: skip


async def _not_built(api: Api, request: Request, _: str) -> Answer:
    raise NotImplementedHere(_TEXT)


for _method, _path in (("POST", "/build"), ("POST", "/session"), ("POST", "/grpc")):
    router.add(_method, _path)(_not_built)


@router.add("POST", "/build/prune", since=(1, 31))
async def prune(api: Api, request: Request, _: str) -> Answer:
    """There is no build cache, so there is nothing to free."""
    filtering.check(params.filters(request), _FILTERS)
    api.engine.events("builder", "prune", "", {"reclaimed": "0"})
    return reply.json({"CachesDeleted": None, "SpaceReclaimed": 0})


@router.add("POST", "/build/cancel")
async def cancel(api: Api, request: Request, _: str) -> Answer:
    if not params.text(request, "id"):
        raise InvalidParameter("build ID not provided")
    return Response(200)
