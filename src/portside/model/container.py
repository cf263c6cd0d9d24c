"""Configuration of a container, with Docker's wire names (Engine API 1.24 to 1.55).

``ContainerConfig`` travels with the image, ``HostConfig`` belongs to this host, and
``Resources`` is the part of it that ``update`` can change. Lists and maps may be None, as
Go's nil; numbers are 0 when they were not given, except where null has its own meaning.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.golang import json_reading
from portside.model.image import Healthcheck
from portside.model.network import EndpointSettings, PortBinding

_T = TypeVar("_T", bound=msgspec.Struct)


class Named(msgspec.Struct, kw_only=True, rename="pascal"):
    """A JSON object with Go's field names; those that differ from ours are given one by one."""

    def wire(self) -> dict[str, Any]:
        """As Docker writes it: fields marked there as ``omitempty`` are left out when empty."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        for name in self.omitted_when_empty():
            if not value.get(name):
                value.pop(name, None)
        return value

    @classmethod
    def omitted_when_empty(cls) -> frozenset[str]:
        return frozenset()


class ContainerConfig(Named):
    """``Config``: independent of the host."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    """Seconds; None means the engine's default of 10, -1 waits for ever."""
    shell: tuple[str, ...] | None = None

    @classmethod
    def omitted_when_empty(cls) -> frozenset[str]:
        return frozenset(
            {"ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "MacAddress"}
            | {"StopSignal", "Shell"}
        )

    def wire(self) -> dict[str, Any]:
        value = super().wire()
        if self.healthcheck is not None:
            value["Healthcheck"] = msgspec.to_builtins(self.healthcheck)  # also an empty one
        if self.stop_timeout is None:
            del value["StopTimeout"]
        if value["Labels"] is None:
            value["Labels"] = {}
        return value


class Ulimit(Named):
    name: str = ""
    hard: int = 0
    soft: int = 0


class DeviceMapping(Named):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Named):
    """``--gpus`` and CDI devices."""

    driver: str = ""
    count: int = 0
    """-1 is all."""
    device_ids: tuple[str, ...] | None = msgspec.field(name="DeviceIDs", default=None)
    capabilities: tuple[tuple[str, ...], ...] | None = None
    options: dict[str, str] | None = None


Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class WeightDevice(Named):
    path: str = ""
    weight: Unsigned = 0


class ThrottleDevice(Named):
    path: str = ""
    rate: Unsigned = 0
    """Bytes or operations in a second."""


class RestartPolicy(Named):
    name: str = ""
    """``no``, ``always``, ``unless-stopped``, ``on-failure``, and ours: ``on-unhealthy``."""
    maximum_retry_count: int = 0


class LogConfig(Named):
    type: str = ""
    config: dict[str, str] | None = None


class BindOptions(Named, omit_defaults=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    idmap: str = ""
    """Beyond Docker: whose files are whose (``auto``, or the mapping in full)."""


class DriverConfig(Named, omit_defaults=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Named, omit_defaults=True):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    subpath: str = ""
    driver_config: DriverConfig | None = None


class TmpfsOptions(Named, omit_defaults=True):
    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] | None = None


class ImageOptions(Named, omit_defaults=True):
    subpath: str = ""


class MountRequest(Named, omit_defaults=True):
    """One ``--mount``."""

    type: str = ""
    """bind, volume, tmpfs or image."""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None


