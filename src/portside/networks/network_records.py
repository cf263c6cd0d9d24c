"""What the metadata keeps about networks and the containers on them.

::

    network   <id>            NetworkRecord; unique name = the network's name
    sandbox   <container id>  SandboxRecord: a container that runs (or is being started or
                              stopped): written before the kernel is touched, deleted last
    address   name <network id>/<address> -> <container id>: no address twice
"""

from __future__ import annotations

import ipaddress

import msgspec

from portside.model.errors import InvalidText
from portside.model.golang.booleans import parse_bool
from portside.model.network import (
    PREDEFINED,
    EndpointIPAMConfig,
    EndpointSettings,
    IPAddress,
    IPAMConfig,
    IPNetwork,
    NetworkRequest,
    NetworkResource,
)
from portside.networks.portmapper import Publication

OPTION = "com.docker.network."
BRIDGE_NAME = OPTION + "bridge.name"
BRIDGE_DEFAULT = OPTION + "bridge.default_bridge"
BRIDGE_MASQUERADE = OPTION + "bridge.enable_ip_masquerade"
BRIDGE_ICC = OPTION + "bridge.enable_icc"
BRIDGE_BINDING = OPTION + "bridge.host_binding_ipv4"
BRIDGE_INHIBIT4 = OPTION + "bridge.inhibit_ipv4"
BRIDGE_MODE4 = OPTION + "bridge.gateway_mode_ipv4"
BRIDGE_MODE6 = OPTION + "bridge.gateway_mode_ipv6"
BRIDGE_TRUSTED = OPTION + "bridge.trusted_host_interfaces"
MTU = OPTION + "driver.mtu"
HOST_IPV4 = OPTION + "host_ipv4"
HOST_IPV6 = OPTION + "host_ipv6"
PREFIX = OPTION + "container_iface_prefix"
ENDPOINT_NAME = OPTION + "endpoint.ifname"
ENDPOINT_SYSCTLS = OPTION + "endpoint.sysctls"

NO_IPAM = EndpointIPAMConfig()


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A network as it was made; its containers are found in the sandboxes."""

    resource: NetworkResource
    link: str = ""
    """The host's bridge or, for macvlan and ipvlan, the parent interface."""
    ranges: tuple[IPAMConfig, ...] | None = None
    """The address ranges with their gateways; ``resource.ipam`` tells them as they were asked
    for. None: they are the same (the default bridge)."""
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
