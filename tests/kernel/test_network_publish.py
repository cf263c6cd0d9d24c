"""Published ports: who reaches them, what the container sees, and conflicts."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest
from netkit import (
    HOST_WAN,
    HOST_WAN6,
    OUTSIDE_WAN,
    OUTSIDE_WAN6,
    Host,
    Machine,
    private_host,
    sh,
    until,
)

from portside.model.errors import SystemFailure
from portside.model.network import EndpointSettings, NetworkCreate, PortBinding
from portside.networks import relay

ANY = (PortBinding("", "8080"),)


@private_host
async def test_reachable_from_everywhere_with_the_clients_address(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    web = await host.container(service, "web", port_bindings={"80/tcp": ANY, "80/udp": ANY})
    client = await host.container(service, "client")
    await service.create(NetworkCreate(name="other"))
    stranger = await host.container(service, "stranger", mode="other")
    for kind in ("tcp", "udp"):
        web.serve(80, kind)
        assert outside.ask(HOST_WAN, 8080, kind) == OUTSIDE_WAN
        assert host.own().ask("127.0.0.1", 8080, kind) == "172.17.0.1"
        assert host.own().ask(HOST_WAN, 8080, kind) == HOST_WAN
        assert host.own().ask("172.17.0.1", 8080, kind) == "172.17.0.1"
        assert client.ask("172.17.0.1", 8080, kind) == "172.17.0.1", "hairpin over the bridge"
        assert client.ask(HOST_WAN, 8080, kind) == "172.17.0.1"
        assert web.ask(HOST_WAN, 8080, kind) == "172.17.0.1", "its own published port"
        assert stranger.ask(HOST_WAN, 8080, kind) == stranger.ip, "from another network"
    ports = web.attachment.settings.ports
    both = (PortBinding("0.0.0.0", "8080"), PortBinding("::", "8080"))
    assert ports["80/udp"] == ports["80/tcp"] == both
    await service.detach(web.id)
    assert outside.ask(HOST_WAN, 8080, timeout=1) == "ConnectionRefusedError"


@private_host
async def test_loopback_only_port_stays_on_the_host(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    web = await host.container(
        service, "web", port_bindings={"80/tcp": (PortBinding("127.0.0.1", "8080"),)}
    )
    web.serve(80)
    assert host.own().ask("127.0.0.1", 8080) == "172.17.0.1"
    assert outside.ask(HOST_WAN, 8080, timeout=1) == "ConnectionRefusedError"
    # a neighbour that sends packets for 127.0.0.1 to us
    outside.sh("ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via 203.0.113.1")
    outside.sh("sysctl -qw net.ipv4.conf.eth0.route_localnet=1", check=False)
    assert outside.ask("127.0.0.1", 8080, timeout=1) != "172.17.0.1"
    host.own().serve(9999, address="127.0.0.1")
    web.sh("ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via 172.17.0.1")
    web.sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet")
    assert web.ask("127.0.0.1", 9999, timeout=1) in ("TimeoutError", "ConnectionRefusedError")


@private_host
async def test_one_host_address_only(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    sh("ip addr add 203.0.113.7/24 dev wan0")
    web = await host.container(
        service, "web", port_bindings={"80/tcp": (PortBinding("203.0.113.7", "8080"),)}
    )
    web.serve(80)
    assert outside.ask("203.0.113.7", 8080) == OUTSIDE_WAN
    assert outside.ask(HOST_WAN, 8080, timeout=1) == "ConnectionRefusedError"


@private_host
async def test_ipv6(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    await service.create(NetworkCreate(name="dual", enable_ipv6=True))
    web = await host.container(service, "web", mode="dual", port_bindings={"80/tcp": ANY})
    client = await host.container(service, "client", mode="dual")
    assert web.ip6.startswith("fd")
    web.serve(80, address="::")
    assert outside.ask(HOST_WAN6, 8080) == OUTSIDE_WAN6
    assert host.own().ask(HOST_WAN6, 8080) == HOST_WAN6
    assert client.ask(web.ip6, 80) == client.ip6
    gateway = web.attachment.settings.networks["dual"].ipv6_gateway
    assert client.ask(HOST_WAN6, 8080) == gateway
    assert outside.ask(HOST_WAN, 8080).endswith(OUTSIDE_WAN)
    outside.serve(7000, address="::")
    assert web.ask(OUTSIDE_WAN6, 7000) == HOST_WAN6, "outbound NAT66"
    assert web.attachment.settings.ports["80/tcp"] == (
        PortBinding("0.0.0.0", "8080"),
        PortBinding("::", "8080"),
    )
    assert "fe80::" in web.sh("ip -o -6 addr show eth0")


@private_host
async def test_conflicts_are_reported_before_anything_runs(host: Host) -> None:
    service = await host.service()
    await host.container(service, "one", port_bindings={"80/tcp": ANY})
    request = host.request("two", port_bindings={"81/tcp": ANY, "82/tcp": (PortBinding(),)})
    with pytest.raises(
        SystemFailure,
        match=r"^failed to set up container networking: driver failed programming external "
        r"connectivity on endpoint two \([0-9a-f]{64}\): "
        r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated",
    ):
        await service.attach(request)
    with socket.create_server(("0.0.0.0", 9090)):
        taken = host.request("two", port_bindings={"80/tcp": (PortBinding("", "9090"),)})
        with pytest.raises(
            SystemFailure,
            match=r"failed to bind host port for 0\.0\.0\.0:9090:172\.17\.0\.3:80/tcp: "
            "address already in use",
        ):
            await service.attach(taken)
    two = await service.attach(taken)
    assert two.settings.ip_address == "172.17.0.3", "the failures gave their addresses back"
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("0.0.0.0", 9090))


@private_host
async def test_random_and_ranges(host: Host) -> None:
    service = await host.service()
    one = await host.container(
        service,
        "one",
        exposed_ports=("80/tcp", "53/udp"),
        port_bindings={"443/tcp": (PortBinding("", "9000-9002"),)},
        publish_all=True,
    )
    ports = one.attachment.settings.ports
    assert ports["443/tcp"] == (PortBinding("0.0.0.0", "9000"), PortBinding("::", "9000"))
    low, high = map(int, sh("cat /proc/sys/net/ipv4/ip_local_port_range").split())
    for key in ("80/tcp", "53/udp"):
        assert low <= int(ports[key][0].host_port) <= high
    for expected in ("9001", "9002"):
        two = await service.attach(
            host.request("n" + expected, port_bindings={"443/tcp": (PortBinding("", "9000-9002"),)})
        )
        assert two.settings.ports["443/tcp"][0].host_port == expected
    with pytest.raises(SystemFailure, match="all ports are allocated"):
        await service.attach(
            host.request("four", port_bindings={"443/tcp": (PortBinding("", "9000-9002"),)})
        )


@private_host
async def test_table_is_put_back_when_flushed(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    web = await host.container(service, "web", port_bindings={"80/tcp": ANY})
    web.serve(80)
    table = host.instance.table

    def ruleset() -> str:
        return sh(f"nft -s list table inet {table}", check=False)

    before = ruleset()
    assert "8080" in before
    for command in (
        "flush ruleset",
        f"delete table inet {table}",
        f"flush chain inet {table} publish",
        f"delete element inet {table} anywhere4 {{ tcp . 8080 }}",
    ):
        sh(f"nft {command}")
        await until(lambda: ruleset() == before)
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN


@private_host
async def test_other_tables_are_left_alone(host: Host) -> None:
    sh(
        "nft 'table ip mine { chain c { type filter hook forward priority 0; "
        "tcp dport 1 drop; }; }'"
    )
    before = sh("nft list table ip mine")
    service = await host.service()
    await host.container(service, "web", port_bindings={"80/tcp": ANY})
    await service.create(NetworkCreate(name="n1"))
    await service.remove("n1")
    assert sh("nft list table ip mine") == before
    await service.detach(host.machines[0].id)  # type: ignore[attr-defined]
    await service.clean()
    assert sh("nft list tables").split() == ["table", "ip", "mine"]
    assert host.instance.bridge not in sh("ip -o link")


@private_host
async def test_connect_and_disconnect_move_published_ports(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    await service.create(NetworkCreate(name="n1"))
    await service.create(NetworkCreate(name="a0", internal=True))
    web = await host.container(service, "web", mode="n1", port_bindings={"80/tcp": ANY})
    web.serve(80)
    await service.connect("a0", web.id, None)
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    await service.create(NetworkCreate(name="n0"))
    await service.connect("n0", web.id, EndpointSettings(gw_priority=5))
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    assert "dev eth2" in web.sh("ip route show default")
    await service.disconnect("n0", web.id)
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    assert "dev eth0" in web.sh("ip route show default")
    await service.disconnect("n1", web.id)
    assert outside.ask(HOST_WAN, 8080, timeout=1) == "ConnectionRefusedError"
    settings = service.settings(web.id)
    assert settings is not None and settings.ports == {}, "as dockerd shows an internal network"
    await asyncio.sleep(0)


@private_host
async def test_routed_network_is_reached_directly(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    option = "com.docker.network.bridge.gateway_mode_ipv4"
    await service.create(NetworkCreate(name="lan", options={option: "routed"}))
    web = await host.container(service, "web", mode="lan", port_bindings={"80/tcp": ANY})
    outside.sh(f"ip route add {web.ip}/32 via 203.0.113.1")
    outside.serve(7000)
    web.serve(80)
    web.serve(81)
    assert outside.ask(web.ip, 80) == OUTSIDE_WAN
    assert outside.ask(web.ip, 81, timeout=1) == "TimeoutError"
    assert web.ask(OUTSIDE_WAN, 7000) == web.ip, "no source NAT"


@private_host
async def test_ipv6_clients_of_a_container_with_ipv4_only(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    loop = asyncio.get_running_loop()

    async def asks(machine: Machine, address: str, port: int = 8080) -> str:
        # not in this thread, whose event loop passes the bytes on
        return await loop.run_in_executor(None, machine.ask, address, port)

    bindings = (PortBinding("", "8080"), PortBinding("::1", "8081"))
    web = await host.container(service, "web", port_bindings={"80/tcp": bindings})
    web.serve(80)
    assert await asks(outside, HOST_WAN6) == "172.17.0.1"
    assert await asks(host.own(), "::1") == "172.17.0.1"
    assert await asks(host.own(), "::1", 8081) == "172.17.0.1"
    assert await asks(outside, HOST_WAN6, 8081) == "ConnectionRefusedError"
    # SCTP likewise, where the kernel has it (tests/unit/test_network_ports.py)
    peer = await host.container(
        service, "peer", port_bindings={"53/sctp": (PortBinding("::1", "5353"),)}
    )
    found = service.settings(peer.id)
    assert found is not None and [p.host_ip for p in found.ports["53/sctp"] or ()] == ["::1"]
    await service.detach(peer.id)
    # a network with IPv6 takes over, and gives back
    await service.create(NetworkCreate(name="a1", enable_ipv6=True))
    web.serve(81)
    await service.connect("a1", web.id, EndpointSettings(gw_priority=1))
    settings = service.settings(web.id)
    assert settings is not None and len(settings.ports["80/tcp"] or ()) == 3
    await service.disconnect("a1", web.id)
    assert await asks(outside, HOST_WAN6) == "172.17.0.1"
    await host.stop(service)
    service = await host.service([web.running()])
    assert await asks(outside, HOST_WAN6) == "172.17.0.1"
    assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN
    await service.detach(web.id)
    assert await asks(outside, HOST_WAN6) == "ConnectionRefusedError"


@private_host
async def test_datagrams_of_ipv6_clients(host: Host) -> None:
    """Each client gets its own answer, from the address that it asked, also after a restart."""
    service = await host.service()
    outside = host.outside()
    loop = asyncio.get_running_loop()

    async def asks(machine: Machine, address: str) -> str:
        return await loop.run_in_executor(None, machine.ask, address, 5353, "udp")

    sh("ip -6 addr add fd00:cafe::9/128 dev lo")
    outside.sh(f"ip -6 route add fd00:cafe::9/128 via {HOST_WAN6}")
    web = await host.container(service, "web", port_bindings={"53/udp": (PortBinding("", "5353"),)})
    assert await asks(outside, HOST_WAN6) in ("TimeoutError", "ConnectionRefusedError")
    web.serve(53, "udp")
    asked = [HOST_WAN6, "fd00:cafe::9"] * 10
    # a connected socket takes answers from the address it asked only
    assert set(await asyncio.gather(*(asks(outside, each) for each in asked))) == {"172.17.0.1"}
    assert await asks(host.own(), "::1") == "172.17.0.1"
    assert outside.ask(HOST_WAN, 5353, "udp") == OUTSIDE_WAN
    await host.stop(service)
    service = await host.service([web.running()])
    assert await asks(outside, "fd00:cafe::9") == "172.17.0.1"
    await service.detach(web.id)
    assert await asks(outside, HOST_WAN6) == "ConnectionRefusedError"


@private_host
async def test_a_port_has_room_for_a_limited_number_of_clients(host: Host) -> None:
    relay.MAX_CLIENTS = 2  # in this process, which is the test's own
    service = await host.service()
    web = await host.container(service, "web", port_bindings={"53/udp": (PortBinding("", "5353"),)})
    web.serve(53, "udp")
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(5):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.connect(("::1", 5353))
        clients.append(sock)
    for sock in (*clients, *clients):  # who was forgotten is taken up again
        await loop.sock_sendall(sock, b"x")
        assert await asyncio.wait_for(loop.sock_recv(sock, 100), 10) == b"172.17.0.1"
    for sock in clients:
        sock.close()


FLOW = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((address, port))
for line in sys.stdin:
    try:
        s.send(b"hello")
        print(s.recv(100).decode(), flush=True)
    except OSError as err:
        print(type(err).__name__, flush=True)
"""
"""A client with one flow; it sends when it is told to."""


