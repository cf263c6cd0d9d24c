"""The wire: versions, headers, errors, malformed and oversized requests, slow clients."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from enginekit import RunningEngine

import portside


def talk(engine: RunningEngine, data: bytes, *, close: bool = False) -> bytes:
    """Send raw bytes and read until the engine closes or falls silent."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(engine.socket))
        try:
            sock.sendall(data)
            if close:
                sock.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        found = b""
        try:
            while piece := sock.recv(65536):
                found += piece
                if b"\r\n\r\n" in found and not close and b"Connection: close" not in found:
                    break
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def test_ping_has_the_headers_clients_negotiate_with(engine: RunningEngine) -> None:
    for method, body in (("GET", b"OK"), ("HEAD", b"")):
        status, headers, data = engine.request(method, "/_ping")
        assert (status, data) == (200, body)
        assert headers["api-version"] == "1.55"
        assert headers["ostype"] == "linux"
        assert headers["docker-experimental"] == "false"
        assert headers["builder-version"] == "2"
        assert headers["swarm"] == "inactive"
        assert headers["cache-control"] == "no-cache, no-store, must-revalidate"
        assert headers["server"].startswith("Portside/")


@pytest.mark.parametrize("version", ["", "/v1.24", "/v1.41", "/v1.55"])
def test_every_version_answers(engine: RunningEngine, version: str) -> None:
    found = engine.json("GET", f"{version}/version")
    assert (found["ApiVersion"], found["MinAPIVersion"]) == ("1.55", "1.24")


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (
            "/v1.56/info",
            400,
            "client version 1.56 is too new. Maximum supported API version is 1.55",
        ),
        (
            "/v1.23/info",
            400,
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade "
            "your client to a newer version",
        ),
        ("/nowhere", 404, "page not found"),
        ("/v1.41/nowhere/at/all", 404, "page not found"),
        ("/v1.x/info", 404, "page not found"),
        ("/v1.24/distribution/x/json", 404, "page not found"),
        ("/containers/none-such/json", 404, "No such container: none-such"),
        ("/exec/none-such/json", 404, "No such exec instance: none-such"),
        ("/images/none-such/json", 404, "No such image: none-such:latest"),
        ("/networks/none-such", 404, "network none-such not found"),
        ("/volumes/none-such", 404, "get none-such: no such volume"),
        ("/containers/json?filters=%7B", 400, "invalid filter"),
        ("/containers/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D", 400, "invalid filter 'nope'"),
        ("/containers/json?limit=many", 400, None),
        ("/events?since=5&until=3", 400, "`since` time (5) cannot be after `until` time (3)"),
        ("/containers/json?all=%zz", 400, 'invalid URL escape "%zz"'),
        ("/containers/json?all=1;limit=1", 400, "invalid semicolon separator in query"),
        ("/containers/x/checkpoints", 501, None),
        ("/containers/x/logs", 400, "Bad parameters: you must choose at least one stream"),
        ("/containers/x/archive", 400, "bad parameter: path cannot be empty"),
        (
            "/volumes?filters=%7B%22dangling%22%3A%5B%22x%22%5D%7D",
            400,
            "invalid filter 'dangling=[x]'",
        ),
        ("/plugins?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D", 400, "invalid filter 'nope'"),
        ("/swarm", 503, None),
        ("/services", 503, None),
    ],
)
def test_errors(engine: RunningEngine, path: str, status: int, message: str | None) -> None:
    got, headers, data = engine.request("GET", path)
    found = json.loads(data)
    assert (got, headers["content-type"]) == (status, "application/json")
    assert list(found) == ["message"]
    if message is not None:
        assert found["message"] == message


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"{", {"Content-Type": "application/json"}, "invalid JSON: unexpected EOF"),
        (
            b'{"Image":"x"} more',
            {"Content-Type": "application/json"},
            "unexpected content after JSON",
        ),
        (
            b"{Image",
            {"Content-Type": "application/json"},
            "invalid character 'I' looking for beginning of object key string",
        ),
        (b"[]", {"Content-Type": "application/json"}, "invalid JSON"),
        (b"", {"Content-Type": "application/json"}, "invalid JSON: got EOF"),
        (
            b"{}",
            {"Content-Type": "text/plain"},
            "unsupported Content-Type header (text/plain): must be 'application/json'",
        ),
        (b"{}", {}, "malformed Content-Type header (): mime: no media type"),
        (b'{"Image": 5}', {"Content-Type": "application/json"}, "Image"),
        (b'{"HostConfig": {"Memory": "much"}}', {"Content-Type": "application/json"}, "Memory"),
        (b"\x00\xff", {"Content-Type": "application/json"}, "invalid JSON"),
        (b'{"a":' * 50_000, {"Content-Type": "application/json"}, "invalid JSON"),
    ],
)
def test_malformed_bodies(
    engine: RunningEngine, body: bytes, headers: dict[str, str], words: str
) -> None:
    status, _, data = engine.request("POST", "/containers/create", body, headers)
    assert status == 400
    assert words in json.loads(data)["message"]


