"""The images of a project's services: which are missing, and pulling them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from portside.client.client import path_of
from portside.compose.compose_errors import ComposeError
from portside.compose.engine_pool import EnginePool
from portside.compose.executor import execute
from portside.compose.progress_events import (
    DONE,
    ERROR,
    WARNING,
    WORKING,
    Event,
    Report,
    silent,
)
from portside.compose.project import Project, Values
from portside.compose.requests import image_of
from portside.compose.step_plan import Plan
from portside.model.embedded_names import EMBEDDED
from portside.model.errors import PortsideError
from portside.model.golang.timestamps import parse_rfc3339
from portside.model.light_dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_REFRESH = {"daily": 86400, "weekly": 7 * 86400}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_COMPLETE = ("Download complete", "Already exists", "Pull complete")


@dataclass
class ImageTools:
    """How images are obtained: credentials of registries, and the builder."""

    auth: Callable[[str], dict[str, str]]
    """The request's header for an image's registry."""
    split: Callable[[str], tuple[str, str, str]]
    """Repository, tag and digest of a name."""
    build: Callable[[list[str]], None] | None = None
    """Builds the images of these services; None: building was forbidden."""
    quiet: bool = False
    force_build: bool = False


def names_of(project: Project) -> list[str]:
    """Every image that the containers of a project are made from or have mounted."""
    found: dict[str, None] = {}
    for name, service in project.services.items():
        if "provider" in service:
            continue
        found[image_of(project, name, service)] = None
        for volume in service.get("volumes") or ():
            if volume["type"] == "image":
                found[volume.get("source", "")] = None
    return [name for name in found if name]


def must_pull(service: Values, image: Values | None) -> bool:
    """Whether a service's image has to be pulled; ``image`` is its inspection, if it is present."""
    if not service.get("image") or "provider" in service:
        return False
    policy = service.get("pull_policy") or "missing"
    if policy == "always":
        return True
    if policy in ("never", "build"):
        return False
    if policy in _REFRESH or policy.startswith("every_"):
        if image is None:
            return True
        age = _REFRESH.get(policy) or refresh_seconds(policy.removeprefix("every_"))
        tagged = (image.get("Metadata") or {}).get("LastTagTime") or image.get("Created") or ""
        return time.time() > (parse_rfc3339(tagged) / 10**9 if tagged else 0) + age
    return image is None


def refresh_seconds(text: str) -> int:
    """``12h``, ``1w2d``: seconds. Raises ComposeError."""
    total, number = 0, ""
    for char in text:
        if char.isdecimal():
            number += char
        elif number and char in _UNITS:
            total += int(number) * _UNITS[char]
            number = ""
        else:
            raise ComposeError(f"invalid pull_policy: every_{text}")
    return total


def ensure(
    pool: EnginePool, project: Project, images: dict[str, Values], tools: ImageTools,
    report: Report, parallel: int, warn: Callable[[str], None], dry_run: bool = False,
) -> None:  # fmt: skip
    """Pull and build what is missing; ``images`` is brought up to date."""
    _drop_other_platforms(project, images)
    pulls: dict[str, tuple[str, Values]] = {}
    builds = []
    for name, service in project.services.items():
        if "provider" in service:
            continue
        image = image_of(project, name, service)
        if must_pull(service, images.get(image)):
            pulls.setdefault(image, (name, service))
        if "build" in service and (
            tools.force_build or service.get("pull_policy") == "build" or image not in images
        ):
            builds.append(name)
        for volume in service.get("volumes") or ():
            if volume["type"] == "image" and volume.get("source") not in images:
                pulls.setdefault(volume["source"], (f"{name}:volume", {}))
    buildable = {image_of(project, name, project.services[name]) for name in builds}
    if pulls:
        pull(pool, pulls, tools, report, parallel, project.environment, dry_run=dry_run,
             may_fail=buildable)  # fmt: skip
        _refresh(pool, pulls, images)
    if builds and tools.build is not None:
        missing = [
            name for name in builds
            if tools.force_build or project.services[name].get("pull_policy") == "build"
            or image_of(project, name, project.services[name]) not in images
        ]  # fmt: skip
        if missing and not dry_run:
            tools.build(missing)
            _refresh(pool, buildable, images)


def _drop_other_platforms(project: Project, images: dict[str, Values]) -> None:
    """Treat an image for another platform than the service's as missing."""
    for name, service in project.services.items():
        wanted = service.get("platform")
        image = images.get(image_of(project, name, service))
        if wanted and image is not None:
            parts = wanted.split("/")
            actual = [image.get("Os", ""), image.get("Architecture", ""), image.get("Variant", "")]
            if any(a and b and a != b for a, b in zip(parts, actual, strict=False)):
                images.pop(image_of(project, name, service))


def _refresh(pool: EnginePool, names: Iterable[str], images: dict[str, Values]) -> None:
    wanted = list(names)
    found = pool.get_all([(path_of("images", name, "json"), None) for name in wanted])
    images.update((name, item) for name, item in zip(wanted, found, strict=True) if item)


def pull(
    pool: EnginePool, wanted: dict[str, tuple[str, Values]], tools: ImageTools, report: Report,
    parallel: int, environment: dict[str, str], *, may_fail: Iterable[str] = (),
    dry_run: bool = False,
) -> None:  # fmt: skip
    """Pull images at once; ``wanted`` has the service of each, with its name.

    Raises what the first one raises.
    """
    plan = Plan()
    forgiven = set(may_fail)
    for image, (name, service) in wanted.items():
        reporter = silent if is_made_here(image, tools) else report

        def perform(
            image: str = image, name: str = name, service: Values = service,
            report: Report = reporter,
        ) -> None:  # fmt: skip
            report(Event(name, WORKING, "", detail="Pulling"))
            try:
                if not dry_run:
                    _pull_one(pool, image, name, service, tools, report, environment)
            except PortsideError as err:
                if image not in forgiven:
                    report(Event(name, ERROR, str(err), detail="Error"))  # "Error" stands before it
                    raise
                report(Event(name, WARNING, str(err), detail="Warning"))
            else:
                report(Event(name, DONE, "", detail="Pulled"))

        plan.add("pull", f"image {image}", perform, reason="it is not present")
    execute(plan, parallel)


def is_made_here(image: str, tools: ImageTools) -> bool:
    """The engine makes this image itself on demand: nothing is transferred."""
    repository, tag, digest = tools.split(image)
    return not digest and f"{repository}:{tag or 'latest'}" in EMBEDDED


def _pull_one(
    pool: EnginePool, image: str, name: str, service: Values, tools: ImageTools, report: Report,
    environment: dict[str, str],
) -> None:  # fmt: skip
    repository, tag, digest = tools.split(image)
    platform = service.get("platform") or environment.get("DOCKER_DEFAULT_PLATFORM")
    query = {"fromImage": repository, "tag": digest or tag or "latest", "platform": platform}
    with pool.client() as client:
        for message in client.messages("POST", "/images/create", query, headers=tools.auth(image)):
            if message.get("error"):
                detail = message.get("errorDetail") or {}
                raise ComposeError(str(detail.get("message") or message["error"]))
            if not tools.quiet:
                _report_message(message, name, report)


def _report_message(message: dict[str, Any], name: str, report: Report) -> None:
    layer, status = message.get("id"), str(message.get("status", ""))
    if not layer or "progressDetail" not in message:
        return
    detail = message.get("progressDetail") or {}
    current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    done = status in _COMPLETE
    percent = 100 if done else current * 100 // total if total else 0
    text = str(message.get("progress") or "")
    report(Event(layer, DONE if done else WORKING, text, name, status, current, total, percent))
