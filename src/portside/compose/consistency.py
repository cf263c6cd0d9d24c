"""Do the parts of a project fit together? Checked once it is decoded."""

from __future__ import annotations

from portside.compose.project import Project, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.compose.yaml_source import Path


def check(project: Project) -> None:
    """Raise InvalidFile for the first inconsistency."""
    for name, service in project.services.items():
        _source(project, name, service)
        _references(project, name, service)
        _amounts(project, name, service)
        _mounts(project, name, service)
        _devices(project, name, service)
    _files(project)
    _resources(project)
    _cycles(project)
    _container_names(project)


def _source(project: Project, name: str, service: Values) -> None:
    here = ("services", name)
    build = service.get("build")
    if build is None and not service.get("image") and "provider" not in service:
        raise project.error(
            here, f'service "{name}" has neither an image nor a build context specified'
        )
    if build is not None:
        if build.get("dockerfile_inline") and build.get("dockerfile"):
            raise project.error(
                (*here, "build"),
                f'service "{name}" declares mutually exclusive dockerfile and dockerfile_inline',
            )
        platform = service.get("platform")
        if platform and build.get("platforms") and platform not in build["platforms"]:
            raise project.error(
                (*here, "build", "platforms"),
                f'service.build.platforms MUST include service.platform "{platform}"',
            )
        for key, context in (build.get("additional_contexts") or {}).items():
            if context.startswith("service:"):
                _check_context(project, name, key, context.removeprefix("service:"))
    test = (service.get("healthcheck") or {}).get("test") or ()
    if test and test[0] not in ("CMD", "CMD-SHELL", "NONE"):
        raise project.error(
            (*here, "healthcheck", "test"),
            'healthcheck.test must start either by "CMD", "CMD-SHELL" or "NONE"',
        )
    for index, port in enumerate(service.get("ports") or ()):
        if port.get("host_ip"):
            _check_address(project, (*here, "ports", f"[{index}]"), port["host_ip"])


def _check_address(project: Project, path: tuple[str, ...], text: str) -> None:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise project.error(path, f"invalid ip address: {text}") from None


def _check_context(project: Project, name: str, key: str, other: str) -> None:
    path = ("services", name, "build", "additional_contexts", key)
    target = project.services.get(other) or project.disabled.get(other)
    if target is None:
        raise project.error(
            path,
            f'service "{name}" declares unknown service "{other}" as additional contexts {key}',
        )
    if "build" not in target:
        raise project.error(
            path,
            f'service "{name}" declares non-buildable service "{other}" as additional contexts '
            f"{key}",
        )


def _references(project: Project, name: str, service: Values) -> None:
    here = ("services", name)
    if service.get("network_mode") and service.get("networks"):
        raise project.error(
            (*here, "networks"),
            f"service {name} declares mutually exclusive `network_mode` and `networks`",
        )
    for other, how in (service.get("depends_on") or {}).items():
        if other in project.services:
            continue
        if other in project.disabled and not how.get("required", True):
            continue
        message = f'service "{name}" depends on undefined service "{other}"'
        if other in project.disabled:
            profiles = " ".join(project.disabled[other].get("profiles") or ())
            message += f"; it is disabled, and enabled by profiles [{profiles}]"
        raise project.error(_dependency_path(project, name, other), message)
    mode = service.get("network_mode") or ""
    if mode.startswith("service:") and mode.removeprefix("service:") not in project.services:
        other = mode.removeprefix("service:")
        raise project.error(
            (*here, "network_mode"), f"service \"{other}\" not found for network_mode '{mode}'"
        )
    for key in ("networks", "models"):
        for other in service.get(key) or ():
            if other not in getattr(project, key):
                what = f"undefined {key[:-1]}"
                raise project.error(
                    (*here, key, other), f'service "{name}" refers to {what} {other}'
                )
    for index, volume in enumerate(service.get("volumes") or ()):
        source = volume.get("source")
        if volume["type"] == "volume" and source and source not in project.volumes:
            raise project.error(
                (*here, "volumes", f"[{index}]"),
                f'service "{name}" refers to undefined volume {source}',
            )
    build = service.get("build") or {}
    for items, path, group, what in (
        (build.get("secrets"), (*here, "build", "secrets"), "secrets", "build secret"),
        (service.get("configs"), (*here, "configs"), "configs", "config"),
        (service.get("secrets"), (*here, "secrets"), "secrets", "secret"),
    ):
        for index, item in enumerate(items or ()):
            if item.get("source") not in getattr(project, group):
                raise project.error(
                    (*path, f"[{index}]"),
                    f'service "{name}" refers to undefined {what} {item.get("source")}',
                )


def _dependency_path(project: Project, name: str, other: str) -> Path:
    """The attribute by which a service depends on another one: ``depends_on`` or what implies
    it."""
    here = ("services", name)
    written: Any = (project.tree.get("services") or {}).get(name) or {}
    if other not in (written.get("depends_on") or ()):
        for key in ("links", "volumes_from"):
            for index, text in enumerate(written.get(key) or ()):
                if str(text).split(":")[0] == other:
                    return (*here, key, f"[{index}]")
        for key in ("network_mode", "ipc", "pid", "uts", "cgroup"):
            if written.get(key) == f"service:{other}":
                return (*here, key)
    return (*here, "depends_on", other)


