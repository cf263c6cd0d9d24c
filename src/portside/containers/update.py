"""Changing a container that exists: its name, its limits, its networks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from portside.containers import container_names, spec_resources
from portside.containers.container import Container
from portside.containers.core import Core, name_conflict
from portside.containers.ended import held, unless_ended
from portside.containers.record import Record, keep_copy
from portside.containers.resource_checks import check_limits
from portside.containers.start import cgroup_of
from portside.containers.validation import check_policy
from portside.model.container import Resources, UpdateRequest
from portside.model.errors import Conflict, Forbidden, InvalidParameter, NotFound, NotRunning
from portside.model.network import EndpointSettings
from portside.store.db import NameTaken
from portside.store.failpoints import reach

# -- name ------------------------------------------------------------------------------------


async def rename(core: Core, container: Container, new: str) -> None:
    """Give it another name. Raises InvalidParameter, Conflict in Docker's words."""
    if not new:
        raise InvalidParameter("Neither old nor new names may be empty")
    try:
        name = container_names.check(f"/{new.removeprefix('/')}")
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


async def update(core: Core, container: Container, wish: UpdateRequest) -> list[str]:
    """Change limits and restart policy, live where it runs; warnings."""
    async with held(core, container):
        record = container.record
        if record.removing or record.dead:
            raise Conflict(f'Container {record.id} is marked for removal and cannot be "update".')
        changes = _changed(wish)
        host = msgspec.structs.replace(record.host, **changes)
        if host.pids_limit is not None and host.pids_limit <= 0:
            host.pids_limit = 0  # unlimited, and shown as such
        if wish.restart_policy.name:
            if host.auto_remove and wish.restart_policy.name != "no":
                raise Conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the "
                    "container"
                )
            host.restart_policy = wish.restart_policy
        check_policy(host)
        if "memory" in changes and "memory_swap" not in changes:
            _check_swap(record, host.memory)
        _check_cpus(record, changes)
        host, warnings = check_limits(host, update=True)
        if record.running:
            group = cgroup_of(core, container)
            limits = spec_resources.update_resources(host, record.host)
            with suppress(NotRunning), unless_ended(container):  # the next start has them
                await asyncio.to_thread(group.update, limits)
            reach("container.update:applied")
        record.host = host
        core.save(container)
        core.event(container, "update")
        return warnings


def _changed(wish: UpdateRequest) -> dict[str, object]:
    """The limits a request gives; zero and null leave a limit as it is."""
    plain = Resources()
    fields = Resources.__struct_fields__
    return {
        name: getattr(wish, name) for name in fields if getattr(wish, name) != getattr(plain, name)
    }


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
    swap = record.host.memory_swap
    if 0 < swap < memory:
        raise Conflict(
            f"Cannot update container {record.id}: "
            "Memory limit should be smaller than already set memoryswap limit, update the "
            "memoryswap at the same time"
        )


# -- networks --------------------------------------------------------------------------------


async def network_connect(
    core: Core, container: Container, network: str, config: EndpointSettings | None
) -> None:
    """Connect to a network, at once when it runs. Raises Forbidden, Conflict, NotFound."""
    async with held(core, container):
        record = container.record
        mode = record.host.network_mode
        if record.removing or record.dead:
            raise Forbidden(f"Container {record.id} is marked for removal and cannot be "
                            "connected or disconnected to the network.")  # fmt: skip
        if mode == "host" or mode.startswith("container:"):
            raise InvalidParameter(
                "container sharing network namespace with another container or host cannot be "
                "connected to any other network"
            )
        if not record.running:
            _check_private(core, record, network)
        settings = await core.networks.connect(network, record.id, config)
        wanted = (config or EndpointSettings()).wanted()
        wanted = msgspec.structs.replace(wanted, network_id=settings.network_id)
        record.endpoints = {**record.endpoints, _key(core, network): wanted}
        core.save(container)


async def network_disconnect(core: Core, container: Container, network: str, force: bool) -> None:
    """Disconnect from a network. Raises Forbidden, NotFound in Docker's words."""
    async with held(core, container):
        record = container.record
        mode = record.host.network_mode
        if mode == "host" or mode.startswith("container:"):
            raise InvalidParameter(
                "container cannot be disconnected from host network or connected to host network"
            )
        key = _connected(core, record, network)
        if record.running:
            await core.networks.disconnect(network, record.id, force)
        else:
            _tell_disconnect(core, record, network)
        record.endpoints = {name: item for name, item in record.endpoints.items() if name != key}
        core.save(container)


def _check_private(core: Core, record: Record, network: str) -> None:
    """The network ``none`` goes with no other."""
    wanted = core.networks.inspect(network)
    if any(name != wanted.name and "none" in (name, wanted.name) for name in record.endpoints):
        raise InvalidParameter(
            "container cannot be connected to multiple networks with one of the networks in "
            "private (none) mode"
        )


def _tell_disconnect(core: Core, record: Record, network: str) -> None:
    """The event, which a running container's networks tell themselves."""
    try:
        found = core.networks.inspect(network)
    except NotFound:
        return
    about = {"container": record.id, "name": found.name, "type": found.driver}
    core.publish("network", "disconnect", found.id, about)


def _key(core: Core, network: str) -> str:
    return core.networks.inspect(network).name


def _connected(core: Core, record: Record, network: str) -> str:
    """Under which name the record knows a network that it is connected to."""
    try:
        found = core.networks.inspect(network)
        names_of = {found.name, found.id, network}
    except NotFound:  # removed while the container was stopped: it is still known by name
        if network not in record.endpoints:
            raise
        names_of = {network}
    for name, item in record.endpoints.items():
        if name in names_of or (item.network_id and item.network_id in names_of):
            return name
    the = "" if record.running else "the "  # Docker's words
    raise Forbidden(f"container {record.id} is not connected to {the}network {network}")
