"""The System group: ping, version, info, events, df, auth."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from portside.api import params, reply, versions
from portside.api.router import Answer, Router
from portside.engine import events
from portside.engine.info import engine_info, engine_version
from portside.model.errors import InvalidParameter, InvalidText
from portside.model.events import Event
from portside.model.golang.booleans import parse_bool
from portside.model.registryauth import AuthConfig
from portside.serving.http.messages import Request, Response, Stream

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()

_PING = {
    "Builder-Version": "2",
    "Swarm": "inactive",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
}


@router.add("GET", "/_ping")
async def ping(api: Api, request: Request, _: str) -> Answer:
    return Response(200, b"OK", "text/plain; charset=utf-8", _PING)


@router.add("HEAD", "/_ping")
async def ping_head(api: Api, request: Request, _: str) -> Answer:
    return Response(200, b"", "text/plain; charset=utf-8", _PING)


@router.add("GET", "/version")
async def version(api: Api, request: Request, _: str) -> Answer:
    return reply.json(engine_version())


@router.add("GET", "/info")
async def info(api: Api, request: Request, _: str) -> Answer:
    return reply.json((await asyncio.shield(engine_info(api.engine))).wire(request.version))


@router.add("POST", "/auth")
async def auth(api: Api, request: Request, _: str) -> Answer:
    credentials = await params.json(request, AuthConfig)
    return reply.json(await api.engine.images.login(credentials.complete()))


@router.add("GET", "/events", cancellable=True)
async def get_events(api: Api, request: Request, _: str) -> Answer:
    since = params.timestamp(params.text(request, "since"))
    until = params.timestamp(params.text(request, "until"))
    if since is not None and until is not None and until < since:
        raise InvalidParameter(
            f"`since` time ({params.text(request, 'since')}) cannot be after "
            f"`until` time ({params.text(request, 'until')})"
        )
    wanted = params.filters(request)  # filters that are not known are not looked at
    bus = api.engine.events
    listener = bus.subscribe(wanted)
    form = _EventForm.negotiate(request)
    try:
        stream = request.start(200, form.content_type)
        asked = since is not None or until is not None
        past = bus.past(since or 0, until, wanted) if asked else []
        for event in past:
            if form.shows(event):
                await stream.write(form.encode(event))
        if until is None:
            await _follow(listener, stream, form)
        elif until > time.time_ns():
            try:
                async with asyncio.timeout((until - time.time_ns()) / 1e9):
                    await _follow(listener, stream, form)
            except TimeoutError:
                pass
        return stream
    finally:
        listener.close()


async def _follow(listener: events.Listener, stream: Stream, form: _EventForm) -> None:
    async for event in listener:
        if form.shows(event):
            await stream.write(form.encode(event))


@dataclass(frozen=True, slots=True)
class _EventForm:
    """How one client gets its events."""

    version: tuple[int, int]
    content_type: str

    @classmethod
    def negotiate(cls, request: Request) -> _EventForm:
        """JSON, and since API 1.52 (lines: 1.53) what the header Accept prefers."""
        offers = [kind for kind, since in _EVENT_TYPES.items() if request.version >= since]
        found = reply.preferred(request.header("accept"), offers)
        return cls(request.version, found or reply.JSON)

    def shows(self, event: Event) -> bool:
        """Images had no ``create`` event before 1.46."""
        return self.version >= (1, 46) or (event.type, event.action) != ("image", "create")

    def encode(self, event: Event) -> bytes:
        data = msgspec.json.encode(versions.event(events.wire(event), self.version))
        if self.content_type == reply.JSON_SEQUENCE:
            return b"\x1e" + data + b"\n"  # RFC 7464, section 2.2
        return data + (b"\r\n" if self.content_type == reply.JSON else b"\n")


_EVENT_TYPES = {
    reply.JSON: (1, 24), reply.NDJSON: (1, 52), reply.JSON_SEQUENCE: (1, 52),
    reply.JSON_LINES: (1, 53),
}  # fmt: skip


@router.add("GET", "/system/df", cancellable=True)
async def disk_usage(api: Api, request: Request, _: str) -> Answer:
    asked = params.texts(request, "type") if request.version >= (1, 42) else ()
    kinds = frozenset(asked)
    unknown = kinds - {"container", "image", "volume", "build-cache"}
    if unknown:
        raise InvalidParameter(f"unknown object type: {sorted(unknown)[0]}")
    verbose = _verbose(request) if request.version >= (1, 52) else False
    from portside.engine.usage import measure_disk

    usage = await measure_disk(api.engine, kinds, request.version)
    return reply.json(versions.disk_usage(usage, request.version, verbose))


def _verbose(request: Request) -> bool:
    text = params.text(request, "verbose")
    try:
        return parse_bool(text or "false")
    except InvalidText:
        raise InvalidParameter(f"invalid value for verbose: {text}") from None
