"""The engine's firewall table as text: what each network and each published port needs.

::

    prerouting, output   destination NAT of published ports, by lookup in maps
    forward              what may pass to and from our bridges
    postrouting          source NAT of what leaves, and of hairpins
    raw                  nothing from a bridge may pretend to be the host's loopback
    input                (publish policy ``host``) learns whom the host's own chains let in
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from portside.model.network import IPNetwork
from portside.networks.portmapper import Publication

ADMITTED = "10m"
"""How long a client the host's input chains let in is remembered after its last connection."""


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """What the firewall has to know of one bridge network."""

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


@dataclass(frozen=True, slots=True)
class LinkRule:
    """A legacy link: one container may reach another's ports in spite of icc=false."""

    source: str
    target: str
    protocol: str
    port: int


def _braces(items: Iterable[str]) -> str:
    values = sorted(set(items))
    return f"elements = {{ {', '.join(values)} }}" if values else ""


def _quoted(name: str) -> str:
    return f'"{name}"'


Member = tuple[str, str, str]
"""(map, key, value), or (set, key, "")."""


def elements(
    publication: Publication, routed: bool = False, asks_host: bool = False
) -> list[Member]:
    """What publishes a port; with ``asks_host`` the host's input chains decide who comes in."""
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


def render(
    table: str,
    networks: Sequence[NetworkRules],
    members: Iterable[tuple[str, str, str]],
    links: Sequence[LinkRule] = (),
    asks_host: bool = False,
) -> str:
    """The whole table as a script that replaces it."""
    filled: dict[str, list[str]] = {}
    for name, key, value in members:
        filled.setdefault(name, []).append(f"{key} : {value}" if value else key)
    ours = _braces(_quoted(net.bridge) for net in networks)
    internal = _braces(_quoted(net.bridge) for net in networks if net.internal)
    pairs = _braces(f'"{net.bridge}" . "{net.bridge}"' for net in networks)
    talking = _braces(f'"{net.bridge}" . "{net.bridge}"' for net in networks if net.icc)
    linked = _braces(
        f"{rule.source} . {rule.target} . {rule.protocol} . {rule.port}" for rule in links
    )
    return f"""
add table inet {table}
delete table inet {table}
table inet {table} {{
  set ours {{ type ifname; {ours} }}
  set internal {{ type ifname; {internal} }}
  set pairs {{ type ifname . ifname; {pairs} }}
  set talking {{ type ifname . ifname; {talking} }}
  set linked {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; {linked} }}
  map published4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    {_braces(filled.get("published4", ()))} }}
  map published6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service
    {_braces(filled.get("published6", ()))} }}
  map anywhere4 {{ type inet_proto . inet_service : ipv4_addr . inet_service
    {_braces(filled.get("anywhere4", ()))} }}
  map anywhere6 {{ type inet_proto . inet_service : ipv6_addr . inet_service
    {_braces(filled.get("anywhere6", ()))} }}
  set direct4 {{ type ipv4_addr . inet_proto . inet_service
    {_braces(filled.get("direct4", ()))} }}
  set direct6 {{ type ipv6_addr . inet_proto . inet_service
    {_braces(filled.get("direct6", ()))} }}
{_asking(filled) if asks_host else ""}  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname @ours ip daddr 127.0.0.0/8 drop
    iifname @ours ip saddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 return
    {"iifname @ours " if asks_host else ""}fib daddr type local jump publish
{_admitted(asks_host)}  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump publish
  }}
  chain publish {{
    meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @published4
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @anywhere4
    meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @anywhere6
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname @ours ip saddr 127.0.0.0/8 ct status dnat masquerade
    oifname @ours ip6 saddr ::1 ct status dnat masquerade
{_postrouting(networks)}  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname @ours jump from_container
    oifname @ours jump to_container
  }}
  chain from_container {{
    iifname . oifname @pairs return
    iifname @internal drop
  }}
  chain to_container {{
    ct state established,related accept
    iifname . oifname @talking accept
    oifname @internal drop
    ct status dnat accept
    ip saddr . ip daddr . meta l4proto . th dport @linked accept
    ip daddr . meta l4proto . th dport @direct4 accept
    ip6 daddr . meta l4proto . th dport @direct6 accept
{_direct(networks)}    drop
  }}
}}
"""


def _admitted(asks_host: bool) -> str:
    if not asks_host:
        return ""
    return "".join(
        f"    fib daddr type local {family} saddr . meta l4proto . th dport @admitted{version} "
        "jump publish\n"
        for version, family in ((4, "ip"), (6, "ip6"))
    )


def _asking(filled: Mapping[str, Sequence[str]]) -> str:
    """Let the host's input chains decide about published ports.

    A first packet from outside is not redirected: it passes the host's own input chains. If
    they let it through, our chain behind them notes the client and drops the packet; the client
    sends it again (TCP after one second) and is redirected like everyone it knows of.
    """
    lines: list[str] = []
    rules: list[str] = []
    for version, family in ((4, "ip"), (6, "ip6")):
        kind = f"ipv{version}_addr"
        client = f"{kind} . inet_proto . inet_service"
        lines += [
            f"set admitted{version} {{ type {client}; flags dynamic,timeout; "
            f"timeout {ADMITTED}; size 65535; }}",
            f"set ask{version} {{ type {client}; {_braces(filled.get(f'ask{version}', ()))} }}",
            f"set ask_any{version} {{ type inet_proto . inet_service; "
            f"{_braces(filled.get(f'ask_any{version}', ()))} }}",
        ]
        note = f"update @admitted{version} {{ {family} saddr . meta l4proto . th dport }} drop"
        rules += [
            f"ct state new {family} daddr . meta l4proto . th dport @ask{version} {note}",
            f"meta nfproto ipv{version} ct state new meta l4proto . th dport "
            f"@ask_any{version} {note}",
        ]
    chain = ["type filter hook input priority 400; policy accept;",
             'iifname "lo" accept', "iifname @ours accept", *rules]  # fmt: skip
    body = "".join(f"    {line}\n" for line in chain)
    return "".join(f"  {line}\n" for line in lines) + f"  chain input {{\n{body}  }}\n"


def _postrouting(networks: Sequence[NetworkRules]) -> str:
    lines: list[str] = []
    for net in networks:
        for subnet in net.subnets:
            family = "ip" if subnet.version == 4 else "ip6"
            source = f"{family} saddr {subnet}"
            lines.append(f'{source} oifname "{net.bridge}" ct status dnat masquerade')
            if net.internal or not net.masquerade or subnet.version in net.direct:
                continue
            chosen = net.source4 if subnet.version == 4 else net.source6
            action = f"snat {family} to {chosen}" if chosen else "masquerade"
            lines.append(f"{source} oifname != @ours {action}")
    return "".join(f"    {line}\n" for line in lines)


def _direct(networks: Sequence[NetworkRules]) -> str:
    lines: list[str] = []
    for net in networks:
        for version in net.unprotected:
            lines.append(f'oifname "{net.bridge}" meta nfproto ipv{version} accept')
        lines += [f'iifname "{name}" oifname "{net.bridge}" accept' for name in net.trusted]
        lines += [
            f'oifname "{net.bridge}" meta l4proto {protocol} accept'
            for version, protocol in ((4, "icmp"), (6, "ipv6-icmp"))
            if version in net.direct
        ]
    return "".join(f"    {line}\n" for line in lines)


def subnets(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts if text)
