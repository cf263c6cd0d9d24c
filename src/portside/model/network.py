"""Networks with Docker's wire names (Engine API 1.24 to 1.55), and the values exchanged
between the containers and the networks services.

The first half are wire types; ``msgspec.to_builtins`` of them is what the API sends. The
second half (``NetworkRequest``, ``NetworkAttachment``, ``NetworkOptions``) never leaves
the engine.
"""

from __future__ import annotations

import ipaddress
from typing import Any, TypeAlias

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.idmap import IDMappings

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

PROTOCOLS = ("tcp", "udp", "sctp")
PREDEFINED = ("bridge", "host", "none")
"""Networks that every engine has; they cannot be removed."""


UNCONNECTED = "unconnected"
"""``NetworkRequest.mode`` of a container that was disconnected from its last network."""


class PortBinding(msgspec.Struct, frozen=True):
    """Host address and port of a published port; an empty port means any free one."""

    host_ip: str = msgspec.field(name="HostIp", default="")
    host_port: str = msgspec.field(name="HostPort", default="")


class EndpointIPAMConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Addresses the user asked for when connecting to a network."""

    ipv4_address: str = msgspec.field(name="IPv4Address", default="")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")
    link_local_ips: tuple[str, ...] = msgspec.field(name="LinkLocalIPs", default=())


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A container's place on one network: what was asked for and what it got."""

    ipam_config: EndpointIPAMConfig | None = msgspec.field(name="IPAMConfig", default=None)
    links: tuple[str, ...] | None = msgspec.field(name="Links", default=None)
    aliases: tuple[str, ...] | None = msgspec.field(name="Aliases", default=None)
    mac_address: str = msgspec.field(name="MacAddress", default="")
    driver_opts: dict[str, str] | None = msgspec.field(name="DriverOpts", default=None)
    gw_priority: int = msgspec.field(name="GwPriority", default=0)
    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    gateway: str = msgspec.field(name="Gateway", default="")
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ip_prefix_len: int = msgspec.field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: tuple[str, ...] | None = msgspec.field(name="DNSNames", default=None)

    def wanted(self) -> EndpointSettings:
        """Only what the user asked for, as it is kept for a container that does not run."""
        return EndpointSettings(
            ipam_config=self.ipam_config,
            links=self.links,
            aliases=self.aliases,
            mac_address=self.mac_address,
            driver_opts=self.driver_opts,
            gw_priority=self.gw_priority,
            network_id=self.network_id,
            dns_names=self.dns_names,
        )


class Address(msgspec.Struct, frozen=True):
    """A secondary address in ``NetworkSettings``."""

    addr: str = msgspec.field(name="Addr", default="")
    prefix_len: int = msgspec.field(name="PrefixLen", default=0)


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A container's ``NetworkSettings`` in inspect; the flat fields describe the default bridge."""

    bridge: str = msgspec.field(name="Bridge", default="")
    sandbox_id: str = msgspec.field(name="SandboxID", default="")
    sandbox_key: str = msgspec.field(name="SandboxKey", default="")
    ports: dict[str, tuple[PortBinding, ...] | None] = msgspec.field(
        name="Ports", default_factory=dict
    )
    hairpin_mode: bool = msgspec.field(name="HairpinMode", default=False)
    link_local_ipv6_address: str = msgspec.field(name="LinkLocalIPv6Address", default="")
    link_local_ipv6_prefix_len: int = msgspec.field(name="LinkLocalIPv6PrefixLen", default=0)
    secondary_ip_addresses: tuple[Address, ...] | None = msgspec.field(
        name="SecondaryIPAddresses", default=None
    )
    secondary_ipv6_addresses: tuple[Address, ...] | None = msgspec.field(
        name="SecondaryIPv6Addresses", default=None
    )
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    gateway: str = msgspec.field(name="Gateway", default="")
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ip_prefix_len: int = msgspec.field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    mac_address: str = msgspec.field(name="MacAddress", default="")
    networks: dict[str, EndpointSettings] = msgspec.field(name="Networks", default_factory=dict)


class IPAMConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """One address range of a network."""

    subnet: str = msgspec.field(name="Subnet", default="")
    ip_range: str = msgspec.field(name="IPRange", default="")
    gateway: str = msgspec.field(name="Gateway", default="")
    aux_addresses: dict[str, str] | None = msgspec.field(name="AuxiliaryAddresses", default=None)


class IPAM(msgspec.Struct, frozen=True):
    """Address management of a network."""

    driver: str = msgspec.field(name="Driver", default="default")
    options: dict[str, str] | None = msgspec.field(name="Options", default=None)
    config: tuple[IPAMConfig, ...] | None = msgspec.field(name="Config", default=())


class ConfigReference(msgspec.Struct, frozen=True):
    """The configuration-only network another one takes its settings from."""

    network: str = msgspec.field(name="Network", default="")


