"""The documents about a container for ``ps`` and ``inspect``."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from portside.containers import container_networks, user_mapping
from portside.containers.container import Container
from portside.containers.core import Core, unless_removed
from portside.containers.record import Record
from portside.containers.spec import security_options
from portside.containers.spec.oci_spec import apparmor_of
from portside.kernel import apparmor
from portside.model.container import HostConfig
from portside.model.containerstate import (
    ContainerInspect,
    GraphDriver,
    Health,
    State,
)
from portside.model.errors import Conflict
from portside.model.golang.timestamps import rfc3339_or_never
from portside.model.idmap import short
from portside.model.network import EndpointSettings, NetworkSettings

# -- inspect ---------------------------------------------------------------------------------


async def inspect_container(
    core: Core, container: Container, size: bool = False
) -> ContainerInspect:
    record = container.record
    directory = core.directory(record.id)
    command = command_of(record)
    found = ContainerInspect(
        id=record.id,
        created=rfc3339_or_never(record.created_ns),
        path=command[0] if command else "",
        args=command[1:],
        state=state_of(container),
        image=record.image_id,
        image_manifest_descriptor=record.image_manifest,
        resolv_conf_path=str(directory / "resolv.conf") if record.started_ns else "",
        hostname_path=str(directory / "hostname") if record.started_ns else "",
        hosts_path=str(directory / "hosts") if record.started_ns else "",
        log_path=_log_path(core, record),
        name=f"/{record.name}",
        restart_count=record.restart_count,
        driver=core.store.layers.snapshotter,
        platform=record.platform,
        mount_label=record.mount_label,
        process_label=record.process_label,
        app_armor_profile=_apparmor_profile(core, record),
        exec_ids=tuple(key for key, item in container.execs.items() if item.running) or None,
        host_config=_host(core, record),
        graph_driver=GraphDriver(data=None, name=core.store.layers.snapshotter),
        mounts=tuple(point.shown() for point in record.mounts),
        id_mappings=_id_mappings(core, record),
        config=record.config,
        network_settings=_networks(core, record),
    )
    if size:
        with unless_removed(container):
            found.size_rw = await core.store.layers.size_rw(record.id)
            found.size_root_fs = found.size_rw + root_size(core, record.id)
    return found


def _apparmor_profile(core: Core, record: Record) -> str:
    """As in dockerd: before the first start the requested profile, then the applied one."""
    options = security_options.parse_security(record.host.security_opt)
    if not record.started_ns:
        return options.apparmor
    if not apparmor.enabled():
        return ""
    return apparmor_of(options, record.host.privileged, core.defaults())


def _id_mappings(core: Core, record: Record) -> dict[str, list[str]] | None:
    with suppress(Conflict):  # the start reports it
        found = user_mapping.of(core, record)
        if found is not None:
            return {"UidMap": short(found.uids), "GidMap": short(found.gids)}
    return None


def _host(core: Core, record: Record) -> HostConfig:
    if record.host.links is None:
        return record.host
    return msgspec.structs.replace(record.host, links=container_networks.shown_links(core, record))


def root_size(core: Core, identifier: str) -> int:
    return core.store.layers.size_rootfs(core.store.layers.chain_of_writable(identifier))


def command_of(record: Record) -> tuple[str, ...]:
    return (*(record.config.entrypoint or ()), *(record.config.cmd or ()))


def _log_path(core: Core, record: Record) -> str:
    if not record.started_ns or record.host.log_config.type != "json-file":
        return ""
    return core.log_path(record.id)


def state_of(container: Container) -> State:
    record = container.record
    status = record.status
    health = None
    if record.config.healthcheck is not None and record.health_status:
        health = Health(
            status=record.health_status,
            failing_streak=record.health_streak,
            log=record.health_log,
        )
    return State(
        status=status,
        running=record.alive,
        paused=record.paused,
        restarting=record.restarting,
        oom_killed=record.oom_killed,
        dead=record.dead,
        pid=record.pid,
        exit_code=record.exit_code,
        error=record.error,
        started_at=rfc3339_or_never(record.started_ns),
        finished_at=rfc3339_or_never(record.finished_ns),
        health=health,
    )


def _networks(core: Core, record: Record) -> NetworkSettings:
    settings = core.networks.settings(record.id) if record.running else None
    if settings is not None:
        key = f"/proc/{record.pid}/ns/net" if settings.sandbox_id else ""  # another's
        return msgspec.structs.replace(settings, sandbox_key=key)
    return NetworkSettings(networks=endpoints_of(core, record))


def endpoints_of(core: Core, record: Record) -> dict[str, EndpointSettings]:
    """The networks of a container that does not run; those it has been on with their IDs."""
    endpoints = record.endpoints
    if not endpoints and record.host.network_mode in ("host", "none"):
        endpoints = {record.host.network_mode: EndpointSettings()}
    if not record.started_ns:
        return endpoints
    return {
        name: msgspec.structs.replace(item, network_id=item.network_id or core.networks.id_of(name))
        for name, item in endpoints.items()
    }
