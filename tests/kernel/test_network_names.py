"""Names: what containers on user networks can look up, and how well under load."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest
from netkit import OUTSIDE_WAN, Container, Host, Machine, private_host, until

from portside.kernel import netns
from portside.model.network import EndpointSettings, NetworkCreate
from portside.networks.dns import dnswire, name_server
from portside.networks.dns.resolver import Upstream
from portside.networks.shares import Shares

pytest.importorskip("dnslib")

DEAD = "203.0.113.9"
"""An address of the test's network where nobody is."""
UPSTREAM = """
import socket, sys
from dnslib import A, QTYPE, RCODE, RR, TXT, DNSRecord
from dnslib.server import BaseResolver, DNSServer
class Resolver(BaseResolver):
    def resolve(self, request, handler):
        reply = request.reply()
        name = str(request.q.qname)
        if name.startswith("big."):
            for number in range(60):
                reply.add_answer(RR(name, QTYPE.A, rdata=A(f"198.51.100.{number}"), ttl=1))
        elif name.endswith("example.test."):
            reply.add_answer(RR(name, QTYPE.A, rdata=A(sys.argv[1]), ttl=1))
        else:
            reply.header.rcode = RCODE.NXDOMAIN
        return reply
quiet = type("Quiet", (), {"__getattr__": lambda self, name: lambda *a: None})()
for tcp in (False, True):
    DNSServer(Resolver(), port=53, address="0.0.0.0", tcp=tcp, logger=quiet).start_thread()
print("ready", flush=True)
import time
time.sleep(1000)
"""
ASK = """
import json, socket, sys
from dnslib import QTYPE, RCODE, DNSRecord
name, kind, tcp = sys.argv[1], sys.argv[2], sys.argv[3] == "tcp"
try:
    raw = DNSRecord.question(name, kind).send("127.0.0.11", 53, tcp=tcp, timeout=6)
    reply = DNSRecord.parse(raw)
    print(json.dumps([RCODE[reply.header.rcode], sorted(str(rr.rdata) for rr in reply.rr)]))
except OSError as err:
    print(json.dumps([type(err).__name__, []]))
"""
LOAD = """
import random, socket, struct, sys
names, count = sys.argv[1].split(","), int(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.11", 53))
sock.settimeout(5)
waiting, failed, sent = {}, 0, 0
while sent < count or waiting:
    while sent < count and len(waiting) < 16:
        name = random.choice(names)
        wire = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + bytes(1)
        sock.send(struct.pack("!HHHHHH", sent & 0xFFFF, 0x100, 1, 0, 0, 0) + wire
                  + struct.pack("!HH", 1, 1))
        waiting[sent & 0xFFFF] = name
        sent += 1
    try:
        reply = sock.recv(4096)
    except TimeoutError:
        failed += len(waiting)
        break
    number, flags, _, answers = struct.unpack_from("!HHHH", reply)
    if waiting.pop(number, None) is None or flags & 15 or not answers:
        failed += 1
print(failed)
"""


def ask(machine: Machine, name: str, kind: str = "A", over: str = "udp") -> tuple[str, list[str]]:
    """Response code and answers, as the container at ``machine`` gets them."""
    process = machine.spawn(ASK, name, kind, over)
    out, _ = process.communicate(timeout=30)
    code, answers = json.loads(out)
    return code, answers


def upstream(machine: Machine, answer: str = "198.51.100.1") -> None:
    process = machine.spawn(UPSTREAM, answer)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


async def pair(host: Host) -> tuple[Container, Container]:
    service = await host.service()
    await service.create(NetworkCreate(name="net1", enable_ipv6=True))
    settings = EndpointSettings(aliases=("web", "Service"))
    one = await host.container(service, "one", mode="net1", endpoints={"net1": settings})
    two = await host.container(service, "two", mode="net1", endpoints={"net1": settings})
    return one, two


@private_host
async def test_names_of_containers(host: Host) -> None:
    loop = asyncio.get_running_loop()

    async def asks(name: str, kind: str = "A", over: str = "udp") -> tuple[str, list[str]]:
        return await loop.run_in_executor(None, ask, one, name, kind, over)

    one, two = await pair(host)
    assert await asks("two") == ("NOERROR", [two.ip])
    assert await asks("TWO") == ("NOERROR", [two.ip])
    assert await asks("two", "AAAA") == ("NOERROR", [two.ip6])
    assert await asks("two", "TXT") == ("NOERROR", [])
    assert await asks("two.net1") == ("NOERROR", [two.ip])
    assert await asks(two.id[:12]) == ("NOERROR", [two.ip])
    assert await asks("service", over="tcp") == ("NOERROR", sorted([one.ip, two.ip]))
    assert await asks("host.docker.internal") == ("NOERROR", ["172.17.0.1"])
    reverse = ".".join(reversed(two.ip.split("."))) + ".in-addr.arpa"
    assert await asks(reverse, "PTR") == ("NOERROR", ["two.net1."])
    firsts = set()
    for _ in range(12):
        process = one.spawn(
            "import socket,struct;s=socket.socket(2,2);s.connect(('127.0.0.11',53));"
            "s.send(b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3web\\0\\0\\1\\0\\1');s.settimeout(5);"
            "print(socket.inet_ntoa(s.recv(500)[33:37]))"
        )
        out, _ = await loop.run_in_executor(None, process.communicate)
        firsts.add(out.decode().strip())
    assert firsts == {one.ip, two.ip}, "round robin"
    service = host.services[0]
    await service.create(NetworkCreate(name="net2"))
    other = await host.container(service, "other", mode="net2")
    assert (await asks("other"))[0] != "NOERROR"
    await service.connect("net2", one.id, EndpointSettings(aliases=("me",)))
    assert await asks("other") == ("NOERROR", [other.ip])
    service.rename(two.id, "renamed")
    assert await asks("renamed") == ("NOERROR", [two.ip])
    await service.disconnect("net1", two.id)
    assert await asks("web") == ("NOERROR", [one.ip])


