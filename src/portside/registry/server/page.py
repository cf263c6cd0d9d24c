"""A small page to browse the registry, and the JSON it is fed from.

The page asks for nothing but ``/portside/registry/*`` of this registry, with the
credentials of whoever looks at it, so that it shows and deletes what they may.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import resources

import msgspec
from aiohttp import web

from portside.model.digest import Digest
from portside.registry.server.auth import ANONYMOUS
from portside.registry.server.content import Repository, Tag
from portside.registry.server.context import (
    IDENTITY,
    json_answer,
    own_url,
    registry_of,
    repository_for,
)
from portside.registry.server.errors import RegistryError
from portside.registry.server.handlers_manifests import delete_manifest
from portside.registry.server.manifests import Described, Parsed

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
}


class LayerRow(msgspec.Struct, frozen=True):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType")


class ImageRow(msgspec.Struct, frozen=True):
    """One manifest: the tag's own, or that of a platform."""

    digest: str
    platform: str
    layers: tuple[LayerRow, ...]


class TagRow(msgspec.Struct, frozen=True):
    name: str
    digest: str
    media_type: str = msgspec.field(name="mediaType")
    pushed: float
    size: int
    """Bytes of distinct configs and layers, of all platforms."""
    images: tuple[ImageRow, ...]
    pusher: str


async def _file(request: web.Request) -> web.Response:
    _require_login(request)
    name, content_type = _FILES[request.match_info.get("file", "")]
    data = resources.files(__package__).joinpath("static", name).read_bytes()
    headers = {
        "Content-Type": content_type,
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return web.Response(body=data, headers=headers)


def _require_login(request: web.Request) -> None:
    """Browsers speak Basic: ask for it where nothing is open to anonymous people."""
    authority = registry_of(request).authority
    if authority.enabled and not authority.may_list(request[IDENTITY]):
        raise RegistryError("UNAUTHORIZED", headers=authority.password_challenge())


async def _repositories(request: web.Request) -> web.Response:
    _require_login(request)
    registry, identity = registry_of(request), request[IDENTITY]
    rows = []
    for name in await registry.content.repositories():
        actions = registry.authority.allowed(identity, name)
        if "pull" in actions:
            repository = registry.content.repository(name)
            rows.append(
                {
                    "name": name,
                    "tags": len(await repository.tags()),
                    "size": await repository.size(),
                    "deletable": "delete" in actions and registry.settings.storage.delete.enabled,
                }
            )
    user = "" if identity.user == ANONYMOUS else identity.user
    answer = {"user": user, "login": registry.authority.enabled, "host": own_url(request)}
    return json_answer({**answer, "repositories": rows})


async def _tags(request: web.Request) -> web.Response:
    repository = repository_for(request, "pull")
    registry = registry_of(request)
    entries = registry.audit.recent(repository.name, 500)
    rows = []
    for tag in await repository.tags():
        with suppress(RegistryError):
            pusher = next(
                (e.user for e in entries if e.action == "push" and e.reference == tag.name), ""
            )
            rows.append(await _row(repository, tag, pusher))
    rows.sort(key=lambda row: row.pushed, reverse=True)
    return json_answer({"name": repository.name, "tags": rows, "audit": entries[:50]})


async def _row(repository: Repository, tag: Tag, pusher: str) -> TagRow:
    """Raises MANIFEST_UNKNOWN when the tag went meanwhile."""
    top = await repository.manifest(tag.digest)
    found = [] if top.is_index else [(top, "")]
    for child in top.children:
        with suppress(RegistryError):  # an index of which not all is here
            found.append((await repository.manifest(Digest(child.digest)), _platform(child)))
    parts = {part.digest: part.size for parsed, _ in found for part in parsed.blobs}
    images = tuple(ImageRow(p.digest, platform, _layers(p)) for p, platform in found)
    size = sum(parts.values())
    return TagRow(tag.name, tag.digest, top.media_type, tag.pushed, size, images, pusher)


def _layers(parsed: Parsed) -> tuple[LayerRow, ...]:
    parts = (part for part in parsed.blobs if part is not parsed.config)
    return tuple(LayerRow(part.digest, part.size, part.media_type) for part in parts)


def _platform(child: Described) -> str:
    platform = child.platform or {}
    parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
    return "/".join(str(part) for part in parts if part)


async def _login(request: web.Request) -> web.Response:
    """Where a visitor becomes somebody: the browser asks for a name and a password."""
    authority = registry_of(request).authority
    if authority.enabled and request[IDENTITY].user == ANONYMOUS:
        raise RegistryError("UNAUTHORIZED", headers=authority.password_challenge())
    raise web.HTTPFound("/portside/registry/")


def routes() -> list[web.RouteDef]:
    async def home(request: web.Request) -> web.Response:
        raise web.HTTPFound("/portside/registry/")

    return [
        web.get("/", home),
        web.get("/portside/registry/", _file),
        web.get("/portside/registry/login", _login),
        web.get("/portside/registry/{file:page\\.(?:js|css)}", _file),
        web.get("/portside/registry/repositories", _repositories),
        web.get("/portside/registry/tags/{name:.+}", _tags),
        web.delete("/portside/registry/tags/{name:.+}/{reference}", delete_manifest),
    ]