def _amounts(project: Project, name: str, service: Values) -> None:
    here = ("services", name)
    deploy = service.get("deploy")
    scale, replicas = service.get("scale"), (deploy or {}).get("replicas")
    if scale is not None and deploy is not None:
        if replicas is not None and replicas != scale:
            raise project.error(
                here, f"services.{name}: can't set distinct values on 'scale' and 'deploy.replicas'"
            )
        deploy["replicas"] = scale
    if scale is not None and scale < 0:
        raise project.error((*here, "scale"), "must be greater than or equal to 0")
    if replicas is not None and replicas < 0:
        raise project.error((*here, "deploy", "replicas"), "must be greater than or equal to 0")
    resources = (deploy or {}).get("resources") or {}
    for own, section, theirs in (
        ("cpus", "limits", "cpus"),
        ("mem_limit", "limits", "memory"),
        ("mem_reservation", "reservations", "memory"),
        ("pids_limit", "limits", "pids"),
    ):
        other = resources.get(section)
        if service.get(own) and other is not None and other.get(theirs, 0) != service[own]:
            raise project.error(
                (*here, own),
                f"services.{name}: can't set distinct values on '{own}' and "
                f"'deploy.resources.{section}.{theirs}'",
            )
    count = scale if scale is not None else replicas if replicas is not None else 1
    if count > 1 and service.get("container_name"):
        attribute = "scale" if scale is not None else "deploy.replicas"
        raise project.error(
            (*here, "container_name"),
            f"can't set container_name and {attribute} as container name must be unique",
        )


def _mounts(project: Project, name: str, service: Values) -> None:
    seen: dict[str, str] = {}
    for index, text in enumerate(service.get("tmpfs") or ()):
        _note(project, name, f"tmpfs[{index}]", text.partition(":")[0], seen)
    for index, volume in enumerate(service.get("volumes") or ()):
        _note(project, name, f"volumes[{index}]", volume.get("target") or "", seen)
    for index, watch in enumerate((service.get("develop") or {}).get("watch") or ()):
        if not watch.get("target") and watch["action"] not in ("rebuild", "restart"):
            raise project.error(
                ("services", name, "develop", "watch", f"[{index}]"),
                "target is required for non-rebuild actions",
            )


def _note(project: Project, name: str, key: str, target: str, seen: dict[str, str]) -> None:
    place = f"services.{name}.{key}"
    if target in seen:
        group, _, index = key.partition("[")
        raise project.error(
            ("services", name, group, f"[{index}"),
            f"target {target} already mounted as {seen[target]}",
        )
    seen[target] = place


def _devices(project: Project, name: str, service: Values) -> None:
    reserved = ((service.get("deploy") or {}).get("resources") or {}).get("reservations") or {}
    for path, requests in (
        (("services", name, "gpus"), service.get("gpus")),
        (
            ("services", name, "deploy", "resources", "reservations", "devices"),
            reserved.get("devices"),
        ),
    ):
        for index, request in enumerate(requests or ()):
            if "count" in request and "device_ids" in request:
                raise project.error(
                    (*path, f"[{index}]"), '"count" and "device_ids" attributes are exclusive'
                )


def _files(project: Project) -> None:
    for group, keys in (
        ("configs", ("file", "environment", "content")),
        ("secrets", ("file", "environment")),
    ):
        for name, item in getattr(project, group).items():
            given = [key for key in keys if key in item]
            if len(given) > 1:
                raise project.error(
                    (group, name), f"{'|'.join(keys)} attributes are mutually exclusive"
                )
            if not given and "driver" not in item and "external" not in item:
                raise project.error((group, name), f"one of {'|'.join(keys)} must be set")


def _resources(project: Project) -> None:
    for group in ("networks", "volumes"):
        for name, item in getattr(project, group).items():
            if not item.get("external"):
                continue
            for key in item:
                if key not in ("name", "external") and not key.startswith("x-"):
                    raise project.error(
                        (group, name), f'conflicting parameters "external" and "{key}" specified'
                    )


def _cycles(project: Project) -> None:
    """Depth first through ``depends_on``; the first cycle is named."""
    state: dict[str, Any] = {}
    for start in project.services:
        stack = [(start, iter(project.services[start].get("depends_on") or ()))]
        if start in state:
            continue
        state[start] = "open"
        while stack:
            name, following = stack[-1]
            other = next(following, None)
            if other is None:
                state[name] = "done"
                stack.pop()
            elif other not in project.services or state.get(other) == "done":
                continue
            elif state.get(other) == "open":
                names = [item for item, _ in stack]
                chain = " -> ".join([*names[names.index(other) :], other])
                path = _dependency_path(project, name, other)
                raise project.error(path, f"dependency cycle detected: {chain}")
            else:
                state[other] = "open"
                stack.append((other, iter(project.services[other].get("depends_on") or ())))


def _container_names(project: Project) -> None:
    seen: dict[str, str] = {}
    for name, service in project.services.items():
        given = service.get("container_name")
        if not given:
            continue
        if given in seen:
            raise project.error(
                ("services", name, "container_name"),
                f'services.{name}: container name "{given}" is already in use by '
                f"services.{seen[given]}",
            )
        seen[given] = name
