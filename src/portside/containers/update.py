"""Changing a container that exists: its name, its limits, its networks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from portside.containers import create, mounts, start, stop
from portside.containers.container import Container, MountPoint, Record, keep_copy
from portside.containers.container_networks import network_request
from portside.containers.core import Core, held, name_conflict, unless_ended
from portside.containers.mounts import MountParser, clean
from portside.containers.processes import cgroup_of
from portside.containers.spec import oci_process, oci_resources, oci_spec
from portside.containers.validation import check_limits, check_policy
from portside.model.container import (
    ContainerConfig,
    HostConfig,
    MountRequest,
    ReshapeRequest,
    Resources,
    UpdateRequest,
)
from portside.model.containerstate import Reshaped
from portside.model.errors import Conflict, InvalidParameter, NotFound, NotRunning
from portside.model.network import PortBinding
from portside.store.db import NameTaken
from portside.store.failpoints import reach

# -- name ------------------------------------------------------------------------------------


async def rename_container(core: Core, container: Container, new: str) -> None:
    """Give it another name. Raises InvalidParameter, Conflict in Docker's words."""
    if not new:
        raise InvalidParameter("Neither old nor new names may be empty")
    try:
        name = create.check_name(f"/{new.removeprefix('/')}")
    except InvalidParameter as err:
        raise InvalidParameter(f"Error when allocating new name: {err}") from None
    async with held(core, container):
        record = container.record
        old = record.name
        if name == old:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        holder = core.by_name.get(name)
        if holder is not None:
            raise Conflict(f"Error when allocating new name: {name_conflict(name, holder)}")
        collection = core.store.db.collection("container", Record)
        try:
            with core.store.db.transaction():
                collection.rename(old, name)
                record.name = name
                collection.put(record.id, record)
                keep_copy(core.directory(record.id), record)
                reach("container.rename:written")
        except BaseException as err:
            record.name = old
            if isinstance(err, NameTaken):
                words = name_conflict(name, err.holder)
                raise Conflict(f"Error when allocating new name: {words}") from None
            raise
        del core.by_name[old]
        core.by_name[name] = record.id
        if record.running:
            core.networks.rename(record.id, name)
        core.event(container, "rename", {"oldName": f"/{old}"})


# -- limits ----------------------------------------------------------------------------------


def check_update(request: UpdateRequest) -> None:
    """Whether a request can be for any container. Raises InvalidParameter."""
    host, _ = _settled(request)
    check_policy(msgspec.structs.replace(host, restart_policy=request.restart_policy))


def _settled(request: UpdateRequest) -> tuple[HostConfig, list[str]]:
    """The requested limits alone, as far as this machine can enforce them; warnings. As in
    Docker, they are not compared with the limits that stay."""
    given = {name: getattr(request, name) for name in _changed(request)}
    return check_limits(msgspec.structs.replace(HostConfig(), **given), update=True)


async def update_container(core: Core, container: Container, request: UpdateRequest) -> list[str]:
    """Change limits and restart policy, live where it runs; warnings."""
    async with held(core, container):
        record = container.record
        if record.removing or record.dead:
            raise Conflict(f'Container {record.id} is marked for removal and cannot be "update".')
        settled, warnings = _settled(request)
        changes = {name: getattr(settled, name) for name in _changed(request) & _UPDATED}
        host = msgspec.structs.replace(record.host, **changes)
        if host.pids_limit is not None and host.pids_limit <= 0:
            host.pids_limit = 0  # unlimited, and shown as such
        if request.restart_policy.name:
            if host.auto_remove and request.restart_policy.name != "no":
                raise Conflict(
                    f"Cannot update container {record.id}: Restart policy cannot be updated "
                    "because AutoRemove is enabled for the container"
                )
            host.restart_policy = request.restart_policy
        check_policy(host)
        if "memory" in changes and "memory_swap" not in changes:
            _check_swap(record, host.memory)
        _check_cpus(record, changes)
        if record.running:
            group = cgroup_of(core, container)
            limits = oci_resources.update_resources(host, record.host)
            with suppress(NotRunning), unless_ended(container):  # the next start has them
                await asyncio.to_thread(group.update, limits)
            reach("container.update:applied")
        record.host = host
        core.save(container)
        core.event(container, "update")
        return warnings


_UPDATED = {
    "cpu_shares", "memory", "nano_cpus", "blkio_weight", "blkio_weight_device",
    "blkio_device_read_bps", "blkio_device_write_bps", "blkio_device_read_iops",
    "blkio_device_write_iops", "cpu_period", "cpu_quota", "cpu_realtime_period",
    "cpu_realtime_runtime", "cpuset_cpus", "cpuset_mems", "memory_reservation", "memory_swap",
    "pids_limit",
}  # fmt: skip
"""The limits that an update changes; Docker ignores the others."""


