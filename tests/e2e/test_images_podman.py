"""Images travel between this engine and podman through a real registry."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginekit import RunningEngine
from imagekit import docker_registry
from peerkit import Docker, config_digest, image_of, our_lowers, publish, rich_layers, snapshot

Podman = Callable[..., str]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman with a store of its own."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    place = tmp_path_factory.mktemp("podman")
    places = ["--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "overlay"]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["podman", *places, *arguments],
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    yield run
    run("image", "unmount", "--all")
    run("rmi", "--all", "--force")
    # its storage keeps a bind mount of its own directory
    subprocess.run(["umount", f"{place}/root/overlay"], stderr=subprocess.DEVNULL)


def tree_of(podman: Podman, name: str) -> dict[str, object]:
    """What is in podman's image, seen at the place where podman mounts it."""
    found = snapshot([podman("image", "mount", name)])
    podman("image", "unmount", name)
    return found


def same(name: str, docker: Docker, podman: Podman, engine: RunningEngine) -> None:
    """Both have the same image, and see the same files in it."""
    image_id = config_digest(engine.data_root, docker, name)
    assert podman("image", "inspect", "-f", "{{.Id}}", name) == image_id.removeprefix("sha256:")
    ours = snapshot(our_lowers(engine.data_root, docker, name))
    theirs = tree_of(podman, name)
    assert ours["tree"].keys() == theirs["tree"].keys()
    for path, entry in ours["tree"].items():
        if path == ".":
            continue  # no layer tells the root's own mode: podman's is 0555
        assert entry == theirs["tree"][path], path
    assert ours["links"] == theirs["links"]


def test_ours_is_pulled_by_podman(
    docker: Docker, podman: Podman, engine: RunningEngine, registry: str
) -> None:
    publish(registry, "rich", "1", image_of(rich_layers(b"podman")))
    name, pushed = f"{registry}/rich:1", f"{registry}/again:1"
    try:
        docker("pull", name)
        docker("tag", name, pushed)
        digest = docker("push", pushed).stdout.rpartition("digest: ")[2].split()[0]
        podman("pull", "--tls-verify=false", pushed)
        assert podman("image", "inspect", "-f", "{{.Digest}}", pushed) == digest
        same(pushed, docker, podman, engine)
    finally:
        docker("rmi", "-f", name, pushed, check=False)


def test_podmans_is_pulled_by_us(
    docker: Docker, podman: Podman, engine: RunningEngine, registry: str, tmp_path: Path
) -> None:
    (tmp_path / "Containerfile").write_text("FROM scratch\nCOPY file /there\nLABEL a=b\n")
    (tmp_path / "file").write_text("from podman\n")
    name = f"{registry}/podmans:1"
    podman("build", "-q", "--format", "oci", "-t", name, str(tmp_path))
    podman("push", "--tls-verify=false", name)
    try:
        docker("pull", name)
        image = json.loads(docker("image", "inspect", name).stdout)[0]
        assert image["Config"]["Labels"]["a"] == "b"
        same(name, docker, podman, engine)
    finally:
        docker("rmi", "-f", name, check=False)
