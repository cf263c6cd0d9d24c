"""Volumes with a size, on a file system with project quotas and on one without."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from enginekit import RunningEngine, docker_runner

BASE = "portside/base"
MEGABYTE = 1 << 20


def sh(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[RunningEngine]:
    """An engine whose data lies on a file system of its own, with project quotas."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a file system is mounted")
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(256 * MEGABYTE)
    made = sh("mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota", str(image))
    if made.returncode:
        pytest.skip(f"mkfs.ext4 makes no file system with project quotas: {made.stderr}")
    engine = RunningEngine()
    engine.data_root.mkdir()
    mounted = sh("mount", "-o", "loop,prjquota", str(image), str(engine.data_root))
    if mounted.returncode:
        engine.data_root.rmdir()
        engine.root.rmdir()
        pytest.skip(f"this kernel mounts no ext4 with project quotas: {mounted.stderr}")
    try:
        engine.start()
        engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
        yield engine
        engine.stop(containers=True)
    finally:
        if engine.process is not None and engine.process.poll() is None:
            engine.kill()
        assert sh("umount", str(engine.data_root)).returncode == 0
        engine.remove_files()


def test_a_volume_holds_what_its_size_says(limited: RunningEngine) -> None:
    docker = docker_runner(["docker", "-H", limited.host], dict(os.environ))
    for name, size in (("small", "4m"), ("large", "32M")):
        docker("volume", "create", "-o", f"size={size}", name)
    write = "dd if=/dev/zero of=/v/file bs=1M count=8 2>&1"
    full = docker("run", "--rm", "-v", "small:/v", BASE, "sh", "-c", write, check=False)
    assert full.returncode == 1
    assert "No space left" in full.stdout or "quota exceeded" in full.stdout
    docker("run", "--rm", "-v", "large:/v", BASE, "sh", "-c", write)
    told = docker("run", "--rm", "-v", "large:/v", BASE, "stat", "-f", "-c", "%b %S", "/v").stdout
    blocks, size = map(int, told.split())
    assert blocks * size == 32 * MEGABYTE  # what df shows
    docker("volume", "rm", "small", "large")


def test_a_limit_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """tmpfs has no project quotas for directories."""
    from portside.kernel import quota

    place = Path("/dev/shm")
    if not place.is_dir():
        pytest.skip("no tmpfs at /dev/shm")
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError):
            quota.set_limit(descriptor, 1 << 30, MEGABYTE)
    finally:
        os.close(descriptor)