@private_host
async def test_other_names_are_forwarded(host: Host) -> None:
    outside = host.outside()
    upstream(outside)
    conf = host.root / "resolv.conf"
    conf.write_text(f"nameserver {DEAD}\nnameserver {OUTSIDE_WAN}\n")
    one, _ = await pair(host)
    service = host.services[0]
    loop = asyncio.get_running_loop()

    async def asks(name: str, kind: str = "A", over: str = "udp") -> tuple[str, list[str]]:
        return await loop.run_in_executor(None, ask, one, name, kind, over)

    assert await asks("www.example.test") == ("NOERROR", ["198.51.100.1"])
    assert await asks("www.example.test", over="tcp") == ("NOERROR", ["198.51.100.1"])
    assert await asks("nothing.here") == ("NXDOMAIN", [])
    code, answers = await asks("big.example.test", over="tcp")
    assert code == "NOERROR" and len(answers) == 60
    # the host's servers change
    conf.write_text(f"nameserver {DEAD}\n")
    await until(lambda: service._sandboxes.files._resolver.upstream == (DEAD,))
    assert (await asks("www.example.test"))[0] == "SERVFAIL"
    replaced = host.root / "resolv.new"
    replaced.write_text(f"nameserver {OUTSIDE_WAN}\n")
    replaced.rename(conf)
    await until(lambda: service._sandboxes.files._resolver.upstream == (OUTSIDE_WAN,))
    assert await asks("www.example.test") == ("NOERROR", ["198.51.100.1"])
    # a container's own servers; and none on an internal network
    own = await host.container(service, "own", mode="net1", dns=(DEAD,))
    code, _ = await loop.run_in_executor(None, ask, own, "www.example.test")
    assert code == "SERVFAIL"
    await service.create(NetworkCreate(name="inner", internal=True))
    inner = await host.container(service, "inner1", mode="inner")
    code, _ = await loop.run_in_executor(None, ask, inner, "www.example.test")
    assert code == "SERVFAIL"
    assert (await loop.run_in_executor(None, ask, inner, "inner1"))[0] == "NOERROR"


@private_host
async def test_ten_thousand_lookups_with_one_server_dead(host: Host) -> None:
    outside = host.outside()
    upstream(outside)
    (host.root / "resolv.conf").write_text(f"nameserver {DEAD}\nnameserver {OUTSIDE_WAN}\n")
    one, two = await pair(host)
    service = host.services[0]
    third = await host.container(service, "third", mode="net1")
    fourth = await host.container(service, "fourth", mode="net1")
    loop = asyncio.get_running_loop()
    local = "one,two,third,fourth,web,service,one.net1"
    mixed = f"{local},a.example.test"
    loads = [(one, local, 4000), (two, local, 4000), (third, mixed, 1000), (fourth, mixed, 1000)]
    running = [machine.spawn(LOAD, names, str(count)) for machine, names, count in loads]

    async def scale() -> None:
        """Containers of the service come and go meanwhile."""
        for number in range(20):
            settings = EndpointSettings(aliases=("service",))
            request = host.request(f"s{number}", mode="net1", endpoints={"net1": settings})
            await service.attach(request)
            await asyncio.sleep(0.01)
            await service.detach(request.container_id)

    scaling = asyncio.create_task(scale())
    outs = [await loop.run_in_executor(None, process.communicate) for process in running]
    await scaling
    assert [out.decode().strip() for out, _ in outs] == ["0"] * 4
    code, answers = await loop.run_in_executor(None, ask, one, "service")
    assert (code, answers) == ("NOERROR", sorted([one.ip, two.ip])), "nobody who left"


@private_host
async def test_nobody_listens_on_port_53_inside(host: Host) -> None:
    one, _ = await pair(host)
    assert ":53 " not in one.sh("ss -lnutH 2>/dev/null || cat /proc/net/udp")


@private_host
async def test_a_lost_question_is_asked_again(host: Host) -> None:
    name_server.RESEND = 0.05  # in this process, which is the test's own
    data = b"\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"
    query = dnswire.Query.parse(data)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
        server.bind(("127.0.0.9", 53))

        async def serve() -> None:
            await loop.sock_recvfrom(server, 500)  # this one is lost
            again, peer = await loop.sock_recvfrom(server, 500)
            assert again == data
            await loop.sock_sendto(server, query.answer([]), peer)

        serving = asyncio.create_task(serve())
        space = netns.open_own()
        forwarder = name_server.Forwarder(space, Shares(1))
        reply = await forwarder.ask(data, query, [Upstream("127.0.0.9")], tcp=False)
        os.close(space)
        assert reply == query.answer([])
        await serving