class Resources(Named):
    """Limits, as ``create`` and ``update`` take them. Sizes in bytes, CPU times in µs."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    """Processors times 10^9 (``--cpus``)."""
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: tuple[WeightDevice, ...] | None = None
    blkio_device_read_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_write_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_read_iops: tuple[ThrottleDevice, ...] | None = msgspec.field(
        name="BlkioDeviceReadIOps", default=None
    )
    blkio_device_write_iops: tuple[ThrottleDevice, ...] | None = msgspec.field(
        name="BlkioDeviceWriteIOps", default=None
    )
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[DeviceMapping, ...] | None = None
    device_cgroup_rules: tuple[str, ...] | None = None
    device_requests: tuple[DeviceRequest, ...] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = msgspec.field(name="KernelMemoryTCP", default=0)
    memory_reservation: int = 0
    memory_swap: int = 0
    """Memory plus swap; -1 is unlimited, 0 means twice the memory."""
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    """None leaves it alone; 0 and -1 are unlimited."""
    ulimits: tuple[Ulimit, ...] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = msgspec.field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = msgspec.field(name="IOMaximumBandwidth", default=0)


class HostConfig(Resources):
    """``HostConfig``: what depends on the host, and who may do what."""

    binds: tuple[str, ...] | None = None
    container_id_file: str = msgspec.field(name="ContainerIDFile", default="")
    log_config: LogConfig = msgspec.field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, tuple[PortBinding, ...] | None] | None = None
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] | None = None
    console_size: tuple[int, int] = (0, 0)
    """Height, width."""
    annotations: dict[str, str] | None = None
    cap_add: tuple[str, ...] | None = None
    cap_drop: tuple[str, ...] | None = None
    cgroupns_mode: str = ""
    dns: tuple[str, ...] | None = None
    dns_options: tuple[str, ...] | None = None
    dns_search: tuple[str, ...] | None = None
    extra_hosts: tuple[str, ...] | None = None
    group_add: tuple[str, ...] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: tuple[str, ...] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = msgspec.field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    mounts: tuple[MountRequest, ...] | None = None
    masked_paths: tuple[str, ...] | None = None
    """None means the defaults; an empty list means none."""
    readonly_paths: tuple[str, ...] | None = None
    init: bool | None = None

    @classmethod
    def omitted_when_empty(cls) -> frozenset[str]:
        return frozenset(
            {"Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Runtime", "Mounts"}
            | {"KernelMemory", "KernelMemoryTCP"}
        )

    def wire(self) -> dict[str, Any]:
        value = super().wire()
        if self.init is None:
            del value["Init"]
        return value


class NetworkingConfig(Named):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class CreateRequest(ContainerConfig):
    """Body of ``POST /containers/create``: a configuration with its host's part."""

    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    networking_config: NetworkingConfig = msgspec.field(default_factory=NetworkingConfig)

    @property
    def config(self) -> ContainerConfig:
        """The configuration alone."""
        fields = ContainerConfig.__struct_fields__
        return ContainerConfig(**{name: getattr(self, name) for name in fields})


class UpdateRequest(Resources):
    """Body of ``POST /containers/{id}/update``."""

    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)


class ReshapeRequest(Named):
    """Body of ``POST /portside/containers/{id}/update``: what Docker cannot change.

    What is absent stays. Labels are laid over what the container has; null takes one away.
    """

    port_bindings: dict[str, tuple[PortBinding, ...] | None] | None = None
    """Added to what is published; null takes all of a port away, as ``unpublish`` does."""
    unpublish: tuple[str, ...] | None = None
    """Ports of the container (``80/tcp``) that are published no more; done first."""
    publish_all_ports: bool | None = None
    env: tuple[str, ...] | None = None
    """``NAME=value`` sets, ``NAME`` alone takes away."""
    labels: dict[str, str | None] | None = None
    binds: tuple[str, ...] | None = None
    """As ``-v``, replacing a mount at the same place."""
    mounts: tuple[MountRequest, ...] | None = None
    unmount: tuple[str, ...] | None = None
    """Destinations that are mounted no more."""
    restart: bool = False
    """A running container may be stopped and started again for it."""


class ExecConfig(Named):
    """Body of ``POST /containers/{id}/exec``."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[int, ...] | None = None
    """Height and width; what is missing is 0, what is more is not looked at, as Go reads it."""
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: tuple[str, ...] | None = None
    working_dir: str = ""
    cmd: tuple[str, ...] | None = None


class ExecStart(Named):
    """Body of ``POST /exec/{id}/start``."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, ...] | None = None
    """Height and width; what is missing is 0, what is more is not looked at, as Go reads it."""


def decode_create(body: bytes) -> CreateRequest:
    """The body of a create request. Raises InvalidParameter."""
    return decode_as(body, CreateRequest)


def decode_as(body: bytes, kind: type[_T]) -> _T:
    """A request's body (CreateRequest, ExecConfig, …), read as leniently as Go reads it.

    Raises InvalidParameter.
    """
    if not body.strip():
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    return json_reading.decode_body(body, kind)
