"""Authentication and authorization: htpasswd, robot tokens, bearer tokens, rights.

A request is taken as one of: nobody (``anonymous``), a user of the htpasswd file, a robot
(``robot$NAME`` with a token of its own), or the holder of a bearer token (RFC 6750; the
token endpoint follows distribution's "Token Authentication Specification").

A bearer token is issued for credentials, never for another token. It narrows the rights of
its owner and never extends them: with each use the owner must still exist with the same
password, and still have the rights.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from portside.registry.server.config import Bearer, Right, Settings
from portside.registry.server.errors import RegistryError
from portside.registry.server.names import fits, is_name
from portside.serving.htpasswd import Htpasswd

ANONYMOUS = "anonymous"
ROBOT = "robot$"
ACTIONS = ("pull", "push", "delete")
COOKIE = "portside-session"
SESSION_SECONDS = 12 * 3600
_PAGE = "portside-registry-page"
"""Audience of the page's sessions: a session is not a bearer token, nor the reverse."""
_KEY_LENGTH = 64
"""Characters of a signing key."""


class Grant(msgspec.Struct, frozen=True):
    """Actions in one repository (or ``registry:catalog`` with ``*``)."""

    name: str
    actions: tuple[str, ...]
    type: str = "repository"


class Identity(msgspec.Struct, frozen=True):
    """A user or robot, and the rights of its token; None: the rules decide."""

    user: str
    grants: tuple[Grant, ...] | None = None
    is_bearer: bool = False
    """Whether the rights are a bearer token's, which are as narrow as was asked for."""


class Robot(msgspec.Struct):
    """A token for a machine, kept as a hash only."""

    name: str
    hash: str
    repository: str
    actions: tuple[str, ...]
    created: float
    expires: float = 0.0
    """Seconds since the epoch; 0: never."""


