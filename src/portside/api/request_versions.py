"""Requests in the API version of their client.

Services take requests in the newest version's words. A function here takes a decoded request and
makes of it what it meant when its version was the newest: fields that came later are dropped,
defaults that changed are those of then. The public version history of the Engine API names the
changes; where it is silent on an error's words, dockerd 28.5.2 was asked.
"""

from __future__ import annotations

import msgspec

from portside.model.container import (
    CreateRequest,
    ExecConfig,
    ExecStart,
    HostConfig,
    MountRequest,
    Resources,
    UpdateRequest,
)
from portside.model.errors import InvalidParameter
from portside.model.network import EndpointSettings

Version = tuple[int, int]
BLKIO_DEVICES = (
    "blkio_weight_device", "blkio_device_read_bps", "blkio_device_write_bps",
    "blkio_device_read_iops", "blkio_device_write_iops",
)  # fmt: skip
_ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"


def create(request: CreateRequest, version: Version, cgroup_version: int) -> list[str]:
    """``POST /containers/create``; the warnings that belong to the version.

    Raises InvalidParameter for what the version must not ask for.
    """
    host = request.host_config
    mounts = host.mounts or ()
    if version < (1, 40):
        host.kernel_memory_tcp = 0
        host.ipc_mode = host.ipc_mode or "shareable"
    if version < (1, 41) and cgroup_version == 1:
        host.cgroupns_mode = host.cgroupns_mode or "host"
    if version < (1, 42):
        host.console_size = (0, 0)
    else:
        host.kernel_memory = 0
    if version < (1, 43):
        host.annotations = None
    if version < (1, 44) and request.healthcheck is not None:
        request.healthcheck = msgspec.structs.replace(request.healthcheck, start_interval=0)
    if version >= (1, 52):
        host.kernel_memory_tcp = 0
    _refuse_later(mounts, version)
    host.mounts = tuple(_mount(mount, version) for mount in mounts) if host.mounts else host.mounts
    warnings = _endpoints(request, version)
    warnings += _addresses(request, version)
    if version >= (1, 48) and host.volume_driver and any(m.type == "volume" for m in mounts):
        warnings.append(
            "WARNING: the container-wide volume-driver configuration is ignored for volumes "
            "specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead"
        )
    if version >= (1, 52):
        warnings += _empty_bindings(host)
    return warnings


