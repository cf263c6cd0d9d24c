"""Making a container: check what is asked, settle defaults, write the record, then the root.

Crash safety: the record and its writable layer are stored in one step. A record that still
says ``making`` (its volumes come after), or has no root, is undone when the engine starts.
"""

from __future__ import annotations

import os
import posixpath
import random
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from portside.containers import container_networks, kept_ids, selinux_labels, user_mapping
from portside.containers.container import Container, Record, keep_copy
from portside.containers.container_networks import network_request
from portside.containers.core import Core, make_directory
from portside.containers.docker_root import name_layer
from portside.containers.mounts import MountParser, MountPoints
from portside.containers.spec import oci_spec
from portside.containers.validation import check, check_limits, check_request
from portside.kernel.cgroup.limits import swap_default
from portside.model.container import ContainerConfig, CreateRequest, HostConfig, LogConfig
from portside.model.containerstate import Created
from portside.model.errors import InvalidParameter, NotFound, SystemFailure
from portside.model.ids import new_id
from portside.model.image import Healthcheck, Image, RunConfig
from portside.model.network import EndpointSettings
from portside.model.ociruntime import User
from portside.model.platform import Platform
from portside.model.rootfs import Rootfs
from portside.store.failpoints import reach
from portside.store.layer_lookup import kind_at
from portside.store.mapped_copies import MISSING


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """One create request."""

    name: str
    request: CreateRequest
    platform: Platform | None = None
    read_only_non_recursive: bool = False


async def create_container(core: Core, options: CreateOptions) -> Created:
    """Make a container that is not running. Raises NotFound, Conflict, InvalidParameter."""
    config = options.request.config
    host = options.request.host_config
    if not config.image:
        if not config.entrypoint and not config.cmd:
            raise InvalidParameter("no command specified")
        raise InvalidParameter("No image specified: name the image the container is made of")
    check_request(options.request)
    image = core.images.get(config.image, options.platform)
    if not image.is_unpacked:
        image = await core.images.unpack(image)
    config = merge_config(config, image.run)
    host, warnings = _settle(core, config, host)
    check(core, config, host)
    if not config.user and (kept := kept_ids.parse_keep_id(host.userns_mode)):
        config = msgspec.structs.replace(config, user=f"{kept.uid}:{kept.gid}")
    identifier = new_id()
    config = _settle_config(config, host, identifier)
    host, endpoints = container_networks.on_user_network(host, _endpoints(host, options.request))
    record = Record(
        id=identifier,
        name=check_name(options.name) if options.name else _free_name(core),
        created_ns=time.time_ns(),
        image=config.image,
        image_id=image.id,
        image_manifest=image.manifest,
        config=config,
        host=host,
        endpoints=endpoints,
        link_targets=container_networks.link_targets(core, host),
    )
    _check_working_dir(core, image, config.working_dir)
    record.id_mappings = user_mapping.allocate(core, host, config.user)
    selinux_labels.assign(core, record)
    warnings += core.networks.validate(network_request(core, record))
    if record.id_mappings is not None and core.store.layers.copies.needed():
        warnings.append(f"{MISSING}: the image's layers are copied for this container")
    warnings += _platform_warning(image, options.platform)
    # Everything a start would refuse for its form is refused now.
    oci_spec.build_spec(
        oci_spec.SpecInputs(
            id=identifier, config=config, host=host, directory="", user=User(0, 0),
            defaults=core.defaults())
    )  # fmt: skip
    points = MountParser(core, config, host).parse(options.read_only_non_recursive)
    record.making = bool(points)
    container = Container(record)
    container.exited.set()
    try:
        await _make(core, container, image, points)
    except BaseException:
        _undo(core, container)
        raise
    core.event(container, "create")
    return Created(id=identifier, warnings=tuple(warnings))


async def _make(core: Core, container: Container, image: Image, points: MountPoints) -> None:
    """The record with its layer, in one step; then the volumes."""
    record, writables = container.record, core.store.writables
    chain = image.chain
    with core.store.db.transaction():
        core.insert(record)
        core.images.acquire(image, record.id)
        make_directory(core.directory(record.id))
        keep_copy(core.directory(record.id), record)
        name_layer(core.directory(record.id), record.id)
        if core.store.layers.driver == "overlay":
            rootfs = writables.create(record.id, chain, is_volatile=record.host.auto_remove)
            selinux_labels.label_writable(core, rootfs)
            _mark(rootfs)
    core.add(container)
    reach("container.create:recorded")
    if core.store.layers.driver != "overlay":
        _mark(await writables.create_copy(record.id, chain))
    if points:
        record.mounts, record.making = (
            await points.acquire(record.id, user_mapping.of(core, record)),
            False,
        )
        keep_copy(core.directory(record.id), record)
        core.save(container)
        reach("container.create:mounted")


