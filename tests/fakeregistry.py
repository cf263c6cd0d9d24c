"""A registry in the test's own process that answers well, or badly in a chosen way."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from imagekit import BuiltImage, digest


@dataclass
class Fault:
    """How one blob or manifest is answered. ``times`` -1 is always."""

    kind: str
    """truncate (after ``at`` bytes), cut (connection reset there), lie, endless, hang, status."""
    at: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    times: int = -1


class FakeRegistry:
    """In-memory content by repository; ``faults`` by digest, tag or path end."""

    def __init__(self) -> None:
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.ranges = True
        self.url = ""
        self.basic: tuple[str, str] | None = None
        self.token: str | None = None
        """A bearer token that is wanted; given by ``/token`` to ``user``/``password``."""
        self.denied: set[str] = set()
        self.served: Counter[str] = Counter()
        self.hanging = asyncio.Event()
        self.gate: asyncio.Event | None = None
        """While set and clear, blobs wait."""

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    def add(self, name: str, tag: str, *images: BuiltImage, index: bytes = b"") -> None:
        for image in images:
            self.blobs.update(image.blobs)
            for key in (image.digest, tag):
                self.manifests[name, key] = (image.manifest_type, image.manifest)
        if index:
            media_type = json.loads(index)["mediaType"]
            for key in (digest(index), tag):
                self.manifests[name, key] = (media_type, index)

    def count(self, method: str, part: str) -> int:
        return sum(1 for m, path, _ in self.requests if m == method and part in path)

    # handlers
    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        path = request.path
        if path == "/token":
            return await self._token(request)
        refused = self._authorize(request)
        if refused is not None:
            return refused
        if path == "/v2/":
            return web.json_response({})
        name, _, rest = path.removeprefix("/v2/").rpartition("/")
        name, _, kind = name.rpartition("/")
        if kind == "manifests":
            return await self._manifest(request, name, rest)
        if kind == "blobs":
            return await self._blob(request, rest)
        if path.endswith("/tags/list"):
            repo = path.removeprefix("/v2/").removesuffix("/tags/list")
            return self._tags(request, repo)
        return _error(404, "UNSUPPORTED", "no such page")

    def _authorize(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        if self.basic is not None:
            wanted = base64.b64encode(":".join(self.basic).encode()).decode()
            if given != f"Basic {wanted}":
                return _error(
                    401, "UNAUTHORIZED", "authentication required",
                    {"WWW-Authenticate": 'Basic realm="fake"'},
                )  # fmt: skip
        if self.token is not None and given != f"Bearer {self.token}":
            why = ',error="insufficient_scope"' if given.startswith("Bearer") else ""
            scope = ',scope="repository:x:pull"' if request.path != "/v2/" else ""
            header = f'Bearer realm="{self.url}/token",service="fake"{scope}{why}'
            return _error(
                401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": header}
            )
        return None

    async def _token(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            form = await request.post()
            good = form.get("refresh_token") == "refresh-me"
            if not good:
                return _error(401, "UNAUTHORIZED", "bad refresh token")
            return web.json_response({"access_token": self.token, "expires_in": 300})
        given = request.headers.get("Authorization", "")
        if given == "Basic " + base64.b64encode(b"user:password").decode():
            answer: dict[str, Any] = {"token": self.token, "expires_in": 300}
            if request.query.get("offline_token"):
                answer["refresh_token"] = "refresh-me"
            return web.json_response(answer)
        if given:
            return web.json_response({"details": "incorrect username or password"}, status=401)
        return web.json_response({"token": "anonymous"})

    async def _manifest(self, request: web.Request, name: str, key: str) -> web.StreamResponse:
        fault = self._fault(key)
        if fault is not None and fault.kind == "status":
            return web.Response(status=fault.status, headers=fault.headers)
        found = self.manifests.get((name, key))
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, data = found
        if fault is not None and fault.kind == "lie":
            data = data.replace(b"schemaVersion", b"schemaversion", 1) + b" "
        headers = {"Docker-Content-Digest": digest(found[1]), "Content-Type": media_type}
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(data))
            return web.Response(headers=headers)
        return web.Response(body=data, headers=headers)

    def _tags(self, request: web.Request, name: str) -> web.Response:
        tags = sorted(key for repo, key in self.manifests if repo == name and ":" not in key)
        after, page = request.query.get("last", ""), 2
        left = [tag for tag in tags if tag > after]
        headers = {}
        if len(left) > page:
            last = left[page - 1]
            headers["Link"] = f'</v2/{name}/tags/list?n={page}&last={last}>; rel="next"'
        return web.json_response({"name": name, "tags": left[:page]}, headers=headers)

    async def _blob(self, request: web.Request, key: str) -> web.StreamResponse:
        if key not in self.blobs:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if self.gate is not None:
            await self.gate.wait()
        data, start = self.blobs[key], 0
        self.served[key] += 1
        fault = self._fault(key)
        if fault is not None and fault.kind == "status":
            return web.Response(status=fault.status, headers=fault.headers)
        wanted = request.headers.get("Range")
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return web.Response(status=416)
        if fault is not None and fault.kind == "lie":
            data = data[:-1] + bytes([data[-1] ^ 1])
        response = web.StreamResponse(status=206 if start else 200)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if fault is None or fault.kind in ("lie", "cut"):
            response.content_length = len(data) - start
        else:
            response.enable_chunked_encoding()
        await response.prepare(request)
        return await self._send(request, response, data[start:], fault)

    async def _send(
        self, request: web.Request, response: web.StreamResponse, data: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        if fault is None or fault.kind == "lie":
            await response.write(data)
        elif fault.kind == "endless":
            await response.write(data)
            while True:
                await response.write(bytes(1 << 16))
        else:
            await response.write(data[: fault.at])
            if fault.kind == "hang":
                self.hanging.set()
                await asyncio.Event().wait()
            if fault.kind == "cut":
                await asyncio.sleep(0.05)  # let what was written leave first
                assert request.transport is not None
                request.transport.abort()
                return response
        await response.write_eof()
        return response

    def _fault(self, key: str) -> Fault | None:
        fault = self.faults.get(key)
        if fault is None or fault.times == 0:
            return None
        fault.times -= 1
        return fault


def _error(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> web.Response:
    body = {"errors": [{"code": code, "message": message}]}
    return web.json_response(body, status=status, headers=headers)


@asynccontextmanager
async def fake_registry(tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeRegistry]:
    """A running FakeRegistry on a free loopback port."""
    registry = FakeRegistry()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", registry.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    registry.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield registry
    finally:
        await runner.cleanup()


@contextmanager
def served(tls: ssl.SSLContext | None = None) -> Iterator[FakeRegistry]:
    """A FakeRegistry in a thread of its own."""
    ready: threading.Event = threading.Event()
    box: dict[str, Any] = {}

    async def main() -> None:
        box["loop"], box["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with fake_registry(tls) as registry:
            box["registry"] = registry
            ready.set()
            await box["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(20)
    try:
        yield box["registry"]
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join()
