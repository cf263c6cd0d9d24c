"""Credentials for a registry, as clients send them (``X-Registry-Auth``, ``POST /auth``)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from portside.model.errors import InvalidParameter

HUB_INDEX = "https://index.docker.io/v1/"
"""Under this key clients keep Docker Hub's credentials."""


class AuthConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """One registry's credentials (Docker's AuthConfig). All empty means anonymous."""

    username: str = ""
    password: str = ""
    auth: str = ""
    """base64 of ``user:password``, the form of ``config.json``."""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    """An OAuth2 refresh token: exchanged at the realm instead of name and password."""
    registrytoken: str = ""
    """A bearer token to be sent to the registry as it is."""

    def __repr__(self) -> str:
        return f"AuthConfig(username={self.username!r}, serveraddress={self.serveraddress!r}, …)"

    @property
    def is_anonymous(self) -> bool:
        return not (self.username or self.auth or self.identitytoken or self.registrytoken)

    @classmethod
    def from_header(cls, value: str) -> AuthConfig:
        """From ``X-Registry-Auth``: base64url of JSON, empty means anonymous.

        Raises InvalidParameter.
        """
        if not value:
            return cls()
        try:
            data = _decode(value)
            return msgspec.json.decode(data or b"{}", type=cls).complete()
        except (ValueError, binascii.Error, msgspec.MsgspecError) as err:
            raise InvalidParameter("invalid X-Registry-Auth header: invalid JSON") from err

    def complete(self) -> AuthConfig:
        """Credentials with ``username`` and ``password``, decoded from ``auth`` when only that was
        given."""
        if not self.auth or self.username:
            return self
        try:
            name, colon, password = _decode(self.auth).decode().partition(":")
        except ValueError:  # binascii.Error and UnicodeDecodeError are subclasses of it
            raise InvalidParameter("invalid auth configuration: not base64") from None
        if not colon:
            raise InvalidParameter("invalid auth configuration: no colon in the decoded field")
        return msgspec.structs.replace(self, username=name, password=password.rstrip("\0"), auth="")


class LentAuth(AuthConfig, frozen=True, kw_only=True):
    """Credentials that stay with a client, which fetches bearer tokens with them itself."""

    fetch_token: Callable[[str, str, Sequence[str]], Awaitable[tuple[str, float]]]
    """Realm, service and scopes to a token and the seconds that it lives."""
    reveal: Callable[[], Awaitable[AuthConfig | None]]
    """The credentials after all, for a registry without tokens."""

    @property
    def is_anonymous(self) -> bool:
        return False


class AuthResult(msgspec.Struct, frozen=True):
    """The answer of ``POST /auth``."""

    status: str = msgspec.field(name="Status", default="Login Succeeded")
    identity_token: str = msgspec.field(name="IdentityToken", default="")


def _decode(text: str) -> bytes:
    """base64, url-safe or not, padded or not."""
    text = text.strip().replace("+", "-").replace("/", "_").rstrip("=")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
