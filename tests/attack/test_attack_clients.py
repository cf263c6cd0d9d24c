"""Attacks by clients of the engine on one another: whoever takes all leaves the others a share.

The class of CVE-2021-21285 and CVE-2014-5277's neighbours (resources used up by one client);
shares of connections, descriptors, listeners, job processes, execs and the event loop.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from enginekit import RunningEngine, until

from portside.api.job_shares import EACH

BASE = "portside/base"
DESCRIPTORS = 256
_NARROW = (
    "import resource, runpy; "
    f"resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS})); "
    "runpy.run_module('portside.daemon', run_name='__main__', alter_sys=True)"
)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: an engine is started")


@pytest.fixture(scope="module")
def narrow() -> Iterator[RunningEngine]:
    """An engine that may have few descriptors."""
    running = RunningEngine()
    running.entry = ["-c", _NARROW]
    running.start()
    running.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    yield running
    running.remove()


def descriptors(engine: RunningEngine) -> int:
    return len(os.listdir(f"/proc/{engine.pid}/fd"))


def ask(engine: RunningEngine, head: str, body: bytes = b"") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    try:
        sock.connect(str(engine.socket))
    except OSError:
        return sock
    text = f"{head} HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(text.encode() + body)
    return sock


def run_one(engine: RunningEngine, name: str) -> None:
    """What every user may do meanwhile."""
    body = {"Image": BASE, "Cmd": ["true"]}
    engine.json("POST", f"/containers/create?name={name}", body, 201)
    engine.json("POST", f"/containers/{name}/start", status=204)
    assert engine.json("POST", f"/containers/{name}/wait")["StatusCode"] == 0
    engine.json("DELETE", f"/containers/{name}?force=1", status=204)


@pytest.fixture
def stopped(narrow: RunningEngine) -> Iterator[str]:
    body = {"Image": BASE, "Cmd": ["sleep", "1000"], "OpenStdin": True}
    made = narrow.json("POST", "/containers/create", body, 201)["Id"]
    yield made
    narrow.request("DELETE", f"/containers/{made}?force=1")


HOLD = """
import socket, sys
held = []
for _ in range(int(sys.argv[3])):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(sys.argv[1])
    sock.sendall(f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: d\\r\\n\\r\\n".encode())
    held.append(sock)
    if sys.argv[4] == "1":
        sock.recv(1)  # it is served: no idle connection, which would make room first
print("held", flush=True)
sys.stdin.read()
"""
"""Another process, which is another client to the engine: it keeps many streams open."""


@contextmanager
def held_by_another(
    engine: RunningEngine, path: str, count: int = 600, waits: bool = True
) -> Iterator[None]:
    """``waits``: for the first byte of each answer."""
    command = [sys.executable, "-c", HOLD, str(engine.socket), path, str(count), str(int(waits))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            yield
        finally:
            process.kill()


@pytest.mark.parametrize(
    "path", ["/events", "/containers/{}/logs?follow=1&stdout=1", "/containers/{}/stats"]
)
def test_listeners_leave_others_their_connections(
    narrow: RunningEngine, stopped: str, path: str
) -> None:
    """Room for a new connection is made by the client that has most of them, not by the oldest."""
    narrow.json("POST", f"/containers/{stopped}/start", status=204)
    mine = ask(narrow, "GET /events")
    seen = mine.recv(4096)
    assert seen.startswith(b"HTTP/1.1 200")
    try:
        with held_by_another(narrow, path.format(stopped)):
            run_one(narrow, "beside")
            assert descriptors(narrow) < DESCRIPTORS
            while b'"destroy"' not in seen:
                seen += (piece := mine.recv(4096))
                assert piece, f"my own stream was closed: {seen[-500:]!r}"
    finally:
        mine.close()


def instances(engine: RunningEngine) -> int:
    """inotify(7) instances that the engine has."""
    held = 0
    for link in Path(f"/proc/{engine.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            held += "inotify" in str(link.readlink())
    return held


def test_followers_of_logs_share_one_inotify_instance(narrow: RunningEngine, stopped: str) -> None:
    """A user may have 128, and other programs want some."""
    before = instances(narrow)
    names = [stopped]
    script = "while sleep 0.1; do echo written; done"
    body = {"Image": BASE, "Cmd": ["sh", "-c", script], "StopSignal": "KILL"}
    names += [narrow.json("POST", "/containers/create", body, 201)["Id"] for _ in range(3)]
    for name in names:
        narrow.json("POST", f"/containers/{name}/start", status=204)
    held = [
        (name, ask(narrow, f"GET /containers/{name}/logs?follow=1&stdout=1"))
        for name in names for _ in range(8)
    ]  # fmt: skip
    try:
        for _, sock in held:
            assert sock.recv(4) == b"HTTP"
        assert instances(narrow) == before + 1
        for name, sock in held:
            seen = b""
            while name != stopped and seen.count(b"written") < 5:
                seen += (piece := sock.recv(4096))
                assert piece, seen
        for name in names:
            narrow.json("DELETE", f"/containers/{name}?force=1", status=204)
        for _, sock in held:
            seen = b""
            while not seen.endswith(b"0\r\n\r\n"):  # the last chunk
                seen += (piece := sock.recv(4096))
                assert piece, seen
    finally:
        for _, sock in held:
            sock.close()
    until(lambda: instances(narrow) == before)


def test_waiting_clients_leave_others_their_connections(
    narrow: RunningEngine, stopped: str
) -> None:
    path = f"POST /containers/{stopped}/wait?condition=next-exit"
    held = [ask(narrow, path) for _ in range(600)]
    try:
        run_one(narrow, "beside")
    finally:
        for sock in held:
            sock.close()


@pytest.mark.parametrize("leave", [True, False])
def test_attached_clients_give_their_descriptors_back(
    narrow: RunningEngine, stopped: str, leave: bool
) -> None:
    path = f"POST /containers/{stopped}/attach?stream=1&stdin=1&stdout=1"
    before = descriptors(narrow)
    held = []
    try:
        for _ in range(400):
            held.append(ask(narrow, path))
            assert held[-1].recv(4) == b"HTTP"
            if leave:
                held.pop().close()
        run_one(narrow, "beside")
        assert descriptors(narrow) < before + 48
        narrow.json("POST", f"/containers/{stopped}/start", status=204)
    finally:
        for sock in held:
            sock.close()


def first_answer(held: list[socket.socket]) -> bytes:
    """How the first answer begins that one of them gets."""
    with selectors.DefaultSelector() as selector:
        for sock in held:
            selector.register(sock, selectors.EVENT_READ)
        ready = selector.select(60)
    assert ready, "nobody is answered"
    sock = ready[0][0].fileobj
    assert isinstance(sock, socket.socket)
    return sock.recv(4)


def test_an_export_nobody_reads_keeps_no_processor(narrow: RunningEngine) -> None:
    """Each is far more than the buffers on the way hold, so that its job waits for the client."""
    script = "head -c 24000000 /dev/urandom > /large"
    body = {"Image": BASE, "Cmd": ["sh", "-c", script]}
    made = narrow.json("POST", "/containers/create", body, 201)["Id"]
    narrow.json("POST", f"/containers/{made}/start", status=204)
    assert narrow.json("POST", f"/containers/{made}/wait")["StatusCode"] == 0
    small = narrow.json("POST", "/containers/create", {"Image": BASE, "Cmd": ["true"]}, 201)["Id"]
    held = [ask(narrow, f"GET /containers/{made}/export") for _ in range(8)]
    try:
        # the others wait until the one that is first has left the container's root
        assert first_answer(held) == b"HTTP"
        image = narrow.json("POST", f"/commit?container={small}&repo=beside", status=201)
        narrow.json("DELETE", f"/images/{image['Id']}")
    finally:
        for sock in held:
            sock.close()
        for name in (made, small):
            narrow.request("DELETE", f"/containers/{name}?force=1")


def jobs(engine: RunningEngine) -> int:
    """Job processes that the engine has: its children's children, and those below."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if b"job_worker" in (entry / "cmdline").read_bytes():
                    parents[int(entry.name)] = int(stat[1])
    servers = {pid for pid, parent in parents.items() if parent == engine.pid}
    return sum(parent in servers for parent in parents.values())


def test_exports_of_one_client_take_a_share_of_the_processes(narrow: RunningEngine) -> None:
    """One client asks for many and reads none; others get theirs, and it waits for its own."""
    script = "head -c 24000000 /dev/urandom > /large"
    body = {"Image": BASE, "Cmd": ["sh", "-c", script]}
    made = narrow.json("POST", "/containers/create", body, 201)["Id"]
    narrow.json("POST", f"/containers/{made}/start", status=204)
    assert narrow.json("POST", f"/containers/{made}/wait")["StatusCode"] == 0
    small = narrow.json("POST", "/containers/create", {"Image": BASE, "Cmd": ["true"]}, 201)["Id"]
    path = f"/containers/{made}/archive?path=/"
    try:
        with held_by_another(narrow, path, 40, waits=False):
            until(lambda: jobs(narrow) >= EACH)
            most = 0
            for _ in range(20):
                most = max(most, jobs(narrow))
                time.sleep(0.05)
            assert most <= EACH + 1, f"{most} job processes"
            status, _, data = narrow.request("GET", f"/containers/{small}/archive?path=/etc")
            assert status == 200 and len(data) > 512
        until(lambda: jobs(narrow) == 0)
    finally:
        for name in (made, small):
            narrow.request("DELETE", f"/containers/{name}?force=1")


def test_an_endless_expression_is_ended(narrow: RunningEngine) -> None:
    name = "a" * 60
    narrow.json("POST", f"/containers/create?name={name}", {"Image": BASE, "Cmd": ["true"]}, 201)
    try:
        path = "/containers/json?all=1&filters=%7B%22name%22%3A%7B%22(a%2B)%2Bz%22%3Atrue%7D%7D"
        status, _, data = narrow.request("GET", path)
        assert (status, b"takes too long" in data) == (400, True)
        run_one(narrow, "beside")
    finally:
        narrow.json("DELETE", f"/containers/{name}")


def test_execs_that_are_never_started_are_bounded(narrow: RunningEngine, stopped: str) -> None:
    narrow.json("POST", f"/containers/{stopped}/start", status=204)
    made = [
        narrow.json("POST", f"/containers/{stopped}/exec", {"Cmd": ["true"]}, 201)["Id"]
        for _ in range(1100)
    ]
    known = [narrow.request("GET", f"/exec/{each}/json")[0] for each in (made[0], made[-1])]
    assert known == [404, 200]