def _refuse_later(mounts: tuple[MountRequest, ...], version: Version) -> None:
    """Refuse options of newer versions that users rely on."""
    for mount in mounts:
        bind, volume = mount.bind_options, mount.volume_options
        if version < (1, 44) and bind is not None and bind.read_only_force_recursive:
            raise InvalidParameter("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
        if version < (1, 45) and volume is not None and volume.subpath:
            raise InvalidParameter("VolumeOptions.Subpath needs API v1.45 or newer")
        if version < (1, 48) and mount.type == "image":
            raise InvalidParameter('Mount type "Image" needs API v1.48 or newer')


def _mount(mount: MountRequest, version: Version) -> MountRequest:
    """Drop the options of a bind mount that later versions added."""
    bind = mount.bind_options
    later = ((1, 40), "non_recursive"), ((1, 42), "create_mountpoint")
    dropped = {name: False for since, name in later if version < since}
    if bind is None or mount.type != "bind" or not dropped:
        return mount
    return msgspec.structs.replace(mount, bind_options=msgspec.structs.replace(bind, **dropped))


def _endpoints(request: CreateRequest, version: Version) -> list[str]:
    """Networks of the container: one before 1.44, without priorities before 1.48."""
    wanted = request.networking_config.endpoints_config or {}
    if len(wanted) > 1 and version < (1, 44):
        raise InvalidParameter(
            f"Container cannot be created with multiple network endpoints: {', '.join(wanted)}"
        )
    if version < (1, 48) and wanted:
        request.networking_config.endpoints_config = {
            name: item and msgspec.structs.replace(item, gw_priority=0)
            for name, item in wanted.items()
        }
    if version < (1, 48):
        return _migrated_sysctls(request)
    for name in request.host_config.sysctls or {}:
        if _interface(name).startswith("eth"):
            raise InvalidParameter(
                f'interface specific sysctl setting "{name}" must be supplied using driver option '
                f"'{_ENDPOINT_SYSCTLS}'"
            )
    return []


def _migrated_sysctls(request: CreateRequest) -> list[str]:
    """Settings of the interface eth0 belong to the endpoint of the network mode."""
    host = request.host_config
    moved = {
        name: value for name, value in (host.sysctls or {}).items() if _interface(name) == "eth0"
    }
    mode = host.network_mode if host.network_mode not in ("", "default") else "bridge"
    if not moved or mode in ("host", "none") or mode.startswith("container:"):
        return []
    texts = [f"{name.replace('.eth0.', '.IFNAME.')}={value}" for name, value in moved.items()]
    endpoints = dict(request.networking_config.endpoints_config or {})
    key = next((name for name in (mode, host.network_mode) if name in endpoints), mode)
    settings = endpoints.get(key) or EndpointSettings()
    options = dict(settings.driver_opts or {})
    options[_ENDPOINT_SYSCTLS] = ",".join(
        filter(None, (options.get(_ENDPOINT_SYSCTLS, ""), *texts))
    )
    endpoints[key] = msgspec.structs.replace(settings, driver_opts=options)
    request.networking_config.endpoints_config = endpoints
    host.sysctls = {k: v for k, v in (host.sysctls or {}).items() if k not in moved} or None
    return [
        f'Migrated sysctl "{name}" to DriverOpts{{"{_ENDPOINT_SYSCTLS}":"{text}"}}.'
        for name, text in zip(moved, texts, strict=True)
    ]


def _interface(sysctl: str) -> str:
    """The interface in ``net.ipv4.conf.NAME.x``, ``net.ipv6.neigh.NAME.x`` …"""
    parts = sysctl.split(".")
    if len(parts) < 5 or parts[0] != "net" or parts[2] not in ("conf", "neigh"):
        return ""
    return parts[3]


def _addresses(request: CreateRequest, version: Version) -> list[str]:
    """The container-wide MAC address went to the endpoints in 1.44, and away in 1.52."""
    if not request.mac_address or version < (1, 44):
        return []
    if version >= (1, 52):
        raise InvalidParameter(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address "
            "instead"
        )
    return [
        "The container-wide MacAddress field is now deprecated. It should be specified in "
        "EndpointsConfig instead."
    ]


def _empty_bindings(host: HostConfig) -> list[str]:
    empty = sorted(port for port, found in (host.port_bindings or {}).items() if not found)
    if not empty:
        return []
    return [
        f"The following container ports have an empty list of port bindings: {', '.join(empty)}. "
        "They are published on a free port; a future API version will ignore them."
    ]


def read_only_non_recursive(version: Version) -> bool:
    """Before 1.44, read-only bind mounts left the mounts below them writable."""
    return version < (1, 44)


def update(request: UpdateRequest, version: Version) -> UpdateRequest:
    """``POST /containers/{id}/update``."""
    if version < (1, 40):
        request.pids_limit = None
    if version >= (1, 42):
        request.kernel_memory = 0
    if version >= (1, 52):
        request.kernel_memory_tcp = 0
    if version < (1, 55):
        plain = Resources()
        for name in BLKIO_DEVICES:
            setattr(request, name, getattr(plain, name))
    return request


def exec_config(request: ExecConfig, version: Version) -> ExecConfig:
    """``POST /containers/{id}/exec``."""
    if version < (1, 42):
        request.console_size = None
    return request


def exec_start(request: ExecStart, version: Version) -> ExecStart:
    """``POST /exec/{id}/start``."""
    if version < (1, 42):
        request.console_size = None
    return request
