"""A project as an OCI artifact: its files, as ``docker compose publish`` puts them together.

The manifest has a layer for each file. Files that ``extends`` and ``env_file`` name become layers
too; in the text that names them stands the layer's name in place of the path.
"""

from __future__ import annotations

import os
import time

from portside.compose.artifact_types import ARTIFACT, ENV_FILE, FILE, OLD_CONFIG
from portside.compose.compose_errors import ComposeError, Position
from portside.compose.requests import COMPOSE_VERSION, VERSION
from portside.compose.yaml_source import Map, Seq, documents
from portside.model import jsontext
from portside.model.light_dataclass import dataclass, field
from portside.model.sha256 import hex_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.compose.project import Project

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
_NOTHING = b"{}"


@dataclass
class Layers:
    """The layers of an artifact, each with its bytes."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)

    def add(self, kind: str, data: bytes, annotations: dict[str, str]) -> None:
        notes = {COMPOSE_VERSION: VERSION, **annotations}
        self.entries.append(
            {"mediaType": kind, "digest": digest(data), "size": len(data),
             "annotations": dict(sorted(notes.items()))}
        )  # fmt: skip
        self.blobs.append(data)


def layers_of(project: Project, with_env: bool) -> Layers:
    """The layers of a project's files. Raises ComposeError."""
    layers = Layers()
    extended: dict[str, str] = {}
    env_files: dict[str, str] = {}
    for file in project.files:
        data = _rewritten(file, extended, env_files)
        layers.add(FILE, data, {"com.docker.compose.file": os.path.basename(file)})
    done: set[str] = set()
    while left := [path for path in extended if path not in done]:
        for path in left:
            done.add(path)
            data = _rewritten(path, extended, env_files)
            layers.add(FILE, data, {"com.docker.compose.file": extended[path],
                                    "com.docker.compose.extends": "true"})  # fmt: skip
    for path, name in env_files.items() if with_env else ():
        if os.path.isfile(path):
            layers.add(ENV_FILE, _read(path), {"com.docker.compose.envfile": name})
    return layers


def manifest_of(layers: Layers, version: str) -> bytes:
    """The manifest in image-spec's version 1.0 or 1.1."""
    config = {"mediaType": _EMPTY if version == "1.1" else OLD_CONFIG,
              "digest": digest(_NOTHING), "size": len(_NOTHING)}  # fmt: skip
    if version == "1.1":
        config["data"] = "e30="
    found: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
    if version == "1.1":
        found["artifactType"] = ARTIFACT
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    found |= {"config": config, "layers": layers.entries,
              "annotations": {"org.opencontainers.image.created": created}}  # fmt: skip
    return jsontext.dumps(found).encode()


def index_of(images: list[dict[str, Any]], artifact: bytes) -> bytes:
    """The index of the images of a project, which refers to its artifact."""
    notes = {COMPOSE_VERSION: VERSION}
    subject = {"mediaType": MANIFEST, "digest": digest(artifact), "size": len(artifact),
               "annotations": notes, "artifactType": ARTIFACT}  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": images, "subject": subject,
             "annotations": notes}  # fmt: skip
    return jsontext.dumps(index).encode()


def digest(data: bytes) -> str:
    return f"sha256:{hex_digest(data)}"


def blobs_of(layers: Layers) -> list[bytes]:
    """Every blob that a manifest of the layers names."""
    return [_NOTHING, *layers.blobs]


# -- questions to the user ------------------------------------------------------------------


def check_images(project: Project) -> None:
    """Services that can only be built cannot be published. Raises ComposeError."""
    services = {**project.services, **project.disabled}
    built = [name for name, item in services.items() if "build" in item and not item.get("image")]
    if built:
        lines = "".join(f'- "{name}"\n' for name in built)
        raise ComposeError("your Compose stack cannot be published as it only contains a build "
                           f"section for service(s):\n{lines}")  # fmt: skip


def bind_mounts(project: Project) -> dict[str, list[dict[str, Any]]]:
    """The bind mounts of each service that has some."""
    found = {}
    for name, service in {**project.services, **project.disabled}.items():
        mounts = [item for item in service.get("volumes") or () if item["type"] == "bind"]
        if mounts:
            found[name] = mounts
    return found


def variables(project: Project, allowed: bool) -> dict[str, dict[str, str | None]]:
    """Variables that the files declare. Raises ComposeError where that is not allowed."""
    found, errors = {}, []
    for name, service in {**project.services, **project.disabled}.items():
        if service.get("env_file"):
            errors.append(f'service "{name}" has env_file declared.')
        if service.get("environment"):
            errors.append(f'service "{name}" has environment variable(s) declared.')
            found[name] = service["environment"]
    for config in project.configs.values():
        if config.get("environment"):
            name = config["name"]
            errors.append(f'config "{name}" is declare as an environment variable.')
            found[name] = {name: config["environment"]}
    if errors and not allowed:
        raise ComposeError("\n".join(errors) + "\nTo avoid leaking sensitive data, you must either "
                           "explicitly allow the sending of environment variables by using the "
                           "--with-env flag,\nor remove sensitive data from your Compose "
                           "configuration")  # fmt: skip
    return found


# -- texts ----------------------------------------------------------------------------------


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as err:
        raise ComposeError(f"open {path}: {(err.strerror or str(err)).lower()}") from None


def _rewritten(file: str, extended: dict[str, str], env_files: dict[str, str]) -> bytes:
    """A file's text with the names of layers in place of paths."""
    data = _read(file)
    folder = os.path.dirname(os.path.abspath(file))
    changes: list[tuple[Position | None, str, str]] = []
    for document in documents(data, file):
        services = document.tree.get("services") if isinstance(document.tree, Map) else None
        for service in (services or {}).values():
            if not isinstance(service, Map):
                continue
            if "include" in document.tree:
                raise ComposeError("cannot publish compose file with local includes")
            for at, text in _env_paths(service):
                path = os.path.normpath(os.path.join(folder, os.path.expanduser(text)))
                name = env_files.setdefault(path, f"{hex_digest(path.encode())}.env")
                changes.append((at, text, name))
            extends = service.get("extends")
            if isinstance(extends, Map) and isinstance(extends.get("file"), str):
                path = os.path.normpath(os.path.join(folder, extends["file"]))
                if os.path.exists(path):
                    name = extended.setdefault(path, f"{hex_digest(path.encode())}.yaml")
                    changes.append((extends.where.get("file"), extends["file"], name))
    return _changed(data, changes)


def _env_paths(service: Map) -> list[tuple[Position | None, str]]:
    value = service.get("env_file")
    if isinstance(value, str):
        return [(service.where.get("env_file"), value)]
    found: list[tuple[Position | None, str]] = []
    if not isinstance(value, Seq):
        return found
    for index, item in enumerate(value):
        if isinstance(item, str):
            found.append((value.spot(index), item))
        elif isinstance(item, Map) and isinstance(item.get("path"), str):
            found.append((item.where.get("path"), item["path"]))
    return found


def _changed(data: bytes, changes: list[tuple[Position | None, str, str]]) -> bytes:
    """Put names in place of paths: the first time a path stands at or behind its place."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for at, old, new in sorted(changes, key=lambda item: item[0] or (), reverse=True):
        if at is None:
            continue
        for number in range(at.line - 1, len(lines)):
            start = at.column - 1 if number == at.line - 1 else 0
            place = lines[number].find(old, start)
            if place >= 0:
                lines[number] = lines[number][:place] + new + lines[number][place + len(old) :]
                break
    return "\n".join(lines).encode("utf-8", "surrogateescape")
