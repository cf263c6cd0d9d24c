"""The engine's firewall table: what each network and each published port needs.

::

    prerouting, output   destination NAT of published ports, by lookup in maps
    forward              what may pass to and from our bridges
    postrouting          source NAT of what leaves, and of hairpins
    raw                  nothing from a bridge may pretend to be the host's loopback
    input                (publish policy ``host``) learns whom the host's own chains let in
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from portside.kernel.nftables import Chain, Set, Table
from portside.model.network import IPNetwork
from portside.networks import network_options
from portside.networks.network_store import NetworkRecord
from portside.networks.portmapper import Publication

ADMITTED = 600
"""Seconds for which a client that the host's input chains let in is remembered after its last
connection."""


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """The firewall's view of one bridge network."""

    bridge: str
    subnets: tuple[IPNetwork, ...]
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    source4: str = ""
    """Leave with this source address instead of the outgoing interface's."""
    source6: str = ""
    direct: tuple[int, ...] = ()
    """IP versions whose published ports are reached at the container's own address
    (gateway mode ``routed``)."""
    unprotected: tuple[int, ...] = ()
    """IP versions whose containers are reachable from anywhere (``nat-unprotected``)."""
    trusted: tuple[str, ...] = ()
    """Host interfaces that may reach containers directly."""


def network_rules(record: NetworkRecord) -> NetworkRules:
    """The firewall's view of a network, from the network's options."""
    modes = {
        4: record.option(network_options.BRIDGE_MODE4) or "nat",
        6: record.option(network_options.BRIDGE_MODE6) or "nat",
    }
    return NetworkRules(
        bridge=record.link,
        subnets=subnets(*(config.subnet for config in record.configs())),
        internal=record.resource.internal,
        icc=record.flag(network_options.BRIDGE_ICC, True),
        masquerade=record.flag(network_options.BRIDGE_MASQUERADE, True),
        source4=record.option(network_options.HOST_IPV4),
        source6=record.option(network_options.HOST_IPV6),
        direct=tuple(version for version, mode in modes.items() if mode == "routed"),
        unprotected=tuple(version for version, mode in modes.items() if mode == "nat-unprotected"),
        trusted=tuple(filter(None, record.option(network_options.BRIDGE_TRUSTED).split(":"))),
    )


@dataclass(frozen=True, slots=True)
class LinkRule:
    """A legacy link: one container may reach another's ports in spite of icc=false."""

    source: str
    target: str
    protocol: str
    port: int


Member = tuple[str, str, str]
"""(map, key, value), or (set, key, "")."""


def elements(
    publication: Publication, routed: bool = False, asks_host: bool = False
) -> list[Member]:
    """Rules that publish a port; with ``asks_host``, the host's input chains filter clients."""
    version = publication.version
    port = f"{publication.protocol} . {publication.host_port}"
    target = f"{publication.container_ip} . {publication.container_port}"
    if routed:
        key = f"{publication.container_ip} . {publication.protocol} . {publication.container_port}"
        return [(f"direct{version}", key, "")]
    if publication.any_address:
        asked = [(f"ask_any{version}", port, "")] if asks_host else []
        return [(f"anywhere{version}", port, target), *asked]
    key = f"{publication.host_ip} . {port}"
    asked = [(f"ask{version}", key, "")] if asks_host else []
    return [(f"published{version}", key, target), *asked]


_PORT = "inet_proto . inet_service"
_MAPS = {
    f"{name}{version}": (key, value)
    for version in (4, 6)
    for name, key, value in (
        ("published", f"ipv{version}_addr . {_PORT}", f"ipv{version}_addr . inet_service"),
        ("anywhere", _PORT, f"ipv{version}_addr . inet_service"),
        ("direct", f"ipv{version}_addr . {_PORT}", ""),
    )
}
_ASKING = {
    f"{name}{version}": (key, "")
    for version in (4, 6)
    for name, key in (("ask", f"ipv{version}_addr . {_PORT}"), ("ask_any", _PORT))
}
"""Sets that are there with the publish policy ``host`` only."""


def member_set(name: str) -> Set:
    """The set or map that members of a name are in, empty."""
    key, value = {**_MAPS, **_ASKING}[name]
    return Set(name, key, value)


def render(
    table: str,
    networks: Sequence[NetworkRules],
    members: Iterable[Member],
    links: Sequence[LinkRule] = (),
    asks_host: bool = False,
) -> Table:
    """The whole table."""
    sets = [*_interfaces(networks), _linked(links), *_published(members, asks_host)]
    chains = [
        Chain(
            "raw",
            (
                "iifname @ours ip daddr 127.0.0.0/8 drop",
                "iifname @ours ip saddr 127.0.0.0/8 drop",
            ),
            "prerouting",
            priority=-300,
        ),
        Chain(
            "publish",
            (
                "dnat ip to ip daddr . meta l4proto . th dport map @published4",
                "meta nfproto ipv4 dnat ip to meta l4proto . th dport map @anywhere4",
                "dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6",
                "meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @anywhere6",
            ),
        ),
        Chain(
            "from_container",
            ("iifname . oifname @pairs return", "iifname @internal drop"),
        ),
        Chain("to_container", (*_TO_CONTAINER, *_direct(networks), "drop")),
        Chain("prerouting", _prerouting(asks_host), "prerouting", "nat", -100),
        Chain("output", ("fib daddr type local jump publish",), "output", "nat", -100),
        Chain("postrouting", _postrouting(networks), "postrouting", "nat", 100),
        Chain(
            "forward",
            ("iifname @ours jump from_container", "oifname @ours jump to_container"),
            "forward",
        ),
    ]
    if asks_host:
        chains.append(Chain("input", _input(), "input", priority=400))
    return Table("inet", table, sets, chains)


