"""``docker search``: Docker Hub's index, or the catalogue of a registry that has none."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from portside.model.errors import InvalidParameter, InvalidText
from portside.model.filters import Filters, boolean, check
from portside.model.golang.numbers import atoi
from portside.model.imageapi import SearchResult
from portside.model.reference import DEFAULT_DOMAIN
from portside.model.registryauth import AuthConfig
from portside.registry.client.auth import read_bounded
from portside.registry.client.client import RegistryClient
from portside.registry.client.connection import Connection
from portside.registry.client.endpoints import Endpoint
from portside.registry.client.errors import RegistryError
from portside.registry.client.repository import MAX_LISTING, listing

HUB_SEARCH_HOST = "index.docker.io"
_KNOWN = frozenset({"is-automated", "is-official", "stars"})
_DEFAULT_LIMIT = 25


class _Results(msgspec.Struct):
    results: list[SearchResult] | None = None


class _Catalog(msgspec.Struct):
    repositories: list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The filters, read before anybody is asked."""

    nothing: bool
    """Automated builds are wanted, and there are none any more."""
    official: bool | None
    stars: int

    @classmethod
    def of(cls, filters: Filters) -> _Wanted:
        """InvalidParameter for an unknown filter or a value that it does not take."""
        check(filters, _KNOWN)
        stars = filters.get("stars", ())
        for value in stars:
            try:
                atoi(value)
            except InvalidText as err:
                raise InvalidParameter(f"invalid filter 'stars={value}': {err}") from None
        return cls(
            bool(boolean(filters, "is-automated")),
            boolean(filters, "is-official"),
            max(map(int, stars), default=0),
        )

    def fits(self, result: SearchResult) -> bool:
        if self.official is not None and result.is_official != self.official:
            return False
        return result.star_count >= self.stars


async def search(
    registries: RegistryClient,
    term: str,
    limit: int,
    filters: Filters,
    auth: AuthConfig | None,
) -> list[SearchResult]:
    """Repositories that fit a term, which may begin with a registry's host.

    Raises InvalidParameter for a bad term, limit or filter; Unreachable.
    """
    wanted = _Wanted.of(filters)
    limit = limit or _DEFAULT_LIMIT
    if not 1 <= limit <= 100:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, 100]")
    if "://" in term:
        raise InvalidParameter(
            f"invalid repository name: repository name ({term}) should not have a scheme"
        )
    if wanted.nothing:
        return []
    domain, rest = _split(term)
    if domain == DEFAULT_DOMAIN:
        found = await _on_hub(registries, rest, limit, auth)
    else:
        found = await registries.on_registry(
            domain,
            lambda connection: _on_private(connection, domain, rest, limit),
            auth=auth,
            scopes=("registry:catalog:*",),
        )
    # the index's field for automated builds is not reliable: Docker, too, reports false
    results = [msgspec.structs.replace(result, is_automated=False) for result in found]
    return [result for result in results if wanted.fits(result)][:limit]


def _split(term: str) -> tuple[str, str]:
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        if first in (DEFAULT_DOMAIN, HUB_SEARCH_HOST):
            return DEFAULT_DOMAIN, rest.removeprefix("library/")
        return first, rest
    return DEFAULT_DOMAIN, term.removeprefix("library/")


async def _on_hub(
    registries: RegistryClient, term: str, limit: int, auth: AuthConfig | None
) -> list[SearchResult]:
    endpoint = Endpoint(f"https://{HUB_SEARCH_HOST}", HUB_SEARCH_HOST)
    return await _v1(Connection(registries.transport, endpoint, auth), term, limit)


async def _v1(connection: Connection, term: str, limit: int) -> list[SearchResult]:
    url = f"/v1/search?q={quote(term)}&n={limit}"
    # somebody waits at a prompt: no second try
    async with connection.request("GET", url, retry=False) as response:
        body = await read_bounded(response, MAX_LISTING)
    try:
        return msgspec.json.decode(body, type=_Results).results or []
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise RegistryError(200, "UNKNOWN", f"unreadable search results: {err}") from err


async def _on_private(
    connection: Connection, domain: str, term: str, limit: int
) -> list[SearchResult]:
    try:
        found = await _v1(connection, term, limit)
    except RegistryError as err:
        if err.status not in (400, 404, 405):
            raise
        names = await _catalogue(connection, term, limit)
        found = [SearchResult(name=name) for name in names]
    prefix = f"{domain}/"
    return [
        msgspec.structs.replace(result, name=prefix + result.name.removeprefix(prefix))
        for result in found
    ]


async def _catalogue(connection: Connection, term: str, limit: int) -> list[str]:
    found: list[str] = []
    async for page in listing(connection, "_catalog"):
        names = msgspec.json.decode(page, type=_Catalog).repositories or []
        found += [name for name in names if term in name]
        if len(found) >= limit:
            break
    return found
