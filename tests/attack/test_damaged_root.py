"""A damaged data root: nothing is deleted on the strength of absence, and there is a way back."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginekit import ROOT, RunningEngine

BASE = "portside/base"


@pytest.fixture(scope="module")
def filled() -> Iterator[RunningEngine]:
    """An engine that is stopped, with an image, a container that has written a file, a volume."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    engine = RunningEngine()
    try:
        engine.start()
        status, _, body = engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
        assert status == 200, body
        create = {
            "Image": BASE, "Cmd": ["sh", "-c", "echo kept > /kept; echo kept > /v/kept"],
            "HostConfig": {"Binds": ["vol:/v"]},
        }  # fmt: skip
        made = engine.json("POST", "/containers/create?name=box", create, 201)["Id"]
        engine.json("POST", f"/containers/{made}/start", status=204)
        engine.json("POST", f"/containers/{made}/wait")
        engine.stop()
        yield engine
    finally:
        engine.remove()


@pytest.fixture
def stopped(filled: RunningEngine, tmp_path: Path) -> Iterator[RunningEngine]:
    """The same, put back as it was after the test."""
    saved = tmp_path / "saved"
    subprocess.run(["cp", "-a", filled.data_root, saved], check=True)
    yield filled
    if filled.process is not None and filled.process.poll() is None:
        filled.stop()
    shutil.rmtree(filled.data_root)
    subprocess.run(["cp", "-a", saved, filled.data_root], check=True)


def contents(root: Path) -> list[str]:
    """Everything but what each start may write."""
    found = subprocess.run(["find", root, "-printf", "%P %s\n"], capture_output=True, text=True)
    return sorted(
        line
        for line in found.stdout.splitlines()
        if line.startswith(("layers/", "containers/", "volumes/", "blobs/")) and " " in line
    )


def refusal(engine: RunningEngine) -> str:
    """What an engine says that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "portside.daemon", "--data-root", engine.data_root, "--exec-root",
         engine.exec_root, "-H", engine.host, "--bip", engine.subnet, "--config-file",
         engine.root / "daemon.json"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def offline(engine: RunningEngine, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "portside", "system", "check", "--offline", "--data-root",
         engine.data_root, "--exec-root", engine.exec_root, *options],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def missing(path: Path) -> None:
    path.unlink()
    Path(f"{path}-wal").unlink(missing_ok=True)


def empty(path: Path) -> None:
    os.truncate(path, 0)
    Path(f"{path}-wal").unlink(missing_ok=True)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


def page(path: Path) -> None:
    with path.open("r+b") as file:
        for number in range(1, os.stat(path).st_size // 4096):
            file.seek(number * 4096)
            file.write(os.urandom(512))


def foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("CREATE TABLE bookmarks(url TEXT)")


def fresh(path: Path) -> None:
    """Of an engine that was started once on an empty directory."""
    from portside.store.db import Database

    missing(path)
    Database(path).close()


DAMAGES = [missing, empty, garbage, page, foreign, fresh]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_refused_and_rebuilt(stopped: RunningEngine, damage: Callable[[Path], None]) -> None:
    before = contents(stopped.data_root)
    damage(stopped.data_root / "metadata.db")
    text = refusal(stopped)
    assert "metadata.db" in text and "Nothing was changed" in text
    assert "system check --repair --offline" in text
    assert contents(stopped.data_root) == before
    assert offline(stopped).returncode == 1
    done = offline(stopped, "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert offline(stopped).returncode == 0
    whole(stopped)


def test_rebuilt_without_any_copy(stopped: RunningEngine) -> None:
    """From blobs, layers and container directories alone; the image has lost its name."""
    missing(stopped.data_root / "metadata.db")
    shutil.rmtree(stopped.data_root / "backups")
    done = offline(stopped, "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "container box" in done.stdout
    whole(stopped)


def whole(engine: RunningEngine) -> None:
    """The container is there with what it wrote, and runs; volume and image are there."""
    engine.start()
    found = engine.json("GET", "/containers/box/json")
    assert len(engine.json("GET", "/images/json")) == 1
    status, _, data = engine.request("GET", "/containers/box/archive?path=/kept")
    assert status == 200, data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile("kept")
        assert file is not None and file.read() == b"kept\n"
    assert (engine.data_root / "volumes/vol/_data/kept").read_text() == "kept\n"
    assert [mount["Name"] for mount in found["Mounts"]] == ["vol"]
    engine.json("POST", "/containers/box/start", status=204)
    assert engine.json("POST", "/containers/box/wait")["StatusCode"] == 0
    assert engine.json("POST", "/portside/check")["problems"] in ([], None)


def test_older_metadata_are_refused(stopped: RunningEngine) -> None:
    path = stopped.data_root / "metadata.db"
    older = path.read_bytes()
    stopped.start()
    stopped.json("POST", "/volumes/create", {"Name": "newer"}, 201)
    stopped.stop()
    path.write_bytes(older)
    assert "is older than the rest of the data root" in refusal(stopped)
    assert offline(stopped, "--repair").returncode == 0
    stopped.start()
    names = {volume["Name"] for volume in stopped.json("GET", "/volumes")["Volumes"]}
    assert names == {"vol", "newer"}


def test_a_directory_that_is_not_mounted(stopped: RunningEngine) -> None:
    aside = stopped.root / "aside"
    (stopped.data_root / "blobs").rename(aside)
    try:
        text = refusal(stopped)
        assert f"{stopped.data_root}/blobs is empty" in text
        shutil.rmtree(stopped.data_root / "blobs", ignore_errors=True)
    finally:
        aside.rename(stopped.data_root / "blobs")
    whole(stopped)


def test_what_stands_in_the_way_is_named(stopped: RunningEngine) -> None:
    for name in ("layers", "trash", "containers"):
        path = stopped.data_root / name
        path.rename(stopped.root / "aside")
        path.write_text("no directory")
        assert f"{path} must be a directory" in refusal(stopped)
        path.unlink()
        (stopped.root / "aside").rename(path)
    (stopped.data_root / "l" / "empty" / "evil").write_text("x")
    assert "must be empty" in refusal(stopped)


def test_small_files_with_garbage(stopped: RunningEngine) -> None:
    """The storage driver's file is not believed, an engine ID is made anew; both are logged."""
    for name in ("storage-driver", "engine-id", "root.json"):
        (stopped.data_root / name).write_bytes(b"\xff\x00garbage")
    whole(stopped)
    assert (stopped.data_root / "storage-driver").read_text() == "overlay\n"
    log = stopped.log.read_text()
    for name in ("storage-driver", "engine-id", "root.json"):
        assert f"{stopped.data_root}/{name}" in log


