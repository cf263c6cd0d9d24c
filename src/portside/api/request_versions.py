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
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.network import EndpointSettings, NetworkCreate

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
    if version < (1, 25):
        host.auto_remove = False
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
    if version >= (1, 42):
        _refuse_foreign_options(mounts)
    _refuse_later(mounts, version)
    host.mounts = tuple(_mount(mount, version) for mount in mounts) if host.mounts else host.mounts
    _endpoints(request, version)
    warnings = []
    if version >= (1, 48) and host.volume_driver and any(map(_has_no_driver, mounts)):
        warnings.append(
            "WARNING: the container-wide volume-driver configuration is ignored for volumes "
            "specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead"
        )
    warnings += _addresses(request, version)
    warnings += _interface_sysctls(request, version)
    if version >= (1, 52):
        warnings += _empty_bindings(host, version)
    return warnings


def _has_no_driver(mount: MountRequest) -> bool:
    """A volume for which the mount itself names no driver."""
    options = mount.volume_options
    named = options is not None and options.driver_config and options.driver_config.name
    return mount.type == "volume" and not named


def _refuse_foreign_options(mounts: tuple[MountRequest, ...]) -> None:
    """Options of another type of mount; API 1.42 on."""
    for mount in mounts:
        for kind, given in (
            ("volume", mount.volume_options),
            ("bind", mount.bind_options),
            ("tmpfs", mount.tmpfs_options),
        ):
            if given is not None and mount.type != kind:
                raise InvalidParameter(
                    f'{kind.title()}Options must not be specified on mount type "{mount.type}"'
                )


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


def _endpoints(request: CreateRequest, version: Version) -> None:
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


def _mode(host: HostConfig) -> str:
    return "bridge" if host.network_mode in ("", "default") else host.network_mode


def _has_own_networks(mode: str) -> bool:
    return mode not in ("host", "none") and not mode.startswith("container:")


def _main_endpoint(request: CreateRequest, version: Version) -> tuple[str, EndpointSettings]:
    """Name and settings of the endpoint that container-wide settings belong to.

    Raises InvalidParameter when the network mode names none of the given endpoints.
    """
    endpoints = request.networking_config.endpoints_config or {}
    mode = _mode(request.host_config)
    if not endpoints:
        return mode, EndpointSettings()
    if version < (1, 44):  # there is one
        name = next(iter(endpoints))
        return name, endpoints[name] or EndpointSettings()
    for name in (mode, "default" if mode == "bridge" else mode):
        if name in endpoints:
            return name, endpoints[name] or EndpointSettings()
    raise InvalidParameter(
        "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"
    )


def _put_endpoint(request: CreateRequest, name: str, settings: EndpointSettings) -> None:
    request.networking_config.endpoints_config = {
        **(request.networking_config.endpoints_config or {}),
        name: settings,
    }


def _interface_sysctls(request: CreateRequest, version: Version) -> list[str]:
    """Settings of the interface eth0 belong to an endpoint: moved there until 1.47.

    Raises SystemFailure, whose status dockerd uses here, for what cannot be moved.
    """
    host = request.host_config
    names = [name for name in host.sysctls or {} if _interface(name).startswith("eth")]
    mode = _mode(host)
    if not names or mode == "host" or mode.startswith("container:"):
        return []
    if version >= (1, 48):
        raise SystemFailure(
            f'interface specific sysctl setting "{names[0]}" must be supplied using driver option '
            f"'{_ENDPOINT_SYSCTLS}'"
        )
    try:
        endpoint, settings = _main_endpoint(request, version)
    except InvalidParameter as err:
        raise InvalidParameter(f"unable to find a network for sysctl {names[0]}: {err}") from None
    for name in names:
        if _interface(name) != "eth0":
            raise SystemFailure(
                f"unable to determine network endpoint for sysctl {name}, use driver option "
                f"'{_ENDPOINT_SYSCTLS}' to set per-interface sysctls"
            )
    given = host.sysctls or {}
    moved = ",".join(f"{name.replace('.eth0.', '.IFNAME.', 1)}={given[name]}" for name in names)
    host.sysctls = {name: value for name, value in given.items() if name not in names} or None
    options = dict(settings.driver_opts or {})
    own = options.get(_ENDPOINT_SYSCTLS)  # after the others: it has priority
    options[_ENDPOINT_SYSCTLS] = moved if own is None else f"{moved},{own}"
    _put_endpoint(request, endpoint, msgspec.structs.replace(settings, driver_opts=options))
    return [
        f'Migrated sysctl "{",".join(names)}" to DriverOpts{{"{_ENDPOINT_SYSCTLS}":"{moved}"}}.'
    ]


def _interface(sysctl: str) -> str:
    """The interface in ``net.ipv4.conf.NAME.x``, ``net.ipv6.neigh.NAME.x`` …"""
    parts = sysctl.split(".", 4)
    return parts[3] if len(parts) == 5 and parts[0] == "net" else ""


def _addresses(request: CreateRequest, version: Version) -> list[str]:
    """The container-wide MAC address went to the endpoints in 1.44, and away in 1.52."""
    address, mode = request.mac_address, _mode(request.host_config)
    if version < (1, 44):
        if not address:
            _drop_endpoint_addresses(request)
            return []
        if not _has_own_networks(mode):
            raise InvalidParameter("conflicting options: mac-address and the network mode")
        name, settings = _main_endpoint(request, version)
        _put_endpoint(request, name, msgspec.structs.replace(settings, mac_address=address))
        return []
    if not address:
        return []
    if version >= (1, 52):
        raise InvalidParameter(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address "
            "instead"
        )
    if _has_own_networks(mode):
        _move_address(request, version, address)
    request.mac_address = ""
    return [
        "The container-wide MacAddress field is now deprecated. It should be specified in "
        "EndpointsConfig instead."
    ]


def _drop_endpoint_addresses(request: CreateRequest) -> None:
    """Before 1.44 endpoints had no MAC address of their own."""
    if request.networking_config.endpoints_config:
        request.networking_config.endpoints_config = {
            name: item and msgspec.structs.replace(item, mac_address="")
            for name, item in request.networking_config.endpoints_config.items()
        }


def _move_address(request: CreateRequest, version: Version, address: str) -> None:
    try:
        name, settings = _main_endpoint(request, version)
    except InvalidParameter as err:
        raise InvalidParameter(
            f"unable to migrate container-wide MAC address to a specific network: {err}"
        ) from None
    if settings.mac_address not in ("", address):
        raise InvalidParameter(
            "the container-wide MAC address must match the endpoint-specific MAC address for the "
            "main network, or be left empty"
        )
    _put_endpoint(request, name, msgspec.structs.replace(settings, mac_address=address))


def _empty_bindings(host: HostConfig, version: Version) -> list[str]:
    """Ports with an empty list of bindings get a free port until 1.52, and none since."""
    empty = sorted(port for port, found in (host.port_bindings or {}).items() if not found)
    if not empty:
        return []
    if version >= (1, 53):
        found = host.port_bindings or {}
        host.port_bindings = {port: items for port, items in found.items() if items}
        return []
    return [
        "Following container port(s) have an empty list of port-bindings: "
        f"{', '.join(empty)}. Starting with API 1.53, such bindings will be discarded."
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


def network(request: NetworkCreate, version: Version) -> NetworkCreate:
    """``POST /networks/create``."""
    if version < (1, 48):
        return msgspec.structs.replace(request, enable_ipv4=None)
    return request