class Robots:
    """Robot tokens in a JSON file beside the registry's data, mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = 0
        self._robots: dict[str, Robot] = {}

    def _load(self) -> dict[str, Robot]:
        """The tokens as they are now; another process may have added one."""
        try:
            stamp = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if stamp != self._stamp:
            robots = msgspec.json.decode(self._path.read_bytes(), type=list[Robot])
            self._robots, self._stamp = {robot.name: robot for robot in robots}, stamp
        return self._robots

    def _save(self, robots: list[Robot]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_name(f".tmp-{os.getpid()}-{self._path.name}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(robots))
        temporary.rename(self._path)

    def create(self, name: str, repository: str, actions: tuple[str, ...], ttl: float = 0) -> str:
        """Make (or renew) a robot; its token is returned and kept nowhere."""
        token = secrets.token_urlsafe(32)
        now = time.time()
        expires = now + ttl if ttl else 0.0
        robot = Robot(name, _fingerprint(token), repository, actions, now, expires)
        self._save([*(r for r in self._load().values() if r.name != name), robot])
        return token

    def list(self) -> list[Robot]:
        return sorted(self._load().values(), key=lambda robot: robot.name)

    def remove(self, name: str) -> bool:
        robots = self._load()
        if name not in robots:
            return False
        self._save([robot for robot in robots.values() if robot.name != name])
        return True

    def find(self, name: str) -> Robot | None:
        """The robot, unless it is gone or expired."""
        robot = self._load().get(name)
        return None if robot is None or 0 < robot.expires < time.time() else robot

    def verify(self, name: str, token: str) -> Robot | None:
        robot = self.find(name)
        given = _fingerprint(token)
        if not hmac.compare_digest(robot.hash if robot is not None else "-" * 64, given):
            return None
        return robot


def _fingerprint(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()  # 256 random bits need no slow hash


class Authority:
    """Answers both questions for one registry."""

    def __init__(self, settings: Settings, state: Path) -> None:
        self._htpasswd = (
            Htpasswd(Path(settings.auth.htpasswd.path)) if settings.auth.htpasswd else None
        )
        self._realm = settings.auth.htpasswd.realm if settings.auth.htpasswd else "Registry Realm"
        self._bearer: Bearer = settings.auth.bearer
        self._rights: tuple[Right, ...] = settings.portside.rights
        self.robots = Robots(state / "robots.json")
        # docker sends a name and password everywhere or nowhere, as /v2/ asked for them or
        # not; only with tokens can it be nobody here and somebody there
        self._issues_tokens = self._bearer.enabled or any(
            right.user == ANONYMOUS for right in self._rights
        )
        self._secret = _secret(state / "token.key") if self.enabled else b""

    @property
    def enabled(self) -> bool:
        return self._htpasswd is not None or bool(self._rights) or self._bearer.enabled

    async def identify(self, authorization: str | None) -> Identity:
        """The identity that an Authorization header proves; UNAUTHORIZED when it is wrong."""
        if not authorization or not self.enabled:
            return Identity(ANONYMOUS)
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError) as err:
                raise RegistryError("UNAUTHORIZED") from err
            return await self.check_password(user, password)
        if scheme.lower() == "bearer" and self._issues_tokens:
            return self._token(value)
        raise RegistryError("UNAUTHORIZED")

    def session(self, identity: Identity) -> str:
        """A session cookie's value for a user whose password was checked."""
        import jwt

        claims = {
            "aud": _PAGE,
            "sub": identity.user,
            "cred": self._credential(identity.user),
            "exp": int(time.time()) + SESSION_SECONDS,
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def in_session(self, value: str) -> Identity:
        """The identity of a session cookie; anonymous when expired or when its user has changed."""
        import jwt

        if not self.enabled:
            return Identity(ANONYMOUS)
        try:
            claims = jwt.decode(
                value,
                self._secret,
                algorithms=["HS256"],
                audience=_PAGE,
                options={"require": ["exp", "aud", "sub", "cred"]},
            )
        except jwt.InvalidTokenError:
            return Identity(ANONYMOUS)
        user = str(claims["sub"])
        if not hmac.compare_digest(str(claims["cred"]), self._credential(user)):
            return Identity(ANONYMOUS)
        return self.behind(Identity(user, is_bearer=True))

    async def check_password(self, user: str, password: str) -> Identity:
        """The identity for a name and password; raises UNAUTHORIZED when they are wrong."""
        if user.startswith(ROBOT):
            robot = self.robots.verify(user.removeprefix(ROBOT), password)
            if robot is not None:
                return Identity(user, (Grant(robot.repository, robot.actions),))
        elif self._htpasswd is not None and await self._htpasswd.verify(user, password):
            return Identity(user)
        raise RegistryError("UNAUTHORIZED")

    def _token(self, token: str) -> Identity:
        import jwt

        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=self._bearer.service,
                options={"require": ["exp", "aud", "sub", "cred"]},
            )
            grants = msgspec.convert(claims.get("access", []), tuple[Grant, ...])
        except (jwt.InvalidTokenError, msgspec.ValidationError) as err:
            raise RegistryError("UNAUTHORIZED", str(err)) from err
        user = str(claims["sub"]) or ANONYMOUS
        if not hmac.compare_digest(str(claims["cred"]), self._credential(user)):
            raise RegistryError("UNAUTHORIZED", "the token's user was removed or changed")
        return Identity(user, grants, is_bearer=True)

    def _credential(self, user: str) -> str:
        """A fingerprint of what a user proves to be themselves with, as it is now.

        Empty for nobody; a random value, which equals nothing, when there is no such user.
        """
        if user == ANONYMOUS:
            return ""
        if user.startswith(ROBOT):
            robot = self.robots.find(user.removeprefix(ROBOT))
            kept = robot.hash.encode() if robot is not None else None
        else:
            kept = self._htpasswd.entry(user) if self._htpasswd is not None else None
        if kept is None:
            return secrets.token_hex(16)
        return hmac.digest(self._secret, user.encode() + b"\0" + kept, "sha256").hex()[:32]

    def behind(self, identity: Identity) -> Identity:
        """The user or robot that a bearer token was issued to, with all their rights."""
        if not identity.is_bearer or not identity.user.startswith(ROBOT):
            return Identity(identity.user) if identity.is_bearer else identity
        robot = self.robots.find(identity.user.removeprefix(ROBOT))
        grants = (Grant(robot.repository, robot.actions),) if robot is not None else ()
        return Identity(identity.user, grants)

    def allowed(self, identity: Identity, repository: str) -> set[str]:
        """The actions somebody has in a repository (``catalog`` is ``pull`` on ``*``)."""
        if not self.enabled:
            return set(ACTIONS)
        if identity.grants is None:
            return self._by_rules(identity.user, repository)
        granted: set[str] = set()
        for grant in identity.grants:
            if grant.type == "repository" and fits(grant.name, repository):
                granted.update(ACTIONS if "*" in grant.actions else grant.actions)
        if identity.is_bearer:  # what its owner lost meanwhile, the token lost too
            granted &= self.allowed(self.behind(identity), repository)
        return granted

    def _by_rules(self, user: str, repository: str) -> set[str]:
        if not self._rights:
            return set(ACTIONS) if user != ANONYMOUS else set()
        for right in self._rights:
            known = right.user == "*" and user != ANONYMOUS
            if (known or right.user == user) and fits(right.repository, repository):
                return set(right.actions)
        return set()

    def may_list(self, identity: Identity) -> bool:
        """Whether somebody may see the catalog (each still sees only what they may pull)."""
        if not self.enabled:
            return True
        if identity.is_bearer:
            return any(grant.type == "registry" for grant in identity.grants or ())
        if identity.user != ANONYMOUS:
            return True
        return any(right.user == ANONYMOUS for right in self._rights)

    def may_watch(self, identity: Identity) -> bool:
        """Whether somebody may read the metrics: who may pull from all repositories."""
        return not identity.is_bearer and "pull" in self._everywhere(identity)

    def _everywhere(self, identity: Identity) -> set[str]:
        """The actions somebody has in every repository, whatever its name."""
        if not self.enabled or (identity.grants is None and not self._rights):
            return self.allowed(identity, "any")
        if identity.grants is not None:
            rules = [grant.actions for grant in identity.grants if grant.name == "**"]
            return {action for actions in rules for action in actions}
        allowed = set(ACTIONS)
        for right in self._rights:
            known = right.user == "*" and identity.user != ANONYMOUS
            if known or right.user == identity.user:
                allowed &= set(right.actions)
                if right.repository == "**":
                    return allowed
        return set()

    def challenge(
        self, own_url: str, scope: str = "", *, is_narrow: bool = False
    ) -> dict[str, str]:
        """The WWW-Authenticate header that says how a client authenticates (RFC 6750, 3)."""
        if self._issues_tokens:
            realm = self._bearer.realm or f"{own_url}/token"
            value = f'Bearer realm="{realm}",service="{self._bearer.service}"'
            if scope:
                value += f',scope="{scope}"'
            if is_narrow:
                value += ',error="insufficient_scope"'
            return {"WWW-Authenticate": value}
        return self.password_challenge()

    def password_challenge(self) -> dict[str, str]:
        """The header that asks for a name and a password."""
        return {"WWW-Authenticate": f'Basic realm="{self._realm}"'}

    def issue(self, identity: Identity, scopes: list[str]) -> dict[str, Any]:
        """A bearer token with as much of the scopes as somebody has; UNSUPPORTED when off.

        UNAUTHORIZED for the holder of a token: it must not renew itself.
        """
        import jwt

        if not self._issues_tokens:
            raise RegistryError("UNSUPPORTED", message="this registry issues no tokens")
        if identity.is_bearer:
            message = "a token is issued for a user name and a password, not for a token"
            headers = self.password_challenge()
            raise RegistryError("UNAUTHORIZED", message=message, headers=headers)
        now = int(time.time())
        access = [grant for scope in scopes if (grant := self._grant(identity, scope))]
        claims = {
            "iss": self._bearer.service,
            "sub": "" if identity.user == ANONYMOUS else identity.user,
            "cred": self._credential(identity.user),
            "aud": self._bearer.service,
            "iat": now,
            "nbf": now - 5,  # clocks differ
            "exp": now + self._bearer.expiration,
            "jti": secrets.token_hex(8),
            "access": [msgspec.to_builtins(grant) for grant in access],
        }
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        return {
            "token": token,
            "access_token": token,
            "expires_in": self._bearer.expiration,
            "issued_at": issued,
        }

    def _grant(self, identity: Identity, scope: str) -> Grant | None:
        kind, _, rest = scope.partition(":")
        name, _, wanted = rest.rpartition(":")
        if kind == "registry" and name == "catalog":
            return Grant(name, ("*",), kind) if self.may_list(identity) else None
        if kind != "repository" or not is_name(name):
            return None  # a pattern in a scope must not become a pattern in a grant
        allowed = self.allowed(identity, name)
        asked = set(ACTIONS) if "*" in wanted.split(",") else set(wanted.split(","))
        actions = tuple(action for action in ACTIONS if action in allowed & asked)
        return Grant(name, actions) if actions else None


def _secret(path: Path) -> bytes:
    """The signing key, made on first use and kept so that tokens outlive a restart.

    A key truncated by a crash or full disk is made again: anybody can sign with an empty key.
    """
    for _ in range(2):
        with suppress(FileNotFoundError):
            kept = path.read_bytes()
            if len(kept) >= _KEY_LENGTH:
                return kept
            path.unlink()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(secrets.token_hex(32).encode())
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first: its key counts
                path.hardlink_to(temporary)
        finally:
            Path(temporary).unlink()
    return path.read_bytes()
