"""Making a container: check what is asked, settle defaults, write the record, then the root.

Crash safety: the record is written first; a start of the engine removes containers whose
writable layer is not there.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from portside.containers import names, spec
from portside.containers.container import Container
from portside.containers.core import Core, make_directory
from portside.containers.merge import merge
from portside.containers.points import PointParser
from portside.containers.record import Record
from portside.containers.request import network_request
from portside.model.container import ContainerConfig, CreateRequest, HostConfig, LogConfig
from portside.model.containerstate import Created
from portside.model.digest import chain_id
from portside.model.errors import InvalidParameter, NotFound
from portside.model.ids import new_id
from portside.model.image import Image
from portside.model.network import EndpointSettings
from portside.model.ociruntime import User
from portside.model.platform import Platform

_POLICIES = ("", "no", "always", "unless-stopped", "on-failure", "on-unhealthy")


@dataclass(frozen=True, slots=True)
class Wish:
    """One create request."""

    name: str
    request: CreateRequest
    platform: Platform | None = None


async def create(core: Core, wish: Wish) -> Created:
    """Make a container that is not running. Raises NotFound, Conflict, InvalidParameter."""
    config = wish.request.config
    host = wish.request.host_config
    if not config.image:
        raise InvalidParameter("No image specified: name the image the container is made of")
    image = core.images.get(config.image, wish.platform)
    config = merge(config, image.run)
    host, warnings = _settle(core, config, host)
    _check(core, config, host)
    identifier = new_id()
    config = _settle_config(config, host, identifier)
    endpoints = _endpoints(host, wish.request)
    record = Record(
        id=identifier,
        name=names.check(wish.name) if wish.name else _free_name(core),
        created_ns=time.time_ns(),
        image=config.image,
        image_id=image.id,
        config=config,
        host=host,
        endpoints=endpoints,
    )
    warnings += core.networks.validate(network_request(core, record))
    # Everything a start would refuse for its form is refused now.
    spec.build(
        spec.SpecInputs(
            id=identifier, config=config, host=host, directory="", user=User(0, 0),
            defaults=core.defaults())
    )  # fmt: skip
    points = PointParser(core, config, host).parse()
    container = Container(record)
    container.exited.set()
    core.add(container)
    try:
        await _make(core, container, image, points)
    except BaseException:
        await _undo(core, container)
        raise
    core.event(container, "create")
    return Created(id=identifier, warnings=tuple(warnings))


async def _make(core: Core, container: Container, image: Image, points: Any) -> None:
    """The container's directory, its writable layer and its volumes."""
    record = container.record
    core.images.acquire(image.id, record.id)
    make_directory(core.directory(record.id))
    diff_ids = image.config.diff_ids
    chain = chain_id(diff_ids) if diff_ids else None
    layers = core.store.layers
    if layers.driver == "overlay":
        layers.create_writable(record.id, chain)
    else:
        await layers.create_writable_copy(record.id, chain)
    if points:
        record.mounts = await points.acquire(record.id)
        core.save(container)


async def _undo(core: Core, container: Container) -> None:
    core.store.layers.remove_writable(container.id)
    core.store.trash.discard(core.directory(container.id))
    for point in container.record.mounts:
        if point.type == "volume":
            core.volumes.release(point.name, container.id)
    core.images.release(container.record.image_id, container.id)
    core.forget(container)


