"""login and logout."""

from __future__ import annotations

import os
import sys

from portside.cli import auth, references
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.session import Session
    from portside.flags.table import Options


def _server(arguments: list[str]) -> str:
    """The key of a registry given as a host or a URL."""
    text = arguments[0] if arguments else ""
    if "://" in text and text != references.HUB_ADDRESS:
        text = auth.host_of(text)
    return auth.key_of(text.rstrip("/") if "/v1/" not in text else text)


@verb("login", usage="[OPTIONS] [SERVER]", arguments=(0, 1), flags="""
  -p, --password string   Password or token (visible to other users of this machine)
      --password-stdin    Read password or token from standard input
  -u, --username string   User name
""", about="Log in to a registry: Docker Hub unless another is named")  # fmt: skip
def login(session: Session, options: Options, arguments: list[str]) -> None:
    key = _server(arguments)
    user, password = options.text("username").strip(), options.text("password")
    if options.flag("password-stdin"):
        if options.given("password"):
            raise InvalidParameter(
                "conflicting options: cannot specify both --password and --password-stdin"
            )
        if not user:
            raise InvalidParameter("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().rstrip("\r\n")
    elif password:
        session.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if not password and not user and (known := auth.lookup(session.config, key)):
        session.out("Authenticating with existing credentials...")
        answer = _try(session, known)
        if answer is not None:
            session.out(answer)
            return
    user, password = _ask(session, user, password)
    credentials = {"username": user, "password": password, "serveraddress": key}
    found = session.client.post("/auth", body=credentials) or {}
    if found.get("IdentityToken"):
        credentials = {"username": user, "identitytoken": found["IdentityToken"]}
    auth.store(session.config, key, credentials)
    if not auth.helper_of(session.config, key):
        session.warn(
            f"\nWARNING! Your credentials are stored unencrypted in '{session.config.path}'.\n"
            "Configure a credential helper (credsStore) to keep them elsewhere.\n"
        )
    session.out(found.get("Status") or "Login Succeeded")


def _try(session: Session, known: dict[str, str]) -> str | None:
    """Log in with what is stored; None when the registry no longer accepts it."""
    from portside.client.errors import Refused

    try:
        found = session.client.post("/auth", body=known) or {}
    except Refused as err:
        session.warn(f"Login did not succeed, error: {err}")
        return None
    return str(found.get("Status") or "Login Succeeded")


def _ask(session: Session, user: str, password: str) -> tuple[str, str]:
    if user and password:
        return user, password
    if not os.isatty(0):
        raise Failed(1, "Error: Cannot perform an interactive login from a non TTY device")
    if not user:
        sys.stdout.write("Username: ")
        sys.stdout.flush()
        user = sys.stdin.readline().strip()
        if not user:
            raise Failed(1, "Error: Non-null Username Required")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
        if not password:
            raise Failed(1, "Error: Password Required")
    return user, password


@verb("logout", usage="[SERVER]", arguments=(0, 1),
      about="Log out from a registry: Docker Hub unless another is named")  # fmt: skip
def logout(session: Session, options: Options, arguments: list[str]) -> None:
    key = _server(arguments)
    host = auth.host_of(key) if arguments else key
    session.out(f"Removing login credentials for {host}")
    if auth.lookup(session.config, key) or key in session.config.mapping("auths"):
        auth.erase(session.config, key)
