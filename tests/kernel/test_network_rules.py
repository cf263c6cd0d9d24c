"""What dockerd 28.5.2 answers to requests about networks and addresses, as tables."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import msgspec
import pytest
from netkit import Host, private_host, sh

from portside.model.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    PortsideError,
    SystemFailure,
)
from portside.model.network import (
    IPAM,
    EndpointIPAMConfig,
    EndpointSettings,
    IPAMConfig,
    NetworkCreate,
)
from portside.networks.service import NetworkService

BRIDGE = "com.docker.network.bridge."
ISOLATED = {BRIDGE + "gateway_mode_ipv4": "isolated"}
FOUR, SIX = IPAMConfig("10.222.0.0/24"), IPAMConfig("fd12:1::/64")
TEN = '[{"Subnet":"10.222.0.0/24"}]'
CREATED: list[tuple[dict[str, Any], str]] = [
    ({"ipam": IPAM(config=(FOUR,))}, TEN),
    ({"ipam": IPAM(config=(IPAMConfig("10.222.0.0/24", "", "10.222.0.3"),))},
     '[{"Subnet":"10.222.0.0/24","Gateway":"10.222.0.3"}]'),
    ({"enable_ipv6": False, "ipam": IPAM(config=(FOUR, SIX))},
     '[{"Subnet":"10.222.0.0/24"},{"Subnet":"fd12:1::/64"}]'),
    ({"ipam": IPAM(config=(SIX,))},
     '[{"Subnet":"fd12:1::/64"},{"Subnet":"172.18.0.0/20","Gateway":"172.18.0.1"}]'),
    ({"enable_ipv4": False, "enable_ipv6": True, "ipam": IPAM(config=(FOUR, SIX))},
     '[{"Subnet":"10.222.0.0/24"},{"Subnet":"fd12:1::/64"}]'),
    ({"ipam": IPAM(config=(FOUR,)), "internal": True, "options": ISOLATED}, TEN),
    ({"enable_ipv6": True, "ipam": IPAM(config=(FOUR, IPAMConfig("fe80::/64")))},
     '[{"Subnet":"10.222.0.0/24"},{"Subnet":"fe80::/64"}]'),
]  # fmt: skip
REFUSED: list[tuple[dict[str, Any], type[PortsideError], str]] = [
    ({"enable_ipv4": False}, InvalidParameter, "IPv4 or IPv6 must be enabled"),
    ({"options": ISOLATED}, SystemFailure,
     "gateway mode 'isolated' can only be used for an internal network"),
    ({"enable_ipv6": True, "ipam": IPAM(config=(FOUR, IPAMConfig("fd12:1::/128")))}, SystemFailure,
     "failed to allocate gateway (): no available addresses on this pool"),
    ({"enable_ipv6": True, "ipam": IPAM(config=(FOUR, IPAMConfig("ff02::/64")))}, InvalidParameter,
     "multicast subnet 'ff02::1/64' is not allowed"),
    ({"ipam": IPAM(config=(IPAMConfig("10.222.0.0/24", "", "10.222.0.255"),))}, SystemFailure,
     "failed to allocate gateway (10.222.0.255): Address already in use"),
    ({"ipam": IPAM(config=(IPAMConfig("10.222.0.0/24", "", "", {"a": "10.222.0.1"}),))},
     SystemFailure,
     "failed to allocate secondary ip address (a:10.222.0.1): Address already in use"),
    ({"ipam": IPAM(config=(IPAMConfig("10.222.0.0/255.255.255.0"),))}, InvalidParameter,
     "invalid network config:\ninvalid subnet 10.222.0.0/255.255.255.0: invalid CIDR block "
     "notation"),
    ({"ipam": IPAM(config=(IPAMConfig("", "", "10.222.0.1"),))}, InvalidParameter,
     "invalid network config:\ninvalid subnet : invalid CIDR block notation"),
    ({"options": {"com.docker.network.driver.mtu": "x"}}, InvalidParameter,
     "failed to parse com.docker.network.driver.mtu value: x (strconv.Atoi: parsing \"x\": "
     "invalid syntax)"),
    ({"options": {"com.docker.network.driver.mtu": "-1"}}, InvalidParameter,
     "invalid MTU number: -1"),
    ({"options": {BRIDGE + "host_binding_ipv4": "x"}}, InvalidParameter,
     f"failed to parse {BRIDGE}host_binding_ipv4 value: x (nil ip)"),
    ({"ipam": IPAM(config=(FOUR, IPAMConfig("10.223.0.0/24")))}, Forbidden,
     "bridge driver doesn't support multiple subnets"),
]  # fmt: skip
USER = (
    "user specified IP address is supported only when connecting to networks with user "
    "configured subnets"
)
OUTSIDE = "no configured subnet or ip-range contain the IP address "
ADDRESSES: list[tuple[str, EndpointIPAMConfig, str]] = [
    ("auto", EndpointIPAMConfig("172.18.0.9"), USER),
    ("mine", EndpointIPAMConfig("10.222.0.9"), ""),
    ("mine", EndpointIPAMConfig("::ffff:10.222.0.9"), ""),
    ("mine", EndpointIPAMConfig("10.222.1.1"), OUTSIDE + "10.222.1.1"),
    ("mine", EndpointIPAMConfig("fd12::1"),
     f"* invalid IPv4 address: fd12::1\n* {OUTSIDE}fd12::1"),
    ("mine", EndpointIPAMConfig("", "fd12::1"), USER),
    ("mine", EndpointIPAMConfig("", "10.222.0.9"), f"* invalid IPv6 address: 10.222.0.9\n* {USER}"),
    ("mine", EndpointIPAMConfig("0.0.0.0"), f"* invalid IPv4 address: 0.0.0.0\n* {OUTSIDE}0.0.0.0"),
    ("mine", EndpointIPAMConfig("x"), f"* invalid IPv4 address: x\n* {OUTSIDE}x"),
    ("off6", EndpointIPAMConfig("", "fd12:8::9"), ""),
    ("off6", EndpointIPAMConfig("", "fd12:9::9"), OUTSIDE + "fd12:9::9"),
    ("mine", EndpointIPAMConfig("", "", ("x",)), "invalid link-local IP address: x"),
    ("mine", EndpointIPAMConfig("", "", ("0.0.0.0",)), "invalid link-local IP address: 0.0.0.0"),
    ("bridge", EndpointIPAMConfig("172.17.0.9"),
     f"* user specified IP address is supported on user defined networks only\n* {USER}"),
]  # fmt: skip


async def networks(service: NetworkService) -> None:
    six = IPAMConfig("fd12:8::/64")
    await service.create(NetworkCreate(name="auto"))
    await service.create(NetworkCreate(name="mine", ipam=IPAM(config=(FOUR,))))
    four = IPAMConfig("10.224.0.0/24")
    await service.create(NetworkCreate(name="off6", ipam=IPAM(config=(four, six))))


@private_host
async def test_networks_are_reported_as_they_were_asked_for(host: Host) -> None:
    service = await host.service()
    for values, told in CREATED:
        await service.create(NetworkCreate(name="net", **values))
        found = service.inspect("net")
        assert msgspec.json.encode(found.ipam.config).decode() == told
        assert found.ipam.options is None
        await service.remove("net")
    for values, error, told in REFUSED:
        with pytest.raises(error) as raised:
            await service.create(NetworkCreate(name="net", **values))
        assert (str(raised.value), raised.type) == (told, error)


@private_host
async def test_addresses_are_checked(host: Host) -> None:
    service = await host.service()
    await networks(service)
    for network, wanted, told in ADDRESSES:
        settings = {network: EndpointSettings(ipam_config=wanted)}
        request = host.request("c", mode=network, endpoints=settings)
        if told:
            with pytest.raises(InvalidParameter) as raised:
                service.validate(request)
            assert str(raised.value).endswith(f"invalid endpoint settings:\n{told}"), wanted
        else:
            assert service.validate(request) == []
            (found,) = (await service.attach(request)).settings.networks.values()
            assert found.global_ipv6_address == "", "IPv6 is off"
            await service.detach(request.container_id)
    for text in ("10.1.1.1", "127.0.0.1"):
        wanted = EndpointIPAMConfig("", "", (text,))
        settings = {"mine": EndpointSettings(ipam_config=wanted)}
        with pytest.raises(InvalidParameter) as raised:
            await service.attach(host.request("c", mode="mine", endpoints=settings))
        assert str(raised.value) == (
            f"failed to set up container networking: invalid link local IP address: {text}"
        )
    for mac in ("xx", "2:42:ac:11:0:9", "02:42:ac:11:00:09:aa:bb", "01:00:5e:00:00:01"):
        with pytest.raises(InvalidParameter, match=f"invalid MAC address {mac}"):
            settings = {"mine": EndpointSettings(mac_address=mac)}
            service.validate(host.request("c", mode="mine", endpoints=settings))
    settings = {"mine": EndpointSettings(mac_address="0242.AC11.0009")}
    one = await host.container(service, "one", mode="mine", endpoints=settings)
    assert "02:42:ac:11:00:09" in one.sh("ip -o link show eth0")


@private_host
async def test_small_networks(host: Host) -> None:
    """A network without gateway reserves no address for one: /31 holds two containers."""
    service = await host.service()
    small = IPAM(config=(IPAMConfig("10.225.0.0/31"),))
    for name, values, count in (
        ("isolated", {"internal": True, "options": ISOLATED}, 2),
        ("inhibited", {"options": {BRIDGE + "inhibit_ipv4": "true"}}, 1),
        ("plain", {}, 1),
    ):
        made = await service.create(NetworkCreate(name=name, ipam=small, **values))
        attached = []
        with pytest.raises(SystemFailure) as raised:
            while True:
                request = host.request(f"{name}{len(attached)}", mode=name)
                await service.attach(request)
                attached.append(request.container_id)
        assert len(attached) == count, name
        assert str(raised.value) == (
            "failed to set up container networking: no available IPv4 addresses on this "
            f"network's address pools: {name} ({made.id})"
        )
        for container in attached:
            await service.detach(container)
        await service.remove(name)


@private_host
async def test_hardware_addresses_are_never_given_twice(host: Host) -> None:
    """A container that is made again with its old address meets one that got its place; and
    neighbours hear at once who has an IP address now."""
    service = await host.service()
    first = await host.container(service, "first")
    other = await host.container(service, "other")
    other.serve(80)
    first.serve(80)
    assert first.attachment is not None
    mac, address = first.attachment.settings.mac_address, first.ip
    assert other.ask(address, 80) == other.ip and host.own().ask(address, 80)
    await service.detach(first.id)
    second = await host.container(service, "second")
    assert second.ip == address and second.attachment is not None
    assert second.attachment.settings.mac_address != mac
    second.serve(80)
    assert other.ask(address, 80, timeout=0.8) == other.ip, "no cache has the old one"
    assert host.own().ask(address, 80, timeout=0.8).startswith("172.17."), "nor has the host"
    again = await host.container(service, "first2", mac_address=mac)
    again.serve(80)
    for machine in (second, again):
        assert other.ask(machine.ip, 80) == other.ip
    macs = sh("bridge fdb show | awk '{print $1}' | sort | uniq -d", check=False)
    assert mac not in macs.split()


@private_host
async def test_several_subnets_of_a_macvlan_network(host: Host) -> None:
    service = await host.service()
    one, two = IPAMConfig("10.222.0.0/30"), IPAMConfig("10.223.0.0/24", "", "10.223.0.7")
    sh("ip link add lan0 type veth peer name lan1")
    options = {"parent": "lan0"}
    ranges = IPAM(config=(one, two, SIX))
    await service.create(
        NetworkCreate(name="lan", driver="macvlan", ipam=ranges, options=options, enable_ipv6=True)
    )
    found = service.inspect("lan").ipam.config
    assert found is not None and [config.subnet for config in found] == [
        "10.222.0.0/30", "10.223.0.0/24", "fd12:1::/64",
    ]  # fmt: skip
    settings = {"lan": EndpointSettings(ipam_config=EndpointIPAMConfig("10.223.0.9"))}
    a = await host.container(service, "a", mode="lan", endpoints=settings)
    b = await host.container(service, "b", mode="lan")
    c = await host.container(service, "c", mode="lan")
    assert [a.ip, b.ip, c.ip] == ["10.223.0.9", "10.222.0.2", "10.223.0.1"], "the first with room"
    assert "via 10.223.0.7" in a.sh("ip route") and "10.223.0.9/24" in a.sh("ip addr")
    assert "via 10.222.0.1" in b.sh("ip route")
    await service.detach(b.id)
    running = [a.running(), c.running()]
    await host.stop(service)
    again = await host.service(running)
    with pytest.raises((Forbidden, Conflict), match="already in use"):
        await again.attach(host.request("d", mode="lan", endpoints=settings))
    d = await host.container(again, "d", mode="lan")
    assert d.ip == "10.222.0.2"
    await asyncio.sleep(0)


@private_host
async def test_names_of_links_and_of_networks_with_dots(host: Host) -> None:
    from test_network_names import ask

    service = await host.service()
    await service.create(NetworkCreate(name="br.net1"))
    loop = asyncio.get_running_loop()
    web = await host.container(service, "web", mode="br.net1", links=("later:db",))
    assert (await loop.run_in_executor(None, ask, web, "db"))[0] != "NOERROR"
    later = await host.container(service, "later", mode="br.net1")
    for name in ("later", "later.br.net1", "db", "LATER.BR.NET1"):
        answer = await loop.run_in_executor(None, ask, web, name)
        assert answer == ("NOERROR", [later.ip]), name
    assert web.attachment is not None
    assert web.attachment.settings.networks["br.net1"].links is None


@private_host
async def test_ipv6_name_servers_of_the_host(host: Host) -> None:
    servers = "nameserver 2001:db8::53\nnameserver 192.0.2.53\n"
    (host.root / "resolv.conf").write_text(servers)
    service = await host.service()
    four = await host.container(service, "four")
    conf = (four.directory / "resolv.conf").read_text()
    assert "nameserver 192.0.2.53" in conf and "2001" not in conf
    await host.stop(service)
    service = await host.service([four.running()], ipv6=True, fixed_cidr_v6="fd12:5::/64")
    given = await host.container(service, "given", dns=("2001:db8::1",))
    assert "nameserver 2001:db8::1" in (given.directory / "resolv.conf").read_text(), "the user's"


@private_host
async def test_a_bridge_that_cannot_be_set_up_is_not_left(host: Host) -> None:
    service = await host.service()
    before = sh("ip -o link show type bridge")

    def fails(*_: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "no such address")

    service._links._bridge_addresses = fails  # type: ignore[method-assign,assignment]
    with pytest.raises(OSError, match="no such address"):
        await service.create(NetworkCreate(name="net", ipam=IPAM(config=(FOUR,))))
    assert sh("ip -o link show type bridge") == before
    assert not [network for network in service.list() if network.name == "net"]
