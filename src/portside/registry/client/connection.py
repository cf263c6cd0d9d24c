"""A connection to one endpoint as one user: authentication and retries around each request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from portside.model.registryauth import AuthConfig
from portside.registry.client.auth import Authorizer
from portside.registry.client.endpoints import Endpoint
from portside.registry.client.errors import (
    MAX_ERROR_BODY,
    BadRedirect,
    NoCredentials,
    RegistryError,
    Unreachable,
    from_response,
)
from portside.registry.client.transport import RETRIED, Transport, pause, wait_before_retry

if TYPE_CHECKING:
    import aiohttp

Body = Callable[[], Any]
"""Makes a request's body again for each attempt (bytes or an async iterator)."""


class Connection:
    """Requests to one endpoint; the first one (``ping``) learns how to authenticate."""

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        auth: AuthConfig | None = None,
        scopes: Sequence[str] = (),
        *,
        offline: bool = False,
    ) -> None:
        self.transport = transport
        self.endpoint = endpoint
        self.scopes = tuple(scopes)
        self.authorizer = Authorizer(transport, endpoint, auth, offline=offline)

    def url(self, path: str) -> str:
        """The URL of ``/v2/<path>``; an absolute URL is returned unchanged."""
        if path.startswith(("http://", "https://")):
            return path
        if path.startswith("/"):
            scheme, _, rest = self.endpoint.url.partition("://")
            return f"{scheme}://{rest.partition('/')[0]}{path}"
        return f"{self.endpoint.url}/v2/{path}"

    async def ping(self) -> None:
        """``GET /v2/``: whether the server is a registry, and how it authenticates.

        Raises Unreachable, or RegistryError when it is not a registry. A 401 is fine here, and
        so is a server that is busy just now: the requests that follow try again.
        """
        async with self._send("GET", self.url(""), {}, None, None) as response:
            if response.status == 401 and self.authorizer.learn(response):
                return
            if response.status >= 300 and response.status not in RETRIED:
                body = await response.content.read(MAX_ERROR_BODY)
                raise from_response(response.status, body, [])

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        expect: Sequence[int] = (200,),
        scopes: Sequence[str] | None = None,
        retry: bool = True,
        on_wait: Callable[[float], None] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with one of the ``expect``\\ ed status codes.

        429, 5xx and broken connections are tried again (``max_download_attempts``), waiting
        as ``Retry-After`` says; ``on_wait`` gets the seconds left. Raises RegistryError,
        NoCredentials, Unreachable.
        """
        url = self.url(path)
        async with AsyncExitStack() as stack:
            attempt = 0
            while True:
                failure: RegistryError | Unreachable
                retry_after: str | None = None
                try:
                    response = await self._authorized(
                        stack, method, url, dict(headers or {}), query, body, scopes
                    )
                except BadRedirect:
                    raise
                except Unreachable as err:
                    failure = err
                else:
                    if response.status in expect:
                        break
                    retry_after = response.headers.get("Retry-After")
                    failure = await self._failure(response)
                    if response.status not in RETRIED:
                        raise failure
                await stack.aclose()
                await self._wait(attempt, retry_after, failure, retry, on_wait)
                attempt += 1
            yield response

    async def _wait(
        self,
        attempt: int,
        retry_after: str | None,
        failure: Exception,
        retry: bool,
        on_wait: Callable[[float], None] | None,
    ) -> None:
        options = self.transport.options
        delay = wait_before_retry(attempt, retry_after, options.retry_delay)
        if not retry or delay is None or attempt + 1 >= options.max_download_attempts:
            raise failure
        await pause(delay, on_wait)

    async def _authorized(
        self,
        stack: AsyncExitStack,
        method: str,
        url: str,
        headers: dict[str, str],
        query: Mapping[str, str] | None,
        body: Body | None,
        scopes: Sequence[str] | None,
    ) -> aiohttp.ClientResponse:
        """Send with what is known of authentication; a 401 is answered once."""
        wanted = self.scopes if scopes is None else scopes
        own = self._is_own(url)
        await self._authorize(method, url, headers, wanted, own, fresh=False)
        response = await stack.enter_async_context(self._send(method, url, headers, query, body))
        if response.status != 401 or not own:
            return response
        before = headers.get("Authorization")
        if not self.authorizer.learn(response):
            return response
        await response.content.read(MAX_ERROR_BODY)  # a short one leaves the connection usable
        await self._authorize(method, url, headers, wanted, own, fresh=True)
        if headers.get("Authorization") == before and before and before.startswith("Basic"):
            return response
        return await stack.enter_async_context(self._send(method, url, headers, query, body))

    async def _authorize(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        scopes: Sequence[str],
        own: bool,
        *,
        fresh: bool,
    ) -> None:
        if not own:
            return
        try:
            value = await self.authorizer.header(scopes, fresh=fresh)
        except NoCredentials as err:
            raise NoCredentials(f'{method.capitalize()} "{url}": {err}') from err
        if value is not None:
            headers["Authorization"] = value

    def _is_own(self, url: str) -> bool:
        """Whether a URL belongs to this endpoint: only there credentials are sent."""
        scheme, _, rest = self.endpoint.url.partition("://")
        return url.startswith(f"{scheme}://{rest.partition('/')[0]}/")

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None,
        body: Body | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        merged = dict(query or {})
        if self.endpoint.namespace and self._is_own(url):
            merged["ns"] = self.endpoint.namespace
        async with self.transport.send(
            method,
            url,
            self.endpoint,
            headers=headers,
            query=merged,
            body=body() if body is not None else None,
        ) as response:
            yield response

    async def _failure(self, response: aiohttp.ClientResponse) -> RegistryError:
        body = await response.content.read(MAX_ERROR_BODY)
        challenges = [c.parameters for c in self.authorizer.learn(response)]
        return from_response(response.status, body, challenges)
