"""Every operation on a container against its end: no 5xx, no traceback, nothing left.

Each round starts a container that ends within some 20 ms, and lets a pair of operations meet
that end. dockerd answers 200 to 204, 304, 404 or 409 then, never 5xx. ``--rounds N`` runs
N rounds of pairs drawn at random; without it there are some 120.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from enginekit import RunningEngine

BASE = "portside/base"
Work = Callable[[RunningEngine, str], "tuple[int, bytes]"]


def _call(method: str, path: str, body: Any = None) -> Work:
    def work(engine: RunningEngine, name: str) -> tuple[int, bytes]:
        status, _, data = engine.request(method, path.replace("{}", name), body)
        return status, data

    return work


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("copied"))
    return out.getvalue()


def _exec(tty: bool, resize: bool = False) -> Work:
    def work(engine: RunningEngine, name: str) -> tuple[int, bytes]:
        body = {"Cmd": ["true"], "AttachStdout": True, "Tty": tty}
        status, _, data = engine.request("POST", f"/containers/{name}/exec", body)
        if status != 201:
            return status, data
        made = json.loads(data)["Id"]
        if resize:
            starting = threading.Thread(
                target=engine.request,
                args=("POST", f"/exec/{made}/start", {"Detach": True, "Tty": tty}),
            )
            starting.start()
            status, _, data = engine.request("POST", f"/exec/{made}/resize?h=20&w=70")
            starting.join()
            return status, data
        status, _, data = engine.request("POST", f"/exec/{made}/start", {"Tty": tty})
        if status < 400:
            status, _, data = engine.request("GET", f"/exec/{made}/json")
        return status, data

    return work


def _network(verb: str) -> Work:
    def work(engine: RunningEngine, name: str) -> tuple[int, bytes]:
        status, _, data = engine.request("POST", f"/networks/raced/{verb}", {"Container": name})
        return status, data

    return work


def _attach(engine: RunningEngine, name: str) -> tuple[int, bytes]:
    """Attach, read to the end or leave after a moment (it may have attached to the next run)."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(engine.socket))
        sock.settimeout(0.2)
        path = f"/containers/{name}/attach?stream=1&stdout=1&stdin=1&logs=1"
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
        found = b""
        try:
            while piece := sock.recv(65536):
                found += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return (int(found.split()[1]) if found else 200), found


UPDATE = {"Memory": 64 << 20, "MemorySwap": 128 << 20}
OPERATIONS: dict[str, Work] = {
    "start": _call("POST", "/containers/{}/start"),
    "stop": _call("POST", "/containers/{}/stop?t=1"),
    "restart": _call("POST", "/containers/{}/restart?t=1"),
    "kill": _call("POST", "/containers/{}/kill"),
    "term": _call("POST", "/containers/{}/kill?signal=TERM"),
    "pause": _call("POST", "/containers/{}/pause"),
    "unpause": _call("POST", "/containers/{}/unpause"),
    "remove": _call("DELETE", "/containers/{}?force=1&v=1"),
    "remove ended": _call("DELETE", "/containers/{}"),
    "rename": _call("POST", "/containers/{}/rename?name={}x"),
    "update": _call("POST", "/containers/{}/update", UPDATE),
    "wait": _call("POST", "/containers/{}/wait"),
    "inspect": _call("GET", "/containers/{}/json?size=1"),
    "list": _call("GET", "/containers/json?all=1&size=1"),
    "top": _call("GET", "/containers/{}/top"),
    "logs": _call("GET", "/containers/{}/logs?stdout=1&follow=1"),
    "stats": _call("GET", "/containers/{}/stats?stream=0"),
    "resize": _call("POST", "/containers/{}/resize?h=20&w=70"),
    "exec": _exec(tty=False),
    "exec terminal": _exec(tty=True),
    "exec resize": _exec(tty=True, resize=True),
    "attach": _attach,
    "commit": _call("POST", "/commit?container={}&repo=raced"),
    "export": _call("GET", "/containers/{}/export"),
    "changes": _call("GET", "/containers/{}/changes"),
    "cp from": _call("GET", "/containers/{}/archive?path=/etc/passwd"),
    "cp to": _call("PUT", "/containers/{}/archive?path=/tmp", _tar()),
    "connect": _network("connect"),
    "disconnect": _network("disconnect"),
    "prune": _call("POST", "/containers/prune"),
}
"""What a user may ask for while the container ends."""

