"""Access to the monitor: basic authentication (htpasswd) and bearer tokens."""

from __future__ import annotations

import base64
import binascii
import hmac

from portside.model.errors import InvalidParameter
from portside.monitor.web_requests import Request, text_response
from portside.serving.htpasswd import Htpasswd
from portside.serving.http.messages import Response


class Access:
    """Requires a password or a token when either is set; otherwise access is open."""

    def __init__(self, htpasswd: str, token_file: str, realm: str) -> None:
        from pathlib import Path

        self._users = Htpasswd(Path(htpasswd)) if htpasswd else None
        self._tokens: list[bytes] = []
        self._realm = realm.replace('"', "")
        try:
            if htpasswd:
                with open(htpasswd, "rb"):
                    pass
            if token_file:
                with open(token_file, "rb") as file:
                    lines = (line.strip() for line in file.read().splitlines())
                    self._tokens = [line for line in lines if line and line[:1] != b"#"]
        except OSError as err:
            raise InvalidParameter(f"cannot read {err.filename}: {err.strerror}") from err
        if token_file and not self._tokens:
            raise InvalidParameter(f"{token_file}: the file contains no token")

    @property
    def is_open(self) -> bool:
        return self._users is None and not self._tokens

    async def refusal(self, request: Request) -> Response | None:
        """The refusal for a client without access; None with access. ``/healthz`` is open."""
        if self.is_open or request.path.endswith("/healthz"):
            return None
        scheme, _, given = request.header("authorization").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return None
        if scheme.lower() == "basic" and await self._is_user(given.strip()):
            return None
        challenge = []
        if self._users is not None:
            challenge.append(f'Basic realm="{self._realm}", charset="UTF-8"')
        if self._tokens:
            challenge.append(f'Bearer realm="{self._realm}"')
        response = text_response("unauthorized\n", 401)
        response.headers["WWW-Authenticate"] = ", ".join(challenge)
        return response

    def _is_token(self, given: str) -> bool:
        found = False
        for token in self._tokens:  # all tokens: the time must not depend on the token
            found |= hmac.compare_digest(token, given.encode(errors="surrogateescape"))
        return found

    async def _is_user(self, given: str) -> bool:
        if self._users is None:
            return False
        try:
            text = base64.b64decode(given, validate=True).decode()
        except (binascii.Error, ValueError):
            return False
        user, colon, password = text.partition(":")
        return bool(colon) and await self._users.verify(user, password)
