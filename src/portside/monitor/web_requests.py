"""Requests, answers and routes as the monitor's handlers see them, over ``serving/http``.

That server is there already; a web framework would take a third of the monitor's memory.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec

from portside.serving.http.messages import Request as HttpRequest
from portside.serving.http.messages import Response, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.monitor.monitor_context import Monitor

Answer = Response | Stream
_WORTH_COMPRESSION = 1400
"""Bytes from which an answer needs more than one packet."""
_COMPRESSED_APART = 1 << 18
"""Bytes from which a thread compresses, so that the event loop does not wait."""


class Query:
    """The parameters of a request, decoded."""

    __slots__ = ("_found",)

    def __init__(self, found: dict[str, list[str]]) -> None:
        self._found = found

    def get(self, name: str, default: str = "") -> str:
        """The first value."""
        values = self._found.get(name)
        return values[0] if values else default

    def getall(self, name: str) -> list[str]:
        return self._found.get(name, [])

    def __contains__(self, name: str) -> bool:
        return name in self._found


class Request:
    """One request. ``path`` is decoded and without the prefix, ``rest`` what follows the route."""

    __slots__ = ("_http", "monitor", "path", "rest")

    def __init__(self, http: HttpRequest, monitor: Monitor, path: str) -> None:
        self._http, self.monitor, self.path = http, monitor, path
        self.rest = ""

    @property
    def method(self) -> str:
        return self._http.method

    @property
    def query(self) -> Query:
        """Raises InvalidParameter when it is malformed."""
        return Query(self._http.query)

    def header(self, name: str) -> str:
        """A header by its name in lower case; empty without one."""
        return self._http.header(name)

    async def body(self, limit: int) -> bytes:
        """Raises TooLarge beyond ``limit`` bytes."""
        return await self._http.body.read(limit)

    def stream(self, content_type: str, headers: Mapping[str, str] | None = None) -> Stream:
        """Begin an answer without a known end; whoever writes to it is cancelled when the client
        goes away."""
        return self._http.start(200, content_type, headers)

    @property
    def has_started(self) -> bool:
        """The head of the answer has been sent."""
        return self._http.has_started

    @property
    def accepts_gzip(self) -> bool:
        return "gzip" in self.header("accept-encoding")


Handler = Callable[[Request], Awaitable[Answer]]


class Route(NamedTuple):
    """``path`` ends with ``/*`` when more may follow it."""

    path: str
    handler: Handler
    methods: tuple[str, ...] = ("GET", "HEAD")


class Router:
    """Finds a route by a path; the longest that fits."""

    def __init__(self, routes: list[Route]) -> None:
        self._exact = {route.path: route for route in routes if not route.path.endswith("/*")}
        below = [route for route in routes if route.path.endswith("/*")]
        self._below = sorted(below, key=lambda route: -len(route.path))

    def find(self, path: str) -> tuple[Route, str] | None:
        """The route and what follows it."""
        if (route := self._exact.get(path)) is not None:
            return route, ""
        for route in self._below:
            if path.startswith(route.path[:-1]):
                return route, path[len(route.path) - 1 :]
        return None


def text_response(text: str, status: int = 200) -> Response:
    return Response(status, text.encode(errors="replace"), "text/plain; charset=utf-8")


def json_response(value: object, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value), "application/json; charset=utf-8")


async def compressed(request: Request, answer: Response) -> None:
    """Compress a long answer for clients that accept that."""
    if len(answer.body) < _WORTH_COMPRESSION or "Content-Encoding" in answer.headers:
        return
    answer.headers["Vary"] = "Accept-Encoding"
    if not request.accepts_gzip:
        return
    if len(answer.body) < _COMPRESSED_APART:
        answer.body = gzip.compress(answer.body, 1, mtime=0)
    else:
        answer.body = await asyncio.to_thread(gzip.compress, answer.body, 6, mtime=0)
    answer.headers["Content-Encoding"] = "gzip"
