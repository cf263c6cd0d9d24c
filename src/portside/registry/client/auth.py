"""Authentication at registries: basic, bearer tokens, OAuth2 (distribution's "token" pages).

A token is asked for once for each endpoint, set of scopes and credentials, and used until
shortly before it expires.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import msgspec

from portside.model.errors import NotFound, Unavailable
from portside.model.registryauth import AuthConfig, LentAuth
from portside.registry.client.challenge import Challenge, parse
from portside.registry.client.endpoints import Endpoint
from portside.registry.client.errors import (
    MAX_ERROR_BODY,
    NoCredentials,
    RegistryError,
    from_response,
)
from portside.registry.client.transport import Transport, paced_chunks

if TYPE_CHECKING:
    import aiohttp

CLIENT_ID = "docker"
MAX_TOKEN_BODY = 1 << 20
_SHORTEST_LIFE = 60.0
"""Seconds a token is taken to live when its answer says less or nothing (token spec)."""
_MARGIN = 5.0


class _TokenBody(msgspec.Struct):
    token: str | None = ""
    access_token: str | None = ""
    refresh_token: str | None = ""
    expires_in: float | None = None


class Authorizer:
    """Makes the ``Authorization`` header for one endpoint and one user."""

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        auth: AuthConfig | None,
        *,
        offline: bool = False,
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._offline = offline
        # A mirror is another party: it gets no credentials of the registry it mirrors.
        self._auth = AuthConfig() if auth is None or endpoint.is_mirror else auth
        self._challenges: list[Challenge] = []
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self.refresh_token = ""
        """An identity token that the server sent while authenticating (login)."""

    def learn(self, response: aiohttp.ClientResponse) -> list[Challenge]:
        """Remember what an answer with status 401 asks for; returns its challenges."""
        challenges = parse(response.headers.getall("WWW-Authenticate", []))
        if challenges:
            self._challenges = challenges
        return challenges

    async def header(self, scopes: Sequence[str], *, fresh: bool = False) -> str | None:
        """The header's value; None when the registry asked for nothing.

        ``fresh`` does not use a remembered token. Raises NoCredentials, RegistryError,
        Unreachable.
        """
        if self._auth.registrytoken:
            return f"Bearer {self._auth.registrytoken}"
        for challenge in self._challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                return f"Bearer {await self._token(challenge, scopes, fresh)}"
        for challenge in self._challenges:
            if challenge.scheme == "basic":
                if isinstance(self._auth, LentAuth):
                    self._auth = await self._auth.reveal() or AuthConfig()
                return self._basic()
        if self._challenges:
            raise NoCredentials(
                f"{self._endpoint.host} asks for an unsupported kind of authentication: "
                + ", ".join(c.scheme for c in self._challenges)
            )
        return None

    def _basic(self) -> str:
        if not self._auth.username:
            raise NoCredentials("no basic auth credentials")
        pair = f"{self._auth.username}:{self._auth.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    async def _token(self, challenge: Challenge, scopes: Sequence[str], fresh: bool) -> str:
        wanted = tuple(sorted({*scopes, *challenge.parameters.get("scope", "").split()}))
        key = (challenge.parameters["realm"], challenge.parameters.get("service", ""), *wanted)
        token, until = self._tokens.get(key, ("", 0.0))
        if token and not fresh and time.monotonic() < until:
            return token
        found = await self._fetch(challenge, wanted)
        token = found.token or found.access_token or ""
        if not token:
            raise RegistryError(401, "UNAUTHORIZED", "authorization server did not include a token")
        if found.refresh_token:
            self.refresh_token = found.refresh_token
        life = max(found.expires_in or _SHORTEST_LIFE, _SHORTEST_LIFE)
        self._tokens[key] = (token, time.monotonic() + life - _MARGIN)
        return token

    async def _fetch(self, challenge: Challenge, scopes: Sequence[str]) -> _TokenBody:
        realm = challenge.parameters["realm"]
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RegistryError(401, "UNAUTHORIZED", f"unusable token realm {realm!r}")
        if not self._auth.is_anonymous and self._endpoint.is_tls and self._endpoint.verify:
            self._refuse_plain(parts.scheme, realm)
        service = challenge.parameters.get("service", "")
        if isinstance(self._auth, LentAuth):
            return await self._lent(self._auth, realm, service, scopes)
        if self._auth.identitytoken:
            return await self._exchange(realm, service, scopes)
        return await self._get(realm, service, scopes)

    @staticmethod
    async def _lent(auth: LentAuth, realm: str, service: str, scopes: Sequence[str]) -> _TokenBody:
        try:
            token, life = await auth.fetch_token(realm, service, scopes)
        except (NotFound, Unavailable) as err:
            raise RegistryError(401, "UNAUTHORIZED", f"failed to authorize: {err}") from err
        return _TokenBody(token=token, expires_in=life or None)

    @staticmethod
    def _refuse_plain(scheme: str, realm: str) -> None:
        if scheme != "https":
            raise RegistryError(
                401, "UNAUTHORIZED", f"credentials are not sent to the unencrypted realm {realm}"
            )

    async def _get(self, realm: str, service: str, scopes: Sequence[str]) -> _TokenBody:
        query = [("scope", scope) for scope in scopes]
        if service:
            query.append(("service", service))
        headers = {}
        if self._auth.username:
            query += [("account", self._auth.username), ("client_id", CLIENT_ID)]
            headers["Authorization"] = self._basic()
            if self._offline:
                query.append(("offline_token", "true"))
        separator = "&" if urlsplit(realm).query else "?"
        url = f"{realm}{separator}{urlencode(query)}" if query else realm
        return await self._answer("GET", url, headers, None)

    async def _exchange(self, realm: str, service: str, scopes: Sequence[str]) -> _TokenBody:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": self._auth.identitytoken,
            "service": service,
            "client_id": CLIENT_ID,
            "scope": " ".join(scopes),
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            return await self._answer("POST", realm, headers, urlencode(form).encode())
        except RegistryError as err:
            # Servers without the OAuth2 page answer 404 or 405: the older way still works
            # when a name and a password were given as well.
            if err.status in (404, 405) and self._auth.username and self._auth.password:
                return await self._get(realm, service, scopes)
            raise

    async def _answer(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> _TokenBody:
        async with self._transport.send(
            method, url, self._endpoint, headers=headers, body=body
        ) as response:
            if response.status != 200:
                text = await response.content.read(MAX_ERROR_BODY)
                raise _refused(response.status, text)
            text = await read_bounded(response, MAX_TOKEN_BODY)
        try:
            return msgspec.json.decode(text, type=_TokenBody)
        except (msgspec.MsgspecError, UnicodeDecodeError) as err:
            raise RegistryError(
                response.status, "UNKNOWN", f"unable to decode token response: {err}"
            ) from err


def _refused(status: int, body: bytes) -> RegistryError:
    err = from_response(status, body, [])
    if status == 401 and err.code == "UNAUTHORIZED" and b"errors" not in body:
        return RegistryError(status, "UNAUTHORIZED", "incorrect username or password")
    return err


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body; raises RegistryError when it is longer than ``limit`` bytes."""
    body = bytearray()
    async for chunk in paced_chunks(response):
        body += chunk
        if len(body) > limit:
            raise RegistryError(
                response.status, "SIZE_INVALID", f"the answer is larger than {limit} bytes"
            )
    return bytes(body)
