"""The firewall: the host's own rules keep their say, networks are apart, ours come back."""

from __future__ import annotations

import asyncio

from netkit import HOST_WAN, OUTSIDE_WAN, Container, Host, private_host, sh, until

from portside.model.network import EndpointSettings, NetworkCreate, PortBinding
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
async def test_open_ports_are_told_when_the_host_would_close_them(host: Host) -> None:
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
