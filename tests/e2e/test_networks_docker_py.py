"""Networks with docker-py."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

docker_module = pytest.importorskip("docker")
BASE = "portside/base"


@pytest.fixture
def client(docker_py: Any, base: str) -> Any:
    return docker_py


@pytest.fixture
def net(client: Any) -> Iterator[Any]:
    types = docker_module.types
    pool = types.IPAMPool(subnet="10.253.20.0/24", gateway="10.253.20.1")
    network = client.networks.create(
        f"py-{uuid.uuid4().hex[:8]}", driver="bridge", ipam=types.IPAMConfig(pool_configs=[pool]),
        labels={"made": "here"}, check_duplicate=True,
    )  # fmt: skip
    yield network
    network.reload()
    for container in network.containers:
        container.remove(force=True)
    network.remove()


def test_create_get_list_and_prune(client: Any, net: Any) -> None:
    assert client.networks.get(net.id).name == net.name
    assert [n.id for n in client.networks.list(names=[net.name])] == [net.id]
    assert net.id in [n.id for n in client.networks.list(filters={"label": "made=here"})]
    assert net.attrs["IPAM"]["Config"][0]["Subnet"] == "10.253.20.0/24"
    with pytest.raises(docker_module.errors.NotFound):
        client.networks.get("nosuch")
    with pytest.raises(docker_module.errors.APIError) as info:
        client.networks.create(net.name, check_duplicate=True)
    assert info.value.status_code == 409
    label = f"gone-{uuid.uuid4().hex[:6]}"
    extra = client.networks.create(f"x-{label}", labels={label: ""})
    assert client.networks.prune({"label": [label]})["NetworksDeleted"] == [extra.name]


def test_connect_with_an_address(client: Any, net: Any) -> None:
    box = client.containers.run(BASE, "sleep 1000", detach=True)
    try:
        net.connect(box, ipv4_address="10.253.20.40", aliases=["alias1"])
        box.reload()
        settings = box.attrs["NetworkSettings"]["Networks"][net.name]
        assert settings["IPAddress"] == "10.253.20.40"
        net.reload()
        assert net.containers == [box]
        out = client.containers.run(
            BASE, ["ping", "-c1", "-W5", "alias1"], network=net.name, remove=True
        )
        assert b"10.253.20.40" in out
        with pytest.raises(docker_module.errors.APIError) as info:
            net.connect(box)
        assert info.value.status_code == 403
        net.disconnect(box)
        box.reload()
        assert net.name not in box.attrs["NetworkSettings"]["Networks"]
    finally:
        box.remove(force=True)


def test_network_mode_without_endpoints(client: Any, net: Any) -> None:
    """Only HostConfig.NetworkMode names the network."""
    box = client.containers.create(BASE, "sleep 1000", network_mode=net.name)
    box.start()
    box.reload()
    assert list(box.attrs["NetworkSettings"]["Networks"]) == [net.name]
    net.disconnect(box)
    box.reload()
    assert box.attrs["NetworkSettings"]["Networks"] == {}
    box.remove(force=True)


def test_published_ports(client: Any) -> None:
    box = client.containers.run(
        BASE, "sleep 1000", detach=True, ports={"80/tcp": None, "81/udp": ("127.0.0.1", None)}
    )
    try:
        box.reload()
        assert box.ports["80/tcp"][0]["HostIp"] == "0.0.0.0"
        assert box.ports["81/udp"][0]["HostIp"] == "127.0.0.1"
        assert int(box.ports["80/tcp"][0]["HostPort"]) > 1024
    finally:
        box.remove(force=True)


def test_events_of_a_network(client: Any) -> None:
    import time

    since = int(time.time())
    network = client.networks.create(f"ev-{uuid.uuid4().hex[:8]}")
    box = client.containers.create(BASE, "true", network=network.name)
    box.start()
    box.wait()
    box.remove()
    network.remove()
    until = int(time.time()) + 1
    told = [
        event["Action"]
        for event in client.events(since=since, until=until, decode=True)
        if event["Type"] == "network" and event["Actor"]["ID"] == network.id
    ]
    assert told == ["create", "connect", "disconnect", "destroy"]