_TO_CONTAINER = (
    "ct state established,related accept",
    "iifname . oifname @talking accept",
    "oifname @internal drop",
    "ct status dnat accept",
    "ip saddr . ip daddr . meta l4proto . th dport @linked accept",
    "ip daddr . meta l4proto . th dport @direct4 accept",
    "ip6 daddr . meta l4proto . th dport @direct6 accept",
)


def _interfaces(networks: Sequence[NetworkRules]) -> list[Set]:
    def pair(net: NetworkRules) -> str:
        return f"{net.bridge} . {net.bridge}"

    found = (
        ("ours", "ifname", [net.bridge for net in networks]),
        ("internal", "ifname", [net.bridge for net in networks if net.internal]),
        ("pairs", "ifname . ifname", [pair(net) for net in networks]),
        ("talking", "ifname . ifname", [pair(net) for net in networks if net.icc]),
    )
    return [
        Set(name, key, elements=[(value, "") for value in sorted(set(values))])
        for name, key, values in found
    ]


def _linked(links: Sequence[LinkRule]) -> Set:
    keys = {f"{rule.source} . {rule.target} . {rule.protocol} . {rule.port}" for rule in links}
    pairs = [(key, "") for key in sorted(keys)]
    return Set("linked", f"ipv4_addr . ipv4_addr . {_PORT}", elements=pairs)


def _published(members: Iterable[Member], asks_host: bool) -> list[Set]:
    filled: dict[str, dict[str, str]] = {}
    for name, key, value in members:
        filled.setdefault(name, {})[key] = value
    types = {**_MAPS, **(_ASKING if asks_host else {})}
    sets = [
        Set(name, key, value, sorted(filled.get(name, {}).items()))
        for name, (key, value) in types.items()
    ]
    if asks_host:
        sets += [
            Set(f"admitted{n}", f"ipv{n}_addr . {_PORT}", timeout=ADMITTED, size=65535)
            for n in (4, 6)
        ]
    return sets


def _prerouting(asks_host: bool) -> list[str]:
    rules = ['iifname != "lo" ip daddr 127.0.0.0/8 return']
    if not asks_host:
        return [*rules, "fib daddr type local jump publish"]
    rules.append("iifname @ours fib daddr type local jump publish")
    return rules + [
        f"fib daddr type local {family} saddr . meta l4proto . th dport @admitted{version} "
        "jump publish"
        for version, family in ((4, "ip"), (6, "ip6"))
    ]


def _input() -> list[str]:
    """Let the host's input chains decide about published ports.

    A first packet from outside is not redirected: it passes the host's own input chains. If
    they let it through, our chain behind them notes the client and drops the packet; the client
    sends it again (TCP after one second) and is redirected like everyone it knows of.
    """
    rules = ['iifname "lo" accept', "iifname @ours accept"]
    for version, family in ((4, "ip"), (6, "ip6")):
        note = f"update @admitted{version} {{ {family} saddr . meta l4proto . th dport }} drop"
        rules += [
            f"ct state new {family} daddr . meta l4proto . th dport @ask{version} {note}",
            f"meta nfproto ipv{version} ct state new meta l4proto . th dport "
            f"@ask_any{version} {note}",
        ]
    return rules


def _postrouting(networks: Sequence[NetworkRules]) -> list[str]:
    rules = [
        "oifname @ours ip saddr 127.0.0.0/8 ct status dnat masquerade",
        "oifname @ours ip6 saddr ::1 ct status dnat masquerade",
    ]
    for net in networks:
        for subnet in net.subnets:
            family = "ip" if subnet.version == 4 else "ip6"
            source = f"{family} saddr {subnet}"
            rules.append(f'{source} oifname "{net.bridge}" ct status dnat masquerade')
            if net.internal or not net.masquerade or subnet.version in net.direct:
                continue
            chosen = net.source4 if subnet.version == 4 else net.source6
            action = f"snat {family} to {chosen}" if chosen else "masquerade"
            rules.append(f"{source} oifname != @ours {action}")
    return rules


def _direct(networks: Sequence[NetworkRules]) -> list[str]:
    rules: list[str] = []
    for net in networks:
        for version in net.unprotected:
            rules.append(f'oifname "{net.bridge}" meta nfproto ipv{version} accept')
        rules += [f'iifname "{name}" oifname "{net.bridge}" accept' for name in net.trusted]
        rules += [
            f'oifname "{net.bridge}" meta l4proto {protocol} accept'
            for version, protocol in ((4, "icmp"), (6, "ipv6-icmp"))
            if version in net.direct
        ]
    return rules


def subnets(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts if text)
