"""From a request to a project: ``load`` finds the files, reads the environment, merges, fills in
what is implied (networks, names, dependencies by link), decodes and checks that the parts fit
together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from portside.compose import dotenv, spec
from portside.compose.attribute_kinds import Here
from portside.compose.compose_errors import ComposeError, InvalidFile, Position
from portside.compose.consistency import check
from portside.compose.loading import STDIN, Loader, read_env_files
from portside.compose.project import Project, Values
from portside.compose.yaml_source import Map, position
from portside.model.golang.booleans import parse_bool
from portside.model.light_dataclass import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.compose.remote_files import RemoteFiles

FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDES = (
    "compose.override.yml", "compose.override.yaml",
    "docker-compose.override.yml", "docker-compose.override.yaml",
)  # fmt: skip


@dataclass
class Request:
    """Which project is meant, as the command line and the environment say."""

    files: list[str] = field(default_factory=list)
    name: str = ""
    directory: str = ""
    env_files: list[str] = field(default_factory=list)
    profiles: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    interpolates: bool = True
    checks: bool = True
    resolves_environment: bool = True
    keeps_label_files: bool = True
    """Leave ``label_file`` beside the labels that are read from it: ``up`` hashes it."""
    normalizes: bool = True
    """Fill in what is implied."""
    resolves_paths: bool = True
    stdin: bytes | None = None
    warn: Callable[[str], None] = lambda text: None
    remotes: RemoteFiles | None = None
    """Fetches files that are not here; without it every name is a path."""

    def is_remote(self, path: str) -> bool:
        return self.remotes is not None and self.remotes.accepts(path)


# -- what is meant --------------------------------------------------------------------------------


def load(request: Request) -> Project:
    """The project that a request means. Raises ComposeError, InvalidFile and NotFound."""
    return _project(request, *_load_tree(request))


def load_model(request: Request) -> Map:
    """The merged files before their values are decoded. Raises ComposeError, InvalidFile."""
    from portside.compose.raw_model import lengthen, normalize_tree

    tree, name, _, _, _, _ = _load_tree(request)
    lengthen(tree)
    if request.normalizes:
        normalize_tree(tree, name)
    return tree


def _load_tree(
    request: Request,
) -> tuple[Map, str, str, list[str], dict[str, str], list[str]]:
    """The merged files, and the project's name, directory, files, environment and its files."""
    environment, env_files = _environment(request)
    files = _files(request, environment)
    named = _directory(request, files)
    places, directory = _places(request, files, named)
    loader = Loader(
        working_dir=directory,
        environment=environment,
        warn=request.warn,
        interpolates=request.interpolates,
        resolves_paths=request.resolves_paths,
        stdin=request.stdin,
        remotes=request.remotes,
    )
    name = _name(request, environment, places, named, loader)
    environment["COMPOSE_PROJECT_NAME"] = name
    tree = loader.load(places)
    if not tree:
        raise InvalidFile("empty compose file", Position(places[0], 1, 1))
    return tree, name, directory, places, environment, env_files


def _environment(request: Request) -> tuple[dict[str, str], list[str]]:
    environment = dict(request.environment)
    given = request.env_files or [
        text for text in environment.get("COMPOSE_ENV_FILES", "").split(",") if text
    ]
    base = _start_directory(request)
    if given:
        files = [os.path.abspath(path) for path in given]
    elif _is_true(environment.get("COMPOSE_DISABLE_ENV_FILE", "")):
        files = []
    else:
        default = os.path.join(base, ".env")
        files = [default] if os.path.isfile(default) else []
    found = read_env_files([(file, None) for file in files], environment.get)
    return {**found, **environment}, files if given else []


