"""``--cache-from`` and ``--cache-to`` of a client's request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from portside.builder.results import CacheRequest
from portside.builder.wire.client_content import LOCAL, ClientContent
from portside.builder.wire.client_session import ClientSession
from portside.model.registryauth import AuthConfig


def imports(request: Any, session: ClientSession | None) -> tuple[CacheRequest, ...]:
    found = [(entry.Type, dict(entry.Attrs)) for entry in request.Cache.Imports]
    found += [("registry", {"ref": ref}) for ref in request.Cache.ImportRefsDeprecated]
    return tuple(_request(kind, attrs, "src", session) for kind, attrs in found)


def exports(request: Any, session: ClientSession | None) -> tuple[CacheRequest, ...]:
    cache = request.Cache
    found = [(entry.Type, dict(entry.Attrs)) for entry in cache.Exports]
    if cache.ExportRefDeprecated:
        attrs = {**cache.ExportAttrsDeprecated, "ref": cache.ExportRefDeprecated}
        found.append(("registry", attrs))
    return tuple(_request(kind, attrs, "dest", session) for kind, attrs in found)


def _request(
    kind: str, attrs: Mapping[str, str], place: str, session: ClientSession | None
) -> CacheRequest:
    content = None
    if kind == "local" and session is not None and attrs.get(place):
        content = ClientContent(session, LOCAL + attrs[place])
    return CacheRequest(type=kind, attrs=attrs, content=content)


async def auths(
    requests: Iterable[CacheRequest], session: ClientSession | None
) -> dict[str, AuthConfig]:
    """The client's credentials for the registries of caches."""
    found: dict[str, AuthConfig] = {}
    for request in requests:
        domain = request.domain
        if not domain or session is None:
            continue
        if domain not in found and (auth := await session.credentials(domain)) is not None:
            found[domain] = auth
    return found