def _check_working_dir(core: Core, image: Image, path: str) -> None:
    """Refuse a working directory that is a file of the image, or lies beneath one."""
    if path.strip("/"):
        try:
            kind = kind_at(core.store.layers.directories(image.chain), path)
        except NotADirectoryError:
            raise SystemFailure(f"lstat {path}: not a directory") from None
        if kind not in (None, stat.S_IFDIR):
            raise SystemFailure(f"Cannot mkdir: {path} is not a directory")


def _mark(rootfs: Rootfs) -> None:
    """``/.dockerenv``, by which programs know that they are in a container."""
    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError):  # the image has one
        fd = os.open(f"{rootfs.upper}/.dockerenv", flags, 0o700)
        os.fchmod(fd, 0o755)  # the mode Docker gives it, whatever the umask is
        os.close(fd)


def _undo(core: Core, container: Container) -> None:
    """Remove what was made; the step that failed released its volumes."""
    if container.id in core.containers:
        core.forget(container)
    core.store.trash.discard(core.directory(container.id))


def _platform_warning(image: Image, wanted: Platform | None) -> list[str]:
    host = Platform.host()
    built = image.config.platform
    if wanted is not None or not built.architecture or host.matches(built):
        return []
    return [
        f"The requested image's platform ({built}) does not match the detected "
        f"host platform ({host}) and no specific platform was requested"
    ]


