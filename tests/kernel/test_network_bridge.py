"""Containers on the default bridge: addresses, the way out, files, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from netkit import HOST_WAN, Host, private_host, sh, until

from portside.model.errors import Conflict, NotFound
from portside.model.network import EndpointSettings, NetworkCreate
from portside.networks.network_store import NetworkRecord


@private_host
async def test_container_is_ready_when_attached(host: Host) -> None:
    service = await host.service()
    one = await host.container(service, "one")
    assert one.ip == "172.17.0.2"
    addresses = one.sh("ip -o addr")
    assert "127.0.0.1/8" in addresses and "172.17.0.2/16" in addresses
    assert "default via 172.17.0.1 dev eth0" in one.sh("ip route")
    assert one.attachment is not None
    assert one.attachment.settings.mac_address in one.sh("ip link show eth0")
    one.sh("busybox ping -c1 -W2 172.17.0.1")
    two = await host.container(service, "two")
    assert two.ip == "172.17.0.3"
    one.sh("busybox ping -c1 -W2 172.17.0.3")


@private_host
async def test_nothing_speaks_ipv6_on_an_ipv4_network(host: Host) -> None:
    service = await host.service()
    one = await host.container(service, "one")
    assert "inet6" not in one.sh("ip -o addr show eth0")
    assert one.sh("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6").strip() == "1"
    assert "::1/128" in one.sh("ip -o addr show lo")


@private_host
async def test_outbound_traffic_leaves_as_the_host(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    outside.serve(8000)
    one = await host.container(service, "one")
    assert one.ask("203.0.113.2", 8000) == HOST_WAN


@private_host
async def test_host_and_containers_reach_each_other(host: Host) -> None:
    service = await host.service()
    one = await host.container(service, "one")
    one.serve(7000)
    assert host.own().ask(one.ip, 7000) == "172.17.0.1"
    host.own().serve(7001)
    assert one.ask("172.17.0.1", 7001) == one.ip


@private_host
async def test_unpublished_ports_are_closed_to_neighbours(host: Host) -> None:
    service = await host.service()
    outside = host.outside()
    outside.sh("ip route add 172.17.0.0/16 via 203.0.113.1")
    one = await host.container(service, "one")
    one.serve(7000)
    assert outside.ask(one.ip, 7000, timeout=1) == "TimeoutError"


@private_host
async def test_files(host: Host) -> None:
    service = await host.service()
    one = await host.container(
        service,
        "one",
        hostname="web",
        domainname="example.org",
        extra_hosts=("db:10.1.2.3", "me=host-gateway", "v6:[2001:db8::1]"),
    )
    hosts = (one.directory / "hosts").read_text()
    assert f"{one.ip}\tweb.example.org web\n" in hosts
    assert "10.1.2.3\tdb\n" in hosts and "172.17.0.1\tme\n" in hosts
    assert "2001:db8::1\tv6\n" in hosts and "127.0.0.1\tlocalhost" in hosts
    assert (one.directory / "hostname").read_text() == "web\n"
    conf = (one.directory / "resolv.conf").read_text()
    assert "nameserver 192.0.2.53\n" in conf and "search example.test\n" in conf
    two = await host.container(
        service, "two", dns=("9.9.9.9",), dns_search=(".",), dns_options=("ndots:3",)
    )
    conf = (two.directory / "resolv.conf").read_text()
    assert "nameserver 9.9.9.9\n" in conf and "search" not in conf and "options ndots:3" in conf


@private_host
async def test_resolv_conf_follows_the_host_live(host: Host) -> None:
    service = await host.service()
    one = await host.container(service, "one")
    two = await host.container(service, "two")
    own = two.directory / "resolv.conf"
    own.write_text("nameserver 1.1.1.1\n")
    new = host.root / "resolv.conf.new"
    new.write_text("nameserver 192.0.2.99\nnameserver 127.0.0.1\n")
    new.rename(host.root / "resolv.conf")
    conf = one.directory / "resolv.conf"
    await until(lambda: "nameserver 192.0.2.99" in conf.read_text())
    assert "127.0.0.1" not in conf.read_text()
    assert own.read_text() == "nameserver 1.1.1.1\n", "changed inside: the user's now"


@private_host
async def test_host_none_and_shared_namespaces(host: Host) -> None:
    service = await host.service()
    plain = await service.attach(host.request("plain", mode="host"))
    assert plain.netns_fd is None and list(plain.settings.networks) == ["host"]
    none = await host.container(service, "none", mode="none")
    assert none.sh("ip -o link | wc -l").strip() == "1"
    none.sh("busybox ping -c1 -W1 127.0.0.1")
    assert list(none.attachment.settings.networks) == ["none"]
    one = await host.container(service, "one")
    joined = await host.container(service, "joined", mode=f"container:{one.id}")
    assert joined.attachment.directory == str(one.directory)
    assert os.stat(f"/proc/{joined.pid}/ns/net").st_ino == os.stat(f"/proc/{one.pid}/ns/net").st_ino
    with pytest.raises(Conflict, match="non running container"):
        await service.attach(host.request("lost", mode="container:" + "f" * 64))
    # the owner goes first: the address is free, the joined one keeps its loopback only
    await service.detach(one.id)
    assert one.ip not in joined.sh("ip -o addr")
    await service.detach(joined.id)


@private_host
async def test_detach_frees_everything(host: Host) -> None:
    service = await host.service()
    await until(lambda: not service._pool._missing())
    before_fds = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        one = await host.container(service, "one", port_bindings={})
        assert one.ip == "172.17.0.2"
        one.process.kill()
        one.process.wait()
        await service.detach(one.id)
        await service.detach(one.id)
    stock = service._pool.links()

    def names() -> set[str]:
        return {line.split(":")[1].split("@")[0].strip() for line in sh("ip -o link").splitlines()}

    await until(lambda: not {n for n in names() if n.startswith("ps")} - service._pool.links()
                - {host.instance.bridge})  # fmt: skip
    assert stock is not None
    await until(lambda: not service._pool._missing())
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before_fds)
    assert service.settings(one.id) is None
    assert ("network", "disconnect") in {event[:2] for event in host.events}


@private_host
async def test_unknown_network(host: Host) -> None:
    service = await host.service()
    with pytest.raises(NotFound, match="network nope not found"):
        await service.attach(host.request("one", mode="nope"))
    with pytest.raises(NotFound, match="network nope not found"):
        await service.attach(host.request("one", endpoints={"nope": EndpointSettings()}))
    one = await host.container(service, "one")
    assert one.ip == "172.17.0.2"


@private_host
async def test_many_at_once(host: Host) -> None:
    import asyncio

    service = await host.service()
    requests = [host.request(f"c{n}") for n in range(60)]
    done = await asyncio.gather(*(service.attach(request) for request in requests))
    addresses = {a.settings.ip_address for a in done}
    assert len(addresses) == 60 and "" not in addresses
    await asyncio.gather(*(service.detach(request.container_id) for request in requests))
    again = await service.attach(host.request("last"))
    assert again.settings.ip_address == "172.17.0.2"


@private_host
async def test_a_network_that_is_being_removed_is_joined_by_nobody(host: Host) -> None:
    service = await host.service()
    await service.create(NetworkCreate(name="going"))
    hold, remove = threading.Event(), service._links.remove

    def slowly(record: NetworkRecord) -> None:
        hold.wait(10)
        remove(record)

    service._links.remove = slowly  # type: ignore[method-assign]
    removal = asyncio.create_task(service.remove("going"))
    await asyncio.sleep(0)
    with pytest.raises(NotFound, match="network going not found"):
        await service.attach(host.request("late", mode="going"))
    assert await service.prune() == []
    hold.set()
    await removal
    assert {network.name for network in service.list()} == {"bridge", "host", "none"}


@private_host
async def test_a_pair_does_not_outlive_its_container_for_an_open_connection(host: Host) -> None:
    """The kernel keeps a namespace while it still wants to tell a peer of a connection's end."""
    service = await host.service()
    box = await host.container(service, "box")
    link = service._sandboxes.book.records()[0].endpoints[0].link
    server = host.own().spawn(DEAF_SERVER)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    client = box.spawn(PATIENT_CLIENT)
    assert client.stdout is not None and client.stdout.readline() == b"connected\n"
    await service.detach(box.id)  # its address is gone: the connection's end is not told
    for process in (client, box.process):
        assert process is not None
        process.kill()
        process.wait()
    pending = service._sandboxes._plumbing
    assert pending._dying == {link} and link in sh("ip -o link")
    await pending.wait()
    assert link not in sh("ip -o link")
    server.kill()
    server.wait()


DEAF_SERVER = """
import socket, time
server = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
time.sleep(60)
"""
PATIENT_CLIENT = """
import socket, time
sock = socket.create_connection(("172.17.0.1", 7000))
sock.setblocking(False)
try:
    while True: sock.send(bytes(1 << 16))
except BlockingIOError: print("connected", flush=True)
time.sleep(60)
"""
