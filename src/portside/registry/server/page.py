"""A small page to browse the registry, and the JSON it is fed from.

The page asks for nothing but ``/portside/registry/*`` and ``/v2/*`` of this registry, with
the credentials of whoever looks at it, so that it shows and deletes what they may.
"""

from __future__ import annotations

from importlib import resources

import msgspec
from aiohttp import web

from portside.model.digest import Digest
from portside.registry.server.auth import ANONYMOUS
from portside.registry.server.context import (
    IDENTITY,
    json_answer,
    own_url,
    registry_of,
    repository_for,
)
from portside.registry.server.errors import RegistryError

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
}


class TagRow(msgspec.Struct, frozen=True):
    name: str
    digest: str
    media_type: str = msgspec.field(name="mediaType")
    pushed: float
    size: int
    """Bytes of config and layers (of all platforms, for an index)."""
    platforms: tuple[str, ...]
    layers: tuple[dict[str, object], ...]
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
    return json_answer({"user": user, "host": own_url(request), "repositories": rows})


async def _tags(request: web.Request) -> web.Response:
    repository = repository_for(request, "pull")
    registry = registry_of(request)
    entries = registry.audit.recent(repository.name, 500)
    rows = []
    for tag in await repository.tags():
        try:
            parsed = await repository.manifest(tag.digest)
        except RegistryError:
            continue
        images = [parsed]
        for child in parsed.children:
            try:
                images.append(await repository.manifest(Digest(child.digest)))
            except RegistryError:
                continue  # a sparse index
        parts = {part.digest: part.size for image in images for part in image.blobs}
        platforms = tuple(_platform(child.platform) for child in parsed.children if child.platform)
        layers = tuple(
            {"digest": part.digest, "size": part.size, "mediaType": part.media_type}
            for part in parsed.blobs
        )
        pusher = next(
            (e.user for e in entries if e.action == "push" and e.reference == tag.name), ""
        )
        rows.append(
            TagRow(
                tag.name,
                tag.digest,
                parsed.media_type,
                tag.pushed,
                sum(parts.values()),
                platforms,
                layers,
                pusher,
            )
        )
    rows.sort(key=lambda row: row.pushed, reverse=True)
    return json_answer({"name": repository.name, "tags": rows, "audit": entries[:50]})


def _platform(platform: dict[str, object]) -> str:
    parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
    return "/".join(str(part) for part in parts if part)


def routes() -> list[web.RouteDef]:
    async def home(request: web.Request) -> web.Response:
        raise web.HTTPFound("/portside/registry/")

    return [
        web.get("/", home),
        web.get("/portside/registry/", _file),
        web.get("/portside/registry/{file:page\\.(?:js|css)}", _file),
        web.get("/portside/registry/repositories", _repositories),
        web.get("/portside/registry/tags/{name:.+}", _tags),
    ]
