"""The firewall: the host's own rules keep their say, networks are apart, ours come back."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import struct
from pathlib import Path

import pytest
from netkit import HOST_WAN, OUTSIDE_WAN, Container, Host, private_host, sh, until

from portside.kernel import nftables, nftrules
from portside.kernel.netlink import attribute
from portside.kernel.nftables import Chain, Nft, Set, Table
from portside.model.network import EndpointSettings, NetworkCreate, PortBinding
from portside.networks.firewall.host_firewall import HostFirewall
from portside.networks.firewall.ruleset import LinkRule, NetworkRules, render, subnets
from portside.networks.service import NetworkService

ANY = (PortBinding("", "8080"),)
STRICT = (
    "nft 'table inet filter { chain input { type filter hook input priority filter; "
    "policy drop; iif lo accept; ct state established,related accept; "
    "tcp dport { 22, 9000-9001 } accept; jump more; }; "
    "chain more { ip saddr 203.0.113.2 tcp dport 8081 accept; }; }'"
)
"""A host firewall as people write it."""


async def published(host: Host, service: NetworkService, port: str) -> Container:
    web = await host.container(
        service, f"web{port}", port_bindings={"80/tcp": (PortBinding("", port),)}
    )
    web.serve(80)
    return web


@private_host
async def test_port_obeys_the_hosts_input_policy(host: Host) -> None:
    sh(STRICT)
    service = await host.service(publish_policy="host")
    outside = host.outside()
    await published(host, service, "8080")
    await published(host, service, "8081")
    await published(host, service, "9000")
    assert outside.ask(HOST_WAN, 8080, timeout=2.5) == "TimeoutError"
    assert outside.ask(HOST_WAN, 9000, timeout=5) == OUTSIDE_WAN
    assert outside.ask(HOST_WAN, 9000, timeout=0.9) == OUTSIDE_WAN, "known from the first time on"
    assert outside.ask(HOST_WAN, 8081, timeout=5) == OUTSIDE_WAN, "let in by its address"
    assert host.own().ask("127.0.0.1", 8080) == "172.17.0.1"
    client = await host.container(service, "client")
    assert client.ask(HOST_WAN, 8080) == "172.17.0.1"
    sh("nft flush chain inet filter more")
    await asyncio.sleep(0.2)
    assert outside.ask(HOST_WAN, 8081, timeout=2.5) == "TimeoutError", "whom it knew is forgotten"


@private_host
async def test_open_ports_are_reported_when_the_host_would_close_them(host: Host) -> None:
    sh(STRICT)
    service = await host.service()
    outside = host.outside()

    def warnings(port: str, address: str = "") -> list[str]:
        bindings = {"80/tcp": (PortBinding(address, port),)}
        return service.validate(host.request(f"w{port}{address}", port_bindings=bindings))

    (told,) = warnings("8080")
    assert "8080/tcp" in told and "inet filter input" in told and "--publish-policy" in told
    assert warnings("22") == warnings("9001") == warnings("8080", "127.0.0.1") == []
    await published(host, service, "8080")
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    sh("nft delete table inet filter")
    await asyncio.sleep(0.2)
    assert warnings("8080") == []


@private_host
async def test_networks_are_apart(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    for name, internal in (("n1", False), ("n2", False), ("inner", True)):
        await service.create(NetworkCreate(name=name, internal=internal))
    one = await host.container(service, "one", mode="n1")
    two = await host.container(service, "two", mode="n2")
    inner = await host.container(service, "in1", mode="inner")
    other = await host.container(service, "in2", mode="inner")
    for machine in (one, two, inner, other):
        machine.serve(80)
    outside.serve(7000)
    assert one.ask(two.ip, 80, timeout=1) == "TimeoutError"
    assert two.ask(OUTSIDE_WAN, 7000) == HOST_WAN
    assert inner.ask(other.ip, 80) == inner.ip
    assert inner.ask(OUTSIDE_WAN, 7000, timeout=1) != HOST_WAN
    assert inner.ask(one.ip, 80, timeout=1) in ("TimeoutError", "OSError")
    assert one.ask(inner.ip, 80, timeout=1) in ("TimeoutError", "OSError")
    # also when a container sets a route of its own
    inner.sh("ip route add default via " + inner.ip.rsplit(".", 1)[0] + ".1", check=False)
    assert inner.ask(OUTSIDE_WAN, 7000, timeout=1) != HOST_WAN


@private_host
async def test_containers_that_may_not_talk(host: Host) -> None:
    service = await host.service(icc=False)
    outside = host.outside()
    database = await host.container(service, "db", exposed_ports=("80/tcp",))
    database.serve(80)
    database.serve(81)
    web = await host.container(service, "web", links=("db:data",))
    stranger = await host.container(service, "stranger", port_bindings={"80/tcp": ANY})
    stranger.serve(80)
    assert stranger.ask(database.ip, 80, timeout=1) in ("TimeoutError", "OSError")
    assert web.ask(database.ip, 80) == web.ip, "a link opens the exposed port"
    assert web.ask(database.ip, 81, timeout=1) in ("TimeoutError", "OSError")
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    outside.serve(7000)
    assert stranger.ask(OUTSIDE_WAN, 7000) == HOST_WAN
    await host.stop(service)
    again = await host.service([m.running() for m in (database, web, stranger)], icc=False)
    assert web.ask(database.ip, 80) == web.ip, "links outlive the engine"
    assert stranger.ask(database.ip, 80, timeout=1) in ("TimeoutError", "OSError")
    await again.create(
        NetworkCreate(name="quiet", options={"com.docker.network.bridge.enable_icc": "false"})
    )
    a = await host.container(again, "a", mode="quiet")
    b = await host.container(again, "b", mode="quiet")
    b.serve(80)
    assert a.ask(b.ip, 80, timeout=1) in ("TimeoutError", "OSError")


@private_host
async def test_flushed_rules_come_back_with_user_networks(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    await service.create(NetworkCreate(name="n1", enable_ipv6=True))
    web = await host.container(service, "web", mode="n1", port_bindings={"80/tcp": ANY})
    web.serve(80)
    await service.create(NetworkCreate(name="n2"))
    await service.connect("n2", web.id, EndpointSettings())
    table = host.instance.table
    before = sh(f"nft -s list table inet {table}")
    sh("nft flush ruleset")
    await until(lambda: sh(f"nft -s list table inet {table}", check=False) == before)
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    outside.serve(7000)
    assert web.ask(OUTSIDE_WAN, 7000) == HOST_WAN


@private_host
async def test_beside_rules_as_dockerd_writes_them(host: Host) -> None:
    """Both have bridges, NAT and isolation; neither sees the other's containers."""
    sh(
        "nft 'table ip nat { chain PREROUTING { type nat hook prerouting priority dstnat; "
        "fib daddr type local tcp dport 9090 dnat to 172.30.0.2:80; }; "
        "chain POSTROUTING { type nat hook postrouting priority srcnat; "
        'oifname != "docker9" ip saddr 172.30.0.0/16 masquerade; }; }\''
    )
    service = await host.service()
    outside = host.outside()
    web = await host.container(service, "web", port_bindings={"80/tcp": ANY})
    web.serve(80)
    outside.serve(7000)
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    assert web.ask(OUTSIDE_WAN, 7000) == HOST_WAN
    assert "172.30.0.2" in sh("nft list table ip nat")


