"""Every operation on a network, a volume, an image and an exec against the object's removal.

Each round makes an object and lets a pair of operations on it meet, of which one may remove it.
dockerd answers 2xx, 304, 400, 403, 404 or 409 then, never 5xx. ``--rounds N`` runs N rounds of
pairs drawn at random; without it each operation meets each removal once.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from enginekit import RunningEngine

BASE = "portside/base"
Call = tuple[str, str, Any]
ONLY = quote(json.dumps({"label": ["raced=1"]}))
ALL = quote(json.dumps({"label": ["raced=1"], "all": ["1"]}))
UNUSED = quote(json.dumps({"label": ["raced=1"], "dangling": ["false"]}))
LABELS = {"raced": "1"}


def _context(base: str, label: str) -> bytes:
    """A build that takes a moment and leaves an image of its own."""
    text = f"FROM {base}\nLABEL raced=1\nRUN echo {label} >/raced && sleep 0.02\n".encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return out.getvalue()


def _box(image: str = BASE, network: str = "none", binds: tuple[str, ...] = ()) -> dict[str, Any]:
    host = {"NetworkMode": network, "Binds": list(binds)}
    return {"Image": image, "Cmd": ["sleep", "0.02"], "Labels": LABELS, "HostConfig": host}


def _calls(kind: str, name: str) -> dict[str, list[Call]]:
    """The operations on an object of a kind: each is the calls that a client makes in turn."""
    start: Call = ("POST", "/containers/{made}/start", None)
    if kind == "network":
        return {
            "inspect": [("GET", f"/networks/{name}?verbose=1", None)],
            "list": [("GET", "/networks", None)],
            "connect": [("POST", f"/networks/{name}/connect", {"Container": f"{name}-box"})],
            "disconnect": [("POST", f"/networks/{name}/disconnect", {"Container": f"{name}-box"})],
            "run": [("POST", "/containers/create", _box(network=name)), start],
            "remove": [("DELETE", f"/networks/{name}", None)],
            "prune": [("POST", f"/networks/prune?filters={ONLY}", None)],
        }
    if kind == "volume":
        return {
            "inspect": [("GET", f"/volumes/{name}", None)],
            "list": [("GET", "/system/df?type=volume", None)],
            "create": [("POST", "/volumes/create", {"Name": name, "Labels": LABELS})],
            "run": [("POST", "/containers/create", _box(binds=(f"{name}:/data",))), start],
            "remove": [("DELETE", f"/volumes/{name}?force=1", None)],
            "prune": [("POST", f"/volumes/prune?filters={ALL}", None)],
        }
    if kind == "image":
        return {
            "inspect": [("GET", f"/images/{name}/json?manifests=1", None)],
            "list": [("GET", "/images/json?all=1&shared-size=1", None)],
            "history": [("GET", f"/images/{name}/history", None)],
            "save": [("GET", f"/images/{name}/get", None)],
            "tag": [("POST", f"/images/{name}/tag?repo={name}&tag=other", None)],
            "run": [("POST", "/containers/create", _box(image=name)), start],
            "build": [("POST", f"/build?t={name}:built", _context(name, "above"))],
            "build again": [("POST", f"/build?t={name}&nocache=1", _context(BASE, name))],
            "remove": [("DELETE", f"/images/{name}?force=1", None)],
            "prune": [("POST", f"/images/prune?filters={UNUSED}", None)],
        }
    return {
        "start": [("POST", f"/exec/{name}/start", {"Detach": False})],
        "start detached": [("POST", f"/exec/{name}/start", {"Detach": True})],
        "inspect": [("GET", f"/exec/{name}/json", None)],
        "resize": [("POST", f"/exec/{name}/resize?h=20&w=70", None)],
        "remove": [("DELETE", "/containers/{box}?force=1", None)],
        "kill": [("POST", "/containers/{box}/kill", None)],
    }


KINDS = ("network", "volume", "image", "exec")
ENDS = {"network": ("remove", "prune"), "volume": ("remove", "prune"),
        "image": ("remove", "prune", "build again"), "exec": ("remove", "kill")}  # fmt: skip
REGISTRY = b"registry-1.docker.io"
ALLOWED = {200, 201, 204, 304, 400, 403, 404, 409}


@pytest.fixture(scope="module")
def racing() -> Iterator[RunningEngine]:
    running = RunningEngine()
    running.start()
    try:
        running.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
        yield running
    finally:
        running.remove()


def _make(engine: RunningEngine, kind: str, name: str) -> tuple[str, str]:
    """An object: what its calls name, and its container if it has one."""
    body = {"Name": name, "Labels": LABELS}
    if kind == "volume":
        engine.json("POST", "/volumes/create", body, 201)
        return name, ""
    if kind == "image":
        status, _, data = engine.request("POST", f"/build?t={name}", _context(BASE, name))
        assert status == 200 and b'"error"' not in data, data
        return name, ""
    box = _box() | {"Cmd": ["sleep", "60"]}
    if kind == "network":
        engine.json("POST", "/networks/create", body, 201)
        box["HostConfig"]["NetworkMode"] = "bridge"
    engine.json("POST", f"/containers/create?name={name}-box", box, 201)
    engine.json("POST", f"/containers/{name}-box/start", status=204)
    if kind == "network":
        return name, f"{name}-box"
    run = {"Cmd": ["true"], "AttachStdout": True, "Tty": False}
    return engine.json("POST", f"/containers/{name}-box/exec", run, 201)["Id"], f"{name}-box"


def _round(engine: RunningEngine, number: int, item: tuple[str, str, str]) -> list[str]:
    kind, *pair = item
    chance = random.Random(number)
    target, box = _make(engine, kind, f"raced{number}")
    wrong: list[str] = []

    def run(operation: str, delay: float) -> None:
        time.sleep(delay)
        made = ""
        for method, path, body in _calls(kind, target)[operation]:
            try:
                status, _, data = engine.request(
                    method, path.replace("{made}", made).replace("{box}", box), body
                )
            except OSError as err:
                wrong.append(f"{item}: {operation}: {err!r}")
                return
            if status == 500 and operation == "build" and REGISTRY in data:
                return  # the base has gone: it is looked for where its name says
            if status not in ALLOWED or b"Errno" in data:
                wrong.append(f"{item}: {operation}: {path}: {status} {data[-300:]!r}")
            if status >= 300:
                return
            made = json.loads(data)["Id"] if path == "/containers/create" else ""

    threads = [threading.Thread(target=run, args=(one, chance.uniform(0, 0.02))) for one in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        if thread.is_alive():
            wrong.append(f"{item}: no answer within 60 s")
    if box:
        engine.request("DELETE", f"/containers/{box}?force=1")
    return wrong


def _items(rounds: int) -> list[tuple[str, str, str]]:
    everything = [
        (kind, operation, end)
        for kind in KINDS
        for operation in _calls(kind, "")
        for end in ENDS[kind]
    ]
    return random.choices(everything, k=rounds) if rounds else everything


def test_every_operation_meets_the_removal_of_its_object(
    racing: RunningEngine, request: pytest.FixtureRequest
) -> None:
    items = _items(request.config.getoption("--rounds"))
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda one: _round(racing, *one), enumerate(items))
        wrong = [text for texts in found for text in texts]
    log = racing.log.read_text()
    assert not wrong and "Traceback" not in log, "\n".join(wrong) + "\n" + log[-6000:]
    for each in racing.json("GET", f"/containers/json?all=1&filters={ONLY}"):
        racing.json("DELETE", f"/containers/{each['Id']}?force=1", status=204)
    racing.json("POST", f"/networks/prune?filters={ONLY}")
    racing.json("POST", f"/volumes/prune?filters={ALL}")
    for image in racing.json("GET", f"/images/json?all=1&filters={ONLY}"):
        assert racing.request("DELETE", f"/images/{image['Id']}?force=1")[0] in (200, 404)
    assert not racing.json("GET", f"/networks?filters={ONLY}")
    assert not racing.json("GET", f"/volumes?filters={ONLY}")["Volumes"]
    assert not racing.json("GET", f"/images/json?all=1&filters={ONLY}")
