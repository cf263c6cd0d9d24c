"""The three networks every engine has: ``bridge``, ``host`` and ``none``."""

from __future__ import annotations

import ipaddress

import msgspec

from portside.kernel.netlink import Rtnl
from portside.model.errors import InvalidParameter
from portside.model.ids import new_id
from portside.model.instance import Instance
from portside.model.network import IPAM, IPAMConfig, NetworkOptions, NetworkResource
from portside.networks import ipam, network_records
from portside.networks.network_records import NetworkRecord
from portside.networks.network_store import Catalogue, now


def ensure(
    catalogue: Catalogue,
    instance: Instance,
    options: NetworkOptions,
    rtnl: Rtnl,
    in_use: set[str],
) -> None:
    """Make them, or bring the default bridge in line with the daemon's options. A default
    bridge with running containers on it keeps its addresses."""
    existing = {record.name: record for record in catalogue.all()}
    for name, driver in (("host", "host"), ("none", "null")):
        if name not in existing:
            resource = NetworkResource(
                name=name, id=new_id(), created=now(), driver=driver, ipam=IPAM(config=None)
            )
            catalogue.insert(NetworkRecord(resource=resource))
    old = existing.get("bridge")
    if options.bridge == "none":
        if old is not None and old.id not in in_use:
            catalogue.delete(old)
        return
    if old is not None and old.id in in_use:
        return
    _default_bridge(catalogue, instance, options, rtnl, old)


def _default_bridge(
    catalogue: Catalogue,
    instance: Instance,
    options: NetworkOptions,
    rtnl: Rtnl,
    old: NetworkRecord | None,
) -> None:
    link = options.bridge or instance.bridge
    configs = [_range4(catalogue, options, rtnl, old, link)]
    if options.ipv6 or options.fixed_cidr_v6 or options.bip6:
        configs.append(_range6(catalogue, options, rtnl, old))
    resource = NetworkResource(
        name="bridge",
        id=old.id if old is not None else new_id(),
        created=old.resource.created if old is not None else now(),
        enable_ipv6=len(configs) > 1,
        ipam=IPAM("default", None, tuple(configs)),
        options=_options(options, link),
    )
    if old is not None and old.link == link:
        own = old.own_link
    else:
        own = not options.bridge or rtnl.link(link) is None
    record = NetworkRecord(resource=resource, link=link, own_link=own)
    if old is None:
        catalogue.insert(record)
    elif record != old:
        catalogue.forget_ranges(record)
        catalogue.put(record)


def _options(options: NetworkOptions, link: str) -> dict[str, str]:
    return {
        network_records.BRIDGE_DEFAULT: "true",
        network_records.BRIDGE_ICC: str(options.icc).lower(),
        network_records.BRIDGE_MASQUERADE: str(options.ip_masq).lower(),
        network_records.BRIDGE_BINDING: options.default_binding_ip or "0.0.0.0",
        network_records.BRIDGE_NAME: link,
        network_records.MTU: str(options.mtu or 1500),
    }


def _range4(
    catalogue: Catalogue,
    options: NetworkOptions,
    rtnl: Rtnl,
    old: NetworkRecord | None,
    link: str,
) -> IPAMConfig:
    """``--bip``, an existing bridge's own address, the former range, or a free one."""
    bip = options.bip or (_address_of(rtnl, link) if options.bridge else "")
    if bip:
        try:
            interface = ipaddress.IPv4Interface(bip)
        except ValueError as err:
            raise InvalidParameter(f"invalid --bip {bip}: {err}") from err
        config = IPAMConfig(str(interface.network), "", str(interface.ip))
    else:
        config = _former(catalogue, rtnl, old, 4) or ipam.with_gateway(
            IPAMConfig(str(catalogue.free_subnet(4, rtnl, first=True)))
        )
    gateway = options.default_gateway or config.gateway
    inner = options.fixed_cidr or ""
    return ipam.checked(IPAMConfig(config.subnet, inner, gateway))


def _range6(
    catalogue: Catalogue, options: NetworkOptions, rtnl: Rtnl, old: NetworkRecord | None
) -> IPAMConfig:
    if options.bip6:
        try:
            interface = ipaddress.IPv6Interface(options.bip6)
        except ValueError as err:
            raise InvalidParameter(f"invalid --bip6 {options.bip6}: {err}") from err
        config = IPAMConfig(str(interface.network), "", str(interface.ip))
    elif options.fixed_cidr_v6:
        config = IPAMConfig(str(ipam.parse_subnet(options.fixed_cidr_v6)))
    else:
        config = _former(catalogue, rtnl, old, 6) or IPAMConfig(str(catalogue.free_subnet(6, rtnl)))
    if options.default_gateway_v6:
        config = msgspec.structs.replace(config, gateway=options.default_gateway_v6)
    return ipam.with_gateway(ipam.checked(config))


def _former(
    catalogue: Catalogue, rtnl: Rtnl, old: NetworkRecord | None, version: int
) -> IPAMConfig | None:
    """The range of the last run, unless the host has got a route there since."""
    config = old.config(version) if old is not None else None
    if config is None:
        return None
    routes, _ = catalogue.routes(rtnl)
    if ipam.shadowed(ipaddress.ip_network(config.subnet), routes) is not None:
        return None
    return IPAMConfig(config.subnet, "", config.gateway)


def _address_of(rtnl: Rtnl, name: str) -> str:
    """The IPv4 address of a bridge the user brings along."""
    link = rtnl.link(name)
    if link is None:
        raise InvalidParameter(f"the host has no bridge {name} (--bridge)")
    for item in rtnl.addresses(link.index):
        if item.address.version == 4:
            return f"{item.address}/{item.prefix}"
    return ""
