"""The system group of the Engine API with Docker's wire names: version, info, disk usage."""

from __future__ import annotations

from typing import Any

import msgspec

from portside.model.log_drivers import FILES, REMOTE

API_VERSION = (1, 55)
"""The newest Engine API version spoken."""
MIN_API_VERSION = (1, 24)
DOCKER_RELEASE = "29.4.0"
"""The release of Docker that clients may take the engine for: tools compare the server's version
(cAdvisor wants 1.0, Testcontainers 1.6), which is not about this program's age. The version of
the engine itself is that of its component in ``GET /version``."""


def api_text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


class Component(msgspec.Struct, frozen=True):
    """One part of the engine in ``GET /version``."""

    name: str = msgspec.field(name="Name")
    version: str = msgspec.field(name="Version")
    details: dict[str, str] = msgspec.field(name="Details", default_factory=dict)


class PlatformName(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="Name", default="")


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /version``."""

    platform: PlatformName = msgspec.field(name="Platform", default_factory=PlatformName)
    components: tuple[Component, ...] = msgspec.field(name="Components", default=())
    version: str = msgspec.field(name="Version")
    api_version: str = msgspec.field(name="ApiVersion", default=api_text(API_VERSION))
    min_api_version: str = msgspec.field(name="MinAPIVersion", default=api_text(MIN_API_VERSION))
    git_commit: str = msgspec.field(name="GitCommit", default="")
    go_version: str = msgspec.field(name="GoVersion", default="")
    """The language the engine runs on: clients print it in this place."""
    os: str = msgspec.field(name="Os", default="linux")
    arch: str = msgspec.field(name="Arch")
    kernel_version: str = msgspec.field(name="KernelVersion", default="")
    build_time: str = msgspec.field(name="BuildTime", default="")


class PluginsInfo(msgspec.Struct, frozen=True):
    volume: tuple[str, ...] = msgspec.field(name="Volume", default=("local",))
    network: tuple[str, ...] = msgspec.field(
        name="Network", default=("bridge", "host", "ipvlan", "macvlan", "null")
    )
    authorization: tuple[str, ...] | None = msgspec.field(name="Authorization", default=None)
    log: tuple[str, ...] = msgspec.field(name="Log", default=tuple(sorted(FILES + REMOTE)))


class IndexInfo(msgspec.Struct, frozen=True):
    """One registry of ``RegistryConfig.IndexConfigs``."""

    name: str = msgspec.field(name="Name")
    mirrors: tuple[str, ...] = msgspec.field(name="Mirrors", default=())
    secure: bool = msgspec.field(name="Secure", default=True)
    official: bool = msgspec.field(name="Official", default=False)


class RegistryConfig(msgspec.Struct, frozen=True):
    insecure_cidrs: tuple[str, ...] = msgspec.field(name="InsecureRegistryCIDRs", default=())
    index_configs: dict[str, IndexInfo] = msgspec.field(name="IndexConfigs", default_factory=dict)
    mirrors: tuple[str, ...] = msgspec.field(name="Mirrors", default=())


class RuntimeInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    path: str = msgspec.field(name="path", default="")
    args: tuple[str, ...] = msgspec.field(name="runtimeArgs", default=())
    status: dict[str, str] = msgspec.field(name="status", default_factory=dict)
    """What the runtime says of itself, by key (API 1.44)."""


class SwarmInfo(msgspec.Struct, frozen=True):
    """An engine outside a swarm."""

    node_id: str = msgspec.field(name="NodeID", default="")
    node_addr: str = msgspec.field(name="NodeAddr", default="")
    local_node_state: str = msgspec.field(name="LocalNodeState", default="inactive")
    control_available: bool = msgspec.field(name="ControlAvailable", default=False)
    error: str = msgspec.field(name="Error", default="")
    remote_managers: tuple[Any, ...] | None = msgspec.field(name="RemoteManagers", default=None)


class Commit(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID", default="")


class PoolInfo(msgspec.Struct, frozen=True):
    base: str = msgspec.field(name="Base")
    size: int = msgspec.field(name="Size")


class FirewallInfo(msgspec.Struct, frozen=True):
    driver: str = msgspec.field(name="Driver", default="nftables")
    info: tuple[tuple[str, str], ...] = msgspec.field(name="Info", default=())


class DeviceInfo(msgspec.Struct, frozen=True):
    """A device that a container can be given by name."""

    id: str = msgspec.field(name="ID")
    source: str = msgspec.field(name="Source", default="cdi")


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /info``, in the order Docker writes it. ``mem_total`` is in bytes."""

    id: str = msgspec.field(name="ID")
    containers: int = msgspec.field(name="Containers", default=0)
    containers_running: int = msgspec.field(name="ContainersRunning", default=0)
    containers_paused: int = msgspec.field(name="ContainersPaused", default=0)
    containers_stopped: int = msgspec.field(name="ContainersStopped", default=0)
    images: int = msgspec.field(name="Images", default=0)
    driver: str = msgspec.field(name="Driver", default="")
    driver_status: tuple[tuple[str, str], ...] = msgspec.field(name="DriverStatus", default=())
    plugins: PluginsInfo = msgspec.field(name="Plugins", default_factory=PluginsInfo)
    memory_limit: bool = msgspec.field(name="MemoryLimit", default=True)
    swap_limit: bool = msgspec.field(name="SwapLimit", default=True)
    kernel_memory_tcp: bool = msgspec.field(name="KernelMemoryTCP", default=False)
    cpu_cfs_period: bool = msgspec.field(name="CpuCfsPeriod", default=True)
    cpu_cfs_quota: bool = msgspec.field(name="CpuCfsQuota", default=True)
    cpu_shares: bool = msgspec.field(name="CPUShares", default=True)
    cpu_set: bool = msgspec.field(name="CPUSet", default=True)
    pids_limit: bool = msgspec.field(name="PidsLimit", default=True)
    ipv4_forwarding: bool = msgspec.field(name="IPv4Forwarding", default=True)
    bridge_nf_iptables: bool = msgspec.field(name="BridgeNfIptables", default=False)
    bridge_nf_ip6tables: bool = msgspec.field(name="BridgeNfIp6tables", default=False)
    debug: bool = msgspec.field(name="Debug", default=False)
    n_fd: int = msgspec.field(name="NFd", default=0)
    oom_kill_disable: bool = msgspec.field(name="OomKillDisable", default=False)
    n_goroutines: int = msgspec.field(name="NGoroutines", default=0)
    """Running tasks of the engine."""
    system_time: str = msgspec.field(name="SystemTime", default="")
    logging_driver: str = msgspec.field(name="LoggingDriver", default="json-file")
    cgroup_driver: str = msgspec.field(name="CgroupDriver", default="cgroupfs")
    cgroup_version: str = msgspec.field(name="CgroupVersion", default="1")
    n_events_listener: int = msgspec.field(name="NEventsListener", default=0)
    kernel_version: str = msgspec.field(name="KernelVersion", default="")
    operating_system: str = msgspec.field(name="OperatingSystem", default="")
    os_version: str = msgspec.field(name="OSVersion", default="")
    os_type: str = msgspec.field(name="OSType", default="linux")
    architecture: str = msgspec.field(name="Architecture", default="")
    index_server_address: str = msgspec.field(
        name="IndexServerAddress", default="https://index.docker.io/v1/"
    )
    registry_config: RegistryConfig = msgspec.field(
        name="RegistryConfig", default_factory=RegistryConfig
    )
    n_cpu: int = msgspec.field(name="NCPU", default=0)
    mem_total: int = msgspec.field(name="MemTotal", default=0)
    generic_resources: tuple[Any, ...] | None = msgspec.field(name="GenericResources", default=None)
    docker_root_dir: str = msgspec.field(name="DockerRootDir", default="")
    http_proxy: str = msgspec.field(name="HttpProxy", default="")
    https_proxy: str = msgspec.field(name="HttpsProxy", default="")
    no_proxy: str = msgspec.field(name="NoProxy", default="")
    name: str = msgspec.field(name="Name", default="")
    labels: tuple[str, ...] = msgspec.field(name="Labels", default=())
    experimental_build: bool = msgspec.field(name="ExperimentalBuild", default=False)
    server_version: str = msgspec.field(name="ServerVersion", default="")
    runtimes: dict[str, RuntimeInfo] = msgspec.field(name="Runtimes", default_factory=dict)
    default_runtime: str = msgspec.field(name="DefaultRuntime", default="portside")
    swarm: SwarmInfo = msgspec.field(name="Swarm", default_factory=SwarmInfo)
    live_restore: bool = msgspec.field(name="LiveRestoreEnabled", default=True)
    isolation: str = msgspec.field(name="Isolation", default="")
    init_binary: str = msgspec.field(name="InitBinary", default="portside-init")
    containerd_commit: Commit = msgspec.field(name="ContainerdCommit", default_factory=Commit)
    runc_commit: Commit = msgspec.field(name="RuncCommit", default_factory=Commit)
    init_commit: Commit = msgspec.field(name="InitCommit", default_factory=Commit)
    security_options: tuple[str, ...] = msgspec.field(name="SecurityOptions", default=())
    product_license: str = msgspec.field(name="ProductLicense", default="")
    default_address_pools: tuple[PoolInfo, ...] = msgspec.field(
        name="DefaultAddressPools", default=()
    )
    firewall_backend: FirewallInfo = msgspec.field(
        name="FirewallBackend", default_factory=FirewallInfo
    )
    cdi_spec_dirs: tuple[str, ...] = msgspec.field(name="CDISpecDirs", default=())
    discovered_devices: tuple[DeviceInfo, ...] = msgspec.field(name="DiscoveredDevices", default=())
    warnings: tuple[str, ...] | None = msgspec.field(name="Warnings", default=None)

    def wire(self, version: tuple[int, int]) -> dict[str, Any]:
        """As an API version shows it."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        for name in ("OSVersion", "ProductLicense", "DefaultAddressPools", "DiscoveredDevices"):
            if not value[name]:
                del value[name]
        if version >= (1, 53):
            value["NRI"] = None  # node resource plugins are not supported
        if version >= (1, 52):
            del value["KernelMemoryTCP"]
        if version >= (1, 50):
            del value["BridgeNfIptables"], value["BridgeNfIp6tables"]
        else:
            value.pop("DiscoveredDevices", None)
        if version < (1, 49):
            self._before_1_49(value, version)
        if version < (1, 44):
            del value["CDISpecDirs"]
            for runtime in value["Runtimes"].values():
                runtime.pop("status", None)
        if version < (1, 42):
            value["KernelMemory"] = value["KernelMemoryTCP"]
        if version < (1, 25):
            value["ExecutionDriver"] = "<not supported>"
        return value

    @staticmethod
    def _before_1_49(value: dict[str, Any], version: tuple[int, int]) -> None:
        del value["FirewallBackend"]
        for commit in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            value[commit]["Expected"] = value[commit]["ID"]
        empty: list[str] | None = [] if version < (1, 48) else None
        value["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] = empty
        value["RegistryConfig"]["AllowNondistributableArtifactsHostnames"] = empty
