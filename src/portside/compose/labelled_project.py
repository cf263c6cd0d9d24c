"""A project made of its containers' labels, for when no Compose file is at hand."""

from __future__ import annotations

import os

from portside.client.client import filters_text
from portside.compose.conditions import RUNNING_OR_HEALTHY
from portside.compose.engine_pool import EnginePool
from portside.compose.observed import Container, containers
from portside.compose.project import Project, Values
from portside.compose.requests import DEPENDS_ON, NETWORK, PROJECT, VOLUME
from portside.compose.yaml_source import Map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def from_containers(found: list[Container], name: str) -> Project:
    """The services of a project's containers, with the dependencies that their labels contain."""
    services: dict[str, Values] = {}
    for container in found:
        key = container.service or container.name
        service = services.setdefault(key, {"image": container.raw.get("Image", ""), "scale": 0})
        service["scale"] += 1
        depends = _dependencies(container.labels.get(DEPENDS_ON, ""))
        if depends:
            service["depends_on"] = depends
    return Project(
        name=name, working_dir=os.getcwd(), files=[], environment=dict(os.environ),
        services=dict(sorted(services.items())), disabled={}, networks={}, volumes={}, secrets={},
        configs={}, models={}, extensions={}, profiles=[], env_files=[], tree=Map(),
    )  # fmt: skip


def _dependencies(label: str) -> dict[str, Values]:
    found = {}
    for text in filter(None, label.split(",")):
        name, _, rest = text.partition(":")
        condition, _, restart = rest.partition(":")
        found[name] = {
            "condition": condition or RUNNING_OR_HEALTHY,
            "restart": restart != "false",
            "required": False,
        }
    return found


def labelled(pool: EnginePool, name: str) -> Project:
    """Everything that has the labels of a project."""
    project = from_containers(containers(pool, name), name)
    label = {"label": [f"{PROJECT}={name}"]}
    networks, volumes = pool.get_all(
        [("/networks", {"filters": filters_text(label)}),
         ("/volumes", {"filters": filters_text(label)})]
    )  # fmt: skip
    project.networks = _by_label(networks, NETWORK)
    project.volumes = _by_label((volumes or {}).get("Volumes") or [], VOLUME)
    return project


def _by_label(items: list[dict[str, Any]], label: str) -> dict[str, Values]:
    return {(item.get("Labels") or {}).get(label, item["Name"]): {"name": item["Name"]}
            for item in items}  # fmt: skip
