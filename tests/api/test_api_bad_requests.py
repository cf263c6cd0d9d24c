"""Requests that cannot be answered: dockerd 28.5.2's status and words, and their order."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from enginekit import RunningEngine

BASE = "portside/base"
EOF = "invalid JSON: got EOF while reading request body"
EXPERIMENTAL = (
    "This experimental feature is disabled by default. Start the Docker daemon in experimental "
    "mode in order to enable it."
)
NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
    "connect this node to swarm and try again."
)
NO_COMMAND = "No exec command specified"


@pytest.fixture(scope="module")
def container(engine: RunningEngine) -> Iterator[str]:
    engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    engine.json(
        "POST", "/containers/create?name=bad", {"Image": BASE, "Cmd": ["sleep", "1000"]}, 201
    )
    engine.json("POST", "/containers/bad/start", status=204)
    engine.json("POST", "/networks/create", {"Name": "taken"}, 201)
    try:
        yield "bad"
    finally:
        engine.request("DELETE", "/networks/taken")
        engine.request("DELETE", "/containers/bad?force=1")


def refused(engine: RunningEngine, request: str, body: str | None) -> tuple[int, str]:
    method, _, path = request.partition(" ")
    headers = {"Content-Type": "application/json"} if body is not None else {}
    status, _, data = engine.request(method, path, body and body.encode(), headers)
    return status, json.loads(data).get("message", "") if data else ""


CASES = [
    ("POST /containers/create", None, 400, EOF),
    ("POST /containers/create", "null", 400,
     "config cannot be empty in order to create a container"),
    ("POST /containers/create", "x", 400,
     "invalid JSON: invalid character 'x' looking for beginning of value"),
    ("POST /volumes/create", " ", 400, EOF),
    ("POST /volumes/create", "{} {}", 400, "unexpected content after JSON"),
    ("POST /networks/create", None, 400, "invalid name: name is empty"),
    ("POST /networks/create", "null", 400, "invalid name: name is empty"),
    ("POST /networks/bridge/connect", None, 400, 'invalid name or ID supplied: ""'),
    ("POST /networks/bridge/disconnect", None, 400, 'invalid name or ID supplied: ""'),
    ("POST /containers/nope/update", "x", 400,
     "invalid JSON: invalid character 'x' looking for beginning of value"),
    ("POST /containers/nope/update", None, 404, "No such container: nope"),
    ("POST /containers/nope/update", '{"Memory":1024}', 400, "Minimum memory limit allowed is 6MB"),
    ("POST /containers/nope/update", '{"NanoCpus":1000000000,"CpuQuota":5000}', 400,
     "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
    ("POST /containers/nope/update",
     '{"RestartPolicy":{"Name":"always","MaximumRetryCount":3}}', 400,
     "invalid restart policy: maximum retry count can only be used with 'on-failure'"),
    ("POST /containers/nope/update", '{"PidsLimit":-1}', 404, "No such container: nope"),
    ("POST /containers/nope/update", '{"MemorySwap":10000000}', 404, "No such container: nope"),
    ("POST /containers/nope/update", '{"CpusetCpus":"x"}', 400,
     "Invalid value x for cpuset cpus: invalid format: x"),
    ("POST /containers/nope/exec", None, 400, NO_COMMAND),
    ("POST /containers/nope/exec", "{}", 400, NO_COMMAND),
    ("POST /containers/bad/exec", '{"Cmd":[]}', 400, NO_COMMAND),
    ("POST /containers/nope/exec", '{"cmd":["x"]}', 404, "No such container: nope"),
    ("POST /exec/nope/resize", None, 400, 'invalid resize height "": invalid syntax'),
    ("POST /containers/bad/resize?h=1", None, 400, 'invalid resize width "": invalid syntax'),
    ("POST /containers/bad/resize?h=x&w=1", None, 400,
     'invalid resize height "x": invalid syntax'),
    ("POST /containers/nope/resize?h=1&w=y", None, 400,
     'invalid resize width "y": invalid syntax'),
    ("POST /containers/bad/resize?h=-1&w=1", None, 400,
     'invalid resize height "-1": value out of range'),
    ("POST /containers/bad/resize?h=70000&w=1", None, 400,
     'invalid resize height "70000": value out of range'),
    ("POST /containers/nope/resize?h=1&w=1", None, 404, "No such container: nope"),
    ("POST /containers/nope/kill?signal=NOPE", None, 400,
     "cannot kill container: nope: invalid signal: NOPE"),
    ("POST /containers/bad/kill?signal=0", None, 400,
     "cannot kill container: bad: invalid signal: 0"),
    ("POST /containers/bad/kill?signal=99", None, 400,
     "cannot kill container: bad: the linux daemon does not support signal 99"),
    ("POST /containers/nope/kill", None, 404,
     "cannot kill container: nope: No such container: nope"),
    ("POST /containers/bad/stop?signal=NOPE", None, 400,
     "cannot stop container: bad: invalid signal: NOPE"),
    ("POST /containers/nope/wait?condition=bad", None, 400, 'invalid condition: "bad"'),
    ('GET /networks?filters={"dangling":["True"]}', None, 400,
     "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")"),
    ('POST /networks/prune?filters={"until":["2020-13-01"]}', None, 400,
     'parsing time "2020-13-01": month out of range'),
    ('POST /volumes/prune?filters={"all":["x"]}', None, 400,
     "invalid filter 'all': strconv.ParseBool: parsing \"x\": invalid syntax"),
    ('POST /networks/prune?filters={"until":["1_0s"]}', None, 400,
     'failed to parse value as time or duration: "1_0s"'),
    ('POST /containers/prune?filters={"until":["1h","2h"]}', None, 400,
     "more than one until filter specified"),
    ('GET /containers/json?filters={"is-task":["True"]}', None, 400,
     "invalid filter 'is-task=[True]'"),
    ('GET /volumes?filters={"dangling":["T"]}', None, 400, "invalid filter 'dangling=[T]'"),
    ("POST /containers/nope/restart?t=x", None, 400, 'strconv.Atoi: parsing "x": invalid syntax'),
    ("POST /containers/nope/rename?name=", None, 400, "Neither old nor new names may be empty"),
    ("POST /containers/nope/attach?stream=1&detachKeys=zz", None, 400,
     "Invalid detach keys (zz) provided"),
    ("POST /containers/create", '{"Image":"portside/base","HostConfig":{"Annotations":{"":"x"}}}',
     400, "invalid Annotations: the empty string is not permitted as an annotation key"),
    ('GET /containers/json?filters={"exited":["x"]}', None, 400,
     "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax"),
    ('GET /containers/json?filters={"health":["x"]}', None, 400,
     "invalid filter 'health=x': invalid value for health (x): must be one of none, starting, "
     "healthy, unhealthy"),
    ("GET /images/search?term=x&limit=x", None, 400,
     'invalid limit specified: strconv.Atoi: parsing "x": invalid syntax'),
    ("GET /images/portside/base/json?platform={}", None, 400,
     "both OS and Architecture must be provided"),
    ("POST /commit?container=bad&changes=x", None, 400, "x is not a valid change command"),
    ("POST /build/prune?reserved-space=x", None, 400,
     'reserved-space is in bytes and expects an integer, got x: strconv.Atoi: parsing "x": '
     "invalid syntax"),
    ('POST /build/prune?filters={"until":["x"]}', None, 400,
     'failed to prune build cache: "until" filter expects a duration (e.g., \'24h\') or a '
     'timestamp: failed to parse value as time or duration: "x"'),
    ("GET /containers/bad/checkpoints", None, 501, EXPERIMENTAL),
    ("POST /containers/bad/checkpoints", "x", 501, EXPERIMENTAL),
    ("DELETE /containers/bad/checkpoints/y", None, 501, EXPERIMENTAL),
    ("POST /session", None, 400, "no upgrade proto in request"),
    ("PUT /volumes/x", "{}", 503,
     "volume update only valid for cluster volumes, but swarm is unavailable"),
    ("GET /services?filters=x", None, 400, "invalid filter"),
    ("GET /services/x/logs", None, 500, "Bad parameters: you must choose at least one stream"),
    ("GET /tasks/x/logs?stdout=1", None, 503, NO_MANAGER),
    ("POST /swarm/init", "{}", 400, 'invalid ListenAddr "": invalid empty address'),
    ("POST /swarm/join", "x", 400,
     "invalid JSON: invalid character 'x' looking for beginning of value"),
    ("POST /swarm/update?version=x", "{}", 400,
     "invalid swarm version 'x': strconv.ParseUint: parsing \"x\": invalid syntax"),
    ("POST /swarm/update?version=1", "{}", 503, NO_MANAGER),
    ("POST /nodes/x/update", "{}", 400,
     "invalid node version '': strconv.ParseUint: parsing \"\": invalid syntax"),
    ("POST /services/create", "x", 400,
     "invalid JSON: invalid character 'x' looking for beginning of value"),
    ("POST /secrets/x/update", "{}", 400, "invalid secret version"),
    ("POST /configs/create", "{}", 503, NO_MANAGER),
    ('GET /plugins?filters={"enabled":["x"]}', None, 400, "invalid filter 'enabled=[x]'"),
    ("POST /plugins/x/enable", None, 500, 'strconv.Atoi: parsing "": invalid syntax'),
    ("POST /plugins/x/enable?timeout=0", None, 404, 'plugin "x" not found'),
    ("POST /plugins/x/set", None, 404, 'plugin "x" not found'),
    ('GET /containers/json?filters={"label!":["a"]}', None, 400, "invalid filter 'label!'"),
    ('GET /containers/json?filters={"exited":["1.5"]}', None, 400,
     "invalid filter 'exited=1.5': strconv.Atoi: parsing \"1.5\": invalid syntax"),
    ('GET /containers/json?filters={"publish":["x"]}', None, 400,
     'error while looking up for publish x: strconv.ParseUint: parsing "x": invalid syntax'),
    ('GET /containers/json?filters={"publish":["70000"]}', None, 400,
     "error while looking up for publish 70000: strconv.ParseUint: parsing \"70000\": value out "
     "of range"),
    ('GET /containers/json?filters={"expose":["5-3"]}', None, 400,
     "error while looking up for expose 5-3: Invalid range specified for the Port: 5-3"),
    ('GET /containers/json?filters={"expose":["/tcp"]}', None, 400,
     "error while looking up for expose /tcp: Empty string specified for ports."),
    ("POST /networks/create", '{"Name":"taken","IPAM":{"Config":[{"Subnet":"x"}]}}', 400,
     "invalid network config:\ninvalid subnet x: invalid CIDR block notation"),
    ("POST /networks/create",
     '{"Name":"n","Options":{"com.docker.network.bridge.enable_icc":"tRue"}}', 400,
     "failed to parse com.docker.network.bridge.enable_icc value: tRue "
     '(strconv.ParseBool: parsing "tRue": invalid syntax)'),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "body", "status", "words"), CASES)
def test_refused(
    engine: RunningEngine,
    container: str,
    request_: str,
    body: str | None,
    status: int,
    words: str,
) -> None:
    request = request_.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
    assert refused(engine, request, body) == (status, words)


def test_bodies_in_another_case_and_none(engine: RunningEngine) -> None:
    made = engine.json("POST", "/volumes/create", status=201)
    try:
        assert len(made["Name"]) == 64
        assert made["Labels"] == {"com.docker.volume.anonymous": ""}
        lower = engine.json("POST", "/volumes/create", {"name": "low", "LABELS": {"a": "b"}}, 201)
        assert (lower["Name"], lower["Labels"]) == ("low", {"a": "b"})
    finally:
        engine.request("DELETE", f"/volumes/{made['Name']}")
        engine.request("DELETE", "/volumes/low")


@pytest.mark.parametrize(
    "body",
    [b'{"a":' * 50_000, b"[" * 100_000, b'{"Image":"x","Cmd":["a\\u0000"]}', b"\xff"],
)  # fmt: skip
@pytest.mark.parametrize(
    "path",
    ["/containers/create", "/volumes/create", "/networks/create", "/containers/bad/update",
     "/containers/bad/exec", "/networks/bridge/connect", "/commit?container=bad", "/auth"],
)  # fmt: skip
def test_hostile_bodies_are_bad_requests(
    engine: RunningEngine, container: str, path: str, body: bytes
) -> None:
    """Depth, NUL bytes, broken UTF-8: never an error of Python's."""
    status, _, data = engine.request("POST", path, body, {"Content-Type": "application/json"})
    assert (status, data[:24]) == (400, b'{"message":"invalid JSON'), data


def test_numbers_beyond_64_bits(engine: RunningEngine, container: str) -> None:
    for path, body in (
        ("/containers/create", '{"Image":"x","HostConfig":{"Memory":99999999999999999999999}}'),
        ("/containers/bad/update", '{"Memory":99999999999999999999999}'),
    ):
        status, words = refused(engine, f"POST {path}", body)
        assert (status, words[:33]) == (400, "invalid JSON: the number 1.000000")


def test_deep_filters(engine: RunningEngine) -> None:
    deep = "%5B" * 10_000
    assert refused(engine, f"GET /containers/json?filters={deep}", None) == (400, "invalid filter")
