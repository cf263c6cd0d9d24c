"""The networks there are: found by name, checked and created with Docker's rules."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

import msgspec

from portside.kernel.netlink import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES, Route, Rtnl
from portside.model import filters as matching
from portside.model.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    InvalidText,
    NotFound,
    SystemFailure,
    Unavailable,
)
from portside.model.filters import Filters
from portside.model.golang.booleans import parse_bool
from portside.model.golang.timestamps import now_rfc3339
from portside.model.ids import new_id
from portside.model.instance import Instance
from portside.model.network import (
    IPAM,
    PREDEFINED,
    ConfigReference,
    IPAddress,
    IPAMConfig,
    IPNetwork,
    NetworkCreate,
    NetworkOptions,
    NetworkResource,
)
from portside.networks import ipam, network_records
from portside.networks.network_records import NetworkRecord
from portside.store.db import Database, NameTaken

MAX_NAME = 255
LIST_FILTERS = frozenset(
    ("dangling", "driver", "id", "idOrName", "label", "label!", "name", "scope", "type")
)
PRUNE_FILTERS = frozenset(("label", "label!", "until"))
DRIVERS = ("bridge", "macvlan", "ipvlan")
GATEWAY_MODES = ("", "nat", "nat-unprotected", "routed", "isolated")
BOOLEANS = (
    network_records.BRIDGE_MASQUERADE,
    network_records.BRIDGE_ICC,
    network_records.BRIDGE_INHIBIT4,
    network_records.BRIDGE_DEFAULT,
)


def now() -> str:
    return now_rfc3339()


class Catalogue:
    """Network documents with their address ranges; all are kept in memory as well."""

    def __init__(self, db: Database, instance: Instance, options: NetworkOptions) -> None:
        self._db, self._instance, self._options = db, instance, options
        self._documents = db.collection("network", NetworkRecord)
        self._records = dict(self._documents.items())
        self._subnets: dict[tuple[str, int], list[ipam.Subnet]] = {}
        pools = options.default_address_pools or ipam.DEFAULT_POOLS
        self._pools = ipam.parse_pools(pools)
        if not any(base.version == 6 for base, _ in self._pools):
            local = ipam.unique_local_pool(str(instance.data_root))
            self._pools += ipam.parse_pools([local])

    # -- finding ---------------------------------------------------------------------------

    def all(self) -> list[NetworkRecord]:
        return list(self._records.values())

    def get(self, identifier: str) -> NetworkRecord:
        found = self._records.get(identifier)
        if found is None:
            raise NotFound(f"network {identifier} not found")
        return found

    def find(self, identifier: str) -> NetworkRecord | None:
        return self._records.get(identifier)

    def resolve(self, name: str) -> NetworkRecord:
        """By full id, name, or unique beginning of the id, in this order; NotFound."""
        if name in self._records:
            return self._records[name]
        matches = [record for record in self._records.values() if record.name == name]
        if not matches and name:
            matches = [r for key, r in self._records.items() if key.startswith(name)]
        if len(matches) > 1:
            raise InvalidParameter(
                f"network {name} is ambiguous ({len(matches)} matches found on ID prefix)"
            )
        if not matches:
            raise NotFound(f"network {name} not found")
        return matches[0]

    def subnets(self, record: NetworkRecord, version: int) -> list[ipam.Subnet]:
        """The allocators of a network's ranges; empty when it has none of that version."""
        key = (record.id, version)
        if key not in self._subnets:
            self._subnets[key] = [ipam.Subnet.of(config) for config in record.configs(version)]
        return self._subnets[key]

    # -- changing --------------------------------------------------------------------------

    def insert(self, record: NetworkRecord) -> None:
        try:
            self._documents.insert(record.id, record, record.name)
        except NameTaken as err:
            raise Conflict(f"network with name {record.name} already exists") from err
        self._records[record.id] = record

    def put(self, record: NetworkRecord) -> None:
        self._documents.put(record.id, record)
        self._records[record.id] = record

    def hide(self, record: NetworkRecord) -> None:
        """Nobody finds it any more while it is being removed; ``put`` takes that back."""
        self._records.pop(record.id, None)

    def delete(self, record: NetworkRecord) -> None:
        self._documents.delete(record.id)
        self._records.pop(record.id, None)
        self.forget_ranges(record)

    def forget_ranges(self, record: NetworkRecord) -> None:
        """The ranges of a network changed: the allocators are made anew."""
        for version in (4, 6):
            self._subnets.pop((record.id, version), None)

    def plan(self, request: NetworkCreate, rtnl: Rtnl) -> NetworkRecord:
        """A new network as it shall be, checked; nothing is written. Its addresses are chosen
        against the host's live routes."""
        _check_name(request.name)
        if any(record.name == request.name for record in self.all()):
            raise Conflict(f"network with name {request.name} already exists")
        request = self._with_template(request)
        _check_driver(request)
        options = self._options.default_network_opts.get(request.driver, {}) | (
            request.options or {}
        )
        _check_options(request.driver, options)
        _check_isolated(request)
        self._check_bridge(options.get(network_records.BRIDGE_NAME, ""))
        identifier = new_id()
        ipv6 = request.enable_ipv6
        if ipv6 is None:
            ipv6 = self._options.default_network_ipv6 and request.driver == "bridge"
        ipv4 = request.enable_ipv4 is not False
        ranges = request.ipam or IPAM()
        if ranges.driver not in ("", "default", "null"):
            raise NotFound(f"could not find plugin {ranges.driver} in v1 plugin registry: "
                           "plugin not found")  # fmt: skip
        asked = tuple(ranges.config or ())
        used: tuple[IPAMConfig, ...] = ()
        if ranges.driver == "null":
            if request.driver == "bridge":
                raise InvalidParameter("ipv4 pool is empty")
            ipv4 = ipv6 = False
        elif not (ipv4 or ipv6 or request.config_only):
            raise InvalidParameter("IPv4 or IPv6 must be enabled")
        if not request.config_only:
            asked, used = self._ranges(request, asked, {4: ipv4, 6: ipv6}, rtnl)
        versions = {_version(config) for config in ranges.config or ()}
        resource = NetworkResource(
            name=request.name,
            id=identifier,
            created=now(),
            scope=request.scope or "local",
            driver="null" if request.config_only else request.driver,
            enable_ipv4=ipv4,
            enable_ipv6=ipv6,
            ipam=IPAM(ranges.driver or "default", ranges.options, asked),
            internal=request.internal,
            attachable=request.attachable,
            config_only=request.config_only,
            config_from=request.config_from or ConfigReference(),
            options=options,
            labels=request.labels or {},
        )
        link = self._link(resource)
        return NetworkRecord(
            resource=resource,
            link=link,
            own_link=bool(link) and rtnl.link(link) is None,
            ranges=used,
            chosen=tuple(version for version in (4, 6) if version not in versions),
        )

    def _check_bridge(self, link: str) -> None:
        for record in self.all():
            if link and record.link == link and record.driver == "bridge":
                raise Forbidden(
                    f"cannot create network ({link}): conflicts with network {record.id} ({link}): "
                    "networks have same bridge name"
                )

    def _link(self, resource: NetworkResource) -> str:
        if resource.driver == "bridge":
            return resource.options.get(network_records.BRIDGE_NAME) or self._instance.link(
                resource.id
            )
        if resource.driver in ("macvlan", "ipvlan"):
            return resource.options.get("parent") or self._instance.link(resource.id)
        return ""

    def _with_template(self, request: NetworkCreate) -> NetworkCreate:
        """The request with the settings of the configuration-only network it names."""
        if request.config_from is None or not request.config_from.network:
            return request
        if request.config_only:
            raise Forbidden(
                "a configuration network cannot depend on another configuration network"
            )
        if request.ipam is not None and request.ipam.config:
            raise InvalidParameter("user specified configurations are not supported if the "
                                   "network depends on a configuration network")  # fmt: skip
        wanted = request.config_from.network
        template = next((r.resource for r in self.all() if r.name == wanted), None)
        if template is None or not template.config_only:
            raise NotFound(f'configuration network "{wanted}" does not exist')
        return msgspec.structs.replace(
            request,
            ipam=template.ipam,
            options={**template.options, **(request.options or {})},
            labels={**template.labels, **(request.labels or {})},
            enable_ipv6=template.enable_ipv6,
            enable_ipv4=template.enable_ipv4,
            internal=template.internal or request.internal,
            attachable=template.attachable or request.attachable,
        )

    def _ranges(
        self,
        request: NetworkCreate,
        asked: Sequence[IPAMConfig],
        enabled: Mapping[int, bool],
        rtnl: Rtnl,
    ) -> tuple[tuple[IPAMConfig, ...], tuple[IPAMConfig, ...]]:
        """The network's ranges as they are told, and as they are used: those asked for, checked,
        and chosen ones for IP versions without any. A range of a version that the network does
        not have is told but not used, as in Docker."""
        ipam.check(asked)
        told = [ipam.checked(config) for config in asked]
        given = [config for config in told if enabled[_version(config)]]
        for number, config in enumerate(given):
            self.check_free(ipaddress.ip_network(config.subnet), request.driver, rtnl)
            for other in given[:number]:
                _check_pair(other, config, request.driver)
        used = [ipam.with_gateway(config, _has_gateway(request, config)) for config in given]
        for version in (4, 6):
            if enabled[version] and version not in map(_version, used):
                chosen = IPAMConfig(str(self.free_subnet(version, rtnl)))
                chosen = ipam.with_gateway(chosen, _has_gateway(request, chosen))
                used.append(chosen)
                told.append(chosen)
        return tuple(told), tuple(sorted(used, key=_version))

    def free_subnet(self, version: int, rtnl: Rtnl, first: bool = False) -> IPNetwork:
        """A free subnet of the pools; the default bridge takes the first pool's."""
        pools = self._pools
        if not first and len(pools) > 1 and pools == self._default_pools():
            pools = pools[1:] + pools[:1]
        routes, names = self.routes(rtnl)
        return ipam.choose_subnet(pools, version, self.taken(), routes, names)

    def _default_pools(self) -> list[tuple[IPNetwork, int]]:
        return [] if self._options.default_address_pools else self._pools

    def taken(self) -> list[IPNetwork]:
        """Subnets of all networks there are."""
        return [
            ipaddress.ip_network(config.subnet)
            for record in self.all()
            if not record.resource.config_only  # a template, which takes no addresses
            for config in record.configs()
        ]

    def routes(self, rtnl: Rtnl) -> tuple[list[Route], dict[int, str]]:
        """The host's routes that are not over our own bridges, and interface names."""
        links = {link.index: link.name for link in rtnl.links()}
        ours = {record.link for record in self.all() if record.driver == "bridge"}
        return [r for r in rtnl.routes() if links.get(r.oif) not in ours], links

    def check_free(self, subnet: IPNetwork, driver: str, rtnl: Rtnl) -> None:
        """Forbidden when a subnet asked for overlaps another network's or, for bridges, a
        live route of the host (a macvlan network is on the host's own by nature)."""
        for record in self.all():
            if record.resource.config_only:
                continue
            for config in record.configs():
                if ipam.overlap(subnet, ipaddress.ip_network(config.subnet)):
                    raise Forbidden(
                        "invalid pool request: Pool overlaps with other one on this address "
                        f"space: {subnet} overlaps {config.subnet} of network {record.name}"
                    )
        if driver != "bridge" or subnet.is_link_local:
            return
        routes, names = self.routes(rtnl)
        route = ipam.shadowed(subnet, routes)
        if route is not None:
            raise Forbidden(
                f"invalid pool request: subnet {subnet} overlaps the host's route "
                f"{ipam.describe(route, names)}: choose another subnet"
            )