ALLOWED = {200, 201, 204, 304, 404, 409}
FURTHER = {"connect": {403}, "disconnect": {403}, "exec resize": {400}, "rename": {400}}
FILES = {"commit", "export", "changes", "cp from", "cp to", "inspect", "list", "stats", "logs"}
"""They work on a container that has ended just as well: never 409."""


@pytest.fixture(scope="module")
def racing() -> Iterator[RunningEngine]:
    running = RunningEngine()
    running.start()
    try:
        running.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
        running.json("POST", "/networks/create", {"Name": "raced"}, 201)
        yield running
        for item in running.json("GET", "/containers/json?all=1"):
            running.json("DELETE", f"/containers/{item['Id']}?force=1&v=1", status=204)
        running.json("DELETE", "/networks/raced")
    finally:
        running.remove()


def _wrong(operation: str, status: int, data: bytes) -> bool:
    if operation in FILES and status == 409:
        return b"is being removed" not in data
    return status not in ALLOWED | FURTHER.get(operation, set())


def _round(engine: RunningEngine, number: int, pair: tuple[str, str]) -> list[str]:
    """One container, two operations; what was answered wrongly."""
    chance = random.Random(number)
    name = f"raced{number}"
    life = chance.choice((0.0, 0.01, 0.02, 0.03, 0.06))
    body = {
        "Image": BASE, "Cmd": ["sleep", str(life)], "OpenStdin": True,
        "Tty": chance.random() < 0.3, "HostConfig": {"AutoRemove": chance.random() < 0.1},
    }  # fmt: skip
    engine.json("POST", f"/containers/create?name={name}", body, 201)
    assert engine.request("POST", f"/containers/{name}/start")[0] in (204, 404), "pruned before"
    wrong: list[str] = []

    def run(operation: str, delay: float) -> None:
        time.sleep(delay)
        try:
            status, data = OPERATIONS[operation](engine, name)
        except OSError as err:
            wrong.append(f"{pair} life {life}: {operation}: {err!r}")
            return
        if _wrong(operation, status, data):
            wrong.append(f"{pair} life {life}: {operation}: {status} {data[:300]!r}")

    threads = [
        threading.Thread(target=run, args=(operation, chance.uniform(0, life + 0.01)))
        for operation in pair
    ]
    for thread in threads:
        thread.start()
    for thread in threads:  # what waits for the end of a container that was paused, waits on
        thread.join(3)
    for known in (name, f"{name}x"):
        status, _, data = engine.request("DELETE", f"/containers/{known}?force=1&v=1")
        if status not in (204, 404, 409):
            wrong.append(f"{pair}: the removal afterwards: {status} {data[:200]!r}")
    for thread in threads:
        thread.join(40)
        if thread.is_alive():
            wrong.append(f"{pair} life {life}: no answer within 40 s")
    return wrong


def _pairs(rounds: int) -> list[tuple[str, str]]:
    """Each operation in at least eight pairs, or ``rounds`` pairs at random."""
    everything = list(itertools.combinations_with_replacement(OPERATIONS, 2))
    if rounds:
        return random.choices(everything, k=rounds)
    names = list(OPERATIONS)
    shifts = random.sample(range(len(names)), 4)
    return [
        (name, names[(index + shift) % len(names)])
        for index, name in enumerate(names)
        for shift in shifts
    ]


def test_every_operation_meets_the_end(
    racing: RunningEngine, request: pytest.FixtureRequest
) -> None:
    pairs = _pairs(request.config.getoption("--rounds"))
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda item: _round(racing, *item), enumerate(pairs))
        wrong = [text for texts in found for text in texts]
    log = racing.log.read_text()
    failures = "Traceback" in log or "container work failed" in log
    assert not wrong and not failures, "\n".join(wrong) + "\n" + log[-6000:] * failures
    left = racing.json("GET", "/containers/json?all=1")
    assert not left, left
    assert not os.listdir(racing.exec_root / "containers")
