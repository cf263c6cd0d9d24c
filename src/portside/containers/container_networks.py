"""A container and its networks: what a start asks for, connecting and disconnecting, links.

A legacy link (``--link TARGET[:ALIAS]`` on the default bridge) is kept as it was asked for, with
its target's ID beside it (``Record.link_targets``), so that it follows a renaming and, as in
dockerd, outlives its target. On a user's network a link is a name there: the endpoint has it, and
its target need not exist.
"""

from __future__ import annotations

import msgspec

from portside.containers import user_mapping
from portside.containers.container import Container, Record
from portside.containers.core import Core, held, links_of, parse_link
from portside.model.container import HostConfig
from portside.model.errors import Conflict, Forbidden, InvalidParameter, NotFound
from portside.model.network import UNCONNECTED, EndpointSettings, NetworkRequest


def network_request(core: Core, record: Record) -> NetworkRequest:
    """A start's request to the networks service; ``container:NAME`` becomes the full ID."""
    host, config = record.host, record.config
    mode = host.network_mode
    if mode.startswith("container:"):
        other = mode.partition(":")[2]
        identifier = core.by_name.get(other.removeprefix("/"), other)
        if identifier not in core.containers:
            identifier = next((key for key in core.containers if key.startswith(other)), other)
        mode = f"container:{identifier}"
    elif mode != "default" and mode not in record.endpoints:
        # it was disconnected from the one it was made with
        mode = next(iter(record.endpoints), UNCONNECTED)
    bindings = {port: tuple(items or ()) for port, items in (host.port_bindings or {}).items()}
    return NetworkRequest(
        container_id=record.id,
        name=record.name,
        hostname=config.hostname,
        domainname=config.domainname,
        mode=mode,
        endpoints=record.endpoints,
        exposed_ports=tuple(config.exposed_ports or ()),
        port_bindings=bindings,
        publish_all=host.publish_all_ports,
        dns=host.dns or (),
        dns_search=host.dns_search or (),
        dns_options=host.dns_options or (),
        extra_hosts=host.extra_hosts or (),
        mac_address=config.mac_address,
        links=_links(record),
        directory=str(core.directory(record.id)),
        id_mappings=user_mapping.of(core, record),
        userns_path=_userns_of_donor(core, record),
    )


def _userns_of_donor(core: Core, record: Record) -> str:
    """Path of the user namespace that another, running container shares; else empty."""
    donor = user_mapping.donor_of(core, record)
    shared = donor is not None and donor.running and user_mapping.of(core, record) is not None
    return f"/proc/{donor.pid}/ns/user" if shared and donor is not None else ""


def _links(record: Record) -> tuple[str, ...]:
    """``ID:ALIAS``; of records without the IDs, the links as they were asked for."""
    return tuple(
        f"{target}:{text.partition(':')[2] or text.removeprefix('/')}"
        if (target := record.link_targets.get(text))
        else text
        for text in record.host.links or ()
    )


# -- connect and disconnect ------------------------------------------------------------------


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
            _publish_disconnect(core, record, network)
        record.endpoints = {name: item for name, item in record.endpoints.items() if name != key}
        core.save(container)


async def disconnect_by_name(core: Core, name: str, network: str, force: bool = False) -> None:
    """Like ``network_disconnect``; with ``force`` the container need not exist. Raises NotFound."""
    try:
        container = core.find(name)
    except NotFound as err:
        if not force:
            raise
        core.networks.inspect(network)
        raise NotFound(f"endpoint {name} not found") from err
    await network_disconnect(core, container, network, force)


def _check_private(core: Core, record: Record, network: str) -> None:
    """The network ``none`` goes with no other."""
    wanted = core.networks.inspect(network)
    if any(name != wanted.name and "none" in (name, wanted.name) for name in record.endpoints):
        raise InvalidParameter(
            "container cannot be connected to multiple networks with one of the networks in "
            "private (none) mode"
        )


def _publish_disconnect(core: Core, record: Record, network: str) -> None:
    """Publish the event. For a running container the networks service publishes it."""
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


# -- legacy links --------------------------------------------------------------------------


