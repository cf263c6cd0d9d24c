"""The Engine API as one callable: version negotiation, routing, errors.

A request's way: :mod:`portside.serving.http` parses it, this module strips ``/v1.xx``, finds
the route and turns whatever the handler raises into Docker's answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

import portside
from portside.api import errors
from portside.api.job_shares import JobShares
from portside.api.router import Answer, Route, Router
from portside.model import build_info
from portside.model.errors import (
    Cancelled,
    InvalidParameter,
    NotFound,
    PortsideError,
)
from portside.model.system import API_VERSION, MIN_API_VERSION, api_text
from portside.serving.http.messages import Request, Response
from portside.serving.http.server import date_line

if TYPE_CHECKING:
    from portside.engine.engine import Engine

log = logging.getLogger(__name__)

_VERSION = re.compile(r"/v([0-9.]+)(?=/)")
"""As dockerd's router has it; what is inside is compared number by number."""
_COMMIT = build_info.commit()
_SERVER = f"Portside/{portside.__version__}{_COMMIT and f'+{_COMMIT}'} (linux)"

_HEADERS = (
    f"Api-Version: {api_text(API_VERSION)}\r\n"
    "Docker-Experimental: false\r\n"
    "Ostype: linux\r\n"
    f"Server: {_SERVER}\r\n"
)

Observer = Callable[[str, str, int, float], None]
"""Takes a request's method, its route's path, the answer's status and the seconds it took."""


_UNCLEAN = re.compile(r"//|/\.{1,2}(?:/|$)")


def _cleaned(path: str) -> str:
    """The path without empty, ``.`` and ``..`` segments."""
    if _UNCLEAN.search(path) is None:
        return path
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    return "/" + "/".join(kept) + ("/" if path.endswith("/") and kept else "")


def _moved(path: str, query: str) -> Response:
    """A redirect to the canonical path (a slash before a container's name is valid)."""
    return Response(301, headers={"Location": quote(path) + (f"?{query}" if query else "")})


class Api:
    """Answers every request to one engine."""

    def __init__(self, engine: Engine) -> None:
        from portside.api import routes

        self.engine = engine
        self.router: Router[Api] = Router()
        routes.add_all(self.router)
        self.observe: Observer | None = None
        """Called for each answered request, when requests are measured."""
        self._shares = JobShares()

    def common_headers(self) -> str:
        """Header lines of every answer; the date is renewed once a second."""
        return _HEADERS + date_line()

    async def __call__(self, request: Request) -> Answer:
        try:
            if request.method == "OPTIONS":
                return Response(200)
            path = self._strip_version(request)
            found = self.router.find(request.head.method, path)
            if found is None and (clean := _cleaned(request.head.path)) != request.head.path:
                return _moved(clean, request.head.query)
            if found is None or request.version < found[0].minimum:
                raise NotFound("page not found")
            route, name = found
            if route.cancellable:
                request.make_cancellable()
            if self.observe is not None:
                return await self._measured(self.observe, route, request, name)
            return await self._handled(route, request, name)
        except (asyncio.CancelledError, Cancelled):
            raise
        except Exception as err:
            if request.has_started:
                # Too late for a status: cut the connection, so that the client notices.
                log.warning("%s %s failed midway: %s", request.method, request.head.path, err)
                raise Cancelled("failed midway") from err
            self._log(request, err)
            return errors.respond(err)

    async def _handled(self, route: Route[Api], request: Request, name: str) -> Answer:
        if not route.streams:
            return await route.handler(self, request, name)
        async with self._shares.place(request.peer):
            return await route.handler(self, request, name)

    async def _measured(
        self, observe: Observer, route: Route[Api], request: Request, name: str
    ) -> Answer:
        begin, status = time.perf_counter(), 499
        try:
            answer = await self._handled(route, request, name)
            status = answer.status if isinstance(answer, Response) else 200
            return answer
        except Exception as err:
            status = errors.status_of(err)
            raise
        finally:
            observe(request.method, route.path, status, time.perf_counter() - begin)

    def _strip_version(self, request: Request) -> str:
        """The path without its version, which is checked and noted in the request."""
        path = request.head.path
        match = _VERSION.match(path)
        if match is None:
            request.version = API_VERSION
            return path
        numbers = tuple(int(part[:9] or 0) for part in match[1].split("."))
        if numbers > API_VERSION:
            raise InvalidParameter(
                f"client version {match[1]} is too new. "
                f"Maximum supported API version is {api_text(API_VERSION)}"
            )
        if numbers < MIN_API_VERSION:
            raise InvalidParameter(
                f"client version {match[1]} is too old. Minimum supported API version "
                f"is {api_text(MIN_API_VERSION)}, please upgrade your client to a newer version"
            )
        request.version = (numbers[0], numbers[1])
        return path[match.end() :]

    def _log(self, request: Request, err: Exception) -> None:
        status = errors.status_of(err)
        if not isinstance(err, PortsideError):
            log.exception("%s %s: unexpected error", request.method, request.head.path)
        elif status >= 500:
            log.error("%s %s: %s", request.method, request.head.path, err)
        else:
            log.debug("%s %s: %d %s", request.method, request.head.path, status, err)