@private_host
async def test_clients_that_sent_before_reach_the_container(host: Host) -> None:
    """Before it is up, and in the gap of a restart, after which it has another address."""
    service = await host.service()
    outside = host.outside()
    await service.create(NetworkCreate(name="n1", enable_ipv6=True))
    loop = asyncio.get_running_loop()
    clients = []
    for address in (HOST_WAN, HOST_WAN6):
        client = subprocess.Popen(
            ["nsenter", "-t", str(outside.pid), "-n", sys.executable, "-c", FLOW, address, "5353"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        clients.append(client)

    async def ask() -> list[str]:
        told = []
        for client in clients:
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
            line = await loop.run_in_executor(None, client.stdout.readline)
            told.append(line.decode().strip())
        return told

    ports = {"53/udp": (PortBinding("", "5353"),)}
    assert all(answer.endswith("Error") for answer in await ask())
    for name in ("one", "two"):
        web = await host.container(service, name, mode="n1", port_bindings=ports)
        web.serve(53, "udp", "::")
        assert await ask() == [f"::ffff:{OUTSIDE_WAN}", OUTSIDE_WAN6], name
        await service.detach(web.id)
        assert all(answer.endswith("Error") for answer in await ask()), "nobody is there"
        await host.container(service, f"{name}-other", mode="n1")  # takes the address
    for client in clients:
        client.kill()
        client.wait()


@private_host
async def test_fixed_host_ports_are_taken_before_dynamic_ones(host: Host) -> None:
    service = await host.service()
    first = await host.container(service, "a", port_bindings={"80/tcp": (PortBinding(),)})
    assert first.attachment is not None
    taken = first.attachment.settings.ports["80/tcp"]
    assert taken is not None
    following = str(int(taken[0].host_port) + 1)
    bindings = {"80/tcp": (PortBinding(),), "8080/tcp": (PortBinding("", following),)}
    both = await host.container(service, "b", port_bindings=bindings)
    assert both.attachment is not None
    published = both.attachment.settings.ports
    assert published["8080/tcp"] is not None and published["80/tcp"] is not None
    assert {item.host_port for item in published["8080/tcp"]} == {following}
    assert following not in {item.host_port for item in published["80/tcp"]}