@pytest.mark.parametrize("auth", ["%", "/w==", "bm9jb2xvbg=="])
def test_credentials_that_cannot_be_read(engine: RunningEngine, auth: str) -> None:
    status, _, data = engine.request("POST", "/auth", {"auth": auth})
    assert status == 400
    assert "invalid auth configuration" in json.loads(data)["message"]


@pytest.mark.parametrize("address", ["::bad::", "a b", "x:y", "http://"])
def test_what_is_no_address_of_a_registry(engine: RunningEngine, address: str) -> None:
    status, _, data = engine.request("POST", "/auth", {"serveraddress": address})
    assert status == 400
    assert "invalid registry address" in json.loads(data)["message"]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("//version", "/version"),
        ("/v1.41//containers/json?all=1", "/v1.41/containers/json?all=1"),
        ("/images//json", "/images/json"),
        ("/a/../v1.41/./info", "/v1.41/info"),
    ],
)
def test_untidy_paths_are_redirected_to_the_tidy_one(
    engine: RunningEngine, path: str, place: str
) -> None:
    status, headers, _ = engine.request("GET", path)
    assert (status, headers["location"]) == (301, place)


def test_options_are_answered_without_leave_for_other_sites(engine: RunningEngine) -> None:
    headers = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    status, found, data = engine.request("OPTIONS", "/containers/json", headers=headers)
    assert (status, data) == (200, b"")
    assert not [name for name in found if name.startswith("access-control")]


def test_events_look_over_filters_they_do_not_know(engine: RunningEngine) -> None:
    path = "/events?since=1&until=2&filters=%7B%22nope%22%3A%5B%22x%22%5D%7D"
    assert engine.request("GET", path)[0] == 200


def test_a_start_takes_no_body(engine: RunningEngine) -> None:
    status, _, data = engine.request("POST", "/containers/x/start", {"Binds": ["/a:/b"]})
    assert status == 400 and b"non-empty request body" in data
    for body in (b"{}", b"null", b""):
        headers = {"Content-Type": "application/json"}
        assert engine.request("POST", "/containers/x/start", body, headers)[0] == 404


