"""The registry client: finds an endpoint that answers and runs an operation there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from portside.model.errors import InvalidParameter, PortsideError, Unauthorized
from portside.model.reference import DEFAULT_DOMAIN
from portside.model.registryauth import HUB_INDEX, AuthConfig, AuthResult
from portside.registry.client.connection import Connection
from portside.registry.client.endpoints import Endpoint, endpoints
from portside.registry.client.errors import NoCredentials, RegistryError, Unreachable
from portside.registry.client.options import RegistryOptions
from portside.registry.client.repository import Repository, pull_scope, push_scope
from portside.registry.client.transport import Transport

T = TypeVar("T")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class RegistryClient:
    """All registries, one pool of connections. ``close`` it at the end."""

    def __init__(self, options: RegistryOptions | None = None) -> None:
        self.options = options or RegistryOptions()
        self.transport = Transport(self.options)

    async def close(self) -> None:
        await self.transport.close()

    async def on_repository(
        self,
        domain: str,
        path: str,
        operation: Callable[[Repository], Awaitable[T]],
        *,
        auth: AuthConfig | None = None,
        push: bool = False,
    ) -> T:
        """Run ``operation`` at the first endpoint that can do it.

        A mirror that fails in any way is passed over; a registry is only passed over
        (https, then http) while it does not answer. The last failure is raised.
        """
        scope = push_scope(path) if push else pull_scope(path)

        async def at(connection: Connection) -> T:
            return await operation(Repository(connection, path))

        return await self.on_registry(domain, at, auth=auth, push=push, scopes=(scope,))

    async def on_registry(
        self,
        domain: str,
        operation: Callable[[Connection], Awaitable[T]],
        *,
        auth: AuthConfig | None = None,
        push: bool = False,
        scopes: Sequence[str] = (),
        offline: bool = False,
    ) -> T:
        """As :meth:`on_repository`, for requests that concern no single repository."""
        failure: PortsideError | None = None
        for endpoint in endpoints(self.options, domain, push=push):
            connection = Connection(self.transport, endpoint, auth, scopes, offline=offline)
            try:
                await connection.ping()
            except (RegistryError, Unreachable) as err:
                failure = err
                continue
            try:
                return await operation(connection)
            except PortsideError as err:
                if not endpoint.is_mirror:
                    raise
                failure = err
        raise failure or Unreachable(f"no endpoint is configured for {domain}")

    async def login(self, auth: AuthConfig) -> AuthResult:
        """Check a name and password (or identity token) at ``auth.serveraddress``.

        Raises Unauthorized when they are refused, Unreachable.
        """
        domain = registry_of(auth.serveraddress)
        return await self.on_registry(
            domain, _login, auth=auth, push=True, offline=not auth.identitytoken
        )


async def _login(connection: Connection) -> AuthResult:
    url = connection.url("")
    try:
        async with connection.request("GET", "", expect=(200, 401, 403)) as response:
            status, reason = response.status, response.reason
    except NoCredentials as err:
        raise Unauthorized(str(err)) from err
    except RegistryError as err:
        if err.is_denied:
            raise Unauthorized(f'Get "{url}": {err}') from err
        raise
    if status != 200:
        raise Unauthorized(f"login attempt to {url} failed with status: {status} {reason}")
    return AuthResult(identity_token=connection.authorizer.refresh_token)


def registry_of(address: str) -> str:
    """The registry's domain for a server address as ``docker login`` knows it.

    Raises InvalidParameter.
    """
    if address in ("", HUB_INDEX, DEFAULT_DOMAIN, "index.docker.io", "registry-1.docker.io"):
        return DEFAULT_DOMAIN
    host = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
    if not _HOST.fullmatch(host):
        raise InvalidParameter(f"invalid registry address: {address}: write HOST[:PORT]")
    return DEFAULT_DOMAIN if host in ("index.docker.io", "registry-1.docker.io") else host


__all__ = ["Endpoint", "RegistryClient", "registry_of"]
