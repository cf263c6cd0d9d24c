"""The documents about a container: all of it for ``inspect``, a line of each for ``ps``, and the
filters that choose them."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import msgspec

from portside.containers import container_networks, user_mapping
from portside.containers.container import Container, Record
from portside.containers.core import Core, unless_removed
from portside.containers.spec import oci_process, security_options
from portside.containers.spec.oci_spec import apparmor_of
from portside.kernel import apparmor
from portside.model import filters as matching
from portside.model.container import ContainerConfig, HostConfig
from portside.model.containerstate import (
    ContainerInspect,
    ContainerSummary,
    GraphDriver,
    Health,
    Port,
    State,
    SummaryHostConfig,
    SummaryNetworks,
)
from portside.model.errors import Conflict, InvalidParameter, InvalidText, NotFound
from portside.model.filters import Filters
from portside.model.golang.durations import human_duration
from portside.model.golang.numbers import atoi, parse_uint
from portside.model.golang.timestamps import rfc3339_or_never
from portside.model.idmap import short
from portside.model.network import EndpointSettings, NetworkRequest, NetworkSettings

# -- inspect ---------------------------------------------------------------------------------


async def inspect_container(
    core: Core, container: Container, size: bool = False
) -> ContainerInspect:
    """Everything about a container; with ``size`` also the bytes of its layer and of its root.

    Raises NotFound when it is removed meanwhile.
    """
    record = container.record
    files = _network_files(core, container)
    command = command_of(record)
    found = ContainerInspect(
        id=record.id,
        created=rfc3339_or_never(record.created_ns),
        path=command[0] if command else "",
        args=command[1:],
        state=state_of(container),
        image=record.image_id,
        image_manifest_descriptor=record.image_manifest,
        resolv_conf_path=str(files / "resolv.conf") if files else "",
        hostname_path=str(files / "hostname") if files else "",
        hosts_path=str(files / "hosts") if files else "",
        log_path=_log_path(core, record),
        name=f"/{record.name}",
        restart_count=record.restart_count,
        driver=core.store.layers.snapshotter,
        platform=record.platform,
        mount_label=record.mount_label,
        process_label=record.process_label,
        app_armor_profile=_apparmor_profile(core, record),
        exec_ids=tuple(
            key for key, item in container.execs.items() if item.running or not item.started
        )
        or None,
        host_config=_host(core, record),
        graph_driver=GraphDriver(data=None, name=core.store.layers.snapshotter),
        mounts=tuple(point.shown() for point in record.mounts),
        id_mappings=_id_mappings(core, record),
        config=_config(record),
        network_settings=_networks(core, record),
    )
    if size:
        with unless_removed(container):
            found.size_rw = await core.store.writables.size_rw(record.id)
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
    """With the ulimits that the daemon's defaults add, and links as they are now."""
    host = record.host
    if default := core.defaults().ulimits:
        ulimits = tuple(oci_process.merged_ulimits(host.ulimits, default))
        host = msgspec.structs.replace(host, ulimits=ulimits)
    if host.links is None:
        return host
    return msgspec.structs.replace(host, links=container_networks.shown_links(core, record))


def _config(record: Record) -> ContainerConfig:
    """With the MAC address that was asked for on the main network, as clients before 1.52 expect
    it."""
    endpoint = record.endpoints.get(record.host.network_mode)
    if endpoint is None or not endpoint.mac_address or record.config.mac_address:
        return record.config
    return msgspec.structs.replace(record.config, mac_address=endpoint.mac_address)


def root_size(core: Core, identifier: str) -> int:
    return core.store.layers.size_rootfs(core.store.writables.chain_of(identifier))


def command_of(record: Record) -> tuple[str, ...]:
    return (*(record.config.entrypoint or ()), *(record.config.cmd or ()))


def _network_files(core: Core, container: Container) -> Path | None:
    """Directory of its ``hosts`` and similar files, which may be another container's; None
    before the first start. A start that failed leaves them too."""
    record = container.record
    owner = record.id
    with suppress(NotFound, InvalidParameter):
        owner = container_networks.network_owner(core, container).id
    directory = core.directory(owner)
    made = record.started_ns or (record.error and (directory / "hosts").exists())
    return directory if made else None


def _log_path(core: Core, record: Record) -> str:
    if not (record.started_ns or record.error) or record.host.log_config.type != "json-file":
        return ""
    return core.log_path(record.id)


def state_of(container: Container) -> State:
    """The container's state as ``inspect`` shows it; its times are RFC 3339."""
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
    endpoints = endpoints_of(core, record)
    default = endpoints.get("bridge")
    return NetworkSettings(
        networks=endpoints, mac_address=default.mac_address if default is not None else ""
    )


