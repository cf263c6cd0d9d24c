"""kill -9 of the engine between any two steps: the next start makes true what the metadata says."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from netkit import HOST_WAN, OUTSIDE_WAN, Container, Host, Machine, private_host, sh

from portside.kernel.netlink import Rtnl
from portside.kernel.nftables import Nft
from portside.model.network import EndpointSettings, NetworkCreate, PortBinding
from portside.networks import etc_files
from portside.networks.network_store import lease_names
from portside.networks.service import NetworkService
from portside.store.db import Collection, Database

STEPS = (
    (Rtnl, "run"),
    (Nft, "commit"),
    (Collection, "put"),
    (Collection, "insert"),
    (Collection, "delete"),
    (Database, "_commit"),
    (etc_files, "write_file"),
)
"""Everything that changes the kernel, the metadata or a file."""
Operation = Callable[[NetworkService], Awaitable[object]]


def dies_at(number: int) -> None:
    """Kill this process right before its step of this number."""
    left = number

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*args, **kwargs)

        setattr(owner, name, step)

    for owner, name in STEPS:
        wrap(owner, name)


async def killed(host: Host, running: list[Container], act: Operation, number: int) -> bool:
    """Run an engine that is killed at a step of ``act``; False when it got to the end."""
    pid = os.fork()
    if pid == 0:
        asyncio._set_running_loop(None)
        try:
            asyncio.run(_engine(host, running, act, number))
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the operation failed"
    return False


async def _engine(host: Host, running: list[Container], act: Operation, number: int) -> None:
    service = await host.service([container.running() for container in running])
    dies_at(number)
    await act(service)
    os._exit(0)


def check(host: Host, service: NetworkService, running: list[Container], outside: Machine) -> None:
    """Rules, links, addresses and leases are exactly what the metadata says."""
    book = service._sandboxes.book
    records = {record.request.container_id: record for record in book.records()}
    assert set(records) == {container.id for container in running}
    expected = set()
    for record in records.values():
        expected |= {name for e in record.endpoints for name in lease_names(e)}
    assert host.db is not None
    rows = host.db.query("SELECT name FROM names WHERE kind='sandbox'")
    assert {row[0] for row in rows} == expected
    table = sh(f"nft list map inet {host.instance.table} anywhere4")
    rules = set(re.findall(r"tcp \. (\d+) : ([\d.]+) \. (\d+)", table))
    wanted = {
        (str(p.host_port), p.container_ip, str(p.container_port))
        for record in records.values()
        for p in record.ports
    }
    assert rules == wanted
    bridges = {record.link for record in service._catalogue.all() if record.driver == "bridge"}
    listed = {
        line.split()[1].rstrip(":") for line in sh("ip -o link show type bridge").splitlines()
    }
    assert listed == bridges
    for container in running:
        _check_inside(container, records[container.id], service)
        if records[container.id].ports:
            assert outside.ask(HOST_WAN, 8080) == OUTSIDE_WAN


def _check_inside(container: Container, record: Any, service: NetworkService) -> None:
    inside = re.findall(r"(eth\d+)\s+inet ([\d.]+)/", container.sh("ip -o -4 addr show"))
    assert sorted(inside) == sorted((e.interface, e.ipv4) for e in record.endpoints)
    links = set(re.findall(r"^\d+: (eth\d+)", container.sh("ip -o link show"), re.M))
    assert links == {e.interface for e in record.endpoints}
    settings = service.settings(container.id)
    assert settings is not None
    route = container.sh("ip route show default")
    best = min(record.endpoints, key=lambda e: (-e.settings.gw_priority, e.network))
    assert f"via {best.gateway4} dev {best.interface}" in route


async def until_no_stale(host: Host, service: NetworkService) -> None:
    """No link is left that nobody accounts for; the stock is being made meanwhile."""
    async with asyncio.timeout(10):
        while True:
            known = {e.link for r in service._sandboxes.book.records() for e in r.endpoints}
            known |= {record.link for record in service._catalogue.all()}
            known |= service._pool.links()
            stale = await service._worker.run(lambda: service._links.stale(known))  # noqa: B023
            if not stale:
                return
            await asyncio.sleep(0.02)


async def check_clean(service: NetworkService) -> None:
    """A clean stop leaves the links of the containers that run, and their networks'."""
    used = {e.network_id for r in service._sandboxes.book.records() for e in r.endpoints}
    wanted = {record.link for record in service._catalogue.all() if record.id in used}
    await service.clean()
    listed = sh("ip -o link show type bridge").splitlines()
    assert {line.split()[1].rstrip(":") for line in listed} == wanted