def _changed(request: UpdateRequest) -> set[str]:
    """The limits a request gives; zero and null leave a limit as it is."""
    plain = Resources()
    fields = Resources.__struct_fields__
    return {name for name in fields if getattr(request, name) != getattr(plain, name)}


def _check_cpus(record: Record, changes: Mapping[str, object]) -> None:
    """``--cpus`` and a quota of one's own exclude one another, also one after the other."""
    has = record.host
    conflicts = (
        ("cpu_period", has.nano_cpus, "CPU Period cannot be updated as NanoCPUs"),
        ("cpu_quota", has.nano_cpus, "CPU Quota cannot be updated as NanoCPUs"),
        ("nano_cpus", has.cpu_period, "Nano CPUs cannot be updated as CPU Period"),
        ("nano_cpus", has.cpu_quota, "Nano CPUs cannot be updated as CPU Quota"),
    )
    for name, set_already, words in conflicts:
        if changes.get(name) and set_already:
            raise Conflict(
                f"Cannot update container {record.id}: Conflicting options: {words} "
                "has already been set"
            )


def _check_swap(record: Record, memory: int) -> None:
    """Also without a limit for both, as in Docker: ``memory_swap`` is then 0 or -1."""
    if record.host.memory_swap < memory:
        raise Conflict(
            f"Cannot update container {record.id}: "
            "Memory limit should be smaller than already set memoryswap limit, update the "
            "memoryswap at the same time"
        )


# -- what Docker fixes at creation ---------------------------------------------------------


Bindings = dict[str, tuple[PortBinding, ...] | None]


async def reshape_container(core: Core, container: Container, request: ReshapeRequest) -> Reshaped:
    """Make the changes. Raises InvalidParameter, Conflict; each kind of change is made whole
    or not at all."""
    live = tuple(
        name
        for name, wanted in (
            ("ports", _changes_ports(request)),
            ("labels", request.labels is not None),
        )
        if wanted
    )
    deep = tuple(
        name
        for name, wanted in (
            ("environment", request.env is not None),
            ("mounts", bool(request.binds or request.mounts or request.unmount)),
        )
        if wanted
    )
    async with held(core, container):
        _check_reshape(container.record, deep, request.restart)
        running = container.record.running
        if deep and not running:
            await _change_deep(core, container, request)
        warnings = await _change_live(core, container, request)
    if deep and running:
        await _again(core, container, request)
    core.event(container, "update")
    return Reshaped(
        live=live, recreated=deep, restarted=bool(deep and running), warnings=tuple(warnings)
    )


def _check_reshape(record: Record, deep: tuple[str, ...], restart: bool) -> None:
    if record.removing or record.dead:
        raise Conflict(f'Container {record.id} is marked for removal and cannot be "update".')
    if deep and record.alive and not restart:
        raise Conflict(
            f"the {' and '.join(deep)} of container {record.name} can only change by stopping it "
            "and starting it again (its files, ID and name stay): say so with --restart-now, "
            "or stop it first"
        )


# -- ports and labels --------------------------------------------------------------------------


async def _change_live(core: Core, container: Container, request: ReshapeRequest) -> list[str]:
    record = container.record
    host, config, warnings = record.host, record.config, list[str]()
    if request.labels is not None:
        labels = {**(config.labels or {}), **request.labels}
        kept = {key: value for key, value in labels.items() if value is not None}
        config = msgspec.structs.replace(config, labels=kept)
    if _changes_ports(request):
        host, config = _with_ports(host, config, request)
        changed = msgspec.structs.replace(record, host=host, config=config)
        attachment = network_request(core, changed)
        warnings = core.networks.validate(attachment)
        if record.running:
            await core.networks.republish(attachment)
    record.host, record.config = host, config
    core.save(container)
    return warnings


def _changes_ports(request: ReshapeRequest) -> bool:
    asked = (request.port_bindings, request.unpublish, request.publish_all_ports)
    return any(value is not None for value in asked)


