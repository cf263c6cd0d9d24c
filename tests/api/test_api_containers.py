"""The Container group over HTTP: states, limits, names, files, health, policies, pruning."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from enginekit import RunningEngine, until

BASE = "portside/base"
PATIENCE = 30


class Containers:
    """Makes containers and removes them at the end."""

    def __init__(self, engine: RunningEngine) -> None:
        self.engine = engine
        self.made: list[str] = []

    def create(self, *command: str, name: str = "", **config: Any) -> str:
        body = {"Image": BASE, "Cmd": list(command), **config}
        path = "/containers/create" + (f"?name={name}" if name else "")
        self.made.append(self.engine.json("POST", path, body, 201)["Id"])
        return self.made[-1]

    def run(self, *command: str, name: str = "", **config: Any) -> str:
        made = self.create(*command, name=name, **config)
        self.engine.json("POST", f"/containers/{made}/start", status=204)
        return made

    def inspect(self, name: str) -> Any:
        return self.engine.json("GET", f"/containers/{name}/json")

    def post(self, name: str, verb: str, body: Any = None) -> tuple[int, str]:
        status, _, data = self.engine.request("POST", f"/containers/{name}/{verb}", body)
        return status, json.loads(data)["message"] if status >= 400 else data.decode()

    def until(self, name: str, wanted: Any) -> Any:
        """Wait for a state; ``wanted`` judges what inspect tells."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.inspect(name)
            if wanted(found):
                return found
            time.sleep(0.02)
        pytest.fail(f"never came: {self.inspect(name)['State']}")


@pytest.fixture
def containers(engine: RunningEngine, base: str) -> Iterator[Containers]:
    made = Containers(engine)
    yield made
    for name in made.made:
        engine.request("DELETE", f"/containers/{name}?force=1&v=1")


def test_states_and_their_refusals(containers: Containers) -> None:
    name = containers.create("sleep", "1000", name="api-states")
    assert containers.inspect(name)["State"]["Status"] == "created"
    assert containers.post(name, "kill") == (
        409,
        f"cannot kill container: {name}: container {name} is not running",
    )
    assert containers.post(name, "stop")[0] == 304
    assert containers.post(name, "pause") == (409, f"container {name} is not running")
    assert containers.post(name, "start")[0] == 204
    assert containers.post(name, "start")[0] == 304
    assert containers.post(name, "unpause") == (409, f"Container {name} is not paused")
    assert containers.post(name, "pause")[0] == 204
    assert containers.inspect(name)["State"]["Status"] == "paused"
    assert containers.post(name, "pause") == (409, f"Container {name} is already paused")
    assert containers.post(name, "start")[0] == 409
    status, _, data = containers.engine.request("DELETE", f"/containers/{name}")
    assert (status, json.loads(data)["message"]) == (
        409,
        f'cannot remove container "{name}": container is paused and must be unpaused first',
    )
    assert containers.post(name, "unpause")[0] == 204
    status, _, data = containers.engine.request("DELETE", f"/containers/{name}")
    assert "container is running: stop the container before removing" in data.decode()
    words = f"cannot kill container: {name}: invalid signal: NOPE"
    assert containers.post(name, "kill?signal=NOPE") == (400, words)
    assert containers.post(name, "kill")[0] == 204
    found = containers.inspect(name)["State"]
    assert (found["Status"], found["ExitCode"], found["Pid"]) == ("exited", 137, 0)
    assert containers.engine.request("DELETE", f"/containers/{name}")[0] == 204
    assert containers.engine.request("GET", f"/containers/{name}/json")[0] == 404


def test_stop_names_a_container_that_ignores_sigterm(containers: Containers) -> None:
    name = containers.run("sleep", "1000")
    status, headers, _ = containers.engine.request("POST", f"/containers/{name}/stop?t=0")
    assert status == 204
    assert "its PID 1 ignores it" in headers["portside-warning"]
    polite = containers.run("sh", "-c", "trap 'exit 4' TERM; echo set; while :; do sleep 0.1; done")
    containers.engine.printed(polite, "set")
    status, headers, _ = containers.engine.request("POST", f"/containers/{polite}/stop")
    assert "portside-warning" not in headers
    assert containers.inspect(polite)["State"]["ExitCode"] == 4


def test_names(containers: Containers) -> None:
    first = containers.create("true", name="api-name")
    second = containers.create("true")
    status, message = containers.post(second, "rename?name=api-name")
    assert status == 409
    words = 'Error when allocating new name: Conflict. The container name "/api-name" is already'
    assert message.startswith(words)
    assert containers.post(second, "rename?name=-bad")[0] == 400
    assert containers.post(second, "rename?name=api-other")[0] == 204
    assert containers.inspect("api-other")["Id"] == second
    assert containers.inspect("/api-other")["Name"] == "/api-other"
    assert containers.inspect(first[:20])["Id"] == first
    generated = containers.inspect(containers.create("true"))["Name"]
    assert "_" in generated