def _check_name(name: str) -> None:
    if not name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if name in (*PREDEFINED, "default"):
        raise Forbidden(f"operation is not permitted on predefined {name} network")
    if name.startswith("container:") or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidParameter(
            f'invalid name: "{name}": at most {MAX_NAME} printable characters, and not '
            "container:, which means the network of a container"
        )


def _version(config: IPAMConfig) -> int:
    return 6 if ":" in config.subnet else 4


def _has_gateway(request: NetworkCreate, config: IPAMConfig) -> bool:
    """Whether the network's range needs an address for a gateway."""
    version = _version(config)
    name = network_records.BRIDGE_MODE4 if version == 4 else network_records.BRIDGE_MODE6
    return (request.options or {}).get(name) != "isolated"


def _check_pair(one: IPAMConfig, two: IPAMConfig, driver: str) -> None:
    """Two ranges of one network."""
    if ipam.overlap(ipaddress.ip_network(one.subnet), ipaddress.ip_network(two.subnet)):
        raise Forbidden(
            "invalid pool request: Pool overlaps with other one on this address space: "
            f"{two.subnet} overlaps {one.subnet} of the same network"
        )
    if _version(one) == _version(two) and driver == "bridge":
        raise Forbidden("bridge driver doesn't support multiple subnets")