def _with_ports(
    host: HostConfig, config: ContainerConfig, request: ReshapeRequest
) -> tuple[HostConfig, ContainerConfig]:
    if host.network_mode == "host" or host.network_mode.startswith("container:"):
        raise Conflict(f"a container with network mode {host.network_mode} publishes no ports")
    given = {_port(name): items for name, items in (request.port_bindings or {}).items()}
    bindings: Bindings = {_port(name): items for name, items in (host.port_bindings or {}).items()}
    removed = [
        *map(_port, request.unpublish or ()),
        *(n for n, items in given.items() if not items),
    ]
    for name in removed:
        if name not in bindings:
            raise NotFound(f"port {name} of the container is not published")
        bindings[name] = None
    for name, items in given.items():
        present = bindings.get(name) or ()
        bindings[name] = (*present, *(item for item in items or () if item not in present))
    everything = host.publish_all_ports
    if request.publish_all_ports is not None:
        everything = request.publish_all_ports
    exposed: dict[str, dict[str, str]] = {name: {} for name, items in given.items() if items}
    return (
        msgspec.structs.replace(
            host,
            port_bindings={name: items for name, items in bindings.items() if items},
            publish_all_ports=everything,
        ),
        msgspec.structs.replace(config, exposed_ports={**(config.exposed_ports or {}), **exposed}),
    )


def _port(text: str) -> str:
    """A port with its protocol."""
    return text if "/" in text else f"{text}/tcp"


# -- environment and mounts ----------------------------------------------------------------------


async def _again(core: Core, container: Container, request: ReshapeRequest) -> None:
    """Stop it, change it, start it."""
    container.kept = True
    try:
        await stop.stop_container(core, container)
        async with held(core, container):
            await _change_deep(core, container, request)
        await start.start_container(core, container)
    finally:
        container.kept = False


async def _change_deep(core: Core, container: Container, request: ReshapeRequest) -> None:
    record = container.record
    config = record.config
    if request.env is not None:
        config = msgspec.structs.replace(
            config, env=oci_process.merge(config.env or (), _checked(request.env))
        )
    gone = {clean(target) for target in request.unmount or ()}
    _check_mounted(record, gone)
    wanted = HostConfig(binds=request.binds, mounts=request.mounts)
    found = MountParser(core, ContainerConfig(), wanted).parse()
    fresh = await found.acquire(record.id) if found else ()
    replaced = gone | {point.destination for point in fresh}
    kept = tuple(point for point in record.mounts if point.destination not in replaced)
    host = _with_mounts(record.host, request, replaced)
    try:
        _try(core, record, config, host)
    except BaseException:
        _release(core, record, fresh, record.mounts)
        raise
    dropped = [point for point in record.mounts if point.destination in replaced]
    record.config, record.host, record.mounts = config, host, (*kept, *fresh)
    core.save(container)
    _release(core, record, dropped, record.mounts)


def _checked(env: tuple[str, ...]) -> tuple[str, ...]:
    for entry in env:
        if not entry or entry.startswith("=") or "\0" in entry:
            raise InvalidParameter(f"invalid environment variable: {entry!r}")
    return env


def _check_mounted(record: Record, gone: set[str]) -> None:
    missing = gone - {point.destination for point in record.mounts} - set(record.host.tmpfs or {})
    if missing:
        raise NotFound(f"nothing is mounted at {sorted(missing)[0]} in container {record.name}")


def _with_mounts(host: HostConfig, request: ReshapeRequest, replaced: set[str]) -> HostConfig:
    """The mounts as ``inspect`` shows them, with the old ones for the same places gone."""
    binds = [text for text in host.binds or () if _bind_target(text) not in replaced]
    mounts = [item for item in host.mounts or () if clean(item.target) not in replaced]
    tmpfs = {path: text for path, text in (host.tmpfs or {}).items() if clean(path) not in replaced}
    more: tuple[MountRequest, ...] = request.mounts or ()
    return msgspec.structs.replace(
        host,
        binds=(*binds, *(request.binds or ())) or None,
        mounts=(*mounts, *more) or None,
        tmpfs=tmpfs or None,
    )


def _bind_target(text: str) -> str:
    parts = text.split(":")
    return clean(parts[1] if len(parts) > 1 else parts[0])


def _try(core: Core, record: Record, config: ContainerConfig, host: HostConfig) -> None:
    """Whatever a start would refuse for its form is refused now."""
    oci_spec.build_spec(
        oci_spec.SpecInputs(
            id=record.id, config=config, host=host, directory="", defaults=core.defaults()
        )
    )


def _release(
    core: Core, record: Record, dropped: list[MountPoint] | tuple[MountPoint, ...],
    used: tuple[MountPoint, ...],
) -> None:  # fmt: skip
    """Give back volumes that no mount of the container names any more."""
    names = set(mounts.volume_names(used))
    for name in mounts.volume_names(dropped):
        if name not in names:
            core.volumes.release(name, record.id)
