"""Secrets and configs given by content or environment: copied into a container before it starts."""

from __future__ import annotations

from portside.client.client import path_of
from portside.compose.compose_errors import ComposeError
from portside.compose.engine_pool import EnginePool
from portside.compose.project import Project, Values
from portside.compose.requests import ContainerRequest

_MODE = 0o444


def inject(pool: EnginePool, project: Project, service: Values, container: str) -> None:
    """Copy what a service needs into its container. Raises ComposeError."""
    for group, base in (("secrets", "/run/secrets/"), ("configs", "/")):
        if not service.get(group):
            continue
        request = ContainerRequest(project, "", service, 0)
        for item, defined, target in request.file_objects(group, base):
            content = content_of(project, service, defined, group)
            if not content:
                continue
            owned = bool(item.get("uid") or item.get("gid"))
            query = {"path": "/", "copyUIDGID": owned or None}
            archive = _archive(target, content.encode(), item)
            pool.put(path_of("containers", container, "archive"), query, archive)


def content_of(project: Project, service: Values, defined: Values, group: str) -> str:
    """What is copied for a secret or config of a service; empty when it is a file of the host.

    Raises ComposeError for a variable that is not set, and when the service is read-only.
    """
    content = str(defined.get("content") or "")
    variable = defined.get("environment")
    if not content and variable:
        if variable not in project.environment:
            raise ComposeError(
                f'environment variable "{variable}" required by {group[:-1]} "{defined["name"]}" '
                "is not set"
            )
        content = project.environment[variable]
    if content and service.get("read_only"):
        raise ComposeError(
            f"cannot create {group[:-1]} {defined['name']!r} in a read-only service: "
            "`file` is the sole supported option"
        )
    return content


def _archive(target: str, data: bytes, item: Values) -> bytes:
    import io
    import tarfile
    import time

    info = tarfile.TarInfo(target.lstrip("/"))
    info.size = len(data)
    info.mode = _MODE if item.get("mode") is None else int(item["mode"])
    info.mtime = int(time.time())
    try:
        info.uid, info.gid = int(item.get("uid") or 0), int(item.get("gid") or 0)
    except ValueError as err:
        raise ComposeError(f"uid and gid of {item['source']} must be numbers: {err}") from None
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
