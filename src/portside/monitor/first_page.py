"""The pages: ``/containers/…`` (the machine, then its control groups) and ``/docker/…``.

One document for all of them; it asks ``own_api`` for what it shows. Nothing comes from
another host, and the headers say so.
"""

from __future__ import annotations

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
}
_KINDS = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}


def _file(name: str) -> bytes:
    return (resources.files("portside.monitor") / "static" / name).read_bytes()


async def _page(request: web.Request) -> web.Response:
    prefix = monitor_of(request).settings.prefix.rstrip("/")
    text = _file("monitor.html").replace(b"{{prefix}}", prefix.encode())
    response = web.Response(body=text, content_type="text/html", charset="utf-8", headers=_HEADERS)
    response.enable_compression()
    return response


async def _static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    kind = _KINDS.get(name.rpartition(".")[2])
    if kind is None or not name.replace(".", "").replace("-", "").replace("_", "").isalnum():
        raise web.HTTPNotFound
    try:
        data = _file(name)
    except OSError:
        raise web.HTTPNotFound from None
    response = web.Response(body=data, content_type=kind, charset="utf-8", headers=_HEADERS)
    response.enable_compression()
    return response


def page_routes() -> list[web.RouteDef]:
    return [
        web.get("/containers", _page),
        web.get("/containers/{name:.*}", _page),
        web.get("/docker", _page),
        web.get("/docker/{name:.*}", _page),
        web.get("/static/{name}", _static),
    ]
