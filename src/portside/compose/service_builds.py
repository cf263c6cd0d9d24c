"""What a service's ``build`` asks of the builder, and building with the engine's API."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator

from portside.compose.compose_errors import ComposeError
from portside.compose.engine_pool import EnginePool
from portside.compose.project import Project, Values
from portside.compose.requests import (
    COMPOSE_VERSION,
    PROJECT,
    SERVICE,
    VERSION,
    image_of,
)
from portside.model import jsontext
from portside.model.light_dataclass import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PIECE = 1 << 17
_DOCKERFILE = ".dockerfile.compose"
"""The name that an inline Dockerfile has in the context."""


@dataclass
class BuildOptions:
    """What the flags of ``build`` say."""

    args: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    memory: int = 0


def with_needed(project: Project, names: list[str]) -> list[str]:
    """The services to build, each after those whose images it is built from."""
    done: list[str] = []

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            raise ComposeError(f"dependency cycle detected: {' -> '.join([*way, name])}")
        service = project.services.get(name) or project.disabled.get(name) or {}
        contexts = (service.get("build") or {}).get("additional_contexts") or {}
        for context in contexts.values():
            if context.startswith("service:"):
                visit(context.removeprefix("service:"), (*way, name))
        if name not in done and "build" in service:
            done.append(name)

    for name in names:
        visit(name, ())
    return done


def tags_of(project: Project, name: str, service: Values) -> list[str]:
    """Every name of a service's image."""
    tags = [image_of(project, name, service), *(service["build"].get("tags") or ())]
    return list(dict.fromkeys(tags))


def labels_of(project: Project, name: str, service: Values) -> dict[str, str]:
    """The image's labels: the service's own and those by which it is found again."""
    return {
        **(service["build"].get("labels") or {}),
        PROJECT: project.name, SERVICE: name, COMPOSE_VERSION: VERSION,
    }  # fmt: skip


def build_by_api(
    pool: EnginePool, project: Project, name: str, choices: BuildOptions,
    show: Callable[[dict[str, Any]], None], headers: dict[str, str],
) -> None:  # fmt: skip
    """``POST /build`` with the context as a tar archive. Raises ComposeError."""
    service = project.services[name]
    build = service["build"]
    remote = "://" in build["context"] or build["context"].startswith("git@")
    query = {
        "t": tags_of(project, name, service),
        "dockerfile": _dockerfile(build),
        "buildargs": jsontext.dumps({**(build.get("args") or {}), **choices.args}),
        "labels": jsontext.dumps(labels_of(project, name, service)),
        "target": build.get("target"),
        "nocache": choices.no_cache or build.get("no_cache") or None,
        "pull": choices.pull or build.get("pull") or None,
        "networkmode": build.get("network"),
        "platform": service.get("platform") or (build.get("platforms") or [None])[0],
        "shmsize": build.get("shm_size"),
        "memory": choices.memory or None,
        "extrahosts": ",".join(
            f"{host}:{text}" for host, texts in (build.get("extra_hosts") or {}).items()
            for text in texts
        ) or None,
        "cachefrom": jsontext.dumps(build["cache_from"]) if build.get("cache_from") else None,
        "remote": build["context"] if remote else None,
    }  # fmt: skip
    body = None if remote else _archive(build)
    headers = {**headers, "Content-Type": "application/x-tar"}
    with pool.client() as client:
        for message in client.messages("POST", "/build", query, body, headers):
            if message.get("error"):
                detail = message.get("errorDetail") or {}
                raise ComposeError(str(detail.get("message") or message["error"]))
            show(message)


def _dockerfile(build: Values) -> str:
    """The Dockerfile's name inside the context."""
    if build.get("dockerfile_inline"):
        return _DOCKERFILE
    given = build.get("dockerfile") or "Dockerfile"
    path = os.path.join(build["context"], given)
    inside = os.path.relpath(path, build["context"])
    return _DOCKERFILE if inside.startswith("..") else inside


class _Pieces:
    """Takes what tarfile writes and hands it on in pieces."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def take(self) -> bytes:
        found = bytes(self.data)
        self.data.clear()
        return found


def _archive(build: Values) -> Iterator[bytes]:
    """The context's files, owned by root; the engine leaves out what ``.dockerignore`` names."""
    context = build["context"]
    if not os.path.isdir(context):
        raise ComposeError(f"unable to prepare context: path {context!r} not found")
    sink = _Pieces()
    with tarfile.open(fileobj=sink, mode="w|") as tar:  # type: ignore[call-overload]
        for folder, folders, files in os.walk(context):
            folders.sort()
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in sorted([*files, *folders]):
                path = os.path.join(folder, name)
                tar.add(path, os.path.relpath(path, context), recursive=False, filter=_owned)
                if len(sink.data) >= _PIECE:
                    yield sink.take()
            folders[:] = [name for name in folders if name not in links]
        if _dockerfile(build) == _DOCKERFILE:
            info = tarfile.TarInfo(_DOCKERFILE)
            data = _outside(build)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    yield sink.take()


def _outside(build: Values) -> bytes:
    if build.get("dockerfile_inline"):
        return str(build["dockerfile_inline"]).encode()
    path = os.path.join(build["context"], build["dockerfile"])
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as err:
        raise ComposeError(f"open {path}: {(err.strerror or '').lower()}") from None


def _owned(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if info.ischr() or info.isblk():
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info