HOSTS = (
    ("tcp dport { 22, 8000-8010 } counter accept", "drop", "tcp", {22: 0, 8005: 0, 8011: 1, 80: 1}),
    ("tcp dport { 22, 8000-8010 } accept", "drop", "udp", {22: 1}),
    ("tcp dport 80 reject", "accept", "tcp", {80: 1, 81: 0}),
    ("tcp dport @ok accept", "drop", "tcp", {443: 0, 80: 0, 81: 1}),
    ("tcp dport @many accept", "drop", "tcp", {22: 0, 23: 0, 24: 1, 100: 0, 201: 1}),
    ("tcp dport != @ok drop", "accept", "tcp", {443: 0, 81: 1}),
    ("tcp dport 1000-2000 drop", "accept", "tcp", {999: 0, 1000: 1, 2000: 1, 2001: 0}),
    ("ct state established,related accept", "drop", "tcp", {80: 1}),
    ("ct state new meta l4proto tcp accept", "drop", "tcp", {80: 0}),
    ("ip saddr 10.0.0.0/8 accept", "drop", "tcp", {80: 1}),
    ("ip protocol tcp accept", "drop", "tcp", {80: 0}),
    ("jump more", "drop", "tcp", {80: 1, 79: 1, 90: 0}),
    ("goto more", "accept", "tcp", {79: 0}),
    ("jump circle", "drop", "tcp", {80: 1}),
)
"""A rule, the chain's policy, a protocol, and which ports are closed."""
HOST = """
table inet filter {{
  set ok {{ type inet_service; elements = {{ 80, 443 }} }}
  set many {{ type inet_service; flags interval; elements = {{ 22, 23, 100-200 }} }}
  chain more {{ tcp dport 80 return; tcp dport != 79 accept; }}
  chain circle {{ ip saddr 10.0.0.1 jump more; }}
  chain input {{ type filter hook input priority 0; policy {policy}; {rule}; }}
}}
"""


