"""A container as ``inspect``, ``ps``, ``wait`` and similar answers show it (Docker's names)."""

from __future__ import annotations

from typing import Any

import msgspec

from portside.model.container import ContainerConfig, HostConfig, Named
from portside.model.image import Descriptor
from portside.model.network import EndpointSettings, NetworkSettings

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time."""


class HealthResult(Named):
    """One probe; times RFC 3339."""

    start: str = NEVER
    end: str = NEVER
    exit_code: int = 0
    output: str = ""


class Health(Named):
    status: str = "none"
    """none, starting, healthy or unhealthy."""
    failing_streak: int = 0
    log: tuple[HealthResult, ...] | None = None
    """The last five probes."""


class State(Named):
    status: str = "created"
    """created, running, paused, restarting, removing, exited or dead."""
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = NEVER
    finished_at: str = NEVER
    health: Health | None = None

    def wire(self) -> dict[str, Any]:
        value = super().wire()
        if self.health is None:
            del value["Health"]
        return value


class MountPoint(Named):
    """A mount as ``inspect`` and ``ps`` show it."""

    type: str = ""
    name: str = ""
    source: str = ""
    destination: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = msgspec.field(name="RW", default=True)
    propagation: str = ""

    @classmethod
    def omitted_when_empty(cls) -> frozenset[str]:
        return frozenset({"Name", "Driver", "Type"})


class GraphDriver(Named):
    data: dict[str, str] | None = None
    name: str = "overlayfs"


class ContainerInspect(Named):
    """Answer of ``GET /containers/{id}/json``."""

    id: str
    created: str
    path: str = ""
    args: tuple[str, ...] = ()
    state: State = msgspec.field(default_factory=State)
    image: str = ""
    resolv_conf_path: str = ""
    hostname_path: str = ""
    hosts_path: str = ""
    log_path: str = ""
    name: str = ""
    """With its leading slash."""
    restart_count: int = 0
    driver: str = "overlayfs"
    platform: str = "linux"
    mount_label: str = ""
    process_label: str = ""
    app_armor_profile: str = ""
    exec_ids: tuple[str, ...] | None = msgspec.field(name="ExecIDs", default=None)
    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    graph_driver: GraphDriver = msgspec.field(default_factory=GraphDriver)
    size_rw: int | None = None
    size_root_fs: int | None = msgspec.field(name="SizeRootFs", default=None)
    image_manifest_descriptor: Descriptor | None = None
    mounts: tuple[MountPoint, ...] = ()
    id_mappings: dict[str, list[str]] | None = msgspec.field(name="IDMappings", default=None)
    """``UidMap`` and ``GidMap`` of its user namespace, each ``container:host:size``."""
    config: ContainerConfig = msgspec.field(default_factory=ContainerConfig)
    network_settings: NetworkSettings = msgspec.field(default_factory=NetworkSettings)

    def wire(self) -> dict[str, Any]:
        value = super().wire()
        value["State"] = self.state.wire()
        value["HostConfig"] = self.host_config.wire()
        value["Config"] = self.config.wire()
        value["Mounts"] = [mount.wire() for mount in self.mounts]
        for name in ("SizeRw", "SizeRootFs", "ImageManifestDescriptor", "IDMappings"):
            if value[name] is None:
                del value[name]
        return value


class Port(Named):
    """A port in ``ps``."""

    ip: str = msgspec.field(name="IP", default="")
    private_port: int = 0
    public_port: int = 0
    type: str = "tcp"

    @classmethod
    def omitted_when_empty(cls) -> frozenset[str]:
        return frozenset({"IP", "PublicPort"})


class SummaryHostConfig(Named):
    network_mode: str = ""
    annotations: dict[str, str] | None = None

    @classmethod
    def omitted_when_empty(cls) -> frozenset[str]:
        return frozenset({"NetworkMode", "Annotations"})


class SummaryNetworks(Named):
    networks: dict[str, EndpointSettings] = msgspec.field(default_factory=dict)


class ContainerSummary(Named):
    """One entry of ``GET /containers/json``."""

    id: str
    names: tuple[str, ...] = ()
    """With leading slashes."""
    image: str = ""
    image_id: str = msgspec.field(name="ImageID", default="")
    image_manifest_descriptor: Descriptor | None = None
    command: str = ""
    created: int = 0
    """Seconds since 1970."""
    ports: tuple[Port, ...] = ()
    size_rw: int | None = None
    size_root_fs: int | None = msgspec.field(name="SizeRootFs", default=None)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    state: str = ""
    status: str = ""
    """Readable form: ``Up 2 hours (healthy)``."""
    host_config: SummaryHostConfig = msgspec.field(default_factory=SummaryHostConfig)
    network_settings: SummaryNetworks = msgspec.field(default_factory=SummaryNetworks)
    mounts: tuple[MountPoint, ...] = ()

    def wire(self) -> dict[str, Any]:
        value = super().wire()
        value["Ports"] = [port.wire() for port in self.ports]
        value["Mounts"] = [mount.wire() for mount in self.mounts]
        value["HostConfig"] = self.host_config.wire()
        for name in ("SizeRw", "SizeRootFs", "ImageManifestDescriptor"):
            if not value[name]:
                del value[name]
        return value


class ExecProcess(msgspec.Struct, kw_only=True, omit_defaults=True):
    """``ProcessConfig`` of an exec; these names are in lower case on the wire."""

    tty: bool
    entrypoint: str
    arguments: tuple[str, ...]
    privileged: bool
    user: str = ""


class ExecInspect(Named):
    """Answer of ``GET /exec/{id}/json``."""

    id: str = msgspec.field(name="ID")
    process_config: ExecProcess
    running: bool = False
    exit_code: int | None = None
    open_stdin: bool = False
    open_stderr: bool = False
    open_stdout: bool = False
    can_remove: bool = False
    """Docker's collector sets it just before it forgets an exec."""
    container_id: str = msgspec.field(name="ContainerID", default="")
    detach_keys: bytes = b""
    pid: int = 0


class Created(Named):
    """Answer of ``POST /containers/create`` (201)."""

    id: str
    warnings: tuple[str, ...] = ()


class Updated(Named):
    warnings: tuple[str, ...] | None = None


class Reshaped(Named):
    """Answer of ``POST /portside/containers/{id}/update``."""

    live: tuple[str, ...] = ()
    """Changes that did not restart the container: ``ports``, ``labels``."""
    recreated: tuple[str, ...] = ()
    """What took effect by stopping and starting the container again with the same files,
    identity and name, or will at its next start."""
    restarted: bool = False
    warnings: tuple[str, ...] = ()


class WaitError(Named):
    message: str = ""


class Waited(Named):
    """Answer of ``POST /containers/{id}/wait``."""

    status_code: int = 0
    error: WaitError | None = None

    @classmethod
    def omitted_when_empty(cls) -> frozenset[str]:
        return frozenset({"Error"})


class Top(Named):
    titles: tuple[str, ...] = ()
    processes: tuple[tuple[str, ...], ...] = ()


class ContainersPruned(Named):
    containers_deleted: tuple[str, ...] | None = None
    space_reclaimed: int = 0