def test_update_is_live(containers: Containers) -> None:
    name = containers.run("sleep", "1000", HostConfig={"Memory": 64 << 20})
    assert containers.inspect(name)["HostConfig"]["MemorySwap"] == 128 << 20
    body = {"Memory": 32 << 20, "PidsLimit": 50, "RestartPolicy": {"Name": "on-failure"}}
    assert containers.post(name, "update", body)[0] == 200
    found = containers.inspect(name)["HostConfig"]
    assert (found["Memory"], found["PidsLimit"]) == (32 << 20, 50)
    assert found["RestartPolicy"]["Name"] == "on-failure"
    explained = containers.engine.json("GET", f"/portside/containers/{name}/explain")
    limits = {item["name"]: item["limit"] for item in explained["limits"]}
    assert (limits["memory"], limits["pids"]) == (32 << 20, 50)
    assert containers.post(name, "update", {"Memory": 1000})[0] == 400


def test_top_and_stats(containers: Containers) -> None:
    name = containers.run("sh", "-c", "sleep 1000 & sleep 1000")
    path = f"/containers/{name}/top"
    until(lambda: str(containers.engine.json("GET", path)).count("'sleep 1000'") == 2)
    found = containers.engine.json("GET", path)
    assert found["Titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert sorted(row[-1] for row in found["Processes"])[-2:] == ["sleep 1000", "sleep 1000"]
    found = containers.engine.json("GET", f"/containers/{name}/top?ps_args=-o%20pid,comm")
    assert found["Titles"] == ["PID", "COMMAND"]
    sample = containers.engine.json("GET", f"/containers/{name}/stats?stream=0")
    assert sample["id"] == name
    assert sample["pids_stats"]["current"] >= 2
    assert sample["memory_stats"]["usage"] > 0
    assert sample["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    once = containers.engine.json("GET", f"/containers/{name}/stats?stream=0&one-shot=1")
    assert once["precpu_stats"]["cpu_usage"]["total_usage"] == 0


def tar_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("running", [True, False])
def test_archives(containers: Containers, running: bool) -> None:
    make = containers.run if running else containers.create
    name, engine = make("sleep", "1000"), containers.engine
    path = f"/containers/{name}/archive"
    assert engine.request("PUT", f"{path}?path=/tmp", tar_of(a=b"alpha"))[0] == 200
    _, headers, data = engine.request("GET", f"{path}?path=/tmp/a")
    stat = json.loads(base64.b64decode(headers["x-docker-container-path-stat"]))
    assert (stat["name"], stat["size"]) == ("a", 5)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("a")
        assert member is not None
        assert member.read() == b"alpha"
    assert engine.request("HEAD", f"{path}?path=/tmp/a")[0] == 200
    assert engine.request("HEAD", f"{path}?path=/none")[0] == 404
    assert engine.request("GET", f"{path}?path=")[0] == 400
    assert engine.request("PUT", f"{path}?path=/none", tar_of(a=b""))[0] == 404
    changes = engine.json("GET", f"/containers/{name}/changes")
    assert {"Path": "/tmp/a", "Kind": 1} in changes
    _, _, whole = engine.request("GET", f"/containers/{name}/export")
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        assert "tmp/a" in [member.name.removeprefix("./") for member in archive]


def test_commit_carries_files_and_configuration(containers: Containers) -> None:
    name, engine = (
        containers.run("sh", "-c", "echo made > /made; echo done; sleep 1000"),
        containers.engine,
    )
    engine.printed(name, "done")
    query = f"container={name}&repo=api/made&tag=1&comment=c&author=a&changes={quote('ENV X=y')}"
    image = engine.json("POST", f"/commit?{query}", {"Labels": {"l": "v"}}, 201)["Id"]
    found = engine.json("GET", "/images/api/made:1/json")
    assert (found["Id"], found["Author"], found["Comment"]) == (image, "a", "c")
    assert found["Config"]["Labels"] == {"l": "v"}
    assert "X=y" in found["Config"]["Env"]
    assert not containers.inspect(name)["State"]["Paused"]
    copy = containers.run("cat", "/made", Image="api/made:1")
    engine.json("POST", f"/containers/{copy}/wait")
    assert b"made\n" in engine.request("GET", f"/containers/{copy}/logs?stdout=1")[2]
    engine.request("DELETE", f"/containers/{copy}?force=1")
    engine.request("DELETE", "/images/api/made:1?force=1")


def test_on_failure_counts(containers: Containers) -> None:
    policy = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}
    name = containers.run("false", HostConfig=policy)
    found = containers.until(
        name, lambda c: c["State"]["Status"] == "exited" and c["RestartCount"] == 2
    )
    assert found["State"]["ExitCode"] == 1


def test_health(containers: Containers) -> None:
    check = {"Test": ["CMD-SHELL", "echo probe; test -f /ok"], "Interval": 10**8, "Retries": 2}
    name = containers.run("sleep", "1000", Healthcheck=check)
    assert containers.inspect(name)["State"]["Health"]["Status"] == "starting"
    found = containers.until(name, lambda c: c["State"]["Health"]["Status"] == "unhealthy")
    health = found["State"]["Health"]
    assert health["FailingStreak"] >= 2
    assert health["Log"][-1]["Output"] == "probe\n"
    assert health["Log"][-1]["ExitCode"] == 1
    containers.engine.request("PUT", f"/containers/{name}/archive?path=/", tar_of(ok=b""))
    found = containers.until(name, lambda c: c["State"]["Health"]["Status"] == "healthy")
    filters = quote(json.dumps({"id": [name], "health": ["healthy"]}))
    listed = containers.engine.json("GET", f"/containers/json?filters={filters}")
    assert listed[0]["Status"].endswith("(healthy)")
    assert len(found["State"]["Health"]["Log"]) <= 5


def test_auto_remove(containers: Containers) -> None:
    name = containers.create("true", HostConfig={"AutoRemove": True})
    containers.post(name, "start")
    deadline = time.monotonic() + PATIENCE
    while containers.engine.request("GET", f"/containers/{name}/json")[0] == 200:
        assert time.monotonic() < deadline
    status, message = 400, "can't create 'AutoRemove' container with restart policy"
    body = {
        "Image": BASE,
        "Cmd": ["true"],
        "HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}},
    }
    got, _, data = containers.engine.request("POST", "/containers/create", body)
    assert (got, json.loads(data)["message"]) == (status, message)


def test_filters_of_the_list(containers: Containers) -> None:
    running = containers.run("sleep", "1000", name="api-list-a", Labels={"api": "one"})
    stopped = containers.create("true", name="api-list-b", Labels={"api": "two"})

    def listed(**filters: list[str]) -> set[str]:
        text = quote(json.dumps({"name": ["api-list"], **filters}))
        return {
            item["Id"]
            for item in containers.engine.json("GET", f"/containers/json?all=1&filters={text}")
        }

    assert listed() == {running, stopped}
    assert listed(status=["running"]) == {running}
    assert listed(status=["created"]) == {stopped}
    assert listed(label=["api=two"]) == {stopped}
    assert listed(label=["api"]) == {running, stopped}
    assert listed(before=[stopped]) == {running}
    assert listed(since=["api-list-a"]) == {stopped}
    assert listed(ancestor=[BASE]) == {running, stopped}
    assert listed(network=["bridge"]) == {running, stopped}
    assert listed(id=[running[:12]]) == {running}
    assert listed(health=["none"]) == {running, stopped}
    assert listed(exited=["0"]) == set()


def test_prune_takes_only_what_does_not_run(containers: Containers) -> None:
    running = containers.run("sleep", "1000", Labels={"api-prune": "1"})
    stopped = containers.create("true", Labels={"api-prune": "1"})
    other = containers.create("true")
    filters = quote(json.dumps({"label": ["api-prune"]}))
    found = containers.engine.json("POST", f"/containers/prune?filters={filters}")
    assert found["ContainersDeleted"] == [stopped]
    assert containers.inspect(running)["State"]["Running"]
    assert containers.inspect(other)["Id"] == other


def test_oci_explain_and_timings(containers: Containers) -> None:
    name = containers.run("sleep", "1000", HostConfig={"CapAdd": ["NET_ADMIN"]})
    engine = containers.engine
    spec = engine.json("GET", f"/portside/containers/{name}/oci")
    assert spec["process"]["args"] == ["sleep", "1000"]
    assert "CAP_NET_ADMIN" in spec["process"]["capabilities"]["bounding"]
    facts = engine.json("GET", f"/portside/containers/{name}/explain")
    assert "CAP_NET_ADMIN" in facts["capabilities"]["effective"]
    assert facts["seccomp"].startswith("filter")
    shared = {item["kind"]: item["shared_with"] for item in facts["namespaces"]}
    assert shared["user"] == ["the host"]
    assert shared["net"] == []
    assert [step["kind"] for step in facts["network"]][:1] == ["interface"]
    timings = engine.json("GET", f"/portside/containers/{name}/timings")
    assert {"network", "specification", "runtime"} <= set(timings)


def test_disk_usage(containers: Containers) -> None:
    containers.run(
        "sh", "-c", "head -c 100000 /dev/zero > /f; echo done; sleep 1000", name="api-df"
    )
    containers.engine.printed("api-df", "done")
    found = containers.engine.json("GET", "/v1.51/system/df")
    sizes = {item["Names"][0]: item["SizeRw"] for item in found["Containers"]}
    assert sizes["/api-df"] >= 100000
    assert any(image["Containers"] >= 1 for image in found["Images"])
    only = containers.engine.json("GET", "/v1.51/system/df?type=volume")
    assert only["Images"] is None
    assert containers.engine.request("GET", "/system/df?type=nope")[0] == 400
