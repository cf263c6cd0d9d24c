"""The network side of a container, as the networks service is asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portside.containers import user_mapping
from portside.containers.record import Record
from portside.model.network import UNCONNECTED, NetworkRequest

if TYPE_CHECKING:
    from portside.containers.core import Core


def network_request(core: Core, record: Record) -> NetworkRequest:
    """What a start asks of the networks; ``container:NAME`` becomes the full ID."""
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
    """Where the user namespace is that is shared with another, running container."""
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