def test_an_oversized_body_is_refused(engine: RunningEngine) -> None:
    body = b'{"Image":"' + b"x" * (9 << 20) + b'"}'
    headers = {"Content-Type": "application/json"}
    status, _, data = engine.request("POST", "/containers/create", body, headers)
    assert status == 413
    assert "too large" in json.loads(data)["message"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: d\r\nBroken header\r\n\r\n", 400),
        (b"GET /" + b"a" * (2 << 20), 431),
        (b"POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_what_is_not_http(engine: RunningEngine, data: bytes, status: int) -> None:
    assert talk(engine, data).startswith(b"HTTP/1.1 %d " % status)
    assert engine.request("GET", "/_ping")[0] == 200


def test_requests_in_a_row_and_in_one_packet(engine: RunningEngine) -> None:
    one = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    last = b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
    found = talk(engine, one * 5 + last, close=True)
    assert found.count(b"HTTP/1.1 200 OK") == 6


def test_a_half_closed_client_gets_its_answer(engine: RunningEngine) -> None:
    found = talk(engine, b"GET /info HTTP/1.1\r\nHost: d\r\n\r\n", close=True)
    assert found.startswith(b"HTTP/1.1 200 OK")


def test_http_1_0_closes_after_the_answer(engine: RunningEngine) -> None:
    found = talk(engine, b"GET /_ping HTTP/1.0\r\n\r\n", close=True)
    assert b"Connection: close" in found
    assert found.endswith(b"OK")


def test_expect_continue(engine: RunningEngine) -> None:
    head = (
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(engine.socket))
        sock.sendall(head)
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert sock.recv(10000).startswith(b"HTTP/1.1 400 ")


def test_a_refused_body_is_not_waited_for(engine: RunningEngine) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    found = talk(engine, head)
    assert found.startswith(b"HTTP/1.1 404 ")
    assert b"Connection: close" in found


def test_slow_and_silent_clients_block_nobody(engine: RunningEngine) -> None:
    held = []
    for data in (b"GET /_ping HT", b"", b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n") * 20:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(engine.socket))
        sock.sendall(data)
        held.append(sock)
    answers: list[int] = []

    def ask() -> None:
        answers.extend(engine.request("GET", "/_ping")[0] for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 160
    for sock in held:
        sock.close()
    deadline = 100
    while engine.json("GET", "/info")["NEventsListener"] and deadline:
        deadline -= 1
    assert engine.json("GET", "/info")["NEventsListener"] == 0


def test_info_and_version_have_dockers_fields(engine: RunningEngine) -> None:
    info = engine.json("GET", "/info")
    for name in (
        "ID",
        "Containers",
        "Images",
        "Driver",
        "DriverStatus",
        "Plugins",
        "MemoryLimit",
        "CgroupDriver",
        "CgroupVersion",
        "KernelVersion",
        "OperatingSystem",
        "OSType",
        "Architecture",
        "NCPU",
        "MemTotal",
        "DockerRootDir",
        "Name",
        "ServerVersion",
        "Runtimes",
        "DefaultRuntime",
        "Swarm",
        "LiveRestoreEnabled",
        "SecurityOptions",
        "Warnings",
    ):
        assert name in info, name
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert {"portside", "runc", "io.containerd.runc.v2"} <= set(info["Runtimes"])
    assert dict(info["DriverStatus"])["driver-type"] == "io.containerd.snapshotter.v1"
    assert info["DockerRootDir"] == str(engine.data_root)
    version = engine.json("GET", "/version")
    assert version["Components"][0]["Name"] == "Engine"
    # tools compare the server's version with releases of Docker; the engine's own is a component's
    assert version["Components"][0]["Version"] == portside.__version__
    assert version["Version"] == info["ServerVersion"]
    assert [int(part) for part in version["Version"].split(".")] > [28, 0, 0]


def test_a_container_has_the_file_by_which_cadvisor_knows_it(engine: RunningEngine) -> None:
    engine.request("POST", "/images/create?fromImage=portside/base&tag=latest")
    made = engine.json("POST", "/containers/create", {"Image": "portside/base"})
    driver = engine.json("GET", "/info")["Driver"]
    place = engine.data_root / "image" / driver / "layerdb" / "mounts" / made["Id"]
    assert (place / "mount-id").read_text() == made["Id"]
    assert engine.request("DELETE", f"/containers/{made['Id']}")[0] == 204
    assert not place.exists()


def test_auth_with_an_unreachable_registry_is_an_error(engine: RunningEngine) -> None:
    body = {"username": "u", "password": "p", "serveraddress": "127.0.0.1:1"}
    status, _, data = engine.request("POST", "/auth", body)
    assert status >= 400
    assert "127.0.0.1:1" in json.loads(data)["message"]


def test_an_upgrade_to_another_protocol_is_refused(engine: RunningEngine) -> None:
    found = talk(
        engine,
        b"POST /session HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: foo\r\n"
        b"Content-Length: 0\r\n\r\n",
    )
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"protocol foo not supported" in found
