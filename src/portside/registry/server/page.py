"""A small page to browse the registry, and the JSON it is fed from.

The page itself is for everybody; it holds nothing. It asks for nothing but
``/portside/registry/*`` of this registry, as whoever looks at it, so that it shows and deletes
what they may. Who signs in gets a cookie that scripts cannot read and that browsers send with
requests of this page alone; programs may send a user name and a password instead.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import resources

import msgspec
from aiohttp import web

from portside.model.digest import Digest
from portside.registry.server.auth import ANONYMOUS, COOKIE, SESSION_SECONDS
from portside.registry.server.content import Repository, Tag
from portside.registry.server.context import json_answer, registry_of, repository_for
from portside.registry.server.errors import RegistryError
from portside.registry.server.handlers_manifests import delete_manifest
from portside.registry.server.manifests import Described, Parsed
from portside.registry.server.request_context import IDENTITY, own_url

PREFIX = "/portside/registry/"
SESSION_CHALLENGE = {"WWW-Authenticate": 'Session realm="registry page"'}
"""A scheme that browsers do not know, so that they do not open their password window."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_FILES = {
    "": ("registry/server/static/page.html", "text/html; charset=utf-8"),
    "page.js": ("registry/server/static/page.js", "text/javascript; charset=utf-8"),
    "page.css": ("registry/server/static/page.css", "text/css; charset=utf-8"),
    "tokens.css": ("serving/page_tokens.css", "text/css; charset=utf-8"),
    "favicon.svg": ("serving/favicon.svg", "image/svg+xml"),
}
"""Name in the address: path in the package, content type."""


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
    path, content_type = _FILES[request.match_info.get("file", "")]
    data = resources.files("portside").joinpath(path).read_bytes()
    headers = {
        "Content-Type": content_type,
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return web.Response(body=data, headers=headers)


def _require_login(request: web.Request) -> None:
    """Raise UNAUTHORIZED where nothing is open to anonymous people: the page asks then."""
    authority = registry_of(request).authority
    if authority.enabled and not authority.may_list(request[IDENTITY]):
        raise RegistryError("UNAUTHORIZED", headers=SESSION_CHALLENGE)


async def _repositories(request: web.Request) -> web.Response:
    _require_login(request)
    registry, identity = registry_of(request), request[IDENTITY]
    rows = []
    blobs: dict[Digest, int] = {}
    for name in await registry.content.repositories():
        actions = registry.authority.allowed(identity, name)
        if "pull" in actions:
            repository = registry.content.repository(name)
            own = await repository.blob_sizes()
            blobs |= own
            rows.append(
                {
                    "name": name,
                    "tags": len(await repository.tags()),
                    "size": sum(own.values()),
                    "deletable": "delete" in actions and registry.settings.storage.delete.enabled,
                }
            )
    user = "" if identity.user == ANONYMOUS else identity.user
    answer = {
        "user": user,
        "login": registry.authority.enabled,
        "session": COOKIE in request.cookies,
        "host": own_url(request),
        "size": sum(blobs.values()),  # repositories share blobs
    }
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


class _Login(msgspec.Struct):
    user: str
    password: str


async def _sign_in(request: web.Request) -> web.Response:
    """Check a user name and a password; a cookie says so from then on."""
    authority = registry_of(request).authority
    try:
        given = msgspec.json.decode(await request.read(), type=_Login)
    except msgspec.MsgspecError as err:
        raise RegistryError("UNSUPPORTED", message=str(err), status=400) from err
    try:
        identity = await authority.check_password(given.user, given.password)
    except RegistryError as err:
        message = "The user name or the password is wrong."
        raise RegistryError("UNAUTHORIZED", message=message, headers=SESSION_CHALLENGE) from err
    answer = web.Response(status=204)
    answer.set_cookie(
        COOKIE,
        authority.session(identity),
        max_age=SESSION_SECONDS,
        path=PREFIX,
        httponly=True,
        samesite="Strict",
        secure=own_url(request).startswith("https://"),
    )
    return answer


async def _sign_out(request: web.Request) -> web.Response:
    answer = web.Response(status=204)
    answer.del_cookie(COOKIE, path=PREFIX)
    return answer


def routes() -> list[web.RouteDef]:
    async def home(request: web.Request) -> web.Response:
        raise web.HTTPFound("/portside/registry/")

    return [
        web.get("/", home),
        web.get("/portside/registry/", _file),
        web.post("/portside/registry/session", _sign_in),
        web.delete("/portside/registry/session", _sign_out),
        web.get("/portside/registry/{file:page\\.(?:js|css)|tokens\\.css|favicon\\.svg}", _file),
        web.get("/portside/registry/repositories", _repositories),
        web.get("/portside/registry/tags/{name:.+}", _tags),
        web.delete("/portside/registry/tags/{name:.+}/{reference}", delete_manifest),
    ]
