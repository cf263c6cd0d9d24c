"""A full disk: what ends or frees something always works, the rest is refused and leaves nothing.

The data root is a small file system of its own, filled to the last byte by a container.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from enginekit import RunningEngine

BASE = "portside/base"


class SmallDisk(RunningEngine):
    """An engine whose data root is a file system of its own."""

    def mount(self, kind: str, size: str) -> None:
        self.data_root.mkdir(mode=0o700)
        if kind == "tmpfs":
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.data_root], check=True
            )
            return
        image = self.root / "disk"
        with image.open("wb") as file:
            file.truncate(int(size.removesuffix("m")) << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m0", image], check=True)
        done = subprocess.run(
            ["mount", "-o", "loop", image, self.data_root], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no loop devices here: {done.stderr.strip()}")

    def remains(self) -> list[str]:
        return [line for line in super().remains() if f" {self.data_root} " not in line]

    def unmount(self) -> None:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", self.data_root], check=True, capture_output=True)

    def free(self) -> int:
        found = os.statvfs(self.data_root)
        return found.f_bfree * found.f_frsize

    def fill(self) -> None:
        """To the last block, against what is freed late."""
        with (self.data_root / "volumes" / "fill" / "_data" / "host").open("ab", 0) as file:
            piece = bytes(1 << 20)
            while piece:
                try:
                    file.write(piece)
                except OSError:
                    piece = piece[: len(piece) // 2]

    def run(self, *command: str, **host: object) -> str:
        body = {"Image": BASE, "Cmd": list(command), "HostConfig": host, "StopSignal": "KILL"}
        made = str(self.json("POST", "/containers/create", body, 201)["Id"])
        self.json("POST", f"/containers/{made}/start", status=204)
        return made


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a file system")
    if request.param == "ext4" and shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4")
    engine = SmallDisk()
    try:
        engine.mount(request.param, "96m")
        engine.start()
        status, _, body = engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
        assert status == 200, body
        yield engine
    finally:
        try:
            with suppress(OSError):
                (engine.data_root / "volumes" / "fill" / "_data" / "host").unlink()
            engine.remove()
        finally:
            engine.unmount()
            engine.remove_files()


def test_stop_remove_prune_and_look(disk: SmallDisk) -> None:
    """The container that fills the disk is killed and removed, also by an engine that was started
    on the full disk; nothing that was refused appears after that."""
    stopped, removed, later = (disk.run("sleep", "1000") for _ in range(3))
    filler = disk.run("sh", "-c", "cat /dev/zero > /v/fill; exec sleep 1000", Binds=["fill:/v"])
    deadline = time.monotonic() + 60
    while disk.free() > 1 << 16 and time.monotonic() < deadline:
        time.sleep(0.1)
    disk.fill()
    refused(disk)
    disk.json("POST", f"/containers/{stopped}/stop?t=0", status=204)
    disk.json("DELETE", f"/containers/{removed}?force=1", status=204)
    assert not disk.json("GET", f"/containers/{stopped}/json")["State"]["Running"]
    assert "is full" in json.dumps(disk.json("GET", "/info")["Warnings"])
    assert "is full" in json.dumps(disk.json("GET", "/system/df")["Warnings"])

    disk.kill()
    disk.fill()
    disk.start()
    disk.fill()
    assert not disk.json("GET", f"/containers/{stopped}/json")["State"]["Running"]
    assert disk.request("GET", f"/containers/{removed}/json")[0] == 404
    assert disk.json("GET", f"/containers/{later}/json")["State"]["Running"]
    refused(disk)
    disk.json("POST", f"/containers/{filler}/kill", status=204)
    disk.json("POST", f"/containers/{later}/stop?t=0", status=204)
    assert disk.json("POST", "/containers/prune")["ContainersDeleted"]
    assert disk.json("GET", "/containers/json?all=1") == []
    disk.json("DELETE", "/volumes/fill", status=204)
    deadline = time.monotonic() + 60
    while disk.free() < 20 << 20 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [volume["Name"] for volume in disk.json("GET", "/volumes")["Volumes"]] == []

    disk.run("true")  # there is room again, and it is taken at once
    disk.restart()
    assert [volume["Name"] for volume in disk.json("GET", "/volumes")["Volumes"]] == []
    assert len(disk.json("GET", "/containers/json?all=1")) == 1
    assert not Path(disk.exec_root / "metadata.db").exists()
    assert "is full" not in json.dumps(disk.json("GET", "/info")["Warnings"])


def test_what_was_recorded_elsewhere_comes_home_by_itself(disk: SmallDisk) -> None:
    """Nobody asks for anything: what was acknowledged on the full disk outlives a reboot, which
    empties the exec root, from soon after there is room again."""
    disk.run("true", Binds=["fill:/v"])
    names = [disk.run("sleep", "1000") for _ in range(4)]
    elsewhere = disk.exec_root / "metadata.db"
    ended = []
    for name in names:
        disk.fill()
        disk.json("POST", f"/containers/{name}/stop?t=0", status=204)
        ended.append(name)
        if elsewhere.exists():
            break
    assert elsewhere.exists(), "the disk was not full"
    (disk.data_root / "volumes" / "fill" / "_data" / "host").unlink()
    deadline = time.monotonic() + 60
    while elsewhere.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not elsewhere.exists(), "the metadata stay in the exec root"
    disk.kill()
    for left in disk.exec_root.glob("metadata.db*"):
        left.unlink()
    disk.start()
    for name in names:
        running = disk.json("GET", f"/containers/{name}/json")["State"]["Running"]
        assert running == (name not in ended)


def archive() -> bytes:
    """A tar with one file of 4 MB."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = 4 << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return out.getvalue()


def refused(disk: SmallDisk) -> None:
    """What needs space says so, with the path."""
    before = sorted(path.name for path in (disk.data_root / "containers").iterdir())
    for path, body in (
        ("/containers/create", {"Image": BASE, "Cmd": ["true"]}),
        ("/volumes/create", {"Name": "never"}),
        ("/networks/create", {"Name": "never"}),
        ("/images/load", archive()),
    ):
        status, _, answer = disk.request("POST", path, body)
        assert status == 500 or path == "/images/load", (path, status, answer)
        assert b"no space left on device" in answer, (path, answer)
        assert str(disk.data_root).encode() in answer, (path, answer)
    assert sorted(path.name for path in (disk.data_root / "containers").iterdir()) == before


def test_low_space_is_reported(disk: SmallDisk) -> None:
    """Before the disk is full: an event, a warning in info and in system df."""
    disk.run("true", Binds=["fill:/v"])
    with (disk.data_root / "volumes" / "fill" / "_data" / "host").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.free() - (7 << 20))
    assert "nearly full" in json.dumps(disk.json("GET", "/info")["Warnings"])
    assert "nearly full" in json.dumps(disk.json("GET", "/system/df")["Warnings"])
    deadline = time.monotonic() + 60
    found: list[str] = []
    while "disk-low" not in found and time.monotonic() < deadline:
        time.sleep(0.5)
        until = int(time.time())
        _, _, raw = disk.request("GET", f"/events?since=1&until={until}")
        found = [json.loads(line)["Action"] for line in raw.splitlines() if line.strip()]
    assert "disk-low" in found
