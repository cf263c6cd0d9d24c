"""Networks with the real docker CLI: create, inspect, connect, publish, look up, remove."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"
WEB = "while true; do echo hello | nc -l -p {port}; done"


class Made:
    """What a test makes under names of its own; all of it is removed afterwards."""

    def __init__(self, docker: Docker, prefix: str) -> None:
        self.docker, self.prefix = docker, prefix
        self.containers: list[str] = []
        self.networks: list[str] = []

    def network(self, name: str, *options: str) -> str:
        full = f"{self.prefix}-{name}"
        self.networks.append(full)
        self.docker("network", "create", *options, full)
        return full

    def run(self, name: str, *options: str, command: str = "sleep 1000") -> str:
        full = f"{self.prefix}-{name}"
        self.containers.append(full)
        self.docker("run", "-d", "--name", full, *options, BASE, "sh", "-c", command)
        return full

    def sh(self, container: str, command: str, check: bool = True) -> str:
        return self.docker("exec", container, "sh", "-c", command, check=check).stdout.strip()

    def remove(self) -> None:
        if self.containers:
            self.docker("rm", "-f", "-v", *self.containers, check=False)
        if self.networks:
            self.docker("network", "rm", *self.networks, check=False)


@pytest.fixture
def made(docker: Docker, base: str, request: pytest.FixtureRequest) -> Iterator[Made]:
    prefix = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:30]
    found = Made(docker, prefix)
    yield found
    found.remove()


def inspect(docker: Docker, kind: str, name: str) -> Any:
    return json.loads(docker(kind, "inspect", name).stdout)[0]


def refused(docker: Docker, *arguments: str) -> str:
    """What the daemon says to a command that must fail."""
    done = docker(*arguments, check=False)
    assert done.returncode != 0, f"docker {' '.join(arguments)} did not fail"
    return done.stderr


def reached(port: int, address: str = "127.0.0.1", seconds: float = 20) -> str:
    """What a server says, once it listens (a connection refused by the container is no answer)."""
    end = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((address, port), timeout=5) as sock:
                if data := sock.recv(100):
                    return data.decode().strip()
        except OSError:
            pass
        assert time.monotonic() < end, f"nobody answers at {address}:{port}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_create_with_every_option(docker: Docker, made: Made) -> None:
    name = made.network(
        "full", "--driver", "bridge", "--subnet", "10.253.7.0/24", "--gateway", "10.253.7.254",
        "--ip-range", "10.253.7.128/25", "--aux-address", "router=10.253.7.128",
        "--ipv6", "--subnet", "fd00:7::/64", "--label", "a=b", "--attachable",
        "-o", "com.docker.network.bridge.name=psfull0",
        "-o", "com.docker.network.driver.mtu=1400",
        "-o", "com.docker.network.container_iface_prefix=lan",
    )  # fmt: skip
    found = inspect(docker, "network", name)
    assert (found["Driver"], found["Scope"], found["EnableIPv6"]) == ("bridge", "local", True)
    # the client sends the subnets in an order of its own
    assert sorted(found["IPAM"]["Config"], key=lambda part: str(part["Subnet"])) == [
        {
            "Subnet": "10.253.7.0/24", "IPRange": "10.253.7.128/25", "Gateway": "10.253.7.254",
            "AuxiliaryAddresses": {"router": "10.253.7.128"},
        },
        {"Subnet": "fd00:7::/64"},
    ]  # fmt: skip
    assert found["Labels"] == {"a": "b"} and found["Attachable"] is True
    box = made.run("box", "--network", name)
    seen = made.sh(box, "ip -o addr show dev lan0; ip route; cat /sys/class/net/lan0/mtu")
    assert "inet 10.253.7.129/24 brd 10.253.7.255" in seen
    assert "inet6 fd00:7::" in seen and "default via 10.253.7.254 dev lan0" in seen
    assert seen.endswith("1400")
    assert (
        made.sh(
            box,
            "ping -c1 -W5 10.253.7.254 >/dev/null && ping6 -c1 -W5 fd00:7::1 >/dev/null && echo ok",
        )
        == "ok"
    )


def test_refusals_speak_as_docker(docker: Docker, made: Made) -> None:
    name = made.network("one", "--subnet", "10.253.8.0/24")
    create = ("network", "create")
    assert f"network with name {name} already exists" in refused(docker, *create, name)
    assert 'plugin "nosuch" not found' in refused(docker, *create, "-d", "nosuch", "x")
    assert "Pool overlaps with other one" in refused(
        docker, *create, "--subnet", "10.253.8.128/25", "x"
    )
    assert 'only one instance of "host"' in refused(docker, *create, "-d", "host", "x")
    assert "predefined" in refused(docker, *create, "host")
    assert "network nosuch not found" in refused(docker, "network", "inspect", "nosuch")
    assert "network nosuch not found" in refused(docker, "network", "rm", "nosuch")
    assert "pre-defined network" in refused(docker, "network", "rm", "bridge")
    box = made.run("box", "--network", name)
    assert "has active endpoints" in refused(docker, "network", "rm", name)
    assert "already exists in network" in refused(docker, "network", "connect", name, box)
    assert "host network" in refused(docker, "network", "connect", "host", box)
    assert "(none) mode" in refused(docker, "network", "connect", "none", box)
    assert "is not connected to network bridge" in refused(
        docker, "network", "disconnect", "bridge", box
    )
    assert "user defined networks only" in refused(
        docker, "run", "--rm", "--ip", "10.0.0.9", BASE, "true"
    )
    assert "Address already in use" in refused(
        docker, "run", "--rm", "--network", name, "--ip", "10.253.8.2", BASE, "true"
    )


def test_a_route_of_the_host_is_never_shadowed(docker: Docker, made: Made) -> None:
    link = "psvpn0"
    for command in (
        f"ip link add {link} type veth peer name psvpn1", f"ip link set {link} up",
        f"ip route add 10.252.0.0/16 dev {link}",
    ):  # fmt: skip
        subprocess.run(command.split(), check=True)
    try:
        told = refused(docker, "network", "create", "--subnet", "10.252.3.0/24", "x")
        assert "overlaps the host's route 10.252.0.0/16 dev psvpn0" in told
    finally:
        subprocess.run(["ip", "link", "del", link], check=True)


def test_list_filter_and_prune(docker: Docker, made: Made) -> None:
    label = f"test={made.prefix}"
    one = made.network("one", "--label", label)
    two = made.network("two", "--label", label, "--internal")
    made.run("box", "--network", one)

    def listed(*filters: str) -> list[str]:
        options = [part for text in filters for part in ("-f", text)]
        return docker("network", "ls", "--format", "{{.Name}}", *options).stdout.split()

    assert listed(f"label={label}") == [one, two]
    assert listed(f"label={label}", "dangling=true") == [two]
    assert listed(f"name={two}") == [two]
    assert {"bridge", "host", "none"} == set(listed("type=builtin"))
    assert "invalid filter" in refused(docker, "network", "ls", "-f", "color=red")
    done = docker("network", "prune", "-f", "--filter", f"label={label}")
    assert done.stdout.split() == ["Deleted", "Networks:", two]


def test_connect_and_disconnect_live(docker: Docker, made: Made) -> None:
    front = made.network("front")
    back = made.network("back", "--subnet", "10.253.9.0/24", "--ipv6")
    box = made.run("box", "--network", front)
    peer = made.run("peer", "--network", back, "--network-alias", "db")
    options = ("--ip", "10.253.9.77", "--alias", "api", "--gw-priority", "10")
    docker("network", "connect", *options, back, box)
    seen = inspect(docker, "container", box)["NetworkSettings"]["Networks"]
    assert seen[back]["IPAddress"] == "10.253.9.77" and set(seen) == {front, back}
    assert made.sh(box, "ip route").startswith("default via 10.253.9.1 dev eth1")
    assert made.sh(box, "ping -c1 -W5 db >/dev/null && echo ok") == "ok"
    assert made.sh(peer, "ping -c1 -W5 api >/dev/null && echo ok") == "ok"
    assert set(inspect(docker, "network", back)["Containers"]) == {
        inspect(docker, "container", name)["Id"] for name in (box, peer)
    }
    docker("network", "disconnect", back, box)
    assert "eth1" not in made.sh(box, "ip link")
    assert "dev eth0" in made.sh(box, "ip route show default")
    assert made.sh(peer, "nslookup api >/dev/null 2>&1 || echo gone") == "gone"
    docker("network", "disconnect", front, box)
    docker("network", "connect", back, box)
    docker("restart", "-t", "0", box)
    assert set(inspect(docker, "container", box)["NetworkSettings"]["Networks"]) == {back}
    assert made.sh(box, "ping -c1 -W5 db >/dev/null && echo ok") == "ok"


def test_connect_before_the_start(docker: Docker, made: Made) -> None:
    net = made.network("net", "--subnet", "10.253.10.0/24")
    box = f"{made.prefix}-box"
    made.containers.append(box)
    docker("create", "--name", box, BASE, "sleep", "1000")
    docker("network", "connect", "--ip", "10.253.10.9", net, box)
    docker("start", box)
    assert "10.253.10.9/24" in made.sh(box, "ip -o -4 addr show dev eth1")


def test_options_of_one_endpoint(docker: Docker, made: Made) -> None:
    net = made.network("net", "--subnet", "10.253.11.0/24", "--ipv6", "--subnet", "fd00:11::/64")
    mac = "02:42:ac:11:65:43"
    spec = f"name={net},ip=10.253.11.50,ip6=fd00:11::50,alias=x1,mac-address={mac}"
    other = made.network("other")
    sysctl = "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1"
    box = made.run("box", "--network", f'{spec},"{sysctl}"', "--network", f"name={other}")
    seen = made.sh(box, "ip addr; cat /proc/sys/net/ipv4/conf/*/log_martians")
    for text in ("10.253.11.50/24", "fd00:11::50/64", mac):
        assert text in seen
    settings = inspect(docker, "container", box)["NetworkSettings"]["Networks"]
    assert settings[net]["MacAddress"] == mac and "x1" in settings[net]["DNSNames"]
    assert other in settings


def test_names_and_files(docker: Docker, made: Made) -> None:
    net = made.network("net")
    one = made.run("one", "--network", net, "--network-alias", "svc", "-h", "first")
    two = made.run("two", "--network", net, "--network-alias", "svc", "--link", f"{one}:linked")
    for name in (one, "svc", "linked", "first", inspect(docker, "container", one)["Id"][:12]):
        assert made.sh(two, f"ping -c1 -W5 {name} >/dev/null && echo ok") == "ok", name
    found = made.sh(one, "nslookup svc 127.0.0.11 | grep -c '^Address: '")
    assert found == "2"
    assert "nameserver 127.0.0.11" in made.sh(one, "cat /etc/resolv.conf")
    run = ("run", "--rm", "--add-host", "a.test:192.0.2.9", "--add-host", "up:host-gateway")
    done = docker(*run, "-h", "box.dom", BASE, "cat", "/etc/hosts", "/etc/hostname").stdout
    gateway = inspect(docker, "network", "bridge")["IPAM"]["Config"][0]["Gateway"]
    assert "192.0.2.9\ta.test" in done and f"{gateway}\tup" in done
    assert re.search(r"\tbox\.dom box\n", done) and done.endswith("box.dom\n")
    dns = ("--dns", "192.0.2.53", "--dns-search", "corp.test", "--dns-opt", "timeout:3")
    conf = docker("run", "--rm", *dns, BASE, "cat", "/etc/resolv.conf").stdout
    for line in ("nameserver 192.0.2.53", "search corp.test", "options timeout:3"):
        assert line in conf.splitlines()


def test_modes(docker: Docker, made: Made) -> None:
    assert made.docker("run", "--rm", "--network", "none", BASE, "ls", "/sys/class/net").stdout == (
        "lo\n"
    )
    here = set(subprocess.check_output(["ls", "/sys/class/net"], text=True).split())
    there = docker("run", "--rm", "--network", "host", BASE, "ls", "/sys/class/net").stdout.split()
    assert "lo" in there and len(here & set(there)) >= min(len(here), 2)
    box = made.run("box")
    shared = ("run", "--rm", "--network", f"container:{box}")
    address = inspect(docker, "container", box)["NetworkSettings"]["IPAddress"]
    assert address in docker(*shared, BASE, "ip", "-o", "addr").stdout
    guest = made.run("guest", "--network", f"container:{box}")
    through = ("run", "--rm", "--network", f"container:{guest}", BASE)
    assert address in docker(*through, "ip", "-o", "addr").stdout
    assert address in docker(*through, "cat", "/etc/hosts").stdout
    told = refused(docker, *shared, "-p", "80:80", BASE, "true")
    assert "conflicting options: port publishing and the container type network mode" in told
    done = docker("run", "--rm", "--network", "host", "-p", "80:80", BASE, "true")
    assert "Published ports are discarded" in done.stderr


@pytest.fixture
def parent() -> Iterator[str]:
    """An interface of the host that macvlan and ipvlan networks can hang on."""
    subprocess.run("ip link add pspar0 type veth peer name pspar1".split(), check=True)
    for end in ("pspar0", "pspar1"):
        subprocess.run(["ip", "link", "set", end, "up"], check=True)
    yield "pspar0"
    subprocess.run("ip link del pspar0".split(), check=True)


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_containers_on_the_hosts_own_network(
    docker: Docker, made: Made, parent: str, driver: str
) -> None:
    subnet = {"macvlan": "10.253.12", "ipvlan": "10.253.13"}[driver]
    net = made.network("net", "-d", driver, "-o", f"parent={parent}", "--subnet", f"{subnet}.0/24")
    one = f"{made.prefix}-one"
    made.containers.append(one)
    run = ("run", "-d", "--name", one, "--network", net, BASE, "sleep", "1000")
    done = docker(*run, check=False)
    if f"this kernel has no {driver} interfaces" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert f"{subnet}.2/24" in made.sh(one, "ip -o -4 addr show dev eth0")
    two = made.run("two", "--network", net)
    assert made.sh(two, f"ping -c1 -W5 {one} >/dev/null && echo ok") == "ok"
    bridge = made.network("bridge")
    docker("network", "connect", bridge, one)
    docker("network", "disconnect", net, one)
    assert "eth0" not in made.sh(one, "ip link show")


def identifier(docker: Docker, network: str) -> str:
    return docker("network", "inspect", "-f", "{{.Id}}", network).stdout.strip()


def test_a_parent_that_is_taken(docker: Docker, made: Made, parent: str) -> None:
    option = ("-o", f"parent={parent}")
    passthru = (*option, "-o", "macvlan_mode=passthru")
    create = ("network", "create", "-d")
    used = f"is already using parent interface {parent}"
    one = made.network("one", "-d", "macvlan", *option)
    made.network("shared", "-d", "macvlan", *option)
    said = refused(docker, *create, "macvlan", *passthru, f"{one}x")
    assert "cannot use mode passthru, macvlan network " in said and used in said
    docker("network", "rm", one, f"{made.prefix}-shared")
    one = made.network("alone", "-d", "macvlan", *passthru)
    assert f"{used} in mode passthru" in refused(docker, *create, "macvlan", *option, f"{one}x")
    docker("network", "rm", one)
    one = made.network("vlan", "-d", "ipvlan", *option)
    assert f"network di-{identifier(docker, one)[:12]} {used}" in refused(
        docker, *create, "ipvlan", *option, f"{one}x"
    )


def test_address_families_by_option(docker: Docker, made: Made) -> None:
    ipv6 = "com.docker.network.enable_ipv6"
    wanted = {
        ("-o", f"{ipv6}=1"): "true true",
        ("-o", f"{ipv6}=1", "--ipv6=false"): "true false",
        ("-o", f"{ipv6}=1", "-o", "com.docker.network.enable_ipv4=false"): "false true",
    }
    for number, (options, shown) in enumerate(wanted.items()):
        name = made.network(f"family{number}", *options)
        form = "{{.EnableIPv4}} {{.EnableIPv6}}"
        assert docker("network", "inspect", "-f", form, name).stdout.strip() == shown
    assert f'driver-opt "{ipv6}" is not a valid bool' in refused(
        docker, "network", "create", "-o", f"{ipv6}=x", f"{made.prefix}-x"
    )


def test_publish_in_every_form(docker: Docker, made: Made) -> None:
    one, two = free_port(), free_port()
    command = f"({WEB.format(port=80)}) & {WEB.format(port=81)}"
    box = made.run(
        "box", "-p", f"{one}:80", "-p", f"127.0.0.1:{two}:81", "-p", "82/udp", "-p", "90-91",
        "--expose", "99", command=command,
    )  # fmt: skip
    assert reached(one) == "hello" and reached(two) == "hello"
    gateway = inspect(docker, "network", "bridge")["IPAM"]["Config"][0]["Gateway"]
    assert reached(one, gateway) == "hello"
    assert f"0.0.0.0:{one}" in docker("port", box, "80").stdout
    assert docker("port", box, "81/tcp").stdout == f"127.0.0.1:{two}\n"
    ports = inspect(docker, "container", box)["NetworkSettings"]["Ports"]
    assert ports["99/tcp"] is None and ports["82/udp"][0]["HostPort"].isdigit()
    assert {"90/tcp", "91/tcp"} < set(ports)
    told = refused(docker, "run", "--rm", "-p", f"{one}:80", BASE, "true")
    assert f"Bind for 0.0.0.0:{one} failed: port is already allocated" in told
    taken = socket.create_server(("0.0.0.0", 0))
    with taken:
        port = taken.getsockname()[1]
        told = refused(docker, "run", "--rm", "-p", f"{port}:80", BASE, "true")
        assert "address already in use" in told
    every = made.run("all", "-P", "--expose", "80", "--expose", "81/udp")
    assert len(docker("port", every).stdout.splitlines()) >= 2
    client = docker("run", "--rm", BASE, "nc", "-w", "5", gateway, str(one))
    assert client.stdout == "hello\n", "from a container through the host's address"
    docker("rm", "-f", box)
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", one)) != 0


def test_containers_survive_the_engine(private_engine: Any, docker_command: list[str]) -> None:
    from enginekit import docker_runner

    docker = docker_runner(docker_command, {"DOCKER_HOST": private_engine.host, "HOME": "/root"})
    docker("pull", "-q", BASE)
    docker("network", "create", "--ipv6", "n1")
    docker("network", "create", "n2")
    port = free_port()
    docker("run", "-d", "--name", "web", "--network", "n1", "-p", f"{port}:80", BASE, "sh", "-c",
           WEB.format(port=80))  # fmt: skip
    docker("run", "-d", "--name", "peer", "--network", "n2", BASE, "sleep", "1000")
    docker("network", "connect", "n2", "web")
    assert reached(port) == "hello"
    before = inspect(docker, "container", "web")["NetworkSettings"]["Networks"]
    private_engine.kill()
    assert reached(port) == "hello", "without an engine"
    private_engine.start()
    assert inspect(docker, "container", "web")["NetworkSettings"]["Networks"] == before
    assert reached(port) == "hello"
    assert docker("exec", "peer", "ping", "-c1", "-W5", "web").returncode == 0
    docker("network", "disconnect", "n1", "web")
    assert reached(port) == "hello", "over the network that is left"
    docker("rm", "-f", "web", "peer")
    docker("network", "rm", "n1", "n2")


def test_requests_a_network_cannot_grant_are_refused_before_a_container_is_made(
    docker: Docker, made: Made
) -> None:
    name = made.network("own", "--subnet", "10.253.31.0/24")
    box = f"{made.prefix}-never"
    made.containers.append(box)
    start = ("run", "-d", "--name", box)
    for options, words in (
        (("--ip", "172.17.0.9"), "invalid config for network bridge: invalid endpoint settings:\n"),
        (("--network", "host", "--ip", "10.0.0.9"), "user defined networks only"),
        (("--network", name, "--ip", "10.9.9.9"), "no configured subnet or ip-range contain"),
        (("--network", name, "--ip6", "fd00::9"), "networks with user configured subnets"),
        (
            ("--network", f"name={name},driver-opt=com.docker.network.endpoint.sysctls=net.x=1"),
            "unrecognised network interface sysctl 'net.x=1'",
        ),
    ):
        assert words in refused(docker, *start, *options, BASE, "true")
        assert docker("inspect", box, check=False).returncode != 0, "it was made all the same"
    free = made.run("free")
    assert "no configured subnet or ip-range contain the IP address 10.9.9.9" in refused(
        docker, "network", "connect", "--ip", "10.9.9.9", name, free
    )


def test_settings_of_an_interface(docker: Docker, made: Made) -> None:
    name = made.network("own")
    sysctl = "net.ipv4.conf.IFNAME.log_martians=1"
    option = f"driver-opt=com.docker.network.endpoint.sysctls={sysctl}"
    box = made.run("box", "--network", f"name={name},{option}")
    assert made.sh(box, "cat /proc/sys/net/ipv4/conf/eth0/log_martians") == "1"
    unknown = option.replace("log_martians", "nosuch")
    assert "/proc/sys/net/ipv4/conf/eth0/nosuch is not a sysctl file" in refused(
        docker, "run", "--rm", "--network", f"name={name},{unknown}", BASE, "true"
    )


def test_two_networks_never_share_a_bridge_or_an_address(docker: Docker, made: Made) -> None:
    option = ("-o", "com.docker.network.bridge.name=pstwice0")
    made.network("one", *option)
    create = ("network", "create")
    assert "networks have same bridge name" in refused(docker, *create, *option, "x")
    twice = ("--subnet", "10.253.33.0/24", "--subnet", "10.253.34.0/24")
    assert "bridge driver doesn't support multiple subnets" in refused(docker, *create, *twice, "x")
    bad = ("--subnet", "10.253.33.0/24", "--gateway", "10.253.33.255")
    assert "failed to allocate gateway (10.253.33.255): Address already in use" in refused(
        docker, *create, *bad, "x"
    )
    assert "invalid network config:\ninvalid subnet 10.253.33.1/24: it should be" in refused(
        docker, *create, "--subnet", "10.253.33.1/24", "x"
    )
    assert "Ingress network can only be" in refused(docker, *create, "--ingress", "x")
    assert "not a swarm manager" in refused(docker, *create, "-d", "overlay", "x")
    # without --ipv6 an IPv6 subnet is told, but not used
    four = made.network("four", "--subnet", "fd00:33::/64")
    found = inspect(docker, "network", four)
    assert found["EnableIPv6"] is False and len(found["IPAM"]["Config"]) == 2
    made.network("odd/name:x")


def test_out_of_the_last_network_and_out_of_none(docker: Docker, made: Made) -> None:
    name = made.network("own")

    def connected(box: str) -> list[str]:
        return list(inspect(docker, "container", box)["NetworkSettings"]["Networks"])

    box = made.run("box", "--network", name)
    docker("network", "disconnect", name, box)
    docker("restart", "-t", "0", box)
    assert connected(box) == []
    assert "eth0" not in made.sh(box, "ip -o addr")
    alone = made.run("alone", "--network", "none")
    assert "(none) mode" in refused(docker, "network", "connect", name, alone)
    docker("network", "disconnect", "none", alone)
    assert "is not connected to network none" in refused(
        docker, "network", "disconnect", "none", alone
    )
    docker("network", "connect", name, alone)
    assert connected(alone) == [name]
    assert made.sh(alone, f"ping -c1 -W5 {made.prefix}-alone >/dev/null && echo ok") == "ok"
    docker("restart", "-t", "0", alone)
    assert connected(alone) == [name]
    docker("network", "disconnect", name, alone)
    docker("network", "connect", "none", alone)
    assert connected(alone) == ["none"]


def test_a_shared_namespace_is_reported_as_anothers(docker: Docker, made: Made) -> None:
    owner = made.run("owner")
    guest = made.run("guest", "--network", f"container:{owner}")
    docker("rename", owner, f"{owner}-new")
    made.containers.append(f"{owner}-new")
    found = inspect(docker, "container", guest)
    identifier = inspect(docker, "container", f"{owner}-new")["Id"]
    assert found["HostConfig"]["NetworkMode"] == f"container:{identifier}"
    assert found["NetworkSettings"]["SandboxID"] == "" and not found["NetworkSettings"]["Networks"]
    docker("restart", "-t", "0", guest)
    assert "endpoint nosuch not found" in refused(
        docker, "network", "disconnect", "-f", "bridge", "nosuch"
    )


def test_a_container_that_was_only_made_reports_its_network(docker: Docker, made: Made) -> None:
    for mode in ("host", "none", "bridge"):
        name = f"{made.prefix}-{mode}"
        made.containers.append(name)
        docker("create", "--name", name, "--network", mode, BASE, "true")
        assert list(inspect(docker, "container", name)["NetworkSettings"]["Networks"]) == [mode]