async def each_step(
    host: Host, running: list[Container], outside: Machine, before: Operation, act: Operation
) -> None:
    """Kill at each step of ``act`` in turn, from the state that ``before`` makes."""
    number = 0
    while True:
        service = await host.service([container.running() for container in running])
        await before(service)
        await host.stop(service)
        died = await killed(host, running, act, number)
        service = await host.service([container.running() for container in running])
        check(host, service, running, outside)
        await until_no_stale(host, service)
        await check_clean(service)
        await host.stop(service)
        if not died:
            break
        number += 1
    assert number > 2, "there were steps to die at"


async def world(host: Host) -> tuple[Container, Machine]:
    """A container with a published port on network n1, and a network a0."""
    service = await host.service()
    outside = host.outside()
    await service.create(NetworkCreate(name="n1"))
    await service.create(NetworkCreate(name="a0"))
    bindings = {"80/tcp": (PortBinding("", "8080"),)}
    web = await host.container(service, "web", mode="n1", port_bindings=bindings)
    web.serve(80)
    await host.stop(service)
    return web, outside


def ask_for(container: Container, *networks: str) -> None:
    """What the container's own record says, which its owner keeps."""
    assert container.request is not None
    endpoints = {name: EndpointSettings() for name in networks}
    container.request = msgspec.structs.replace(
        container.request, endpoints=endpoints, mode=networks[0]
    )


async def nothing(service: NetworkService) -> None:
    pass


@private_host
async def test_connect(host: Host) -> None:
    web, outside = await world(host)

    async def apart(service: NetworkService) -> None:
        if "a0" in service.settings(web.id).networks:  # type: ignore[union-attr]
            await service.disconnect("a0", web.id)

    ask_for(web, "n1")
    await each_step(host, [web], outside, apart, lambda s: s.connect("a0", web.id, None))


@private_host
async def test_disconnect(host: Host) -> None:
    web, outside = await world(host)
    ask_for(web, "n1", "a0")
    await each_step(host, [web], outside, nothing, lambda s: s.disconnect("a0", web.id))


@private_host
async def test_publish_with_a_start(host: Host) -> None:
    web, outside = await world(host)
    bindings = {"80/tcp": (PortBinding("", "9090"),)}

    async def attach(service: NetworkService) -> None:
        await service.attach(host.request("new", mode="a0", port_bindings=bindings))

    await each_step(host, [web], outside, nothing, attach)


@private_host
async def test_republish(host: Host) -> None:
    web, outside = await world(host)
    assert web.request is not None
    ports = (PortBinding("", "8080"), PortBinding("", "9090"))
    more = msgspec.structs.replace(web.request, port_bindings={"80/tcp": ports})
    await each_step(host, [web], outside, nothing, lambda s: s.republish(more))


@private_host
async def test_remove_a_container(host: Host) -> None:
    web, outside = await world(host)
    bindings = {"80/tcp": (PortBinding("", "9090"),)}

    async def attach_and_detach(service: NetworkService) -> None:
        request = host.request("gone", mode="a0", port_bindings=bindings)
        await service.attach(request)
        await service.detach(request.container_id)

    await each_step(host, [web], outside, nothing, attach_and_detach)


@private_host
async def test_create_and_remove_a_network(host: Host) -> None:
    web, outside = await world(host)

    async def clean(service: NetworkService) -> None:
        if any(network.name == "extra" for network in service.list()):
            await service.remove("extra")

    async def both(service: NetworkService) -> None:
        await service.create(NetworkCreate(name="extra", enable_ipv6=True))
        await service.remove("extra")

    await each_step(host, [web], outside, clean, both)


@private_host
async def test_create_and_remove_a_network_with_a_name_for_its_bridge(host: Host) -> None:
    web, outside = await world(host)
    options = {"com.docker.network.bridge.name": "mine0"}

    async def clean(service: NetworkService) -> None:
        if any(network.name == "extra" for network in service.list()):
            await service.remove("extra")

    async def both(service: NetworkService) -> None:
        await service.create(NetworkCreate(name="extra", options=options))
        await service.remove("extra")

    await each_step(host, [web], outside, clean, both)


@private_host
async def test_no_bridge_stays_when_the_option_changes(host: Host) -> None:
    """A killed engine's default bridge goes when the next start uses none or another one, and
    the user's own bridge stays as it is."""
    sh("ip link add br7 type bridge && ip addr add 10.77.0.1/24 dev br7 && ip link set br7 up")
    for options in ({"bridge": "none"}, {"bridge": "br7"}):
        await host.stop(await host.service())  # leaves its bridge, like a killed one
        assert host.instance.bridge in sh("ip -o link show type bridge")
        service = await host.service(**options)
        assert host.instance.bridge not in sh("ip -o link show type bridge")
        await service.clean()
        await host.stop(service)
        assert "10.77.0.1/24" in sh("ip -o addr show dev br7")
