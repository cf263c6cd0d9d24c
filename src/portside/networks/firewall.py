"""The engine's firewall table: one table of our own, always written as a whole or not at all.

::

    prerouting, output   destination NAT of published ports, by lookup in maps
    forward              what may pass to and from our bridges
    postrouting          source NAT of what leaves, and of hairpins
    raw                  nothing from a bridge may pretend to be the host's loopback

Publishing a port adds one element to a map, which costs 0.1 ms whatever the number of
containers. Networks change rarely: then the whole table is replaced in one transaction,
which is also how it comes back after somebody flushed it. Other tables are never touched;
that also means that a drop in another table's forward chain stays a drop.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from portside.kernel.nftables import Monitor, Nft, NftError
from portside.model.errors import SystemFailure
from portside.model.network import IPNetwork
from portside.networks.ports import Publication


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


def elements(publication: Publication, routed: bool = False) -> list[tuple[str, str, str]]:
    """(map, key, value) of a published port; no value for members of a set."""
    version = publication.version
    port = f"{publication.protocol} . {publication.host_port}"
    target = f"{publication.container_ip} . {publication.container_port}"
    if routed:
        key = f"{publication.container_ip} . {publication.protocol} . {publication.container_port}"
        return [(f"direct{version}", key, "")]
    if publication.any_address:
        return [(f"anywhere{version}", port, target)]
    return [(f"published{version}", f"{publication.host_ip} . {port}", target)]


def render(
    table: str,
    networks: Sequence[NetworkRules],
    members: Iterable[tuple[str, str, str]],
    links: Sequence[LinkRule] = (),
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
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname @ours ip daddr 127.0.0.0/8 drop
    iifname @ours ip saddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 return
    fib daddr type local jump publish
  }}
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


class Firewall:
    """Keeps the table as it should be. Without ``enabled`` it does nothing at all."""

    def __init__(self, table: str, enabled: bool = True) -> None:
        self.table, self.enabled = table, enabled
        self._networks: dict[str, NetworkRules] = {}
        self._members: dict[tuple[str, str], str] = {}
        self._links: dict[str, tuple[LinkRule, ...]] = {}
        self._nft: Nft | None = None
        self._monitor: Monitor | None = None
        self.on_change: Callable[[], None] | None = None
        """Called when some other table changed, as the host's firewall reloaded."""

    def start(self) -> None:
        """Open nftables; SystemFailure says what is missing. Writes nothing yet."""
        if not self.enabled:
            return
        try:
            self._nft = Nft()
            self._monitor = Monitor(self.table)
        except OSError as err:
            raise SystemFailure(
                f"cannot use the kernel's firewall: {err}; install libnftables1 or start the "
                "engine with --iptables=false (no published ports, no outbound NAT)"
            ) from err

    def follow(self) -> None:
        """Put the table back at once whenever somebody else changes it."""
        if self._monitor is not None:
            asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._noticed)

    def close(self) -> None:
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._monitor = None
        if self._nft is not None:
            self._nft.close()
            self._nft = None

    def clean(self) -> None:
        """Remove the table."""
        if self._nft is not None:
            self._nft.run(f"add table inet {self.table}\ndelete table inet {self.table}")
            self._settle()

    # -- changes ---------------------------------------------------------------------------

    def set_network(self, identifier: str, rules: NetworkRules | None) -> None:
        """Add, change or (None) remove a network and replace the table."""
        before = self._networks.get(identifier)
        if before == rules:
            return
        self._put(self._networks, identifier, rules)
        try:
            self.apply()
        except BaseException:
            self._put(self._networks, identifier, before)
            raise

    @staticmethod
    def _put(
        networks: dict[str, NetworkRules], identifier: str, rules: NetworkRules | None
    ) -> None:
        if rules is None:
            networks.pop(identifier, None)
        else:
            networks[identifier] = rules

    def preload(
        self,
        networks: dict[str, NetworkRules],
        members: Iterable[tuple[str, str, str]],
        links: dict[str, tuple[LinkRule, ...]],
    ) -> None:
        """The whole wanted state, at the engine's start; ``apply`` makes it true."""
        self._networks = dict(networks)
        self._members = {(name, key): value for name, key, value in members}
        self._links = dict(links)

    def add(self, members: Sequence[tuple[str, str, str]]) -> None:
        """Publish: one transaction; SystemFailure and nothing changed when it is refused."""
        for name, key, value in members:
            self._members[name, key] = value
        lines = [
            f"add element inet {self.table} {name} {{ {key}{f' : {value}' if value else ''} }}"
            for name, key, value in members
        ]
        try:
            self._change(lines)
        except BaseException:
            for name, key, _ in members:
                self._members.pop((name, key), None)
            raise

    def remove(self, members: Sequence[tuple[str, str, str]]) -> None:
        """Take published ports back."""
        lines = []
        for name, key, _ in members:
            if self._members.pop((name, key), None) is not None:
                lines.append(f"delete element inet {self.table} {name} {{ {key} }}")
        self._change(lines)

    def set_links(self, container_id: str, links: tuple[LinkRule, ...]) -> None:
        """A container's legacy links; replaces the table only when there are any."""
        if links == self._links.get(container_id, ()):
            return
        if links:
            self._links[container_id] = links
        else:
            self._links.pop(container_id, None)
        self.apply()

    def apply(self) -> None:
        """Make the table as it should be, in one transaction."""
        if self._nft is None:
            return
        members = [(name, key, value) for (name, key), value in self._members.items()]
        links = [rule for rules in self._links.values() for rule in rules]
        script = render(self.table, list(self._networks.values()), members, links)
        try:
            self._nft.run(script)
        except NftError as err:
            raise SystemFailure(f"cannot write the firewall table {self.table}: {err}") from err
        finally:
            self._settle()

    def _change(self, lines: Sequence[str]) -> None:
        """A small change; when the table is not as expected it is written anew."""
        if not lines or self._nft is None:
            return
        try:
            self._nft.run("\n".join(lines))
        except NftError:
            self.apply()
        else:
            self._settle()

    def _settle(self) -> None:
        """Our own changes are not news; somebody else's in between are."""
        if self._monitor is not None and self._monitor.foreign_changes()[0]:
            asyncio.get_running_loop().call_soon(self.apply)

    def _noticed(self) -> None:
        assert self._monitor is not None
        ours, others = self._monitor.foreign_changes()
        if ours:
            self.apply()
        if (ours or others) and self.on_change is not None:
            self.on_change()

    # -- what is there ---------------------------------------------------------------------

    def host_tables(self) -> list[dict[str, object]]:
        """Objects of all tables on the host (libnftables-json(5)); empty when disabled."""
        return [] if self._nft is None else self._nft.list("ruleset")


def subnets(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts if text)
