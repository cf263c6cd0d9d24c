"""Attacks from containers on the network: on the host, on neighbours, and on the name server.

Each test names the published weakness it repeats. The attacker is a process with root and
CAP_NET_RAW, CAP_NET_ADMIN in a container's network namespace, or another machine.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from netkit import HOST_WAN, HOST_WAN6, OUTSIDE_WAN, Container, Host, Machine, private_host

from portside.model.network import EndpointSettings, NetworkCreate, PortBinding
from portside.networks.dns.name_server import MAX_CONNECTIONS

LOOK_UP = """
import socket, struct, sys
name, kind = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
wire = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + bytes(1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(8)
s.connect(("127.0.0.11", 53))
s.send(struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + wire + struct.pack("!HH", kind, 1))
try:
    print(s.recv(2048)[3] & 15)
except OSError as err:
    print(type(err).__name__)
"""
FLOOD = """
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("127.0.0.11", 53))
print("ready", flush=True)
number = 0
while True:
    for _ in range(20):
        name = b"\\6slow%02d\\4test\\0" % (number % 100)
        s.send(struct.pack("!HHHHHH", number % 65536, 0x100, 1, 0, 0, 0) + name
               + struct.pack("!HH", 1, 1))
        number += 1
    time.sleep(0.01)
"""
NAME_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 53))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2048)
    name = data[13:13 + data[12]].decode()
    if "quiet" not in sys.argv:
        print(name, peer[0], flush=True)
    if not name.startswith("slow"):
        s.sendto(data[:2] + b"\\x81\\x80" + data[4:6] + b"\\0\\1" + data[8:12] + data[12:]
                 + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4\\xc6\\x33\\x64\\1", peer)
"""
"""Answers everything but names that begin with slow, and prints who asked what."""
CONNECT = """
import socket, sys
s = []
for _ in range(int(sys.argv[1])):
    try:
        s.append(socket.create_connection(("127.0.0.11", 53), timeout=1))
    except OSError:
        break
print(len(s), flush=True)
sys.stdin.read()
"""
RAW = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
for frame in sys.argv[1:]:
    for _ in range(3):
        s.send(bytes.fromhex(frame))
"""


async def output(machine: Machine, program: str, *arguments: str) -> str:
    process = machine.spawn(program, *arguments)
    out, _ = await asyncio.get_running_loop().run_in_executor(None, process.communicate)
    return out.decode().strip()


def name_server(machine: Machine, *arguments: str) -> subprocess.Popen[bytes]:
    """A name server whose output tells who asked; at the machine's port 53."""
    process = machine.spawn(NAME_SERVER, *arguments)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    os.set_blocking(process.stdout.fileno(), False)
    return process


def asked(process: subprocess.Popen[bytes]) -> list[str]:
    """What was asked since the last call, as ``name address``."""
    assert process.stdout is not None
    return (process.stdout.read() or b"").decode().splitlines()


def mac(machine: Machine, interface: str = "eth0") -> str:
    return machine.sh(f"ip -o link show {interface}").split("link/ether ")[1].split()[0]


def checksum(data: bytes) -> bytes:
    total = sum(
        int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2)
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def udp_frame(to: str, sender: str, source: str, target: str, port: int, data: bytes) -> str:
    """An Ethernet frame with a UDP datagram whose addresses are all chosen."""
    udp = (4444).to_bytes(2, "big") + port.to_bytes(2, "big") + (8 + len(data)).to_bytes(2, "big")
    udp += b"\0\0" + data
    head = b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + b"\0\1\0\0\x40\x11"
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    packet = head + checksum(head + b"\0\0" + addresses) + addresses + udp
    return (_mac(to) + _mac(sender) + b"\x08\0" + packet).hex()


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def listener(address: str, port: int) -> socket.socket:
    """A UDP socket in this process's network, the private host's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((address, port))
    return sock


def received(sock: socket.socket) -> list[bytes]:
    found = []
    with pytest.raises(BlockingIOError):
        while True:
            found.append(sock.recv(2000))
    return found


# -- the name server -------------------------------------------------------------------------


@private_host
async def test_a_flood_of_slow_queries_is_refused_to_nobody_else(host: Host) -> None:
    """Starving others of a shared resource: the name server's queries."""
    outside = host.outside()
    name_server(outside, "quiet")
    (host.root / "resolv.conf").write_text(f"nameserver {OUTSIDE_WAN}\n")
    service = await host.service()
    await service.create(NetworkCreate(name="net1"))
    attackers = [await host.container(service, f"bad{n}", mode="net1") for n in range(3)]
    victim = await host.container(service, "victim", mode="net1")
    for attacker in attackers:
        process = attacker.spawn(FLOOD)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    await asyncio.sleep(1.5)
    for number in range(10):
        assert await output(victim, LOOK_UP, f"name{number}.test") == "0"
        assert await output(victim, LOOK_UP, "bad1") == "0"


