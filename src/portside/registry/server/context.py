"""What every handler needs, found under one typed key of the application."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from portside.registry.server.auth import ANONYMOUS, Authority
from portside.registry.server.config import Quota, Settings
from portside.registry.server.content import Content, Repository
from portside.registry.server.errors import RegistryError
from portside.registry.server.names import check_name, fits
from portside.registry.server.request_context import IDENTITY, own_url
from portside.registry.server.uploads import Uploads
from portside.serving.host_names import HostNames, is_loopback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.registry.server.audit import Audit
    from portside.registry.server.metrics import Metrics
    from portside.registry.server.proxy import Upstream
    from portside.registry.server.webhooks import Webhooks


def _names(settings: Settings) -> HostNames | None:
    """The names that count where only the address keeps others out: loopback, no TLS, and
    something that everybody may do."""
    guarded = settings.auth.htpasswd is not None or settings.auth.bearer.enabled
    rights = settings.portside.rights
    is_open = not (guarded or rights) or any(right.user == ANONYMOUS for right in rights)
    if not is_open or settings.http.tls.certificate or settings.http.net != "tcp":
        return None
    if not is_loopback(settings.http.addr):
        return None
    return HostNames((urlsplit(settings.http.host).hostname or "", *settings.portside.hosts))


class Registry:
    """One registry's parts, put together by ``app.make_app``."""

    def __init__(
        self,
        settings: Settings,
        content: Content,
        uploads: Uploads,
        authority: Authority,
        audit: Audit,
        metrics: Metrics,
        webhooks: Webhooks,
        upstream: Upstream | None,
    ) -> None:
        self.settings = settings
        self.names = _names(settings)
        """The host names that the registry accepts; None: all."""
        self.content = content
        self.uploads = uploads
        self.authority = authority
        self.audit = audit
        self.metrics = metrics
        self.webhooks = webhooks
        self.upstream = upstream

    def quota(self, name: str) -> int:
        """Most bytes a repository may hold; 0: no limit. The first rule that fits decides."""
        rules: Iterable[Quota] = self.settings.portside.quotas
        return next((rule.bytes for rule in rules if fits(rule.repository, name)), 0)


REGISTRY: web.AppKey[Registry] = web.AppKey("registry", Registry)


def registry_of(request: web.Request) -> Registry:
    return request.app[REGISTRY]


def location(request: web.Request, path: str) -> str:
    """A Location header's value: absolute, unless ``http.relativeurls`` is set."""
    relative = registry_of(request).settings.http.relativeurls or not request.host
    return path if relative else own_url(request) + path


def repository_for(request: web.Request, *actions: str) -> Repository:
    """The repository of the URL, once the sender may do all the actions there.

    Raises NAME_INVALID, UNAUTHORIZED with a challenge, or DENIED.
    """
    name = check_name(request.match_info["name"])
    demand(request, name, actions)
    return registry_of(request).content.repository(name)


def demand(request: web.Request, name: str, actions: Iterable[str]) -> None:
    """Raise UNAUTHORIZED or DENIED unless the sender may do all the actions there."""
    registry, identity = registry_of(request), request[IDENTITY]
    wanted = tuple(actions)
    if set(wanted) <= registry.authority.allowed(identity, name):
        return
    scope = f"repository:{name}:{','.join(wanted)}"
    detail = [{"Type": "repository", "Class": "", "Name": name, "Action": a} for a in wanted]
    if identity.user == ANONYMOUS or identity.grants is not None:
        # the holder of a narrower token may come back with a wider one
        narrow = identity.grants is not None
        challenge = registry.authority.challenge(own_url(request), scope, is_narrow=narrow)
        raise RegistryError("UNAUTHORIZED", detail, headers=challenge)
    raise RegistryError("DENIED", detail)


def json_answer(value: object, *, status: int = 200, content_type: str = "") -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value, enc_hook=str),
        status=status,
        headers={"Content-Type": content_type or "application/json; charset=utf-8"},
    )