def _free_name(core: Core) -> str:
    for attempt in range(64):
        name = names.generate(attempt // 8)
        if name not in core.by_name:
            return name
    return new_id()[:12]


# -- defaults --------------------------------------------------------------------------------


def _settle(core: Core, config: ContainerConfig, host: HostConfig) -> tuple[HostConfig, list[str]]:
    """The host configuration as ``inspect`` will show it."""
    options, warnings = core.options, list[str]()
    changes: dict[str, Any] = {}
    if host.network_mode in ("", "default"):
        changes["network_mode"] = "none" if config.network_disabled else "bridge"
    if not host.shm_size and host.ipc_mode not in ("host", "none"):
        changes["shm_size"] = options.shm_size
    if not host.ipc_mode:
        changes["ipc_mode"] = options.ipc_mode
    if not host.cgroupns_mode:
        changes["cgroupns_mode"] = options.cgroupns_mode or "private"
    if not host.runtime:
        changes["runtime"] = options.default_runtime
    if not host.restart_policy.name:
        changes["restart_policy"] = type(host.restart_policy)(name="no")
    if not host.log_config.type:
        own = host.log_config.config or {}
        changes["log_config"] = LogConfig(
            type=options.log_driver, config={**options.log_opts, **own}
        )
    elif host.log_config.config is None:
        changes["log_config"] = LogConfig(type=host.log_config.type, config={})
    if host.memory > 0 and host.memory_swap == 0:
        changes["memory_swap"] = host.memory * 2
    if host.cpu_shares < 0:
        changes["cpu_shares"] = 2
    settled = msgspec.structs.replace(host, **changes)
    settled.masked_paths = spec.masked_paths(settled)
    settled.readonly_paths = spec.readonly_paths(settled)
    if host.privileged and host.masked_paths is None:
        settled.masked_paths = settled.readonly_paths = None
    return settled, warnings


def _settle_config(config: ContainerConfig, host: HostConfig, identifier: str) -> ContainerConfig:
    hostname, domain = config.hostname, config.domainname
    if not hostname:
        hostname = os.uname().nodename if host.network_mode == "host" else identifier[:12]
    if host.uts_mode == "host":
        hostname = os.uname().nodename
    return msgspec.structs.replace(config, hostname=hostname, domainname=domain)


def _endpoints(host: HostConfig, request: CreateRequest) -> dict[str, EndpointSettings]:
    wanted = request.networking_config.endpoints_config or {}
    found = {name: (item or EndpointSettings()).wanted() for name, item in wanted.items()}
    mode = host.network_mode
    private = mode not in ("host", "none") and not mode.startswith("container:")
    if not private and any(name not in (mode, "default") for name in found):
        raise InvalidParameter(
            "conflicting options: a container without a network of its own cannot be connected "
            f"to networks (network mode {mode})"
        )
    if private and mode not in found:
        default = found.pop("default", None) if mode == "bridge" else None
        found = {mode: default or EndpointSettings(), **found}
    if request.mac_address and private and not found[mode].mac_address:
        found[mode] = msgspec.structs.replace(found[mode], mac_address=request.mac_address)
    return found if private else {}


# -- checks ----------------------------------------------------------------------------------


def _check(core: Core, config: ContainerConfig, host: HostConfig) -> None:
    """What Docker refuses at creation, in its words."""
    if not config.entrypoint and not config.cmd:
        raise InvalidParameter("no command specified")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an "
            "absolute path"
        )
    check_policy(host)
    if config.stop_signal:
        from portside.containers.signals import parse

        parse(config.stop_signal)
    for variable in config.env or ():
        if not variable or variable.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {variable}")
        if "\0" in variable:
            raise InvalidParameter("invalid environment variable: it contains a zero byte")
    if host.runtime not in ("portside", "runc", "io.containerd.runc.v2", *core.options.runtimes):
        raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
    _check_modes(core, host)
    _check_log(host)
    from portside.containers.limits import check_limits

    check_limits(host)


def check_policy(host: HostConfig) -> None:
    """A restart policy's name, count, and company."""
    policy = host.restart_policy
    if policy.name not in _POLICIES:
        raise InvalidParameter(f"invalid restart policy: unknown policy '{policy.name}'")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidParameter(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def _check_modes(core: Core, host: HostConfig) -> None:
    for kind, mode in (
        ("network", host.network_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode)
    ):  # fmt: skip
        if mode.startswith("container:"):
            other = mode.partition(":")[2]
            if not other:
                raise InvalidParameter(f"invalid {kind} mode: {mode}: name the container")
            try:
                core.find(other)
            except NotFound:
                if kind == "network":
                    continue  # Docker tells it at the start
                raise
    if host.ipc_mode not in ("private", "shareable", "host", "none") and not (
        host.ipc_mode.startswith("container:")
    ):
        raise InvalidParameter(f"invalid IPC mode: {host.ipc_mode}")
    if host.pid_mode not in ("", "host") and not host.pid_mode.startswith("container:"):
        raise InvalidParameter(f"invalid PID mode: {host.pid_mode}")
    if host.uts_mode not in ("", "host"):
        raise InvalidParameter(f"invalid UTS mode: {host.uts_mode}")
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"invalid USER mode: {host.userns_mode}")
    if host.cgroupns_mode not in ("private", "host"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.network_mode.startswith("container:") and host.port_bindings:
        raise InvalidParameter(
            "conflicting options: port publishing and the container type network mode"
        )
    if host.network_mode == "host" and host.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links. This would "
            "result in undefined behavior"
        )


def _check_log(host: HostConfig) -> None:
    from portside.containers.logconfig import check_log_config

    check_log_config(host.log_config)


