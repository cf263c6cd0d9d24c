"""What ``system check`` advises works: a damaged image is pulled again while the engine runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from enginekit import RunningEngine
from imagekit import docker_registry

BASE = "portside/base"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningEngine, str]]:
    """A private engine, whose store is damaged, and the name of an image at a registry."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    with ExitStack() as stack:
        host = stack.enter_context(docker_registry(tmp_path_factory.mktemp("registry")))
        engine = RunningEngine()
        engine.start()
        stack.callback(engine.remove)
        engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
        engine.json("POST", f"/images/{BASE}/tag?repo={host}/b&tag=1", status=201)
        said = engine.request("POST", f"/images/{quote(host)}/b/push?tag=1")[2]
        assert b"errorDetail" not in said, said
        engine.json("DELETE", f"/images/{BASE}?force=1")
        engine.json("DELETE", f"/images/{host}/b:1?force=1")
        yield engine, f"{host}/b"


def pull(engine: RunningEngine, name: str) -> None:
    status, _, said = engine.request("POST", f"/images/create?fromImage={name}&tag=1")
    assert status == 200 and b"errorDetail" not in said, said


def problems(engine: RunningEngine, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.json("POST", f"/portside/check{query}")["problems"]
    return found


def manifest_of(engine: RunningEngine, name: str) -> tuple[str, dict[str, Any]]:
    """The digest and document of the image's manifest."""
    entries = engine.json("GET", f"/v1.51/images/{name}:1/json?manifests=1")["Manifests"]
    digest = next(entry["ID"] for entry in entries if entry["Kind"] == "image")
    return digest, json.loads(path_of(engine, digest).read_bytes())


def path_of(engine: RunningEngine, digest: str) -> Path:
    return engine.data_root / "blobs/sha256" / digest[7:]


def runs(engine: RunningEngine, name: str) -> None:
    body = {"Image": f"{name}:1", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
    made = engine.json("POST", "/containers/create", body, 201)["Id"]
    engine.json("POST", f"/containers/{made}/start", status=204)
    assert engine.json("POST", f"/containers/{made}/wait")["StatusCode"] == 0
    engine.json("DELETE", f"/containers/{made}", status=204)


@pytest.mark.parametrize("damage", ["changed", "gone"])
@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_a_damaged_image_is_pulled_again(
    registry: tuple[RunningEngine, str], what: str, damage: str
) -> None:
    engine, name = registry
    pull(engine, name)
    digest, manifest = manifest_of(engine, name)
    damaged = {"manifest": digest, "config": manifest["config"]["digest"],
               "layer": manifest["layers"][0]["digest"]}[what]  # fmt: skip
    path = path_of(engine, damaged)
    path.unlink()
    if damage == "changed":
        path.write_bytes(b"damaged")
    found = problems(engine)
    assert (found[0]["kind"], found[0]["subject"]) == ("blob", damaged)
    assert "pull or load its image again" in problems(engine, "?repair=1")[0]["text"]
    assert not list((engine.data_root / "trash").iterdir())
    pull(engine, name)
    assert not problems(engine)
    runs(engine, name)
    engine.json("DELETE", f"/images/{name}:1?force=1")


def test_changed_files_of_a_layer(registry: tuple[RunningEngine, str]) -> None:
    """They are unpacked again, and what was wrong takes no room when the answer comes."""
    engine, name = registry
    pull(engine, name)
    layers = engine.data_root / "layers"
    file = next(path for path in layers.glob("*/diff/**/*") if path.is_file())
    with file.open("ab") as changed:
        changed.write(b"x")
    assert problems(engine, "?repair=1")[0]["repaired"]
    assert not list((engine.data_root / "trash").iterdir())
    assert not problems(engine)
    runs(engine, name)
    engine.json("DELETE", f"/images/{name}:1?force=1")


def test_how_far_a_check_is(registry: tuple[RunningEngine, str]) -> None:
    engine, name = registry
    pull(engine, name)
    status, _, data = engine.request("POST", "/portside/check?progress=1")
    messages = [json.loads(text) for text in data.splitlines()]
    assert status == 200 and {"blobs", "layers"} <= {m.get("id") for m in messages}
    told = [m["progressDetail"] for m in messages if m.get("id") == "blobs"]
    assert told[-1]["current"] == told[-1]["total"] == messages[-1]["aux"]["bytes"]
    engine.json("DELETE", f"/images/{name}:1?force=1")


def test_an_image_mount_starts_again_without_its_image(registry: tuple[RunningEngine, str]) -> None:
    """``rmi -f`` takes the name; the layers stay as long as a container has them mounted."""
    engine, name = registry
    pull(engine, name)
    engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    mount = {"Type": "image", "Source": f"{name}:1", "Target": "/mounted"}
    command = ["sh", "-c", "ls /mounted/bin/busybox || ls /mounted/usr/bin/busybox"]
    body = {
        "Image": BASE,
        "Cmd": command,
        "HostConfig": {"NetworkMode": "none", "Mounts": [mount]},
    }
    made = engine.json("POST", "/containers/create", body, 201)["Id"]
    try:
        for _ in range(2):
            engine.json("POST", f"/containers/{made}/start", status=204)
            assert engine.json("POST", f"/containers/{made}/wait")["StatusCode"] == 0
            engine.request("DELETE", f"/images/{name}:1?force=1")
            engine.restart()
    finally:
        engine.json("DELETE", f"/containers/{made}?force=1", status=204)
        engine.json("DELETE", f"/images/{BASE}?force=1")
