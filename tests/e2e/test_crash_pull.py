"""kill -9 of the engine during pull, load, unpack and removal of images: a start repairs."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import sqlite3
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine
from imagekit import BuiltImage, build_image, docker_registry

KILLS = 6


def images() -> list[BuiltImage]:
    """Three images that share their first layer; layers of a few megabytes and many files."""
    shared = {"shared": os.urandom(2 << 20)}
    found = []
    for number in range(3):
        files: dict[str, bytes | None] = {f"d{number}/f{i}": b"x" * 200 for i in range(800)}
        files[f"d{number}/big"] = os.urandom(3 << 20)
        found.append(build_image([dict(shared), files], compression="gzip"))
    return found


def archive(image: BuiltImage, name: str) -> bytes:
    """As ``docker save`` writes it (OCI layout)."""
    out = io.BytesIO()
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": image.manifest_type,
                "digest": image.digest,
                "size": len(image.manifest),
                "annotations": {"io.containerd.image.name": name},
            }
        ],
    }
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index)}
    blobs = {**image.blobs, image.digest: image.manifest}
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in {
            **files,
            **{f"blobs/sha256/{k[7:]}": v for k, v in blobs.items()},
        }.items():
            raw = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(path)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return out.getvalue()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with docker_registry(tmp_path / "registry") as host:
        yield host


def tidy(engine: RunningEngine) -> list[dict[str, Any]]:
    """What a check of the store complains of; a part of a download waits for the next pull."""
    engine.json("POST", "/images/prune")
    problems = engine.json("POST", "/portside/check")["problems"]
    return [item for item in problems if item["kind"] != "leftover"]


def test_killed_while_images_come_and_go(private_engine: RunningEngine, registry: str) -> None:
    engine = private_engine
    made = images()
    names = [f"{registry}/crash/app{number}" for number in range(len(made))]
    for image, name in zip(made, names, strict=True):
        loaded, _, said = engine.request("POST", "/images/load", archive(image, f"{name}:latest"))
        assert loaded == 200, said
        status, _, said = engine.request(
            "POST", f"/images/{name}/push?tag=latest", headers={"X-Registry-Auth": "e30="}
        )
        assert status == 200 and b"errorDetail" not in said, said
        engine.json("DELETE", f"/images/{name}:latest?force=1", status=200)
    stop = threading.Event()

    everything = "%7B%22dangling%22%3A%5B%22false%22%5D%7D"

    def step(choice: random.Random) -> None:
        number = choice.randrange(len(made))
        name = names[number]
        kind = choice.randrange(4)
        if kind == 0:
            engine.request("POST", f"/images/create?fromImage={name}&tag=latest")
        elif kind == 1:
            engine.request("POST", "/images/load", archive(made[number], f"{name}:latest"))
        elif kind == 2:
            engine.request("DELETE", f"/images/{name}:latest?force=1")
        else:
            engine.request("POST", f"/images/prune?filters={everything}")

    def work(seed: int) -> None:
        choice = random.Random(seed)
        while not stop.is_set():
            try:
                step(choice)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(KILLS):
            time.sleep(random.uniform(0.1, 0.7))
            engine.kill()
            engine.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert tidy(engine) == []
    for number, name in enumerate(names):
        engine.request("DELETE", f"/images/{name}:latest?force=1")
        status, _, said = engine.request("POST", f"/images/create?fromImage={name}&tag=latest")
        assert status == 200 and b"errorDetail" not in said, said
        assert engine.json("GET", f"/images/{name}/json")["Id"] == made[number].id
        _, _, tree = engine.request("GET", f"/images/{name}/get")
        assert len(tree) > 5 << 20
        engine.json("DELETE", f"/images/{name}:latest?force=1", status=200)
    assert tidy(engine) == []
    assert engine.json("GET", "/images/json?all=1") == []
    expire_leases(engine)
    places = ("layers", "blobs/sha256", "ingest")
    deadline = time.monotonic() + 10
    left = {place: names_in(engine.data_root / place) for place in places}
    while any(left.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
        left = {place: names_in(engine.data_root / place) for place in places}
    assert left == {place: [] for place in places}


def expire_leases(engine: RunningEngine) -> None:
    """A killed pull keeps what it fetched for the next attempt, whole blobs for a day and parts
    for a week: let it pass."""
    engine.stop()
    for part in (engine.data_root / "ingest").iterdir():
        os.utime(part, (1, 1))
    [path] = [path for path in engine.data_root.glob("*.db") if path.is_file()]
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE leases SET expires_at=1")
    engine.start()
    assert tidy(engine) == []


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
