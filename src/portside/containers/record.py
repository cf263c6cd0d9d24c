"""A container's record in the metadata: its options and its last known state."""

from __future__ import annotations

from pathlib import Path

import msgspec

from portside.model import containerstate
from portside.model.container import ContainerConfig, HostConfig
from portside.model.containerstate import HealthResult
from portside.model.idmap import IDMappings
from portside.model.image import Descriptor
from portside.model.network import EndpointSettings


class MountPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mount of a container as it was asked for; see ``portside.containers.mounts``."""

    type: str
    """bind, volume, tmpfs or image."""
    destination: str
    source: str = ""
    """Host path; of a volume its mount point, of an image its ID."""
    name: str = ""
    driver: str = ""
    rw: bool = True
    mode: str = ""
    propagation: str = ""
    subpath: str = ""
    no_copy: bool = False
    anonymous: bool = False
    create_source: bool = False
    non_recursive: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    idmap: str = ""
    tmpfs: tuple[str, ...] = ()
    chain: str = ""
    """For an image mount, the chain ID of its topmost layer: the image may be deleted by force."""

    def shown(self) -> containerstate.MountPoint:
        """The mount as ``inspect`` and ``ps`` show it."""
        return containerstate.MountPoint(
            type=self.type,
            name=self.name if self.type != "tmpfs" else "",
            source=self.source,
            destination=self.destination,
            driver=self.driver,
            mode=self.mode,
            rw=self.rw,
            propagation=self.propagation,
        )


def keep_copy(directory: Path, record: Record) -> None:
    """Write a container's record into its own directory, for when the metadata are lost."""
    new = directory / "container.json.new"
    new.write_bytes(msgspec.json.encode(record))
    new.rename(directory / "container.json")


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One container. Times are nanoseconds since the epoch, 0 for never."""

    id: str
    name: str
    """Without the slash."""
    created_ns: int
    image: str
    """The image's name as the user gave it."""
    image_id: str
    image_manifest: Descriptor | None = None
    """The platform's manifest in the image that the container was made from."""
    platform: str = "linux"
    config: ContainerConfig
    """The configuration with the image's merged in."""
    host: HostConfig
    id_mappings: IDMappings | None = None
    """The range of this container alone (``--userns=auto``)."""
    process_label: str = ""
    """This container's SELinux label; empty where SELinux is off, and with ``label=disable``."""
    mount_label: str = ""
    endpoints: dict[str, EndpointSettings] = {}
    """Settings that the user requested, by network name or ID."""
    mounts: tuple[MountPoint, ...] = ()

    making: bool = False
    """The creation is not finished: an engine that starts and finds this undoes it."""
    running: bool = False
    paused: bool = False
    quieted: bool = False
    """Paused by the engine itself, for a commit: one that was cut short resumes it."""
    restarting: bool = False
    removing: bool = False
    remove_volumes: bool = False
    """The removal that is going on takes the anonymous volumes along."""
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    link_targets: dict[str, str] = {}
    """IDs of the containers that legacy links lead to, by ``HostConfig.Links``' texts."""
    link_variables: tuple[str, ...] = ()
    """Variables that legacy links gave to the present run."""
    stopped_by_user: bool = False
    """An ``unless-stopped`` container stays down after it was stopped by hand."""
    health_status: str = ""
    health_streak: int = 0
    health_log: tuple[HealthResult, ...] = ()

    @property
    def alive(self) -> bool:
        """Running in Docker's sense: it runs, or its policy is about to start it again."""
        return self.running or self.restarting

    @property
    def status(self) -> str:
        """Docker's word for the state."""
        if self.running:
            if self.paused:
                return "paused"
            return "restarting" if self.restarting else "running"
        if self.removing:
            return "removing"
        if self.dead:
            return "dead"
        if self.restarting:
            return "restarting"
        return "exited" if self.started_ns else "created"
