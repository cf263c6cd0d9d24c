"""The networks there are, as they are stored: records, the catalogue, the predefined networks.

Records are the documents of the metadata (networks, and sandboxes of running containers with their
endpoints). The catalogue finds networks by name and plans new ones; ``network_options`` has the
checks of what is asked for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from portside.kernel.netlink import Route, Rtnl
from portside.model import filters as matching
from portside.model.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    InvalidText,
    NotFound,
    SystemFailure,
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
    EndpointIPAMConfig,
    EndpointSettings,
    IPAddress,
    IPAMConfig,
    IPNetwork,
    NetworkCreate,
    NetworkOptions,
    NetworkRequest,
    NetworkResource,
)
from portside.networks import ipam, network_options
from portside.networks.portmapper import Publication
from portside.store.db import Database, NameTaken

NO_IPAM = EndpointIPAMConfig()


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A network as it was made; its containers are found in the sandboxes."""

    resource: NetworkResource
    link: str = ""
    """The host's bridge or, for macvlan and ipvlan, the parent interface."""
    ranges: tuple[IPAMConfig, ...] | None = None
    """The address ranges with their gateways; ``resource.ipam`` has them as they were
    requested. None: both are the same (the default bridge)."""
    chosen: tuple[int, ...] = ()
    """IP versions whose range the engine chose."""
    own_link: bool = False
    """The engine makes that interface and removes it with the network. Recorded before it is
    made, so that one made right before a crash is still known as ours."""

    @property
    def id(self) -> str:
        return self.resource.id

    @property
    def name(self) -> str:
        return self.resource.name

    @property
    def driver(self) -> str:
        return self.resource.driver

    def option(self, name: str, default: str = "") -> str:
        return self.resource.options.get(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean option as Go's strconv.ParseBool reads it; checked when created."""
        try:
            return parse_bool(self.option(name))
        except InvalidText:
            return default

    def configs(self, version: int = 0) -> list[IPAMConfig]:
        """The network's ranges of one IP version, or all of them."""
        found = self.resource.ipam.config if self.ranges is None else self.ranges
        return [
            config
            for config in found or ()
            if config.subnet and version in (0, ipaddress.ip_network(config.subnet).version)
        ]

    def config(self, version: int) -> IPAMConfig | None:
        """The network's first range of one IP version."""
        return next(iter(self.configs(version)), None)

    def config_of(self, address: IPAddress) -> IPAMConfig | None:
        """The range that an address is in."""
        for config in self.configs(address.version):
            if address in ipaddress.ip_network(config.subnet):
                return config
        return None

    def user_subnets(self, version: int) -> list[IPNetwork]:
        """Subnets that the user gave, also of an IP version that is switched off."""
        if self.name in PREDEFINED or version in self.chosen:
            return []
        found = [
            ipaddress.ip_network(c.subnet) for c in self.resource.ipam.config or () if c.subnet
        ]
        return [network for network in found if network.version == version]

    @property
    def is_default_bridge(self) -> bool:
        return self.driver == "bridge" and self.name == "bridge"

    @property
    def has_names(self) -> bool:
        """Whether the engine's name server answers here (all but Docker's old default)."""
        return self.driver not in ("host", "null") and not self.is_default_bridge


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One interface of a running container."""

    network_id: str
    network: str
    """Name of the network."""
    endpoint_id: str
    interface: str
    """Inside, such as eth0."""
    link: str = ""
    """The host's end of the pair; empty for macvlan and ipvlan."""
    mac: str = ""
    ipv4: str = ""
    """Address without a prefix length; empty for none."""
    ipv6: str = ""
    prefix4: int = 0
    prefix6: int = 0
    gateway4: str = ""
    gateway6: str = ""
    settings: EndpointSettings

    def address(self, version: int) -> IPAddress | None:
        text = self.ipv4 if version == 4 else self.ipv6
        return ipaddress.ip_address(text) if text else None


class SandboxRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The network side of a running container."""

    request: NetworkRequest
    kind: str
    """``own`` (a namespace of its own), ``host`` or ``shared`` (another container's)."""
    sandbox_id: str
    endpoints: tuple[EndpointRecord, ...] = ()
    ports: tuple[Publication, ...] = ()
    owner: str = ""
    """The container whose namespace is shared."""


def gateway_endpoint(endpoints: Iterable[EndpointRecord], version: int) -> EndpointRecord | None:
    """The endpoint whose gateway is the container's default route: highest gw-priority,
    then the first network by name."""
    able = [e for e in endpoints if (e.gateway4 if version == 4 else e.gateway6)]
    return min(able, key=lambda e: (-e.settings.gw_priority, e.network), default=None)


def lease_names(endpoint: EndpointRecord) -> list[str]:
    """The unique names in the metadata that stand for the endpoint's addresses."""
    addresses = (endpoint.ipv4, endpoint.ipv6)
    return [f"{endpoint.network_id}/{address}" for address in addresses if address]


# -- the catalogue -------------------------------------------------------------------------


LIST_FILTERS = frozenset(
    ("dangling", "driver", "id", "idOrName", "label", "label!", "name", "scope", "type")
)
PRUNE_FILTERS = frozenset(("label", "label!", "until"))


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
        """Find a network by full ID, name, or unique beginning of the ID, in this order. Raises
        NotFound."""
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
        network_options.check_name(request.name)
        ipam.check(request.ipam.config or () if request.ipam else ())
        if any(record.name == request.name for record in self.all()):
            raise Conflict(f"network with name {request.name} already exists")
        request = self._with_template(request)
        network_options.check_driver(request)
        options = self._options.default_network_opts.get(request.driver, {}) | (
            request.options or {}
        )
        network_options.check_options(request.driver, options)
        network_options.check_isolated(request)
        self._check_bridge(options.get(network_options.BRIDGE_NAME, ""))
        self._check_parent(request.driver, options)
        identifier = new_id()
        ipv4, ipv6 = network_options.address_families(
            request, options, self._options.default_network_ipv6 and request.driver == "bridge"
        )
        ranges = request.ipam or IPAM()
        if ranges.driver not in ("", "default", "null"):
            raise NotFound(f'plugin "{ranges.driver}" not found')
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
            created=now_rfc3339(),
            scope=request.scope or "local",
            driver="null" if request.config_only else request.driver,
            enable_ipv4=ipv4,
            enable_ipv6=ipv6,
            ipam=IPAM(
                ranges.driver or "default",
                ranges.options,
                (asked or None) if request.config_only else asked,
            ),
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

    def _check_parent(self, driver: str, options: Mapping[str, str]) -> None:
        """An ipvlan network has its parent alone, and so has a macvlan network in passthru mode:
        the kernel keeps one mode for each parent."""
        parent = options.get("parent", "") if driver in ("macvlan", "ipvlan") else ""
        for record in self.all():
            if not parent or record.driver != driver or record.link != parent:
                continue
            if driver == "ipvlan":
                raise SystemFailure(
                    f"network di-{record.id[:12]} is already using parent interface {parent}"
                )
            used = f"macvlan network {record.id} is already using parent interface {parent}"
            if record.option("macvlan_mode") == "passthru":
                raise SystemFailure(f"{used} in mode passthru")
            if options.get("macvlan_mode") == "passthru":
                raise SystemFailure(f"cannot use mode passthru, {used}")

    def _link(self, resource: NetworkResource) -> str:
        if resource.driver == "bridge":
            return resource.options.get(network_options.BRIDGE_NAME) or self._instance.link(
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
        """The network's ranges as the API shows them, and as they are used: requested
        ranges, checked, and chosen ranges for IP versions without any. A range of a version that
        the network does not have is shown but not used, as in Docker."""
        ipam.check(asked)
        shown = [ipam.checked(config) for config in asked]
        given = [config for config in shown if enabled[_version(config)]]
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
                shown.append(chosen)
        return tuple(shown), tuple(sorted(used, key=_version))

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


def _version(config: IPAMConfig) -> int:
    return 6 if ":" in config.subnet else 4


def _has_gateway(request: NetworkCreate, config: IPAMConfig) -> bool:
    """Whether the network's range needs an address for a gateway."""
    version = _version(config)
    name = network_options.BRIDGE_MODE4 if version == 4 else network_options.BRIDGE_MODE6
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


# -- predefined networks -------------------------------------------------------------------


def ensure_predefined(
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
                name=name, id=new_id(), created=now_rfc3339(), driver=driver, ipam=IPAM(config=None)
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
        created=old.resource.created if old is not None else now_rfc3339(),
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
        network_options.BRIDGE_DEFAULT: "true",
        network_options.BRIDGE_ICC: str(options.icc).lower(),
        network_options.BRIDGE_MASQUERADE: str(options.ip_masq).lower(),
        network_options.BRIDGE_BINDING: options.default_binding_ip or "0.0.0.0",
        network_options.BRIDGE_NAME: link,
        network_options.MTU: str(options.mtu or 1500),
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
