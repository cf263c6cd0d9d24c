"""Credentials of registries: ``~/.docker/config.json``, stores and helpers."""

from __future__ import annotations

import binascii
import sys

from portside.cli import references
from portside.model import jsontext
from portside.model.errors import PortsideError, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.client.config import ClientConfig

    Credentials = dict[str, str]

TOKEN_USER = "<token>"
"""The user name under which a helper keeps an identity token."""


class HelperFailed(PortsideError):
    """A credential helper failed."""


def key_of(server: str) -> str:
    """The key of a registry in the configuration file."""
    if server in ("", references.HUB, "index.docker.io", "registry-1.docker.io"):
        return references.HUB_ADDRESS
    return server


def host_of(key: str) -> str:
    """``https://host/v1/`` and ``host`` name the same registry."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def lookup(config: ClientConfig, server: str) -> Credentials:
    """A registry's credentials as the API's AuthConfig; empty when there are none."""
    key = key_of(server)
    helper = helper_of(config, key)
    if helper:
        found = _ask_helper(helper, "get", key)
        if found is None:
            return {}
        user, secret = found.get("Username", ""), found.get("Secret", "")
        if user == TOKEN_USER:
            return {"identitytoken": secret, "serveraddress": key}
        return {"username": user, "password": secret, "serveraddress": key}
    table = config.mapping("auths")
    entry = table.get(key)
    if entry is None:
        same = [value for name, value in table.items() if host_of(name) == host_of(key)]
        entry = same[0] if same else {}
    return _from_entry(entry, key)


def _from_entry(entry: dict[str, Any], key: str) -> Credentials:
    found = {"serveraddress": key}
    if entry.get("identitytoken"):
        found["identitytoken"] = entry["identitytoken"]
    if entry.get("auth"):
        try:
            text = binascii.a2b_base64(entry["auth"]).decode()
        except (ValueError, UnicodeDecodeError):
            text = ""
        found["username"], _, found["password"] = text.partition(":")
        found["password"] = found["password"].rstrip("\0")
    elif entry.get("username"):
        found["username"], found["password"] = entry["username"], entry.get("password", "")
    return found if len(found) > 1 else {}


def usable(config: ClientConfig, server: str) -> Credentials:
    """The same, but with a warning and nothing where a helper fails: a public image needs none, and
    a helper is often named by a program that has been removed."""
    try:
        return lookup(config, server)
    except HelperFailed as err:
        sys.stdout.flush()
        sys.stderr.write(f"WARNING: {err}; continuing without credentials\n")
        return {}


def header(config: ClientConfig, image: str) -> dict[str, str]:
    """``X-Registry-Auth`` for an image's registry; nothing when nothing is known."""
    credentials = usable(config, references.registry(image))
    return {"X-Registry-Auth": encode(credentials)} if credentials else {}


def encode(credentials: Credentials) -> str:
    data = jsontext.dumps(credentials).encode()
    text = binascii.b2a_base64(data, newline=False).decode()
    return text.replace("+", "-").replace("/", "_")


# -- keeping ---------------------------------------------------------------------------------


def store(config: ClientConfig, key: str, credentials: Credentials) -> None:
    """Keep credentials for a registry, in its helper or in the file."""
    helper = helper_of(config, key)
    user, secret = credentials.get("username", ""), credentials.get("password", "")
    token = credentials.get("identitytoken", "")
    auths = config.values.setdefault("auths", {})
    if helper:
        user, secret = (TOKEN_USER, token) if token else (user, secret)
        entry = {"ServerURL": key, "Username": user, "Secret": secret}
        _ask_helper(helper, "store", jsontext.dumps(entry))
        auths[key] = {}
    else:
        auths[key] = entry_of(credentials)
    config.save()


def entry_of(credentials: Credentials) -> dict[str, str]:
    """Credentials as an entry of ``auths``."""
    user, secret = credentials.get("username", ""), credentials.get("password", "")
    token = credentials.get("identitytoken", "")
    pair = f"{user}:{'' if token else secret}".encode()
    packed = binascii.b2a_base64(pair, newline=False).decode()
    return {"auth": packed, "identitytoken": token} if token else {"auth": packed}


def erase(config: ClientConfig, key: str) -> bool:
    """Remove a registry's credentials; False when none were known."""
    helper = helper_of(config, key)
    if helper:
        _ask_helper(helper, "erase", key)
    auths = config.values.get("auths") or {}
    names = [name for name in auths if name == key or host_of(name) == host_of(key)]
    for name in names:
        del auths[name]
    if names:
        config.save()
    return bool(names or helper)


def helper_of(config: ClientConfig, key: str) -> str:
    """``credHelpers`` of the registry, else ``credsStore``."""
    special = config.mapping("credHelpers")
    return str(special.get(key) or special.get(host_of(key)) or config.text("credsStore"))


def _ask_helper(helper: str, action: str, text: str) -> dict[str, Any] | None:
    """Run ``docker-credential-HELPER``; None when it has no entry for the registry."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, action], input=text.encode(), capture_output=True, check=False
        )
    except OSError as err:
        raise HelperFailed(
            f'error getting credentials - err: exec: "{program}": {err.strerror}: install it, '
            "or remove it from credsStore and credHelpers of the client's configuration"
        ) from err
    said = (done.stdout + done.stderr).decode(errors="replace").strip()
    if done.returncode:
        if "credentials not found" in said:
            return None
        raise HelperFailed(f"error with credentials - {program} {action}: {said}")
    if action != "get":
        return {}
    try:
        value = jsontext.loads(done.stdout)
    except SystemFailure as err:
        raise HelperFailed(f"{program}: {err}") from None
    return value if isinstance(value, dict) else None
