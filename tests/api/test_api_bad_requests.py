"""Requests that cannot be answered: dockerd 28.5.2's status and words, and their order."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from enginekit import RunningEngine

BASE = "portside/base"
EOF = "invalid JSON: got EOF while reading request body"
NO_COMMAND = "No exec command specified"


@pytest.fixture(scope="module")
def container(engine: RunningEngine) -> Iterator[str]:
    engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    engine.json(
        "POST", "/containers/create?name=bad", {"Image": BASE, "Cmd": ["sleep", "1000"]}, 201
    )
    engine.json("POST", "/containers/bad/start", status=204)
    try:
        yield "bad"
    finally:
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
    ('POST /networks/prune?filters={"until":["1_0s"]}', None, 400,
     'failed to parse value as time or duration: "1_0s"'),
    ('POST /containers/prune?filters={"until":["1h","2h"]}', None, 400,
     "more than one until filter specified"),
    ('GET /containers/json?filters={"is-task":["True"]}', None, 400,
     "invalid filter 'is-task=[True]'"),
    ('GET /volumes?filters={"dangling":["T"]}', None, 400, "invalid filter 'dangling=[T]'"),
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