def endpoints_of(core: Core, record: Record) -> dict[str, EndpointSettings]:
    """The networks of a container that does not run; those it has been on with their IDs."""
    endpoints = record.endpoints
    if not endpoints and record.host.network_mode in ("host", "none"):
        endpoints = {record.host.network_mode: EndpointSettings()}
    if not record.started_ns:
        return endpoints
    request = NetworkRequest(
        container_id=record.id, name=record.name, hostname=record.config.hostname
    )
    return {name: core.networks.kept(name, request, item) for name, item in endpoints.items()}


# -- ps --------------------------------------------------------------------------------------

FILTERS = frozenset(
    ("ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label",
     "name", "network", "publish", "since", "status", "volume")
)  # fmt: skip
PRUNE_FILTERS = frozenset(("label", "label!", "until"))
_STATES = frozenset(("created", "running", "paused", "restarting", "removing", "exited", "dead"))
_HEALTH = ("none", "starting", "healthy", "unhealthy")


def status_text(record: Record, now: float) -> str:
    """``Up 2 hours (healthy)``, ``Exited (0) 3 days ago``."""
    state = record.status
    if state in ("running", "paused"):
        up = f"Up {human_duration(now - record.started_ns / 1e9)}"
        if state == "paused":
            return f"{up} (Paused)"
        if record.health_status in ("starting", "healthy", "unhealthy"):
            word = record.health_status
            return f"{up} ({'health: starting' if word == 'starting' else word})"
        return up
    if state == "created":
        return "Created"
    if state == "removing":
        return "Removal In Progress"
    if state == "dead":
        return "Dead"
    ago = human_duration(now - record.finished_ns / 1e9) if record.finished_ns else "some time"
    word = "Restarting" if state == "restarting" else "Exited"
    return f"{word} ({record.exit_code}) {ago} ago"


def summary(
    core: Core, container: Container, now: float, images: dict[str, str]
) -> ContainerSummary:
    """``images`` keeps what image names mean, for one answer with many containers."""
    record = container.record
    if record.image not in images:
        images[record.image] = _image_id(core, record.image)
    settings = core.networks.settings(record.id) if record.running else None
    return ContainerSummary(
        id=record.id,
        names=(f"/{record.name}",),
        # by its ID when that name means another image now
        image=record.image if images[record.image] == record.image_id else record.image_id,
        image_id=record.image_id,
        image_manifest_descriptor=record.image_manifest,
        command=" ".join(map(_quoted, command_of(record))),
        created=record.created_ns // 10**9,
        ports=ports(settings, record),
        labels=record.config.labels or {},
        state=record.status,
        status=status_text(record, now),
        host_config=SummaryHostConfig(
            network_mode=record.host.network_mode, annotations=record.host.annotations
        ),
        network_settings=SummaryNetworks(
            networks=settings.networks if settings is not None else endpoints_of(core, record)
        ),
        mounts=tuple(point.shown() for point in record.mounts),
    )


def _image_id(core: Core, name: str) -> str:
    """ID of the image that a name has now; empty without one."""
    try:
        return core.images.get(name).id
    except (NotFound, InvalidParameter):
        return ""


def _quoted(word: str) -> str:
    """Docker puts words with spaces into single quotes, whatever else they hold."""
    return f"'{word}'" if " " in word else word


def ports(settings: NetworkSettings | None, record: Record) -> tuple[Port, ...]:
    """Published ports, one for each binding, then exposed ones without a public port."""
    found: list[Port] = []
    published = settings.ports if settings is not None else {}
    for text, bindings in published.items():
        number, _, protocol = text.partition("/")
        kind = protocol or "tcp"
        if not bindings:
            found.append(Port(private_port=int(number), type=kind))
        for binding in bindings or ():
            found.append(
                Port(
                    ip=binding.host_ip,
                    private_port=int(number),
                    public_port=int(binding.host_port or 0),
                    type=kind,
                )
            )
    return tuple(found)


def choose(core: Core, filters: Filters, *, all: bool, limit: int) -> list[Container]:
    """The containers that ``ps`` shows, newest first. Raises InvalidParameter."""
    check_filters(filters)
    everything = all or limit > 0 or bool(filters.get("status"))
    chosen = _Chooser(core, filters)
    found = sorted(core.containers.values(), key=lambda c: c.record.created_ns, reverse=True)
    kept = [
        container
        for container in found
        if (everything or container.record.alive) and chosen.accepts(container)
    ]
    return kept[:limit] if limit > 0 else kept


def check_filters(filters: Filters) -> None:
    """Raises InvalidParameter for a filter or a value that ``ps`` does not have."""
    matching.check(filters, FILTERS)
    matching.boolean(filters, "is-task")
    for key, values in filters.items():
        for value in values:
            if key == "status" and value not in _STATES:
                raise InvalidParameter(
                    f"invalid filter 'status={value}': invalid value for state ({value}): must "
                    "be one of created, running, paused, restarting, removing, exited, dead"
                )
            if key == "exited":
                try:
                    atoi(value)
                except InvalidText as err:
                    raise InvalidParameter(f"invalid filter 'exited={value}': {err}") from None
            if key == "health" and value not in _HEALTH:
                raise InvalidParameter(
                    f"invalid filter 'health={value}': invalid value for health ({value}): must "
                    f"be one of {', '.join(_HEALTH)}"
                )
            if key in ("publish", "expose"):
                _port_range(key, value)


