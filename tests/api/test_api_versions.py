"""What clients of older API versions were promised: fields that came, went or changed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine

BASE = "portside/base"
MISSING = object()


@pytest.fixture(scope="module")
def container(engine: RunningEngine) -> Iterator[str]:
    """A container on the default network and on one with names."""
    engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    engine.json("POST", "/networks/create", {"Name": "versions"}, 201)
    body = {
        "Image": BASE,
        "Cmd": ["sleep", "100"],
        "StopSignal": "SIGKILL",
        "HostConfig": {"NetworkMode": "versions", "Annotations": {"a": "b"}},
        "NetworkingConfig": {"EndpointsConfig": {"versions": {"Aliases": ["alias"]}}},
    }
    name = engine.json("POST", "/containers/create?name=versioned", body, 201)["Id"]
    try:
        engine.json("POST", f"/containers/{name}/start", status=204)
        yield name
    finally:
        engine.request("DELETE", f"/containers/{name}?force=1")
        engine.request("DELETE", "/networks/versions")


def look(value: Any, path: str) -> Any:
    """The value at ``A.B.0.C``, or MISSING."""
    for step in path.split("."):
        if isinstance(value, list):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return MISSING
    return value


SINCE = [
    ("/info", "NRI", "1.53"),
    ("/info", "FirewallBackend", "1.49"),
    ("/info", "Runtimes.runc.status", "1.44"),
    ("/containers/versioned/json", "Storage.RootFS.Snapshot.Name", "1.52"),
    ("/networks/versions", "Status.IPAM.Subnets", "1.52"),
    ("/system/df", "ImagesUsage.TotalSize", "1.52"),
    ("/system/df", "ContainersUsage.ActiveCount", "1.52"),
    ("/system/df", "VolumesUsage.Reclaimable", "1.52"),
    ("/system/df", "BuildCacheUsage.TotalCount", "1.52"),
    ("/system/df?verbose=1", "ImagesUsage.Items.0.Id", "1.52"),
    ("/containers/versioned/stats?stream=0&one-shot=1", "os_type", "1.52"),
    ("/info", "CDISpecDirs", "1.44"),
    ("/networks/bridge", "EnableIPv4", "1.48"),
    (f"/images/{BASE}/json", "Descriptor", "1.48"),
    ("/containers/json?all=1", "0.NetworkSettings.Networks.versions.GwPriority", "1.48"),
    ("/containers/json?all=1", "0.HostConfig.Annotations", "1.46"),
]
"""Path, field, and the first version that tells it."""

UNTIL = [
    ("/info", "KernelMemoryTCP", "1.52"),
    ("/system/df", "Images", "1.53"),
    ("/system/df", "LayersSize", "1.53"),
    ("/system/df?verbose=1", "Containers", "1.52"),
    ("/containers/versioned/json", "Config.OnBuild", "1.52"),
    ("/containers/versioned/json", "GraphDriver", "1.52"),
    (f"/images/{BASE}/json", "Author", "1.52"),
    (f"/images/{BASE}/json", "DockerVersion", "1.52"),
    (f"/images/{BASE}/json", "Parent", "1.52"),
    ("/containers/versioned/json", "NetworkSettings.Bridge", "1.52"),
    ("/containers/versioned/json", "NetworkSettings.Gateway", "1.52"),
    ("/containers/versioned/json", "NetworkSettings.IPAddress", "1.52"),
    ("/containers/versioned/json", "NetworkSettings.MacAddress", "1.52"),
    ("/containers/versioned/json", "NetworkSettings.SecondaryIPAddresses", "1.52"),
    ("/info", "BridgeNfIptables", "1.50"),
    ("/info", "BridgeNfIp6tables", "1.50"),
    ("/info", "ContainerdCommit.Expected", "1.49"),
    ("/info", "RuncCommit.Expected", "1.49"),
    ("/info", "RegistryConfig.AllowNondistributableArtifactsCIDRs", "1.49"),
    ("/info", "KernelMemory", "1.42"),
    ("/info", "ExecutionDriver", "1.25"),
    ("/system/df", "BuilderSize", "1.42"),
    ("/images/json", "0.VirtualSize", "1.44"),
    (f"/images/{BASE}/json", "VirtualSize", "1.44"),
    (f"/images/{BASE}/json", "Config.Hostname", "1.50"),
]
"""Path, field, and the first version that no longer tells it."""

VERSIONS = ("1.24", "1.30", "1.41", "1.42", "1.44", "1.46", "1.48", "1.49", "1.50", "1.51", "1.52",
            "1.53", "1.54", "1.55")  # fmt: skip


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@pytest.mark.parametrize(("path", "field", "since"), SINCE)
def test_fields_that_came(
    engine: RunningEngine, container: str, path: str, field: str, since: str
) -> None:
    for version in VERSIONS:
        found = look(engine.json("GET", f"/v{version}{path}"), field)
        assert (found is not MISSING) == (number(version) >= number(since)), version


@pytest.mark.parametrize(("path", "field", "until"), UNTIL)
def test_fields_that_went(
    engine: RunningEngine, container: str, path: str, field: str, until: str
) -> None:
    for version in VERSIONS:
        found = look(engine.json("GET", f"/v{version}{path}"), field)
        assert (found is not MISSING) == (number(version) < number(until)), version


def test_the_short_identifier_was_an_alias(engine: RunningEngine, container: str) -> None:
    where = "NetworkSettings.Networks.versions.Aliases"
    old = look(engine.json("GET", f"/v1.44/containers/{container}/json"), where)
    new = look(engine.json("GET", f"/v1.45/containers/{container}/json"), where)
    assert (sorted(old), new) == (sorted(["alias", container[:12]]), ["alias"])


def test_streams_say_what_they_are_since_1_42(engine: RunningEngine, container: str) -> None:
    for version, wanted in (
        ("1.41", "application/vnd.docker.raw-stream"),
        ("1.42", "application/vnd.docker.multiplexed-stream"),
    ):
        _, headers, _ = engine.request("GET", f"/v{version}/containers/{container}/logs?stdout=1")
        assert headers["content-type"] == wanted


def test_kinds_of_disk_usage_since_1_42(engine: RunningEngine, container: str) -> None:
    old = engine.json("GET", "/v1.41/system/df?type=volume")
    new = engine.json("GET", "/v1.42/system/df?type=volume")
    assert old["Containers"] and new["Containers"] is None
    engine.json("GET", "/v1.42/system/df?type=nothing", status=400)


def test_conditions_of_wait_are_checked_since_1_30(engine: RunningEngine, container: str) -> None:
    engine.json("POST", f"/v1.30/containers/{container}/wait?condition=nonsense", status=400)


@pytest.mark.parametrize(
    ("path", "since"),
    [
        ("POST /containers/prune", "1.25"),
        ("POST /networks/prune", "1.25"),
        ("POST /images/prune", "1.25"),
        ("POST /volumes/prune", "1.25"),
        ("POST /build/prune", "1.31"),
        ("GET /distribution/x/json", "1.30"),
        ("PUT /volumes/x", "1.42"),
    ],
)
def test_endpoints_that_came(engine: RunningEngine, path: str, since: str) -> None:
    method, _, where = path.partition(" ")
    major, minor = number(since)
    status, _, data = engine.request(method, f"/v{major}.{minor - 1}{where}")
    assert (status, data) == (404, b'{"message":"page not found"}\n')


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("v1.55", 200, ""),
        ("v1.24", 200, ""),
        ("v1.56", 400, "client version 1.56 is too new. Maximum supported API version is 1.55"),
        ("v9.99", 400, "client version 9.99 is too new"),
        ("v1.55.1", 400, "client version 1.55.1 is too new"),
        ("v1.23", 400, "client version 1.23 is too old. Minimum supported API version is 1.24"),
        ("v1", 400, "client version 1 is too old"),
        ("v0.1", 400, "client version 0.1 is too old"),
        ("v.", 400, "too old"),
        ("v1.x", 404, "page not found"),
        ("vv1.41", 404, "page not found"),
    ],
)
def test_version_prefixes(engine: RunningEngine, version: str, status: int, words: str) -> None:
    got, _, data = engine.request("GET", f"/{version}/version")
    assert got == status
    assert words in data.decode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/"),
        ("DELETE", "/info"),
        ("POST", "/info"),
        ("GET", "/containers/create"),
        ("POST", "/containers/json"),
        ("PATCH", "/containers/x/json"),
        ("GET", "/info/"),
        ("HEAD", "/containers/json"),
    ],
)
def test_unknown_routes_and_methods(engine: RunningEngine, method: str, path: str) -> None:
    """Both are ``page not found``, as dockerd answers."""
    status, _, data = engine.request(method, path)
    assert status == 404
    assert method == "HEAD" or data == b'{"message":"page not found"}\n'


# -- what a request means --------------------------------------------------------------------


def made(
    engine: RunningEngine, version: str, body: dict[str, Any], query: str = ""
) -> tuple[int, Any, Any]:
    """Status, the answer, and what was made as the newest version shows it."""
    given = {"Image": BASE, "Cmd": ["true"], **body}
    status, _, data = engine.request("POST", f"/v{version}/containers/create{query}", given)
    answer = json.loads(data)
    if status != 201:
        return status, answer["message"], None
    found = engine.json("GET", f"/v1.51/containers/{answer['Id']}/json")
    engine.request("DELETE", f"/containers/{answer['Id']}?force=1&v=1")
    return status, answer["Warnings"], found


def host(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": fields}


MAC, OTHER_MAC = "02:42:ac:11:00:99", "02:42:ac:11:00:98"
BIND = {"Type": "bind", "Source": "/tmp", "Target": "/a", "ReadOnly": True}
SYSCTLS = "com.docker.network.endpoint.sysctls"


def on_bridge(**fields: Any) -> dict[str, Any]:
    return {"NetworkingConfig": {"EndpointsConfig": {"bridge": fields}}}


CHANGES = [
    ("1.25", host(AutoRemove=True), "HostConfig.AutoRemove", False, True),
    ("1.44", on_bridge(MacAddress=MAC), "NetworkSettings.Networks.bridge.MacAddress", "", MAC),
    ("1.44", on_bridge(MacAddress=MAC), "Config.MacAddress", MISSING, MAC),
    ("1.44", {"MacAddress": MAC, **host(NetworkMode="versions")}, "Config.MacAddress", MAC, MAC),
    ("1.53", host(PortBindings={"80/tcp": [], "81/udp": [{}]}), "HostConfig.PortBindings",
     {"80/tcp": [], "81/udp": [{"HostIp": "", "HostPort": ""}]},
     {"81/udp": [{"HostIp": "", "HostPort": ""}]}),
    ("1.40", {}, "HostConfig.IpcMode", "shareable", "private"),
    ("1.42", host(ConsoleSize=[10, 20]), "HostConfig.ConsoleSize", [0, 0], [10, 20]),
    ("1.43", host(Annotations={"a": "b"}), "HostConfig.Annotations", MISSING, {"a": "b"}),
    ("1.44", {"Healthcheck": {"Test": ["CMD", "x"], "StartInterval": 5_000_000_000}},
     "Config.Healthcheck.StartInterval", MISSING, 5_000_000_000),
    ("1.48", {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"GwPriority": 5}}}},
     "NetworkSettings.Networks.bridge.GwPriority", 0, 5),
]  # fmt: skip
"""The version of a change, the request, where to look, and what is there before and since."""


@pytest.mark.parametrize(("since", "body", "where", "before", "after"), CHANGES)
def test_meanings_that_changed(
    engine: RunningEngine,
    container: str,
    since: str,
    body: dict[str, Any],
    where: str,
    before: Any,
    after: Any,
) -> None:
    major, minor = number(since)
    for version, wanted in ((f"{major}.{minor - 1}", before), (since, after)):
        status, answer, found = made(engine, version, body)
        assert status == 201, answer
        got = look(found, where)
        assert (MISSING if got in (None, MISSING) else got) == wanted, version


REFUSED_SINCE = [
    ("1.42", host(Mounts=[{"Type": "tmpfs", "Target": "/t", "VolumeOptions": {}}]),
     400, 'VolumeOptions must not be specified on mount type "tmpfs"'),
    ("1.42", host(Mounts=[{"Type": "bind", "Source": "/tmp", "Target": "/t", "TmpfsOptions": {}}]),
     400, 'TmpfsOptions must not be specified on mount type "bind"'),
    ("1.44", {"MacAddress": MAC, **on_bridge(MacAddress=OTHER_MAC)},
     400, "the container-wide MAC address must match the endpoint-specific MAC address for the "
          "main network, or be left empty"),
    ("1.44", {"MacAddress": MAC, "NetworkingConfig": {"EndpointsConfig": {"versions": {}}}},
     400, "unable to migrate container-wide MAC address to a specific network: "
          "HostConfig.NetworkMode must match the identity of a network in "
          "NetworkSettings.Networks"),
    ("1.48", host(Sysctls={"net.ipv4.conf.eth0.log_martians": "1"}),
     500, 'interface specific sysctl setting "net.ipv4.conf.eth0.log_martians" must be supplied '
          f"using driver option '{SYSCTLS}'"),
]  # fmt: skip
"""The first version that refuses the request, with the status and the words."""


@pytest.mark.parametrize(("since", "body", "refused", "words"), REFUSED_SINCE)
def test_requests_that_were_allowed(
    engine: RunningEngine,
    container: str,
    since: str,
    body: dict[str, Any],
    refused: int,
    words: str,
) -> None:
    major, minor = number(since)
    status, answer, _ = made(engine, f"{major}.{minor - 1}", body)
    assert status == 201, answer
    assert made(engine, since, body)[:2] == (refused, words)


REFUSALS = [
    ("1.44", host(Mounts=[{**BIND, "BindOptions": {"ReadOnlyForceRecursive": True}}]),
     "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"),
    ("1.44", {"NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "versions": {}}}},
     "Container cannot be created with multiple network endpoints: bridge, versions"),
    ("1.45", host(Mounts=[{"Type": "volume", "Source": "vol", "Target": "/a",
                           "VolumeOptions": {"Subpath": "x"}}]),
     "VolumeOptions.Subpath needs API v1.45 or newer"),
    ("1.48", host(Mounts=[{"Type": "image", "Source": BASE, "Target": "/a"}]),
     'Mount type "Image" needs API v1.48 or newer'),
    ("1.44", {"MacAddress": MAC, **host(NetworkMode="host")},
     "conflicting options: mac-address and the network mode"),
    ("1.44", {"MacAddress": MAC, **host(NetworkMode="none")},
     "conflicting options: mac-address and the network mode"),
]  # fmt: skip


@pytest.mark.parametrize(("since", "body", "words"), REFUSALS)
def test_requests_of_the_future(
    engine: RunningEngine, container: str, since: str, body: dict[str, Any], words: str
) -> None:
    major, minor = number(since)
    assert made(engine, f"{major}.{minor - 1}", body)[:2] == (400, words)
    status, answer, _ = made(engine, since, body)
    engine.request("DELETE", "/volumes/vol")
    assert status == 201, answer


def test_the_platform_of_create_is_asked_for_since_1_41(
    engine: RunningEngine, container: str
) -> None:
    assert made(engine, "1.40", {}, "?platform=linux/riscv64")[0] == 201
    assert made(engine, "1.41", {}, "?platform=linux/riscv64")[0] == 404


def test_mountpoints_are_created_since_1_42(engine: RunningEngine, container: str) -> None:
    missing = str(engine.root / "missing")
    mount = {"Type": "bind", "Source": missing, "Target": "/a"}
    body = host(Mounts=[{**mount, "BindOptions": {"CreateMountpoint": True}}])
    status, words, _ = made(engine, "1.41", body)
    assert (status, words) == (
        400,
        f'invalid mount config for type "bind": bind source path does not exist: {missing}',
    )
    assert made(engine, "1.42", body)[0] == 201


def test_read_only_binds_are_recursive_since_1_44(engine: RunningEngine, container: str) -> None:
    for version, wanted in (("1.43", False), ("1.44", True)):
        body = {"Image": BASE, "Cmd": ["true"], **host(Binds=["/tmp:/b:ro"], Mounts=[BIND])}
        name = engine.json("POST", f"/v{version}/containers/create", body, 201)["Id"]
        engine.json("POST", f"/containers/{name}/start", status=204)
        spec = engine.json("GET", f"/portside/containers/{name}/oci")
        engine.request("DELETE", f"/containers/{name}?force=1")
        for target in ("/a", "/b"):
            options = next(m["options"] for m in spec["mounts"] if m["destination"] == target)
            assert ("rro" in options, "ro" in options) == (wanted, not wanted), (version, target)


def test_container_wide_mac_addresses(engine: RunningEngine, container: str) -> None:
    body = {"MacAddress": "02:42:ac:11:00:99"}
    assert made(engine, "1.43", body)[:2] == (201, [])
    assert made(engine, "1.44", body)[:2] == (
        201,
        ["The container-wide MacAddress field is now deprecated. It should be specified in "
         "EndpointsConfig instead."],
    )  # fmt: skip
    status, words, _ = made(engine, "1.52", body)
    assert status == 400 and words.startswith("container-wide MAC address no longer supported")


def test_interface_sysctls_were_migrated_until_1_48(engine: RunningEngine, container: str) -> None:
    _, warnings, found = made(
        engine, "1.47", host(Sysctls={"net.ipv4.conf.eth0.log_martians": "1"})
    )
    option = {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}
    assert look(found, "NetworkSettings.Networks.bridge.DriverOpts") == option
    assert not found["HostConfig"].get("Sysctls")
    assert warnings == [
        'Migrated sysctl "net.ipv4.conf.eth0.log_martians" to DriverOpts{'
        '"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.log_martians=1"}.'
    ]


def test_migrated_sysctls_come_before_those_of_the_endpoint(
    engine: RunningEngine, container: str
) -> None:
    own = {SYSCTLS: "net.ipv4.conf.IFNAME.forwarding=1"}
    body = {**host(Sysctls={"net.ipv4.conf.eth0.forwarding": "0"}), **on_bridge(DriverOpts=own)}
    _, _, found = made(engine, "1.47", body)
    assert look(found, "NetworkSettings.Networks.bridge.DriverOpts") == {
        SYSCTLS: "net.ipv4.conf.IFNAME.forwarding=0,net.ipv4.conf.IFNAME.forwarding=1"
    }
    assert made(engine, "1.47", host(Sysctls={"net.ipv4.conf.eth1.forwarding": "0"}))[:2] == (
        500,
        "unable to determine network endpoint for sysctl net.ipv4.conf.eth1.forwarding, use "
        f"driver option '{SYSCTLS}' to set per-interface sysctls",
    )
    body = host(Sysctls={"net.ipv4.conf.eth0.forwarding": "0"})
    body["NetworkingConfig"] = {"EndpointsConfig": {"versions": {}}}
    assert made(engine, "1.47", body)[:2] == (
        400,
        "unable to find a network for sysctl net.ipv4.conf.eth0.forwarding: "
        "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks",
    )


def test_warnings_that_moved_from_the_client_in_1_48(engine: RunningEngine, container: str) -> None:
    body = host(VolumeDriver="local", Mounts=[{"Type": "volume", "Target": "/q"}])
    assert made(engine, "1.47", body)[1] == []
    named = {"Type": "volume", "Target": "/q", "VolumeOptions": {"DriverConfig": {"Name": "local"}}}
    assert made(engine, "1.48", host(VolumeDriver="local", Mounts=[named]))[1] == []
    assert made(engine, "1.48", body)[1] == [
        "WARNING: the container-wide volume-driver configuration is ignored for volumes "
        "specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead"
    ]


def test_empty_port_bindings_are_warned_about_since_1_52(
    engine: RunningEngine, container: str
) -> None:
    body = host(PortBindings={"80/tcp": []})
    assert made(engine, "1.51", body)[1] == []
    assert made(engine, "1.52", body)[1] == [
        "Following container port(s) have an empty list of port-bindings: 80/tcp. Starting with "
        "API 1.53, such bindings will be discarded."
    ]
    assert made(engine, "1.53", body)[1] == []


def test_networks_without_ipv4_since_1_48(engine: RunningEngine, container: str) -> None:
    for version, wanted in (("1.47", 201), ("1.48", 400)):
        body = {"Name": "without-ipv4", "EnableIPv4": False}
        status, _, _ = engine.request("POST", f"/v{version}/networks/create", body)
        engine.request("DELETE", "/networks/without-ipv4")
        assert status == wanted, version


def test_creation_of_images_is_an_event_since_1_46(engine: RunningEngine, container: str) -> None:
    name = engine.json("POST", f"/commit?container={container}&pause=0", None, 201)["Id"]
    engine.request("DELETE", f"/images/{name}")
    for version, wanted in (("1.45", set()), ("1.46", {"create"})):
        path = f"/v{version}/events?since=1&until=1&filters=%7B%22type%22:%5B%22image%22%5D%7D"
        _, _, data = engine.request("GET", path.replace("until=1&", f"until={time.time()}&"))
        actions = {json.loads(line)["Action"] for line in data.splitlines()}
        assert actions & {"create"} == wanted, version
        assert "delete" in actions


def test_the_verbosity_of_disk_usage_is_read_since_1_52(
    engine: RunningEngine, container: str
) -> None:
    engine.json("GET", "/v1.51/system/df?verbose=x")
    found = engine.json("GET", "/v1.52/system/df?verbose=x", status=400)
    assert found["message"] == "invalid value for verbose: x"


def test_updates_of_the_number_of_processes_since_1_40(
    engine: RunningEngine, container: str
) -> None:
    for version, limit, wanted in (("1.39", 50, None), ("1.40", 60, 60)):
        engine.json("POST", f"/v{version}/containers/{container}/update", {"PidsLimit": limit})
        found = engine.json("GET", f"/containers/{container}/json")
        assert found["HostConfig"]["PidsLimit"] == wanted, version


def test_a_signal_for_stop_since_1_42(engine: RunningEngine, container: str) -> None:
    path = f"/containers/{container}/stop?signal=NOPE"
    status, _, _ = engine.request("POST", f"/v1.42{path}")
    assert status == 400
    engine.json("POST", f"/v1.41{path}&t=0", status=204)
    engine.json("POST", f"/containers/{container}/start", status=204)


# -- events in the form that is asked for ------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "accept", "kind"),
    [
        ("1.51", "application/x-ndjson", "application/json"),
        ("1.52", "application/x-ndjson", "application/x-ndjson"),
        ("1.52", "application/json-seq", "application/json-seq"),
        ("1.52", "application/jsonl", "application/json"),
        ("1.53", "application/jsonl", "application/jsonl"),
        ("1.53", "application/json-seq;q=0.5, application/jsonl", "application/jsonl"),
        ("1.53", "text/html, */*", "application/json"),
        ("1.55", "", "application/json"),
    ],
)
def test_forms_of_events(
    engine: RunningEngine, container: str, version: str, accept: str, kind: str
) -> None:
    path = f"/v{version}/events?since=1&until=2000000000&filters="
    path += "%7B%22type%22:%5B%22container%22%5D,%22event%22:%5B%22create%22%5D%7D"
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(str(engine.socket))
    with sock, sock.makefile("rb") as answer:
        sock.sendall(f"GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n".encode())
        head = {}
        for line in iter(answer.readline, b"\r\n"):
            name, _, value = line.decode().partition(":")
            head[name.lower()] = value.strip()
        first = answer.readline()
    assert head["content-type"] == kind
    assert first.startswith(b"\x1e{" if kind == "application/json-seq" else b"{")
    message = json.loads(first.removeprefix(b"\x1e"))
    assert message["Type"] == "container"
    assert ("status" in message) == (number(version) < (1, 52))


def test_addresses_in_use(engine: RunningEngine, container: str) -> None:
    """Network, gateway (in the range), broadcast and the container."""
    pool = {
        "Driver": "default",
        "Config": [{"Subnet": "198.51.100.0/28", "IPRange": "198.51.100.8/29"}],
    }
    engine.json("POST", "/networks/create", {"Name": "counted", "IPAM": pool}, 201)
    try:
        engine.json("POST", "/networks/counted/connect", {"Container": container})
        found = engine.json("GET", "/v1.52/networks/counted")["Status"]
        assert found == {
            "IPAM": {"Subnets": {"198.51.100.0/28": {"IPsInUse": 4, "DynamicIPsAvailable": 5}}}
        }
    finally:
        engine.request(
            "POST", "/networks/counted/disconnect", {"Container": container, "Force": True}
        )
        engine.request("DELETE", "/networks/counted")


def test_a_mac_address_on_connect(engine: RunningEngine, container: str) -> None:
    engine.json("POST", "/networks/create", {"Name": "hard"}, 201)
    mac = "02:42:ac:33:44:55"
    try:
        body = {"Container": container, "EndpointConfig": {"MacAddress": mac}}
        engine.json("POST", "/v1.54/networks/hard/connect", body)
        found = engine.json("GET", f"/containers/{container}/json")["NetworkSettings"]["Networks"]
        assert found["hard"]["MacAddress"] == mac
    finally:
        engine.request("POST", "/networks/hard/disconnect", {"Container": container, "Force": True})
        engine.request("DELETE", "/networks/hard")


def test_limits_of_devices_are_updated_since_1_55(engine: RunningEngine, container: str) -> None:
    path = next((f"/dev/{d.name}" for d in Path("/sys/block").iterdir() if _is_disk(d.name)), "")
    if not path:
        pytest.skip("no block device in /dev here")
    limit = {"BlkioDeviceReadBps": [{"Path": path, "Rate": 1048576}]}
    where = "HostConfig.BlkioDeviceReadBps"

    def updated(version: str, body: dict[str, Any]) -> Any:
        engine.json("POST", f"/v{version}/containers/{container}/update", body)
        return look(engine.json("GET", f"/containers/{container}/json"), where)

    def in_kernel() -> list[str]:
        group = Path(f"/proc/{_pid(engine, container)}/cgroup").read_text()
        for line in group.splitlines():
            _, names, inner = line.split(":", 2)
            root = "/sys/fs/cgroup" + (f"/{names}" if names else "")
            for file in ("blkio.throttle.read_bps_device", "io.max"):
                found = Path(f"{root}{inner}/{file}")
                if found.is_file():
                    return [row for row in found.read_text().splitlines() if "1048576" in row]
        return pytest.skip("no I/O controller here")

    assert updated("1.54", limit) is None
    assert updated("1.55", limit) == limit["BlkioDeviceReadBps"]
    assert len(in_kernel()) == 1
    assert updated("1.55", {"BlkioDeviceReadBps": None}) == limit["BlkioDeviceReadBps"]
    assert updated("1.55", {"BlkioDeviceReadBps": []}) == []
    assert in_kernel() == []


def _is_disk(name: str) -> bool:
    return Path(f"/dev/{name}").is_block_device() and not name.startswith(("ram", "zram"))


def _pid(engine: RunningEngine, container: str) -> int:
    return int(engine.json("GET", f"/containers/{container}/json")["State"]["Pid"])
