"""``run --use-api-socket``: the engine's socket and registry credentials inside a container."""

from __future__ import annotations

from portside.cli import auth
from portside.client.client import path_of
from portside.model import jsontext
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session

_SOCKET = "/var/run/docker.sock"
_DIRECTORY = "/run/secrets/docker"


def path(session: Session, what: str) -> str:
    """The engine's socket; ``what`` needs it. Raises InvalidParameter without one."""
    if not session.endpoint.path:
        raise InvalidParameter(
            f"{what} needs an engine on a unix socket, not {session.endpoint.text}"
        )
    return session.endpoint.path


def add(session: Session, body: dict[str, Any]) -> None:
    """Bind the socket where clients look for it, and name the directory of the credentials.

    Raises InvalidParameter for an engine that is not reached by a unix socket.
    """
    source = path(session, "--use-api-socket")
    mount = {"Type": "bind", "Source": source, "Target": _SOCKET}
    body["HostConfig"].setdefault("Mounts", []).append(mount)
    environment = body.get("Env") or []
    if not any(item.partition("=")[0] == "DOCKER_CONFIG" for item in environment):
        body["Env"] = [*environment, f"DOCKER_CONFIG={_DIRECTORY}"]


def config_text(session: Session) -> str:
    """The caller's registry credentials as config.json has them."""
    entries = {}
    names = {*session.config.mapping("auths"), *session.config.mapping("credHelpers")}
    for name in sorted(names):
        known = auth.lookup(session.config, name)
        if known:
            entries[auth.key_of(name)] = auth.entry_of(known)
    return jsontext.dumps({"auths": entries}, "\t")


def put_credentials(session: Session, container: str) -> None:
    """Write the caller's registry credentials into the container, readable by root alone."""
    data = config_text(session).encode()
    path = path_of("containers", container, "archive")
    headers = {"Content-Type": "application/x-tar"}
    response = session.client.request("PUT", path, {"path": "/"}, _archive(data), headers)
    session.client._value(response)


def _archive(data: bytes) -> bytes:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        made = ""
        for part in _DIRECTORY.strip("/").split("/"):
            made = f"{made}/{part}".strip("/")
            directory = tarfile.TarInfo(made)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
        file = tarfile.TarInfo(f"{made}/config.json")
        file.size, file.mode = len(data), 0o600
        archive.addfile(file, io.BytesIO(data))
    return out.getvalue()