def _port_range(key: str, value: str) -> tuple[range, str]:
    """Ports and protocol of ``publish=8000-8010/tcp``. Raises InvalidParameter."""
    span, _, protocol = value.partition("/")
    low, dash, high = span.partition("-")
    try:
        if not span:
            raise InvalidText("Empty string specified for ports.")
        first = parse_uint(low, bits=16)
        last = parse_uint(high, bits=16) if dash else first
        if last < first:
            raise InvalidText(f"Invalid range specified for the Port: {span}")
    except InvalidText as err:
        raise InvalidParameter(f"error while looking up for {key} {value}: {err}") from None
    return range(first, last + 1), protocol or "tcp"


class _Chooser:
    """Applies one set of filters; what they name is looked up once."""

    def __init__(self, core: Core, filters: Filters) -> None:
        self._core = core
        self._filters = {key: list(values) for key, values in filters.items() if values}
        self._before = self._edge("before")
        self._since = self._edge("since")
        self._ancestors = self._images(self._filters.get("ancestor", []))

    def _edge(self, key: str) -> int | None:
        values = self._filters.get(key)
        return self._core.find(values[-1]).record.created_ns if values else None

    def _images(self, names: list[str]) -> set[str]:
        found = set()
        for name in names:
            try:
                found.add(self._core.images.get(name).id)
            except (NotFound, InvalidParameter):
                continue
        return found

    def accepts(self, container: Container) -> bool:
        record = container.record
        if self._before is not None and record.created_ns >= self._before:
            return False
        if self._since is not None and record.created_ns <= self._since:
            return False
        if not matching.labels_match(self._filters, record.config.labels):
            return False
        return all(self._matches(record, key, values) for key, values in self._filters.items())

    def _matches(self, record: Record, key: str, values: list[str]) -> bool:
        match key:
            case "id":
                return matching.has_pattern(self._filters, key, record.id)
            case "name":
                names = (record.name, f"/{record.name}")
                return matching.has_pattern(self._filters, key, *names)
            case "status":
                return record.status in values
            case "exited":
                return record.status == "exited" and record.exit_code in map(atoi, values)
            case "health":
                return (record.health_status or "none") in values
            case "ancestor":
                return record.image_id in self._ancestors or record.image in values
            case "volume":
                return any(value in (p.name, p.destination, p.source)
                           for value in values for p in record.mounts)  # fmt: skip
            case "network":
                return self._on_network(record, values)
            case "publish" | "expose":
                return self._has_port(record, key, values)
            case "is-task":
                return matching.boolean(self._filters, key) is False
        return True

    def _on_network(self, record: Record, values: list[str]) -> bool:
        settings = self._core.networks.settings(record.id) if record.running else None
        endpoints = settings.networks if settings is not None else endpoints_of(self._core, record)
        names = {*endpoints, *(item.network_id for item in endpoints.values())}
        names.add(record.host.network_mode)
        return any(
            value in names or any(name.startswith(value) for name in names if len(name) == 64)
            for value in values
        )

    def _has_port(self, record: Record, key: str, values: list[str]) -> bool:
        settings = self._core.networks.settings(record.id) if record.running else None
        shown = ports(settings, record)
        for value in values:
            numbers, protocol = _port_range(key, value)
            for port in shown:
                number = port.public_port if key == "publish" else port.private_port
                if number in numbers and port.type == protocol:
                    return True
            if key == "expose":
                wanted = {f"{number}/{protocol}" for number in numbers}
                if wanted & set(record.config.exposed_ports or ()):
                    return True
        return False


async def list_containers(
    core: Core, filters: Filters, *, all: bool = False, limit: int = 0, size: bool = False
) -> list[ContainerSummary]:
    """``ps``: in one go, without asking any monitor, so nothing stuck can block it."""
    now = time.time()
    images: dict[str, str] = {}
    chosen = choose(core, filters, all=all, limit=limit)
    found = [summary(core, container, now, images) for container in chosen]
    aliases = container_networks.link_names(core)
    for item in found if aliases else ():
        item.names = tuple(sorted((*aliases.get(item.id, ()), *item.names)))
    if size:
        for container, item in zip(chosen, found, strict=True):
            with suppress(NotFound), unless_removed(container):
                item.size_rw = await core.store.writables.size_rw(item.id)
                item.size_root_fs = item.size_rw + root_size(core, item.id)
    return found