def _is_true(text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        return False


def _start_directory(request: Request) -> str:
    """Where ``.env`` is looked for: the project's directory as far as it is known."""
    if request.directory:
        return os.path.abspath(request.directory)
    if request.files and request.is_remote(request.files[0]):
        return os.getcwd()
    if request.files and request.files[0] != STDIN:
        return os.path.dirname(os.path.abspath(request.files[0]))
    if not request.files:
        listed = _listed(request.environment)
        if listed and request.is_remote(listed[0]):
            return os.getcwd()
        if listed:
            return os.path.dirname(os.path.abspath(listed[0]))
        found = _search(os.getcwd())
        if found:
            return os.path.dirname(found[0])
    return os.getcwd()


def _listed(environment: dict[str, str]) -> list[str]:
    text = environment.get("COMPOSE_FILE", "")
    separator = environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
    return [part for part in text.split(separator) if part]


def _files(request: Request, environment: dict[str, str]) -> list[str]:
    if request.files:
        chosen = request.files
    else:
        chosen = _listed(environment)
        if chosen and request.directory:
            chosen = [path if request.is_remote(path) else os.path.join(request.directory, path)
                      for path in chosen]  # fmt: skip
    if chosen:
        files = [path if path == STDIN or request.is_remote(path) else os.path.abspath(path)
                 for path in chosen]  # fmt: skip
        for path in files:
            if path == STDIN or request.is_remote(path):
                continue
            if not os.path.exists(path):
                raise ComposeError(f"open {path}: no such file or directory")
            if os.path.isdir(path):
                raise ComposeError(f"read {path}: is a directory")
        return files
    found = _search(os.path.abspath(request.directory or os.getcwd()))
    if not found:
        raise ComposeError("no configuration file provided: not found")
    return found


def _search(start: str) -> list[str]:
    """The default file in a folder or the nearest one above it, with its override."""
    folder = start
    while True:
        for name in FILES:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                more = (os.path.join(folder, other) for other in OVERRIDES)
                return [path, *[other for other in more if os.path.isfile(other)][:1]]
        above = os.path.dirname(folder)
        if above == folder:
            return []
        folder = above


def _directory(request: Request, files: list[str]) -> str:
    if request.directory:
        return os.path.abspath(request.directory)
    is_elsewhere = files[0] == STDIN or request.is_remote(files[0])
    return os.getcwd() if is_elsewhere else os.path.dirname(files[0])


def _places(request: Request, files: list[str], directory: str) -> tuple[list[str], str]:
    """The files on this machine, and the directory of relative paths: that of a remote file
    where there is one, also beside files of this machine, as in docker compose."""
    remotes, places = request.remotes, []
    if remotes is not None:
        remotes.requested = files
    for file in files:
        if remotes is not None and remotes.accepts(file):
            file = remotes.fetch(file)
            directory = os.path.dirname(file)
        places.append(file)
    return places, directory


def normalize_name(text: str) -> str:
    """A text as a project's name: lower case, without what is not allowed."""
    return re.sub(r"[^a-z0-9_-]", "", text.lower()).lstrip("_-")


def _name(
    request: Request, environment: dict[str, str], files: list[str], directory: str, loader: Loader
) -> str:
    given = request.name or environment.get("COMPOSE_PROJECT_NAME", "")
    if given:
        if normalize_name(given) != given:
            raise ComposeError(
                f'invalid project name "{given}": must consist only of lowercase alphanumeric '
                "characters, hyphens, and underscores as well as start with a letter or number"
            )
        return given
    from portside.compose.interpolation import substitute

    found, at = "", None
    for file in files:
        for document in loader.look_at(file):
            value = document.tree.get("name") if isinstance(document.tree, Map) else None
            if isinstance(value, str) and value:
                found, at = value, position(document.tree, ("name",))
    if request.interpolates:
        found = substitute(found, environment.get)
    if found and not normalize_name(found):
        message = f"project name must not be empty, and '{found}' has no character that is allowed"
        raise InvalidFile(message, at, "name")
    name = normalize_name(found) or normalize_name(os.path.basename(directory))
    if not name:
        raise ComposeError("project name must not be empty")
    return name


# -- what is implied ------------------------------------------------------------------------------


def _project(
    request: Request, tree: Map, name: str, directory: str, files: list[str],
    environment: dict[str, str], env_files: list[str],
) -> Project:  # fmt: skip
    values = spec.PROJECT.decode(tree, Here(tree))
    values["name"] = name
    for group in ("networks", "volumes", "configs", "secrets"):
        for key, resource in (values.get(group) or {}).items():
            values[group][key] = {} if resource is None else resource
    if request.normalizes:
        _normalize(values, environment)
    known = spec.PROJECT.fields
    profiles = list(request.profiles) or [
        text for text in environment.get("COMPOSE_PROFILES", "").split(",") if text
    ]
    services = dict(sorted((values.get("services") or {}).items()))
    enabled, disabled = _by_profile(services, profiles)
    groups: dict[str, Any] = {
        group: dict(sorted((values.get(group) or {}).items()))
        for group in ("networks", "volumes", "secrets", "configs", "models")
    }
    project = Project(
        name=name, working_dir=directory, files=files, environment=environment,
        services=enabled, disabled=disabled, profiles=profiles, env_files=env_files, tree=tree,
        extensions={key: value for key, value in values.items() if key not in known}, **groups,
    )  # fmt: skip
    if request.checks:
        check(project)
    if request.resolves_environment:
        for service in enabled:
            _resolve_environment(project, service)
    for service in enabled:
        _resolve_labels(project, service, request.keeps_label_files)
    _resolve_configs(project)
    return project


def _by_profile(
    services: dict[str, Values], profiles: list[str]
) -> tuple[dict[str, Values], dict[str, Values]]:
    enabled: dict[str, Values] = {}
    disabled: dict[str, Values] = {}
    for name, service in services.items():
        mine = service.get("profiles") or []
        active = not mine or "*" in profiles or any(item in profiles for item in mine)
        (enabled if active else disabled)[name] = service
    return enabled, disabled


def _normalize(values: Values, environment: dict[str, str]) -> None:
    services: dict[str, Values] = values.get("services") or {}
    networks: dict[str, Any] = values.get("networks") or {}
    uses_default = False
    for service in services.values():
        uses_default |= _normalize_service(service, environment)
    if uses_default:
        networks.setdefault("default", {})
    if networks:
        values["networks"] = networks
    for group in ("networks", "volumes", "configs", "secrets"):
        for key, resource in (values.get(group) or {}).items():
            if not resource.get("name"):
                own = f"{values['name']}_{key}"
                resource["name"] = key if resource.get("external") else own


def _normalize_service(service: Values, environment: dict[str, str]) -> bool:
    """Fill in what a service implies; does it use the default network?"""
    if service.get("pull_policy") == "if_not_present":
        service["pull_policy"] = "missing"
    build = service.get("build")
    if build is not None:
        if "dockerfile" not in build and "dockerfile_inline" not in build:
            build["dockerfile"] = "Dockerfile"
        if build.get("args"):
            args = {
                key: environment.get(key) if value is None else value
                for key, value in build["args"].items()
            }
            build["args"] = {key: value for key, value in args.items() if value is not None}
    for key, value in (service.get("environment") or {}).items():
        if value is None:
            service["environment"][key] = environment.get(key)
    for volume in service.get("volumes") or ():
        if volume.get("target"):
            volume["target"] = os.path.normpath(volume["target"])
    _imply_dependencies(service)
    image = service.get("image")
    for hook in service.get("pre_start") or ():
        if image:
            hook.setdefault("image", image)
    if "provider" in service or service.get("network_mode"):
        return False
    if not service.get("networks"):
        service["networks"] = {"default": None}
    return "default" in service["networks"]


def _imply_dependencies(service: Values) -> None:
    depends: dict[str, Values] = service.get("depends_on") or {}

    def imply(name: str, restart: bool) -> None:
        depends.setdefault(
            name, {"condition": "service_started", "restart": restart, "required": True}
        )

    for link in service.get("links") or ():
        parts = link.split(":")
        imply(parts[0] if len(parts) == 2 else link, True)
    for key in ("network_mode", "ipc", "pid", "uts", "cgroup"):
        text = service.get(key) or ""
        if text.startswith("service:"):
            imply(text.removeprefix("service:"), True)
    for text in service.get("volumes_from") or ():
        if not text.startswith("container:"):
            imply(text.split(":")[0], False)
    if depends:
        service["depends_on"] = depends


def _resolve_environment(project: Project, name: str) -> None:
    service = project.services[name]
    found: dict[str, str | None] = {}

    def look(variable: str) -> str | None:
        if variable in project.environment:
            return project.environment[variable]
        return (service.get("environment") or {}).get(variable)

    for index, entry in enumerate(service.pop("env_file", None) or ()):
        path = ("services", name, "env_file", f"[{index}]")
        try:
            values = dotenv.read(entry["path"], look, raw=entry.get("format") == "raw")
        except FileNotFoundError:
            if not entry.get("required", True):
                continue
            raise project.error(path, f"env file {entry['path']} not found") from None
        except OSError as err:
            reason = (err.strerror or str(err)).lower()
            raise project.error(path, f"failed to read {entry['path']}: {reason}") from None
        for key, value in values.items():
            known = project.environment.get(key) if value is None else value
            if known is not None:
                found[key] = known
    for key, value in (service.get("environment") or {}).items():
        found[key] = project.environment.get(key) if value is None else value
    if found:
        service["environment"] = found


def _resolve_labels(project: Project, name: str, keeps: bool) -> None:
    service = project.services[name]
    found: dict[str, str | None] = {}
    files = service.get("label_file") if keeps else service.pop("label_file", None)
    for index, file in enumerate(files or ()):
        path = ("services", name, "label_file", f"[{index}]")
        try:
            values = dotenv.read(file, found.get)
        except OSError as err:
            reason = (err.strerror or str(err)).lower()
            raise project.error(path, f"failed to read label file {file}: {reason}") from None
        found.update((key, value or "") for key, value in values.items())
    if found:
        service["labels"] = {**found, **(service.get("labels") or {})}


def _resolve_configs(project: Project) -> None:
    for config in project.configs.values():
        variable = config.get("environment")
        if variable and variable in project.environment:
            config["content"] = project.environment[variable]