class EndpointResource(msgspec.Struct, frozen=True):
    """A running container in a network's inspection."""

    name: str = msgspec.field(name="Name", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    mac_address: str = msgspec.field(name="MacAddress", default="")
    ipv4_address: str = msgspec.field(name="IPv4Address", default="")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")


class SubnetStatus(msgspec.Struct, frozen=True):
    """Numbers of used and of free addresses of a subnet."""

    ips_in_use: int = msgspec.field(name="IPsInUse", default=0)
    """With those of the network itself, the gateway and auxiliary ones."""
    dynamic_ips_available: int = msgspec.field(name="DynamicIPsAvailable", default=0)
    """At most 2**64 - 1."""


class IPAMStatus(msgspec.Struct, frozen=True):
    """Subnets by name."""

    subnets: dict[str, SubnetStatus] = msgspec.field(name="Subnets", default_factory=dict)


class NetworkStatus(msgspec.Struct, frozen=True):
    """``Status`` of a network's inspection (API 1.52)."""

    ipam: IPAMStatus = msgspec.field(name="IPAM", default_factory=IPAMStatus)


class NetworkResource(msgspec.Struct, frozen=True, kw_only=True):
    """A network as ``GET /networks`` and ``GET /networks/{id}`` show it."""

    name: str = msgspec.field(name="Name")
    id: str = msgspec.field(name="Id")
    created: str = msgspec.field(name="Created", default="0001-01-01T00:00:00Z")
    """RFC 3339 with nanoseconds."""
    scope: str = msgspec.field(name="Scope", default="local")
    driver: str = msgspec.field(name="Driver", default="bridge")
    enable_ipv4: bool = msgspec.field(name="EnableIPv4", default=True)
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    ipam: IPAM = msgspec.field(name="IPAM", default_factory=IPAM)
    internal: bool = msgspec.field(name="Internal", default=False)
    attachable: bool = msgspec.field(name="Attachable", default=False)
    ingress: bool = msgspec.field(name="Ingress", default=False)
    config_from: ConfigReference = msgspec.field(name="ConfigFrom", default_factory=ConfigReference)
    config_only: bool = msgspec.field(name="ConfigOnly", default=False)
    containers: dict[str, EndpointResource] = msgspec.field(name="Containers", default_factory=dict)
    options: dict[str, str] = msgspec.field(name="Options", default_factory=dict)
    labels: dict[str, str] = msgspec.field(name="Labels", default_factory=dict)
    status: NetworkStatus | None = msgspec.field(name="Status", default=None)
    """Of an inspection only."""

    def wire(self, version: tuple[int, int], containers: bool = True) -> dict[str, Any]:
        """As an API version shows it; lists leave the containers out (API 1.28 on)."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        if version < (1, 48):
            del value["EnableIPv4"]
        if version < (1, 52) or self.status is None:
            del value["Status"]
        if not containers:
            value["Containers"] = {}
        return value


class NetworkCreate(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /networks/create``."""

    name: str = msgspec.field(name="Name", default="")
    check_duplicate: bool | None = msgspec.field(name="CheckDuplicate", default=None)
    driver: str = msgspec.field(name="Driver", default="bridge")
    scope: str = msgspec.field(name="Scope", default="")
    enable_ipv4: bool | None = msgspec.field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = msgspec.field(name="EnableIPv6", default=None)
    ipam: IPAM | None = msgspec.field(name="IPAM", default=None)
    internal: bool = msgspec.field(name="Internal", default=False)
    attachable: bool = msgspec.field(name="Attachable", default=False)
    ingress: bool = msgspec.field(name="Ingress", default=False)
    config_only: bool = msgspec.field(name="ConfigOnly", default=False)
    config_from: ConfigReference | None = msgspec.field(name="ConfigFrom", default=None)
    options: dict[str, str] | None = msgspec.field(name="Options", default=None)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class NetworkCreated(msgspec.Struct, frozen=True):
    """Answer of ``POST /networks/create`` (201)."""

    id: str = msgspec.field(name="Id")
    warning: str = msgspec.field(name="Warning", default="")


class NetworkConnect(msgspec.Struct, frozen=True):
    """Body of ``POST /networks/{id}/connect``."""

    container: str = msgspec.field(name="Container", default="")
    endpoint_config: EndpointSettings | None = msgspec.field(name="EndpointConfig", default=None)


class NetworkDisconnect(msgspec.Struct, frozen=True):
    """Body of ``POST /networks/{id}/disconnect``."""

    container: str = msgspec.field(name="Container", default="")
    force: bool = msgspec.field(name="Force", default=False)


class NetworksPruned(msgspec.Struct, frozen=True):
    """Answer of ``POST /networks/prune``."""

    networks_deleted: tuple[str, ...] | None = msgspec.field(name="NetworksDeleted", default=None)


# -- values inside the engine -----------------------------------------------------------


class AddressPool(msgspec.Struct, frozen=True):
    """One ``--default-address-pool``: networks of prefix length ``size`` cut from ``base``."""

    base: str = msgspec.field(name="Base")
    size: int = msgspec.field(name="Size")

    @classmethod
    def parse(cls, text: str) -> AddressPool:
        """From ``base=10.10.0.0/16,size=24``; raises InvalidParameter, which says what is wrong."""
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        if set(fields) != {"base", "size"} or not fields["size"].isdecimal():
            raise InvalidParameter(
                f"invalid address pool {text!r}: write it as base=10.10.0.0/16,size=24"
            )
        return cls(fields["base"], int(fields["size"]))


class NetworkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's options for networks, with Docker's defaults."""

    bridge: str = ""
    """Use this existing bridge; ``none`` switches the default network off; empty: our own."""
    bip: str = ""
    """Address and prefix of the default bridge, such as 172.17.0.1/16."""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    default_address_pools: tuple[AddressPool, ...] = ()
    default_network_opts: dict[str, dict[str, str]] = {}
    """By driver: options of user networks that do not give them."""
    ipv6: bool = False
    """The default bridge gets IPv6 too (a unique-local network unless fixed_cidr_v6)."""
    default_network_ipv6: bool = False
    """User networks are dual-stack unless they say otherwise (beyond Docker)."""
    mtu: int = 0
    """Bytes; 0 means the kernel's default for the device."""
    icc: bool = True
    ip_masq: bool = True
    ip_forward: bool = True
    firewall: bool = True
    """False leaves the host's nftables alone altogether (``--iptables=false``)."""
    id_mappings: IDMappings | None = None
    """Of the user namespace that containers have by default (``--userns-remap``)."""
    default_binding_ip: str = ""
    """``--ip``: address that published ports listen on when the request names none."""
    userland_proxy: bool = True
    """IPv6 clients of containers without IPv6 are passed on by the engine."""
    publish_policy: str = "open"
    """``open``: published ports are reachable whatever the host's firewall says; ``host``:
    they obey the host's input policy."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    host_gateway_ips: tuple[str, ...] = ()
    resolv_conf: str = "/etc/resolv.conf"
    host_sockets: str = ""
    """Socket of who opens the host's ports for an engine in a network namespace of its own."""


class NetworkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The network side of a container about to start.

    ``mode`` is ``HostConfig.NetworkMode``: ``default``, ``bridge``, ``host``, ``none``,
    ``container:<full id>`` or a network's name or id; or ``UNCONNECTED``. ``endpoints`` are keyed
    by network name or id; a mode naming a network need not be repeated there.
    """

    container_id: str
    name: str
    """Without the leading slash."""
    hostname: str = ""
    domainname: str = ""
    mode: str = "default"
    endpoints: dict[str, EndpointSettings] = {}
    exposed_ports: tuple[str, ...] = ()
    """Such as ``80/tcp``."""
    port_bindings: dict[str, tuple[PortBinding, ...]] = {}
    publish_all: bool = False
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    mac_address: str = ""
    links: tuple[str, ...] = ()
    """Legacy links ``container-name-or-id:alias`` (HostConfig.Links)."""
    directory: str = ""
    """Host directory that receives ``hosts``, ``hostname`` and ``resolv.conf``; empty: none."""
    id_mappings: IDMappings | None = None
    """Of the container's user namespace; None is the host's."""
    userns_path: str = ""
    """That namespace, when it is another container's."""


class NetworkAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """The network settings that a container got.

    ``netns_fd`` is the namespace the container's init enters; it stays the service's (pass
    it on with SCM_RIGHTS or dup it, do not close it) and is valid until ``detach``. None
    means the host's own namespace.
    """

    netns_fd: int | None
    userns_fd: int | None = None
    """The user namespace that the network namespace belongs to, which the container's init enters
    as well; None when there is none, or when it is another container's."""
    settings: NetworkSettings
    directory: str = ""
    """Whose ``hosts``, ``hostname`` and ``resolv.conf`` to mount: the request's, or with
    ``container:`` the other container's."""
    environment: tuple[str, ...] = ()
    """Variables of legacy links (``ALIAS_PORT=…``) to put before the container's own."""


class RunningContainer(msgspec.Struct, frozen=True):
    """A container found running after an engine restart."""

    request: NetworkRequest
    pid: int
    """Its init, whose network namespace is the container's."""


class PathStep(msgspec.Struct, frozen=True):
    """One step of a packet's way, for ``portside explain``."""

    kind: str
    """interface, veth, bridge, route, masquerade, publish, dns, firewall"""
    name: str
    detail: str
