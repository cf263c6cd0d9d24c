"""From method and path to handler. One table, built once; a look-up costs a few microseconds.

Paths look like ``/containers/{name}/json``. A ``{name}`` may contain slashes (image names
do), so a path is matched by its first segment and its last one or two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from portside.serving.http.messages import Request, Response, Stream

OWN = "/portside/"
"""Endpoints of our own have one more segment before the name."""

Answer = Response | Stream | None
_Api = TypeVar("_Api")
"""What handlers work on: :class:`portside.api.app.Api`, which has the router and so is above it."""
Handler = Callable[[_Api, Request, str], Awaitable[Answer]]
"""Called with the API, the request and the name in the path ("" when it has none)."""


@dataclass(frozen=True, slots=True)
class Route(Generic[_Api]):
    """An endpoint, and how it is served."""

    handler: Handler[_Api]
    cancellable: bool
    """The handler is cancelled when the client goes away."""
    streams: bool
    """A job process serves it, at the client's pace."""
    minimum: tuple[int, int]
    """The first API version that has this endpoint."""
    path: str
    """As it was registered, with ``{name}``."""


class Router(Generic[_Api]):
    """Collects routes by decoration and finds them by method and path."""

    def __init__(self) -> None:
        self._exact: dict[tuple[str, str], Route[_Api]] = {}
        self._named: dict[tuple[str, str, str], Route[_Api]] = {}

    def add(
        self,
        method: str,
        path: str,
        *,
        cancellable: bool = False,
        streams: bool = False,
        since: tuple[int, int] = (1, 24),
    ) -> Callable[[Handler[_Api]], Handler[_Api]]:
        """Decorate a handler with the path it serves."""

        def register(handler: Handler[_Api]) -> Handler[_Api]:
            route = Route(handler, cancellable, streams, since, path)
            before, brace, after = path.partition("{")
            if not brace:
                self._exact[method, path] = route
            else:
                self._named[method, before, after.partition("}")[2]] = route
            return handler

        return register

    def include(self, other: Router[_Api]) -> None:
        self._exact.update(other._exact)
        self._named.update(other._named)

    def find(self, method: str, path: str) -> tuple[Route[_Api], str] | None:
        """The route and the name in the path; None when there is none."""
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact, ""
        second = path.find("/", 1)
        if path.startswith(OWN):
            second = path.find("/", len(OWN))
        if second < 0:
            return None
        prefix, rest = path[: second + 1], path[second + 1 :]
        one = rest.rfind("/")
        if one > 0:
            two = rest.rfind("/", 0, one)
            for cut in (two, one):
                if cut > 0:
                    route = self._named.get((method, prefix, rest[cut:]))
                    if route is not None:
                        return route, rest[:cut]
        route = self._named.get((method, prefix, ""))
        return (route, rest) if route is not None and rest else None

    def routes(self) -> list[tuple[str, str, Route[_Api]]]:
        """Every route as (method, path, route), for tests and documentation."""
        found = [(method, path, route) for (method, path), route in self._exact.items()]
        named = self._named.items()
        return found + [(m, f"{before}{{name}}{after}", r) for (m, before, after), r in named]
