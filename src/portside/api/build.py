"""The build endpoints. The builder itself is imported by the first request that needs it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from portside.api import params, reply
from portside.api.router import Answer, Router
from portside.model import filters as filtering
from portside.model.errors import (
    Cancelled,
    InvalidParameter,
    NotFound,
    NotImplementedHere,
    PortsideError,
)
from portside.serving.http.messages import Request, Response, Stream

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()

_FILTERS = frozenset(
    ("until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private",
     "mutable", "immutable", "label")
)  # fmt: skip


@router.add("POST", "/build", cancellable=True)
async def build(api: Api, request: Request, _: str) -> Answer:
    """The classic builder's API: a tar in, messages out."""
    if params.text(request, "version") == "2":
        raise NotImplementedHere(
            "builds through a session are not supported yet: set DOCKER_BUILDKIT=0"
        )
    from portside.api import build_query
    from portside.builder.classic import ClassicBuild

    service = api.engine.builder()
    options = build_query.classic_options(request)
    messages = _Messages(request)
    task = asyncio.current_task()
    assert task is not None
    forget = service.register(params.text(request, "buildid"), task)
    try:
        async with build_query.context(service, request) as context:
            wanted = build_query.build_request(request, context)
            await ClassicBuild(service, options, messages).run(wanted)
    except (Cancelled, asyncio.CancelledError):
        raise
    except PortsideError as err:
        if messages.stream is None and not isinstance(err, NotFound):
            raise
        messages.fail(err)
    finally:
        forget()
    return messages.started()


class _Messages:
    """The stream of messages; begins with the first of them."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.stream: Stream | None = None

    def started(self) -> Stream:
        if self.stream is None:
            self.stream = self._request.start(200, reply.JSON)
        return self.stream

    def __call__(self, message: dict[str, Any]) -> None:
        self.started().write_nowait(reply.line(message))

    def fail(self, err: PortsideError) -> None:
        detail: dict[str, Any] = {"message": str(err)}
        if code := getattr(err, "code", 0):
            detail = {"code": code, **detail}
        self({"errorDetail": detail, "error": str(err)})


_UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def _check_upgrade(request: Request) -> None:
    if not request.head.upgrade:
        raise InvalidParameter("no upgrade proto in request")
    if request.head.upgrade != "h2c":
        raise InvalidParameter(f"protocol {request.head.upgrade} not supported")


@router.add("POST", "/grpc")
async def grpc(api: Api, request: Request, _: str) -> Answer:
    """BuildKit's services for the client, over HTTP/2 on this connection."""
    _check_upgrade(request)
    await request.body.read()
    endpoint = api.engine.grpc()
    endpoint.take(*request.release(_UPGRADED))
    return None


@router.add("POST", "/session")
async def session(api: Api, request: Request, _: str) -> Answer:
    """The client's own services for its builds: here the engine is the HTTP/2 client."""
    _check_upgrade(request)
    await request.body.read()
    endpoint = api.engine.grpc()
    api.engine.store.workers.begin()  # a build's first job would wait for the fork server's start
    endpoint.take_session(*request.release(_UPGRADED), request.head.headers)
    return None


_SIZES = frozenset(("reserved-space", "keep-storage", "max-used-space", "min-free-space"))


@router.add("POST", "/build/prune", since=(1, 31))
async def prune(api: Api, request: Request, _: str) -> Answer:
    """``docker builder prune``."""
    filters = params.filters(request)
    filtering.check(filters, _FILTERS)
    deleted, freed, cached = list[str](), 0, api.engine.has_build_cache()
    if cached or filters or not _SIZES.isdisjoint(request.query):
        from portside.api.build_query import prune_rule  # and with it the builder

        rule = prune_rule(request, filters)
        if cached:
            deleted, freed = await api.engine.builder().prune_by(rule)
    api.engine.events("builder", "prune", "", {"reclaimed": str(freed)})
    return reply.json({"CachesDeleted": deleted or None, "SpaceReclaimed": freed})


@router.add("POST", "/build/cancel")
async def cancel(api: Api, request: Request, _: str) -> Answer:
    identifier = params.text(request, "id")
    if not identifier:
        raise InvalidParameter("build ID not provided")
    if api.engine.has_builder():
        api.engine.builder().cancel(identifier)
    return Response(200)
