"""The pages: ``/containers/…`` (the machine, then its control groups) and ``/docker/…``.

One document for all of them. It comes with the data that its first view shows, in the forms of
``own_api``, which its scripts ask for everything else; charts and their library are loaded only
where there are some. Nothing comes from another host, and the headers say so. Files are read and
compressed once; browsers ask again with the tag they have.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from portside.monitor import own_api
from portside.monitor.group_tree import MOST
from portside.monitor.monitor_context import Monitor
from portside.monitor.samples import SERIES
from portside.monitor.web_requests import Request, Route, text_response
from portside.serving.http.messages import Response

_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' data:; \
connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}
_KINDS = {
    "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "txt": "text/plain",
}  # fmt: skip
_STYLES = ("page_tokens.css", "monitor.css")
"""Part of the document: the browser paints nothing, and runs no script, before it has them."""
_SHARED = {"page_tokens.css", "favicon.svg"}
"""Files of all pages of the project, in ``portside/serving``."""
_MODULES = ("shared.js", "sparkline.js", "group_table.js")
_CHARTS = ("charts.js", "group_page.js")
_FIRST_ROWS = 50
"""Rows of a list that come with the document: more than a window shows."""
_CPU, _WORKING_SET = SERIES.index("cpu"), SERIES.index("working_set")


@functools.lru_cache(maxsize=32)
def _file(name: str) -> tuple[bytes, bytes, str]:
    """Content, compressed content, tag; raises OSError for an unknown name."""
    folder = "serving" if name in _SHARED else "monitor/static"
    data = (resources.files("portside") / folder / name).read_bytes()
    tag = hashlib.blake2b(data, digest_size=12).hexdigest()
    return data, gzip.compress(data, 9, mtime=0), f'"{tag}"'


class _Document(NamedTuple):
    before: bytes
    after: bytes
    """What comes before and after the data."""
    policy: str


@functools.lru_cache(maxsize=4)
def _document(prefix: str, has_charts: bool) -> _Document:
    names = (*_MODULES, *_CHARTS) if has_charts else _MODULES
    links = [f'<link rel="modulepreload" href="{prefix}/static/{name}">' for name in names]
    if has_charts:
        links.append(f'<link rel="stylesheet" href="{prefix}/static/uplot.min.css">')
        links.append(f'<script src="{prefix}/static/uplot.min.js" defer></script>')
    style = b"\n" + b"".join(_file(name)[0] for name in _STYLES)
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    data, _, _ = _file("monitor.html")
    data = data.replace(b"{{links}}", "\n  ".join(links).encode()).replace(b"{{style}}", style)
    before, _, after = data.replace(b"{{prefix}}", prefix.encode()).partition(b"{{first}}")
    return _Document(before, after, _POLICY.format(style=f" 'sha256-{digest}'"))


def _first_view(monitor: Monitor, name: str) -> dict[str, Any] | None:
    """What the scripts would have to ask for first; None for an unknown group.

    ``name``: a group's path or a container's name; empty: the list of containers.
    """
    first: dict[str, Any] = {"about": own_api.about(monitor), "alerts": monitor.alerts()}
    if not name:
        rows, total = own_api.group_rows(monitor, "", MOST, _FIRST_ROWS, only=True)
        groups = monitor.collector.by_container.values()
        points = [group.history.last_point for group in groups]
        return first | {
            "groups": rows,
            "total": total,
            "running": sum(own_api.state_of(group.facts) == "running" for group in groups),
            "cpu": sum(point[_CPU] for point in points),
            "memory": sum(point[_WORKING_SET] for point in points),
        }
    group = monitor.find(name)
    if group is None:
        return None
    found = first | {"detail": own_api.detail_of(monitor, group)}
    if not group.container:
        below = group.name.rstrip("/")
        rows, total = own_api.group_rows(monitor, below, 1, _FIRST_ROWS, only=False)
        found |= {"groups": rows, "total": total}
    return found


def _page(request: Request, name: str) -> Response:
    monitor = request.monitor
    document = _document(monitor.settings.prefix.rstrip("/"), bool(name))
    first = msgspec.json.encode(_first_view(monitor, name)).replace(b"<", b"\\u003c")
    kind = "text/html; charset=utf-8"
    headers = {**_HEADERS, "Cache-Control": "no-store", "Content-Type": kind}
    headers["Content-Security-Policy"] = document.policy
    data = document.before + first + document.after
    if request.accepts_gzip:
        headers["Content-Encoding"] = "gzip"
        data = gzip.compress(data, 1, mtime=0)
    return Response(body=data, headers=headers)


async def _containers(request: Request) -> Response:
    """The machine, or one control group."""
    return _page(request, f"/{request.rest.strip('/')}")


async def _docker(request: Request) -> Response:
    """All containers, or one of them."""
    return _page(request, request.rest.strip("/"))


def _answer(request: Request, name: str) -> Response:
    data, compressed, tag = _file(name)
    headers = {**_HEADERS, "Cache-Control": "no-cache", "ETag": tag}
    headers["Content-Security-Policy"] = _POLICY.format(style="")
    if tag in request.header("if-none-match"):
        return Response(304, headers=headers)
    headers["Content-Type"] = f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8"
    if request.accepts_gzip:
        headers["Content-Encoding"] = "gzip"
        data = compressed
    return Response(body=data, headers=headers)


async def _static(request: Request) -> Response:
    name = request.rest
    known = name.rpartition(".")[2] in _KINDS
    if not known or not name.replace(".", "").replace("-", "").replace("_", "").isalnum():
        return text_response("404: Not Found", 404)
    try:
        return _answer(request, name)
    except OSError:
        return text_response("404: Not Found", 404)


def page_routes() -> list[Route]:
    return [
        Route("/containers", _containers),
        Route("/containers/*", _containers),
        Route("/docker", _docker),
        Route("/docker/*", _docker),
        Route("/static/*", _static),
    ]
