"""The state of a project in the engine: containers, networks and volumes, found by labels."""

from __future__ import annotations

from collections.abc import Iterable

from portside.client.client import filters_text
from portside.compose.engine_pool import EnginePool
from portside.compose.project import Project
from portside.compose.requests import HASH, NUMBER, ONEOFF, PROJECT, SERVICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEX = frozenset("0123456789abcdef")


class Container:
    """A container as the engine's list shows it."""

    __slots__ = ("raw",)

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    @property
    def id(self) -> str:
        return str(self.raw["Id"])

    @property
    def name(self) -> str:
        """Its own name: names of links have a slash inside."""
        for name in self.raw.get("Names") or ():
            if name.count("/") == 1:
                return str(name[1:])
        return self.id[:12]

    @property
    def labels(self) -> dict[str, str]:
        return self.raw.get("Labels") or {}

    @property
    def service(self) -> str:
        return self.labels.get(SERVICE, "")

    @property
    def number(self) -> int:
        text = self.labels.get(NUMBER, "")
        return int(text) if text.isdecimal() else 0

    @property
    def anonymous_volumes(self) -> list[str]:
        """The volumes whose name is one that the engine gives."""
        mounts = self.raw.get("Mounts") or ()
        names = [mount.get("Name", "") for mount in mounts if mount.get("Type") == "volume"]
        return [name for name in names if len(name) == 64 and not set(name) - _HEX]

    @property
    def is_one_off(self) -> bool:
        """Made by ``run``."""
        return self.labels.get(ONEOFF) == "True"

    @property
    def state(self) -> str:
        """created, running, paused, restarting, removing, exited or dead."""
        return str(self.raw.get("State", ""))

    @state.setter
    def state(self, state: str) -> None:
        self.raw["State"] = state

    @property
    def event_id(self) -> str:
        """As progress names it."""
        return f"Container {self.name}"

    @property
    def short_name(self) -> str:
        """Without the project, as the prefix of log lines."""
        project = self.labels.get(PROJECT, "")
        default = f"{project}-{self.service}-{self.labels.get(NUMBER, '')}"
        return self.name.removeprefix(f"{project}-") if self.name == default else self.name


def container_filters(project: str, *more: str) -> dict[str, list[str]]:
    return {"label": [f"{PROJECT}={project}", HASH, *more]}


def containers(
    pool: EnginePool,
    project: str,
    *,
    all: bool = True,
    one_off: bool | None = False,
    services: Iterable[str] = (),
) -> list[Container]:
    """A project's containers; ``one_off``: only such, none such, or (None) both."""
    query = {"all": all or None, "filters": filters_text(container_filters(project))}
    wanted = set(services)
    found = [Container(raw) for raw in pool.get("/containers/json", query)]
    return [
        item for item in found
        if (one_off is None or item.is_one_off == one_off)
        and (not wanted or item.service in wanted)
    ]  # fmt: skip


class Observed:
    """Everything at one moment. Networks and volumes are all of the engine's: those of the
    project's names may be somebody else's."""

    def __init__(
        self, containers: list[Container], networks: list[dict[str, Any]],
        volumes: list[dict[str, Any]], images: dict[str, dict[str, Any]],
    ) -> None:  # fmt: skip
        self.containers = containers
        self.networks = networks
        self.volumes = {volume["Name"]: volume for volume in volumes}
        self.images = images
        """Inspections by the requested name; images that do not exist are missing."""

    def of_service(self, name: str) -> list[Container]:
        return [item for item in self.containers if item.service == name and not item.is_one_off]

    def network(self, name: str) -> list[dict[str, Any]]:
        """The networks of a name or ID."""
        return [item for item in self.networks if name in (item["Name"], item["Id"])]

    def orphans(self, project: Project) -> list[Container]:
        """Containers of services that the project does not have, and ended one-off ones."""
        known = project.services.keys() | project.disabled.keys()
        return [
            item for item in self.containers
            if (item.state in ("exited", "dead") if item.is_one_off else item.service not in known)
        ]  # fmt: skip


def observe(pool: EnginePool, project: str, images: Iterable[str] = ()) -> Observed:
    """Ask for everything at once."""
    names = list(dict.fromkeys(images))
    listing = {"all": True, "filters": filters_text(container_filters(project))}
    from portside.client.client import path_of

    requests = [
        ("/containers/json", listing), ("/networks", None), ("/volumes", None),
        *((path_of("images", name, "json"), None) for name in names),
    ]  # fmt: skip
    found = pool.get_all(requests)
    known = {name: item for name, item in zip(names, found[3:], strict=True) if item is not None}
    return Observed(
        [Container(raw) for raw in found[0]], found[1], (found[2] or {}).get("Volumes") or [], known
    )
