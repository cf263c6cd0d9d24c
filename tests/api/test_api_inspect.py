"""What inspect tells of containers that share networks, have none, or could not start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from enginekit import RunningEngine, until

BASE = "portside/base"
SLEEP = ["sleep", "1000"]


class Made:
    """Makes objects with names of their own and removes them at the end."""

    def __init__(self, engine: RunningEngine) -> None:
        self.engine = engine
        self.ids: list[str] = []
        self.networks: list[str] = []

    def container(self, start: bool = True, **config: Any) -> str:
        body = {"Image": BASE, "Cmd": SLEEP, **config}
        self.ids.append(self.engine.json("POST", "/containers/create", body, 201)["Id"])
        if start:
            self.engine.json("POST", f"/containers/{self.ids[-1]}/start", status=204)
        return self.ids[-1]

    def network(self, **config: Any) -> str:
        self.networks.append(f"inspect-{uuid4().hex[:8]}")
        body = {"Name": self.networks[-1], **config}
        self.engine.json("POST", "/networks/create", body, 201)
        return self.networks[-1]

    def inspect(self, name: str) -> Any:
        return self.engine.json("GET", f"/containers/{name}/json")

    def refusal(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        status, _, data = self.engine.request(method, path, body)
        return status, json.loads(data)["message"]


@pytest.fixture
def made(engine: RunningEngine, base: str) -> Iterator[Made]:
    objects = Made(engine)
    yield objects
    for name in objects.ids:
        engine.request("DELETE", f"/containers/{name}?force=1&v=1")
    for name in objects.networks:
        engine.request("DELETE", f"/networks/{name}")


@pytest.mark.parametrize("mode", ["none", "host", "internal"])
def test_ports_are_only_those_that_can_be_published(made: Made, mode: str) -> None:
    """Traefik, Nomad and others take each port that is listed for one that can be reached."""
    network = made.network(Internal=True) if mode == "internal" else mode
    name = made.container(
        ExposedPorts={"80/tcp": {}},
        HostConfig={"NetworkMode": network, "PortBindings": {"90/tcp": [{"HostPort": ""}]}},
    )
    assert made.inspect(name)["NetworkSettings"]["Ports"] == {}
    listed = made.engine.json("GET", f'/containers/json?filters={{"id":{{"{name}":true}}}}')
    assert [item["Ports"] for item in listed] == [[]]


def test_exposed_ports_of_a_user_network(made: Made) -> None:
    name = made.container(ExposedPorts={"80/tcp": {}}, HostConfig={"NetworkMode": made.network()})
    assert made.inspect(name)["NetworkSettings"]["Ports"] == {"80/tcp": None}


def test_sharing_a_network_shares_names_and_their_files(made: Made) -> None:
    """A pod's containers show the names and the files of the pod's network."""
    pod = made.container(Hostname="pod", Domainname="example.org")
    first = made.container(HostConfig={"NetworkMode": f"container:{pod}"})
    second = made.container(HostConfig={"NetworkMode": f"container:{first}"})
    wanted = made.inspect(pod)
    for name in (first, second):
        found = made.inspect(name)
        assert (found["Config"]["Hostname"], found["Config"]["Domainname"]) == (
            "pod", "example.org",
        )  # fmt: skip
        for file in ("ResolvConfPath", "HostnamePath", "HostsPath"):
            assert found[file] == wanted[file]
            assert Path(found[file]).is_file()


def test_a_failed_start_leaves_its_files(made: Made) -> None:
    name = made.container(start=False, Cmd=["/nonexistent"])
    before = made.inspect(name)
    files = ("ResolvConfPath", "HostnamePath", "HostsPath", "LogPath")
    assert [before[file] for file in files] == [""] * 4
    assert made.engine.request("POST", f"/containers/{name}/start")[0] == 400
    found = made.inspect(name)
    assert all(Path(found[file]).is_file() for file in files), found


def test_an_exec_is_listed_until_it_has_ended(made: Made) -> None:
    name = made.container()
    body = {"Cmd": ["true"], "AttachStdout": True}
    made_exec = made.engine.json("POST", f"/containers/{name}/exec", body, 201)["Id"]
    assert made.inspect(name)["ExecIDs"] == [made_exec]
    made.engine.request("POST", f"/exec/{made_exec}/start", {"Detach": False, "Tty": False})
    until(lambda: made.inspect(name)["ExecIDs"] is None)


def test_port_bindings_that_were_not_given_are_null(made: Made) -> None:
    assert made.inspect(made.container(start=False))["HostConfig"]["PortBindings"] is None
    given = made.container(start=False, HostConfig={"PortBindings": {}})
    assert made.inspect(given)["HostConfig"]["PortBindings"] == {}


def test_containers_that_join_each_other(made: Made) -> None:
    """They can be made, and neither can start; the engine answers still."""
    one, two = f"one-{uuid4().hex[:8]}", f"two-{uuid4().hex[:8]}"
    for name, other in ((one, two), (two, one)):
        body = {"Image": BASE, "Cmd": SLEEP, "HostConfig": {"NetworkMode": f"container:{other}"}}
        path = f"/containers/create?name={name}"
        made.ids.append(made.engine.json("POST", path, body, 201)["Id"])
    assert made.inspect(one)["HostsPath"] == ""
    body = {"Image": BASE, "HostConfig": {"Links": [f"{one}:x"]}}
    status, _, data = made.engine.request("POST", "/containers/create", body)
    assert status == 400, data


def test_messages_name_a_container_as_the_request_does(made: Made) -> None:
    name = made.container(start=False)
    for called in (name, name[:14]):
        status, message = made.refusal("GET", f"/containers/{called}/archive?path=/nope")
        assert status == 404
        assert message == f"Could not find the file /nope in container {called}"
        status, message = made.refusal("POST", f"/containers/{called}/kill")
        assert status == 409
        assert message == f"cannot kill container: {called}: container {name} is not running"


def test_copies_into_what_is_read_only(made: Made) -> None:
    """What is not there is said first: 404 before 400, as clients tell the two apart."""
    host = {"ReadonlyRootfs": True, "Binds": ["/etc:/volume:ro"]}
    name = made.container(start=False, HostConfig=host)
    for path, status, words in (
        ("/", 400, "container rootfs is marked read-only"),
        ("/volume", 400, "mounted volume is marked read-only"),
        ("/nope", 404, f"Could not find the file /nope in container {name}"),
        ("/volume/nope", 404, f"Could not find the file /volume/nope in container {name}"),
    ):
        url = f"/containers/{name}/archive?path={path}"
        assert made.refusal("PUT", url, bytes(1024)) == (status, words)


def test_old_parameters_of_the_list_are_ignored(made: Made) -> None:
    name = made.container(start=False)
    path = f'/containers/json?all=1&before=nope&since={name}&filters={{"id":{{"{name}":true}}}}'
    assert [item["Id"] for item in made.engine.json("GET", path)] == [name]


def test_an_ended_container_keeps_its_names(made: Made) -> None:
    network = made.network()
    name = made.container(
        Hostname="host",
        HostConfig={"NetworkMode": network},
        NetworkingConfig={"EndpointsConfig": {network: {"Aliases": ["alias"]}}},
    )
    endpoint = made.inspect(name)["NetworkSettings"]["Networks"][network]
    assert endpoint["DNSNames"][1:] == ["alias", name[:12], "host"]
    made.engine.request("POST", f"/containers/{name}/stop?t=0")
    ended = made.inspect(name)["NetworkSettings"]["Networks"][network]
    assert ended["DNSNames"] == endpoint["DNSNames"]
    assert ended["NetworkID"] == endpoint["NetworkID"]
    assert ended["IPAddress"] == ended["EndpointID"] == ""