def _check_driver(request: NetworkCreate) -> None:
    if request.ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if request.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")
    if request.driver == "overlay":
        raise Unavailable(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
            "connect this node to swarm and try again."
        )
    if request.driver in ("host", "null", "none"):
        kind = "host" if request.driver == "host" else "null"
        raise Forbidden(f'only one instance of "{kind}" network is allowed')
    if request.driver not in DRIVERS:
        raise NotFound(
            f"could not find plugin {request.driver} in v1 plugin registry: "
            f'plugin "{request.driver}" not found'
        )
    if request.scope not in ("", "local"):
        raise InvalidParameter(f"invalid network scope {request.scope}")


def _check_options(driver: str, options: Mapping[str, str]) -> None:
    """InvalidParameter for values the driver could not use."""
    mtu = options.get(network_records.MTU, "")
    if mtu and not re.fullmatch(r"[+-]?[0-9]+", mtu):
        raise InvalidParameter(
            f"failed to parse {network_records.MTU} value: {mtu} "
            f'(strconv.Atoi: parsing "{mtu}": invalid syntax)'
        )
    if mtu and int(mtu) and not 68 <= int(mtu) <= 65535:
        raise InvalidParameter(f"invalid MTU number: {mtu}")
    for name in BOOLEANS:
        try:
            parse_bool(options.get(name) or "true")
        except InvalidText as err:
            raise InvalidParameter(
                f"failed to parse {name} value: {options[name]} ({err})"
            ) from None
    for name in (network_records.BRIDGE_MODE4, network_records.BRIDGE_MODE6):
        if options.get(name, "") not in GATEWAY_MODES:
            raise InvalidParameter(f"unknown gateway mode {options[name]!r} for {name}")
    for name in (
        network_records.BRIDGE_BINDING,
        network_records.HOST_IPV4,
        network_records.HOST_IPV6,
    ):
        if options.get(name):
            _check_address(name, options[name])
    for name in (network_records.BRIDGE_NAME, "parent"):
        value = options.get(name, "x")
        if not re.fullmatch(r"[^\s/:\"\\{};]{1,15}", value) or value in (".", ".."):
            raise InvalidParameter(f"invalid interface name for {name}: {value!r}")
    for name in options.get(network_records.BRIDGE_TRUSTED, "").split(":"):
        if name and not re.fullmatch(r"[^\s/:\"\\{};]{1,15}", name):
            raise InvalidParameter(
                f"invalid interface name for {network_records.BRIDGE_TRUSTED}: {name!r}"
            )
    choices = {
        "macvlan": {"macvlan_mode": MACVLAN_MODES},
        "ipvlan": {"ipvlan_mode": IPVLAN_MODES, "ipvlan_flag": IPVLAN_FLAGS},
    }.get(driver, {})
    for name, allowed in choices.items():
        if name in options and options[name] not in allowed:
            raise InvalidParameter(
                f"unknown {name} {options[name]!r}: it is one of {', '.join(allowed)}"
            )