def test_one_missing_blob_hides_nothing_else(stopped: RunningEngine) -> None:
    """Without its configuration an image can still be listed, pruned and removed, and others are
    not hidden."""
    stopped.start()
    [image] = stopped.json("GET", "/images/json")
    committed = stopped.json("POST", "/commit?container=box&repo=second", {}, 201)["Id"]
    kind, _, name = committed.partition(":")
    (stopped.data_root / "blobs" / kind / name).unlink()
    stopped.restart()
    found = {item["Id"] for item in stopped.json("GET", "/images/json")}
    assert image["Id"] in found
    if committed in found:
        stopped.json("DELETE", f"/images/{committed}?force=1")
    (stopped.data_root / "blobs" / "x").mkdir(exist_ok=True)
    other = stopped.json("POST", "/commit?container=box&repo=third", {}, 201)["Id"]
    kind, _, name = other.partition(":")
    path = stopped.data_root / "blobs" / kind / name
    path.unlink()  # while the engine runs
    stopped.json("GET", "/images/json?all=1")
    stopped.json("POST", "/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D")
    if stopped.request("GET", "/images/third/json")[0] != 404:
        stopped.json("DELETE", "/images/third?force=1")
    assert other not in {item["Id"] for item in stopped.json("GET", "/images/json")}


def test_one_damaged_record_hides_nothing_else(stopped: RunningEngine) -> None:
    path = stopped.data_root / "metadata.db"
    with contextlib.closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("INSERT INTO documents VALUES('container', 'ab', '{broken')")
        sql.execute("INSERT INTO documents VALUES('volume', 'bad', '{broken')")
    stopped.start()
    assert len(stopped.json("GET", "/containers/json?all=1")) == 1
    assert {v["Name"] for v in stopped.json("GET", "/volumes")["Volumes"]} == {"vol"}
    stopped.json("POST", "/volumes/prune")
    told = str(stopped.json("POST", "/portside/check"))
    assert "'ab'" in told or "ab" in told
    stopped.json("POST", "/portside/check?repair=1")
    again = stopped.json("POST", "/portside/check")["problems"] or []
    assert not [problem for problem in again if problem["kind"] == "record"]


def test_copies_are_made_and_bounded(stopped: RunningEngine) -> None:
    kept = stopped.data_root / "backups"
    for number in range(7):
        (kept / f"metadata-20200101T00000{number}Z.db").write_bytes(b"")
    stopped.start()
    deadline = time.monotonic() + 60
    year = time.strftime("%Y")
    while time.monotonic() < deadline:
        names = sorted(path.name for path in kept.iterdir())
        if len(names) == 5 and names[-1].startswith(f"metadata-{year}"):
            break
        time.sleep(0.1)
    assert len(names) == 5 and names[-1].startswith(f"metadata-{year}"), names
