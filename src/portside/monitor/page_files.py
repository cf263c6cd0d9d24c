"""The pages' files: ``/containers/…`` (the machine, then its control groups) and ``/docker/…``.

One document for all of them; its scripts ask ``own_api`` for what it shows. Nothing comes from
another host, and the headers say so. Files are read and compressed once; browsers ask again
with the tag they have.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from importlib import resources

from aiohttp import web

from portside.monitor.monitor_context import monitor_of

_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
_KINDS = {
    "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html",
    "txt": "text/plain",
}  # fmt: skip
_SHARED = {"page_tokens.css", "favicon.svg"}
"""Files of all pages of the project, in ``portside/serving``."""


@functools.lru_cache(maxsize=32)
def _file(name: str, prefix: str) -> tuple[bytes, bytes, str]:
    """Content, compressed content, tag; raises OSError for an unknown name."""
    folder = "serving" if name in _SHARED else "monitor/static"
    data = (resources.files("portside") / folder / name).read_bytes()
    if name.endswith(".html"):
        data = data.replace(b"{{prefix}}", prefix.encode())
    tag = hashlib.blake2b(data, digest_size=12).hexdigest()
    return data, gzip.compress(data, 9, mtime=0), f'"{tag}"'


def _answer(request: web.Request, name: str) -> web.Response:
    prefix = monitor_of(request).settings.prefix.rstrip("/")
    data, compressed, tag = _file(name, prefix)
    headers = {**_HEADERS, "ETag": tag}
    if tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8"
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        data = compressed
    return web.Response(body=data, headers=headers)


async def _page(request: web.Request) -> web.Response:
    return _answer(request, "monitor.html")


async def _static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    known = name.rpartition(".")[2] in _KINDS
    if not known or not name.replace(".", "").replace("-", "").replace("_", "").isalnum():
        raise web.HTTPNotFound
    try:
        return _answer(request, name)
    except OSError:
        raise web.HTTPNotFound from None


def page_routes() -> list[web.RouteDef]:
    return [
        web.get("/containers", _page),
        web.get("/containers/{name:.*}", _page),
        web.get("/docker", _page),
        web.get("/docker/{name:.*}", _page),
        web.get("/static/{name}", _static),
    ]