def _check_isolated(request: NetworkCreate) -> None:
    for name in (network_records.BRIDGE_MODE4, network_records.BRIDGE_MODE6):
        if (request.options or {}).get(name) == "isolated" and not request.internal:
            raise SystemFailure("gateway mode 'isolated' can only be used for an internal network")


def _check_address(name: str, text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError as err:
        raise InvalidParameter(f"failed to parse {name} value: {text} (nil ip)") from err


def matches(resource: NetworkResource, filters: Filters, used: bool) -> bool:
    """Docker's filters of ``network ls``: any value of a key, all keys; every label."""
    dangling = matching.strict_boolean(filters, "dangling")
    if dangling is not None and (resource.name not in PREDEFINED and not used) != dangling:
        return False
    kinds = [_is_builtin(value) for value in filters.get("type", ())]
    if kinds and (resource.name in PREDEFINED) not in kinds:
        return False
    return (
        matching.is_one(filters, "driver", resource.driver)
        and matching.is_one(filters, "scope", resource.scope)
        and matching.is_one(filters, "idOrName", resource.id, resource.name)
        and matching.has_pattern(filters, "id", resource.id)
        and matching.has_pattern(filters, "name", resource.name)
        and matching.labels_match(filters, resource.labels)
    )


def _is_builtin(value: str) -> bool:
    if value not in ("custom", "builtin"):
        raise InvalidParameter(f"invalid filter: 'type'='{value}'")
    return value == "builtin"