def _free_name(core: Core) -> str:
    for attempt in range(64):
        name = generate_name(attempt // 8)
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
    for mode in ("network_mode", "ipc_mode", "pid_mode"):
        kind, _, name = getattr(host, mode).partition(":")
        if kind == "container" and name:
            with suppress(NotFound):  # reported at the start, as in Docker
                changes[mode] = f"container:{core.find(name).id}"  # it may be renamed
    if not host.shm_size:
        changes["shm_size"] = options.shm_size
    if not host.ipc_mode:
        changes["ipc_mode"] = options.ipc_mode
    if not host.cgroupns_mode:
        changes["cgroupns_mode"] = options.cgroupns_mode or "private"
    if not host.runtime:
        changes["runtime"] = options.default_runtime
    if not host.restart_policy.name:
        changes["restart_policy"] = msgspec.structs.replace(host.restart_policy, name="no")
    if not host.log_config.type:
        own = host.log_config.config or {}
        changes["log_config"] = LogConfig(
            type=options.log_driver, config={**options.log_opts, **own}
        )
    elif host.log_config.config is None:
        changes["log_config"] = LogConfig(type=host.log_config.type, config={})
    changes["memory_swap"] = swap_default(host.memory, host.memory_swap)
    if host.pids_limit is not None and host.pids_limit <= 0:
        changes["pids_limit"] = None
    if implied := selinux_labels.implied_options(core, host):
        changes["security_opt"] = (*(host.security_opt or ()), *implied)
    settled, found = check_limits(msgspec.structs.replace(host, **changes))
    warnings += found
    settled.masked_paths = oci_spec.masked_paths(settled)
    settled.readonly_paths = oci_spec.readonly_paths(settled)
    if host.privileged and host.masked_paths is None:
        settled.masked_paths = settled.readonly_paths = None
    return settled, warnings


def _settle_config(config: ContainerConfig, host: HostConfig, identifier: str) -> ContainerConfig:
    hostname, domain = config.hostname, config.domainname
    if not hostname:
        hostname = os.uname().nodename if host.network_mode == "host" else identifier[:12]
    place = config.working_dir
    if place:
        place = posixpath.normpath("/" + place.lstrip("/"))
    return msgspec.structs.replace(config, hostname=hostname, domainname=domain, working_dir=place)


def _endpoints(host: HostConfig, request: CreateRequest) -> dict[str, EndpointSettings]:
    """The networks to connect to. The default one is among them unless others were named."""
    wanted = request.networking_config.endpoints_config or {}
    found: dict[str, EndpointSettings] = {}
    for name, item in wanted.items():
        if item is None:
            raise InvalidParameter(f"no EndpointSettings for {name}")
        found[name] = item.wanted()
    mode = host.network_mode
    private = mode not in ("host", "none") and not mode.startswith("container:")
    if not private and any(name not in (mode, "default") for name in found):
        raise InvalidParameter(
            "conflicting options: a container without a network of its own cannot be connected "
            f"to networks (network mode {mode})"
        )
    if mode.startswith("container:"):
        return {}
    by_default = request.host_config.network_mode in ("", "default")
    if by_default and found.keys() - {mode, "default"}:
        return found
    if mode not in found:
        default = found.pop("default", None) if mode == "bridge" or not private else None
        found = {mode: default or EndpointSettings(), **found}
    return found


# -- names ---------------------------------------------------------------------------------


_ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(f"/?{_ALLOWED}+", re.ASCII)

_MANNERS = (
    "able airy amber ample brisk bright calm candid clear clever cosy crisp dapper daring deft "
    "eager early easy even fair fleet fond frank fresh gentle glad golden grand green happy hardy "
    "honest humble jolly keen kind lively loyal lucid lucky mellow merry mild modest neat nimble "
    "noble patient plucky polite proud quick quiet rapid ready royal rustic serene sharp silent "
    "sleek smart snug solid sound spry steady still stout sunny sure swift tender tidy trim true "
    "upbeat vivid warm wary wise witty young zesty"
).split()
_VESSELS = (
    "anchor barge beacon bollard bosun bowsprit brig buoy cabin capstan caravel clipper compass "
    "coracle corvette cutter davit dinghy dock dory felucca ferry fender frigate galleon galley "
    "gangway halyard harbour hawser helm hold hull isle jetty junk kayak keel ketch lagoon lantern "
    "lateen lighter lugger mast mizzen mole moor outrigger packet pier pilot pinnace port prow "
    "punt quay raft reef rigging rudder sail schooner sextant skiff skipper sloop spar stern "
    "tender tide tiller trawler tug wharf wherry winch yacht yawl"
).split()


def check_name(name: str) -> str:
    """The name without its slash; raises InvalidParameter with Docker's text."""
    if not _NAME.fullmatch(name):
        raise InvalidParameter(f"Invalid container name ({name}), only {_ALLOWED} are allowed")
    return name.removeprefix("/")


def generate_name(attempt: int = 0) -> str:
    """A name such as ``calm_harbour``; later attempts carry a digit."""
    name = f"{random.choice(_MANNERS)}_{random.choice(_VESSELS)}"
    return f"{name}{random.randrange(10 ** min(attempt, 9))}" if attempt else name


# -- the image's configuration --------------------------------------------------------------------


def merge_config(config: ContainerConfig, image: RunConfig) -> ContainerConfig:
    """``config`` with what it leaves open taken from the image (Docker's rules).

    An entrypoint of the user's own drops the image's command; an empty string as the only
    word of an entrypoint clears it.
    """
    changes: dict[str, Any] = {
        "user": config.user or image.user,
        "working_dir": config.working_dir or image.working_dir,
        "stop_signal": config.stop_signal or image.stop_signal,
        "exposed_ports": _union(image.exposed_ports, config.exposed_ports),
        "volumes": _union(image.volumes, config.volumes),
        "labels": _union(image.labels, config.labels) or {},
        "env": _environment(image.env, config.env),
        "healthcheck": _health(config.healthcheck, image.healthcheck),
        "shell": config.shell or image.shell,
        "on_build": config.on_build,
    }
    if config.stop_timeout is None:
        changes["stop_timeout"] = image.stop_timeout
    if not config.entrypoint and not config.cmd:
        changes["cmd"] = image.cmd
        changes["args_escaped"] = config.args_escaped or image.args_escaped
    if config.entrypoint is None:
        changes["entrypoint"] = image.entrypoint
    elif config.entrypoint == ("",):
        changes["entrypoint"] = None
    return msgspec.structs.replace(config, **changes)


def _union(base: dict[str, Any] | None, over: dict[str, Any] | None) -> dict[str, Any] | None:
    if not over:
        return base
    return {**(base or {}), **over}


def _environment(
    base: tuple[str, ...] | None, over: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """The user's variables first, then the image's that were not given."""
    if not base:
        return over
    names = {entry.partition("=")[0] for entry in over or ()}
    return (*(over or ()), *(entry for entry in base if entry.partition("=")[0] not in names))


def _health(own: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    if image is None or own is None:
        return own or image
    return msgspec.structs.replace(
        own,
        test=own.test or image.test,
        interval=own.interval or image.interval,
        timeout=own.timeout or image.timeout,
        start_period=own.start_period or image.start_period,
        start_interval=own.start_interval or image.start_interval,
        retries=own.retries or image.retries,
    )


def config_of(config: ContainerConfig) -> RunConfig:
    """A container's configuration as an image's (``commit``)."""
    return RunConfig(
        user=config.user,
        exposed_ports=config.exposed_ports,
        env=config.env,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        healthcheck=config.healthcheck,
        args_escaped=config.args_escaped,
        volumes=config.volumes,
        working_dir=config.working_dir,
        on_build=config.on_build,
        labels=config.labels,
        stop_signal=config.stop_signal,
        stop_timeout=config.stop_timeout,
        shell=config.shell,
    )