@private_host
async def test_host_firewall_is_read_as_the_kernel_would(host: Host) -> None:
    nft = Nft()
    for rule, policy, protocol, ports in HOSTS:
        (host.root / "rules").write_text("flush ruleset" + HOST.format(rule=rule, policy=policy))
        sh(f"nft -f {host.root}/rules")
        found = HostFirewall.read(nft, "portside")
        for port, closed in ports.items():
            wanted = "inet filter input" if closed else ""
            assert found.closes(protocol, port) == wanted, (rule, port)
        assert found.closes(protocol, 443, "forward") == ""
        assert HostFirewall.read(nft, "filter").closes(protocol, 80) == "", "our own is left out"
    sh("nft 'table inet filter { chain f { type filter hook forward priority 0; policy drop; }; }'")
    assert HostFirewall.read(nft, "x").closes("tcp", 443, "forward") == "inet filter f"
    nft.close()


@private_host
async def test_rules_are_what_nft_makes_of_them(host: Host) -> None:
    """nft(8), which decodes what was compiled here, shows each rule as it was written."""
    networks = [
        NetworkRules("br0", subnets("172.17.0.0/16", "fd00::/64"), direct=(6,)),
        NetworkRules("br1", subnets("10.1.2.64/26", "0.0.0.0/0"), internal=True, icc=False),
        NetworkRules(
            "br2", subnets("10.1.3.0/24"), source4="192.0.2.1", unprotected=(4,), trusted=("wan0",)
        ),
    ]
    members = [
        ("published4", "127.0.0.1 . tcp . 8080", "172.17.0.2 . 80"),
        ("anywhere6", "sctp . 80", "fd00::2 . 80"),
        ("direct4", "10.1.3.2 . udp . 53", ""),
    ]
    members += [("anywhere4", f"tcp . {port}", "172.17.0.9 . 80") for port in range(1, 2000)]
    links = [LinkRule("10.1.2.66", "10.1.2.67", "tcp", 80)]
    nft = Nft()
    for asks in (False, True):
        table = render("t", networks, members, links, asks)
        for _ in range(2):
            nft.commit(table.replace())
        shown = sh("nft -s list table inet t")
        for chain in table.chains:
            for rule in chain.rules:
                words = [w for w in rule.split() if w not in ("meta", "nfproto", "ipv4", "ipv6")]
                assert (
                    any(
                        words
                        == [w for w in line.split() if w not in ("meta", "nfproto", "ipv4", "ipv6")]
                        for line in shown.splitlines()
                    )
                    or "0.0.0.0/0" in rule
                ), rule
        for name, key, value in members[:5]:
            assert f"{key} : {value}".removesuffix(" : ") in shown, name
        assert shown.count("172.17.0.9 . 80") == 1999
    with pytest.raises(ValueError):
        nftrules.compile("ip saddr 1.2.3.4 tcp flags syn drop", "inet", {})
    with pytest.raises(nftables.NftError, match="add rule to c: jump nowhere"):
        nft.commit(Table("inet", "u", chains=[Chain("c", ["jump nowhere"])]).replace())
    assert "table inet u" not in sh("nft list tables"), "all or nothing"
    nft.close()


def odd_set(nft: Nft, family: str = "inet") -> None:
    """A set in another program's table with what older libraries die of."""
    odd = Set("odd", "ifname", "", [('"wan0"', "")])
    table = Table(family, "others", [odd], [Chain("input", ["iifname @odd accept"], "input")])
    messages = []
    for message in table.replace():
        if message.kind == nftables.NEWSET:
            cut = message.body.index(struct.pack("=HH", 10, nftables.SET_USERDATA))
            junk = attribute(nftables.SET_USERDATA, b"\x02\xff" + os.urandom(100))
            message = dataclasses.replace(message, body=message.body[:cut] + junk)
        messages.append(message)
    nft.commit(messages)


@private_host
async def test_other_tables_cannot_end_the_engine(host: Host) -> None:
    """A library that reads what others wrote may die of it, and the engine with it."""
    nft = Nft()
    odd_set(nft)
    service = await host.service()
    outside = host.outside()
    await published(host, service, "8080")
    bindings = {"80/tcp": (PortBinding("", "81"),)}
    service.validate(host.request("other", port_bindings=bindings))
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    await service.create(NetworkCreate(name="n1"))
    bad = await host.container(service, "bad", mode="n1")
    program = (
        "import sys; sys.path[:0] = ['src', 'tests', 'tests/kernel']\n"
        "import test_network_firewall as t; t.odd_set(t.Nft(), 'ip')"
    )
    assert bad.spawn(program).wait() == 0, "the container's own rules"
    await host.stop(service)
    again = await host.service([bad.running()])
    assert again.settings(bad.id) is not None
    assert "libnftables" not in Path("/proc/self/maps").read_text()
    nft.close()
