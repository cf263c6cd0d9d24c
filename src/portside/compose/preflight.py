"""What is known to fail before anything is made: checked once a plan says what changes."""

from __future__ import annotations

from collections.abc import Iterable

from portside.compose.compose_errors import ComposeError
from portside.compose.injected_files import content_of
from portside.compose.project import Project, Values
from portside.compose.requests import ContainerRequest, image_of, scale_of
from portside.compose.yaml_source import position
from portside.model.errors import InvalidParameter


def check_names(project: Project) -> None:
    """Raise InvalidFile for the first image name that is not allowed."""
    from portside.model.reference import Reference

    for name, service in project.services.items():
        if service.get("image") and "provider" not in service:
            try:
                Reference.parse(service["image"])
            except InvalidParameter as err:
                raise project.error(("services", name, "image"), str(err)) from None


def check_image(project: Project, name: str, images: dict[str, Values]) -> None:
    """Raise InvalidFile when a service's image is not there and may not be pulled. Another
    platform's image is left to the engine."""
    service = project.services[name]
    if service.get("pull_policy") != "never" or "build" in service or "platform" in service:
        return
    image = image_of(project, name, service)
    if image not in images:
        raise project.error(
            ("services", name, "image"),
            f'No such image: {image}; the pull policy "never" forbids to pull it',
        )


def check_files(project: Project, name: str) -> None:
    """Raise InvalidFile when a service's secrets or configs cannot be provided."""
    service = project.services[name]
    for group, base in (("secrets", "/run/secrets/"), ("configs", "/")):
        if not service.get(group):
            continue
        try:
            request = ContainerRequest(project, name, service, 0)
            for _, defined, _ in request.file_objects(group, base):
                content_of(project, service, defined, group)
        except ComposeError as err:
            raise project.error(("services", name, group), str(err)) from None


def check_ports(project: Project, starting: Iterable[str]) -> None:
    """Raise InvalidFile when two containers are to publish the same port, one of which starts."""
    changed = set(starting)
    seen: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for name, service in project.services.items():
        if "provider" in service or service.get("network_mode") or not scale_of(service):
            continue
        for index, port in enumerate(service.get("ports") or ()):
            published = str(port.get("published") or "0")
            if not published.isdecimal() or published == "0":
                continue  # a range or any port: the engine chooses a free one
            protocol, address = port.get("protocol", "tcp"), port.get("host_ip") or ""
            if scale_of(service) > 1 and name in changed:
                raise project.error(
                    ("services", name, "ports", f"[{index}]"),
                    f"port {published}/{protocol} can be published by one container only, and "
                    f"{scale_of(service)} are wanted; publish a range or let the engine choose",
                )
            others = seen.setdefault((published, protocol), [])
            for other, its_address, its_index in others:
                if other == name or not changed & {name, other}:
                    continue
                if _overlap(address, its_address) and not _follow(project, name, other):
                    at = position(project.tree, ("services", other, "ports", f"[{its_index}]"))
                    raise project.error(
                        ("services", name, "ports", f"[{index}]"),
                        f'port {published}/{protocol} is published by service "{other}" too'
                        + (f" ({at})" if at else ""),
                    )
            others.append((name, address, index))


def _overlap(address: str, other: str) -> bool:
    """Can one address of the host not be had by both? Empty stands for all of them."""
    if address == other or not address or not other:
        return True
    if (":" in address) != (":" in other):
        return False
    return bool({"0.0.0.0", "::"} & {address, other})


def _follow(project: Project, name: str, other: str) -> bool:
    """Is one of two services to have completed before the other one starts?"""
    return other in _completed_before(project, name) or name in _completed_before(project, other)


def _completed_before(project: Project, name: str) -> set[str]:
    """The services of which the completion is a condition, also of a dependency's start."""
    return {
        other
        for each in project.with_dependencies([name])
        for other, how in project.dependencies(each).items()
        if other in project.services and how.get("condition") == "service_completed_successfully"
    }
