"""What clients of older API versions were promised: fields that came, went or changed."""

from __future__ import annotations

from collections.abc import Iterator
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
    ("/info", "FirewallBackend", "1.49"),
    ("/info", "CDISpecDirs", "1.44"),
    ("/networks/bridge", "EnableIPv4", "1.48"),
    (f"/images/{BASE}/json", "Descriptor", "1.48"),
    ("/containers/json?all=1", "0.NetworkSettings.Networks.versions.GwPriority", "1.48"),
    ("/containers/json?all=1", "0.HostConfig.Annotations", "1.46"),
]
"""Path, field, and the first version that tells it."""

UNTIL = [
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
    (f"/images/{BASE}/json", "Container", "1.45"),
    (f"/images/{BASE}/json", "ContainerConfig", "1.45"),
    (f"/images/{BASE}/json", "Config.Hostname", "1.50"),
    ("/containers/versioned/json", "HostConfig.KernelMemory", "1.42"),
    ("/containers/versioned/json", "HostConfig.KernelMemoryTCP", "1.42"),
]
"""Path, field, and the first version that no longer tells it."""

VERSIONS = ("1.24", "1.30", "1.41", "1.42", "1.44", "1.46", "1.48", "1.49", "1.50", "1.51")


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
        ("v1.51", 200, ""),
        ("v1.24", 200, ""),
        ("v1.52", 400, "client version 1.52 is too new. Maximum supported API version is 1.51"),
        ("v9.99", 400, "client version 9.99 is too new"),
        ("v1.51.1", 400, "client version 1.51.1 is too new"),
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