def on_user_network(
    host: HostConfig, endpoints: dict[str, EndpointSettings]
) -> tuple[HostConfig, dict[str, EndpointSettings]]:
    """Links of a container on a user's network become the endpoint's."""
    mode = host.network_mode
    if not host.links or mode in ("bridge", "host", "none") or mode.startswith("container:"):
        return host, endpoints
    for text in host.links:
        parse_link(text)
    if mode in endpoints:
        settings = endpoints[mode]
        links = tuple(dict.fromkeys((*(settings.links or ()), *host.links)))
        endpoints = {**endpoints, mode: msgspec.structs.replace(settings, links=links)}
    return msgspec.structs.replace(host, links=None), endpoints


def link_targets(core: Core, host: HostConfig) -> dict[str, str]:
    """The IDs of the containers that are linked to, by the links' text.

    What shares another's network is reached through that one. Raises InvalidParameter.
    """
    found: dict[str, str] = {}
    for text in host.links or ():
        name, _ = parse_link(text)
        try:
            target = network_owner(core, core.find(name))
        except NotFound as err:
            raise InvalidParameter(f"could not get container for {name}: {err}") from None
        found[text] = target.id
    return found


def network_owner(core: Core, container: Container) -> Container:
    """The container whose network namespace it uses: itself, or the end of its
    ``container:NAME`` chain. Raises NotFound, and InvalidParameter for a chain without an end."""
    seen = {container.id}
    while container.record.host.network_mode.startswith("container:"):
        container = core.find(container.record.host.network_mode.partition(":")[2])
        if container.id in seen:
            raise InvalidParameter("containers join the network namespaces of each other")
        seen.add(container.id)
    return container


def shown_links(core: Core, record: Record) -> tuple[str, ...] | None:
    """Links as ``inspect`` shows them: ``/target:/name/alias``."""
    if not record.host.links:
        return None
    return tuple(f"/{target}:/{record.name}/{alias}" for _, alias, target in links_of(core, record))


def link_names(core: Core) -> dict[str, list[str]]:
    """Further names that links give to containers, by ID of the target (``ps --no-trunc``)."""
    found: dict[str, list[str]] = {}
    for container in core.containers.values():
        record = container.record
        for text, alias, _ in links_of(core, record) if record.host.links else ():
            target = record.link_targets.get(text, "")
            if target in core.containers:
                found.setdefault(target, []).append(f"/{container.name}/{alias}")
    return found


def check_links_running(core: Core, record: Record) -> None:
    """Check that linked containers run. Raises Conflict with Docker's text."""
    for text, alias, name in links_of(core, record):
        target = core.containers.get(record.link_targets.get(text, ""))
        if target is None or not target.record.running:
            raise Conflict(
                f"Cannot link to a non running container: /{name} AS /{record.name}/{alias}"
            )


def link_environment(core: Core, record: Record) -> tuple[str, ...]:
    """``ALIAS_ENV_NAME=value``: the variables of the targets, but HOME and PATH."""
    found = []
    for text, alias, _ in links_of(core, record):
        target = core.containers.get(record.link_targets.get(text, ""))
        prefix = alias.upper().replace("-", "_")
        for entry in (target.record.config.env or ()) if target is not None else ():
            name, equals, value = entry.partition("=")
            if equals and name not in ("HOME", "PATH"):
                found.append(f"{prefix}_ENV_{name}={value}")
    return tuple(found)


async def remove_link(core: Core, name: str) -> None:
    """``rm --link PARENT/ALIAS``: the containers stay. Raises NotFound."""
    parent, _, alias = name.strip("/").partition("/")
    container = core.find(parent)
    if not alias:
        raise Conflict("conflict, cannot remove the default link name of the container")
    async with held(core, container):
        record = container.record
        gone = next((text for text, known, _ in links_of(core, record) if known == alias), None)
        if gone is None:
            raise NotFound(f"No such container: {name}")
        kept = tuple(each for each in record.host.links or () if each != gone)
        record.host = msgspec.structs.replace(record.host, links=kept or None)
        record.link_targets = {key: id for key, id in record.link_targets.items() if key != gone}
        core.save(container)
        if record.running:
            await core.networks.republish(network_request(core, record))
