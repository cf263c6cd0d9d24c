"""Whether and how a container differs from its service."""

from __future__ import annotations

from portside.compose.config_output import service_hash
from portside.compose.observed import Container
from portside.compose.project import Project, Values
from portside.compose.requests import HASH, IMAGE

DIVERGED, FORCE, NEVER = "diverged", "force", "never"


def difference(
    project: Project, service: Values, container: Container, policy: str, image: str,
    networks: dict[str, str],
) -> str:  # fmt: skip
    """Why a container has to be recreated; nothing when it stays.

    ``service`` is resolved (``shared_namespaces``), ``image`` the ID of its image, ``networks``
    the IDs of the project's networks that exist.
    """
    if policy == NEVER:
        return ""
    if policy == FORCE:
        return "recreation was asked for"
    if container.labels.get(HASH) != service_hash(service):
        return "its configuration has changed"
    if container.labels.get(IMAGE, "") != image:
        return "its image has changed"
    if container.state == "running":
        connected = {
            item.get("NetworkID")
            for item in (
                (container.raw.get("NetworkSettings") or {}).get("Networks") or {}
            ).values()
        }
        for key in service.get("networks") or ():
            if key in networks and networks[key] not in connected:
                return f"it is not connected to network {key}"
    mounted = {
        mount.get("Name") for mount in container.raw.get("Mounts") or ()
        if mount.get("Type") == "volume"
    }  # fmt: skip
    for volume in service.get("volumes") or ():
        source = volume.get("source")
        known = volume["type"] == "volume" and source in project.volumes
        if known and project.volumes[source]["name"] not in mounted:
            return f"volume {source} is not mounted"
    return ""