@private_host
async def test_idle_connections_take_few_descriptors(host: Host) -> None:
    """Starving the engine of descriptors through the name server's TCP port."""
    service = await host.service()
    await service.create(NetworkCreate(name="net1"))
    attacker = await host.container(service, "bad", mode="net1")
    victim = await host.container(service, "victim", mode="net1")
    before = len(list(Path("/proc/self/fd").iterdir()))
    process = subprocess.Popen(
        ["nsenter", "-t", str(attacker.pid), "-n", sys.executable, "-c", CONNECT, "300"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    loop = asyncio.get_running_loop()
    made = int(await loop.run_in_executor(None, process.stdout.readline))
    assert made > MAX_CONNECTIONS
    held = len(list(Path("/proc/self/fd").iterdir())) - before
    assert held < MAX_CONNECTIONS + 100, "all that were made, without a limit"
    assert await output(victim, LOOK_UP, "bad") == "0"
    process.kill()
    process.wait()


@private_host
async def test_queries_obey_the_containers_own_rules(host: Host) -> None:
    """A container's egress rules got round by having the engine ask (CVE-2024-29018's kind)."""
    outside = host.outside()
    server = name_server(outside)
    (host.root / "resolv.conf").write_text(f"nameserver {OUTSIDE_WAN}\n")
    service = await host.service()
    await service.create(NetworkCreate(name="net1"))
    one = await host.container(service, "one", mode="net1")
    assert await output(one, LOOK_UP, "open.test") == "0"
    assert asked(server) == [f"open {HOST_WAN}"]
    one.sh(
        "nft 'table inet own { chain output { type filter hook output priority 0; "
        'oifname "eth0" udp dport 53 drop; }; }\''
    )
    assert await output(one, LOOK_UP, "closed.test") != "0"
    assert asked(server) == []


@private_host
async def test_queries_do_not_leave_internal_networks(host: Host) -> None:
    """CVE-2024-29018: data carried out of an internal network in names that are looked up."""
    outside = host.outside()
    server = name_server(outside)
    (host.root / "resolv.conf").write_text(f"nameserver {OUTSIDE_WAN}\n")
    service = await host.service()
    await service.create(NetworkCreate(name="inner", internal=True, enable_ipv6=True))
    one = await host.container(service, "one", mode="inner", dns=(OUTSIDE_WAN,))
    for kind in (1, 28, 12, 16, 255):
        assert await output(one, LOOK_UP, "secret.test", str(kind)) == "2"
    for address in (HOST_WAN, OUTSIDE_WAN, one.ip.rsplit(".", 1)[0] + ".1"):
        assert one.ask(address, 53, "udp", timeout=0.5).endswith("Error")
    assert asked(server) == []
    assert "default" not in one.sh("ip route") and "default" not in one.sh("ip -6 route")


# -- the host --------------------------------------------------------------------------------


@private_host
async def test_the_hosts_loopback_is_out_of_reach(host: Host) -> None:
    """CVE-2025-9074, CVE-2020-8558: an engine's API, or anything else on the loopback."""
    host.outside()
    own = host.own()
    for address in ("127.0.0.1", "::1"):
        own.serve(2375, "tcp", address)
    for firewall in (True, False):
        service = await host.service(firewall=firewall)
        await service.create(NetworkCreate(name="net6", enable_ipv6=True))
        for network in ("bridge", "net6"):
            bad = await host.container(service, f"bad{firewall}{network}", mode=network)
            await _reach_for_the_loopback(host, bad)
            await service.detach(bad.id)
        await service.remove("net6")
        await host.stop(service)


async def _reach_for_the_loopback(host: Host, bad: Container) -> None:
    gateway = bad.sh("ip route show default").split()[2]
    addresses = [gateway, HOST_WAN, HOST_WAN6, "127.0.0.1", "::1"]
    addresses += [
        line.split()[3].split("/")[0] for line in host.own().sh("ip -o -6 addr").splitlines()
    ]
    for address in addresses:
        scope = "%eth0" if address.startswith("fe80") else ""
        assert bad.ask(address + scope, 2375, timeout=0.5) in ("ConnectionRefusedError", "OSError",
                                                               "TimeoutError"), address  # fmt: skip
    # a packet for the host's loopback, by a route of the container's own, and as a raw frame
    caught = listener("127.0.0.1", 7777)
    bad.sh("ip addr del 127.0.0.1/8 dev lo; ip link set lo down", check=False)
    bad.sh(f"ip route add 127.0.0.0/8 via {gateway} dev eth0", check=False)
    bad.sh("sysctl -qw net.ipv4.conf.all.route_localnet=1", check=False)
    assert bad.ask("127.0.0.1", 2375, timeout=0.5) not in ("127.0.0.1", bad.ip)
    bridge = _bridge_mac(host, gateway)
    frames = [
        udp_frame(bridge, mac(bad), source, "127.0.0.1", 7777, b"evil")
        for source in (bad.ip, "127.0.0.1", gateway, "10.9.8.7")
    ]
    await output(bad, RAW, *frames)
    await asyncio.sleep(0.2)
    assert received(caught) == []
    caught.close()


def _bridge_mac(host: Host, address: str) -> str:
    line = next(x for x in host.own().sh("ip -o addr").splitlines() if f" {address}/" in x)
    return mac(host.own(), line.split()[1])


@private_host
async def test_nobody_pretends_to_be_the_hosts_loopback(host: Host) -> None:
    """Spoofed sources: services that trust 127.0.0.1."""
    service = await host.service()
    bad = await host.container(service, "bad")
    other = await host.container(service, "other")
    caught = listener("0.0.0.0", 7778)
    gateway = bad.sh("ip route show default").split()[2]
    good = udp_frame(_bridge_mac(host, gateway), mac(bad), bad.ip, gateway, 7778, b"good")
    evil = [
        udp_frame(_bridge_mac(host, gateway), mac(bad), source, gateway, 7778, b"evil")
        for source in ("127.0.0.1", "127.1.2.3")
    ]
    evil.append(udp_frame(mac(other), mac(bad), "127.0.0.1", other.ip, 7778, b"evil"))
    await output(bad, RAW, *evil, good)
    await asyncio.sleep(0.2)
    assert set(received(caught)) == {b"good"}
    caught.close()


@private_host
async def test_router_advertisements_change_nothing(host: Host) -> None:
    """CVE-2020-13401: a container that says it is an IPv6 router."""
    service = await host.service()
    await service.create(NetworkCreate(name="net6", enable_ipv6=True))
    checked = 0
    for network in ("bridge", "net6"):
        bad = await host.container(service, f"bad-{network}", mode=network)
        victim = await host.container(service, f"victim-{network}", mode=network)
        before = [_ipv6(machine) for machine in (victim, host.own())]
        await output(bad, RAW, _advertisement(mac(bad)))
        await asyncio.sleep(0.3)
        assert [_ipv6(machine) for machine in (victim, host.own())] == before
        checked += 1
    assert checked == 2


def _ipv6(machine: Machine) -> list[str]:
    text = machine.sh("ip -6 -o addr; ip -6 route", check=False)
    return sorted(line.split(" valid_lft")[0] for line in text.splitlines())


def _advertisement(sender: str) -> str:
    """RFC 4861 section 4.2: a default router, and a prefix to make addresses of."""
    source = socket.inet_pton(socket.AF_INET6, "fe80::bad")
    target = socket.inet_pton(socket.AF_INET6, "ff02::1")
    prefix = b"\x03\x04\x40\xc0" + b"\0\0\x0e\x10" * 2 + bytes(4)
    prefix += socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
    body = b"\x40\0\x07\x08" + bytes(8) + prefix + b"\x01\x01" + _mac(sender)
    pseudo = source + target + (4 + len(body)).to_bytes(4, "big") + b"\0\0\0\x3a"
    icmp = b"\x86\0" + checksum(pseudo + b"\x86\0\0\0" + body) + body
    packet = b"\x60\0\0\0" + len(icmp).to_bytes(2, "big") + b"\x3a\xff" + source + target + icmp
    return (_mac("33:33:00:00:00:01") + _mac(sender) + b"\x86\xdd" + packet).hex()


# -- published ports -------------------------------------------------------------------------


@private_host
async def test_published_ports_are_reached_where_they_are_published(host: Host) -> None:
    """Ports of the loopback or of one address, reached from other interfaces; containers
    reached past the host, by a route of the neighbour's own."""
    outside = host.outside()
    service = await host.service()
    await service.create(NetworkCreate(name="net1"))
    ports = {
        "80/tcp": (PortBinding("127.0.0.1", "8080"),),
        "81/tcp": (PortBinding(HOST_WAN, "8081"),),
    }
    web = await host.container(service, "web", port_bindings=ports)
    settings = EndpointSettings()
    other = await host.container(service, "other", mode="net1", endpoints={"net1": settings})
    for port in (80, 81, 82):
        web.serve(port)
    assert outside.ask(HOST_WAN, 8081) == OUTSIDE_WAN, "what is published is open"
    refused = ("TimeoutError", "ConnectionRefusedError", "OSError")
    gateway = other.sh("ip route show default").split()[2]
    for machine, addresses in (
        (outside, (HOST_WAN,)), (other, (HOST_WAN, gateway)), (web, (HOST_WAN,)),
    ):  # fmt: skip
        for address in addresses:
            assert machine.ask(address, 8080, timeout=0.5) in refused
    assert other.ask(gateway, 8081, timeout=0.5) in refused, "published on another address"
    # the neighbour sends the host packets for its loopback and for containers
    outside.sh("ip addr del 127.0.0.1/8 dev lo; ip link set lo down", check=False)
    outside.sh("sysctl -qw net.ipv4.conf.all.route_localnet=1", check=False)
    outside.sh(f"ip route add 127.0.0.0/8 via {HOST_WAN} dev eth0", check=False)
    outside.sh(f"ip route add 172.16.0.0/12 via {HOST_WAN} dev eth0")
    assert outside.ask("127.0.0.1", 8080, timeout=0.5) in refused
    for port in (80, 82):
        assert outside.ask(web.ip, port, timeout=0.5) in refused, port
    assert other.ask(web.ip, 80, timeout=0.5) in refused
