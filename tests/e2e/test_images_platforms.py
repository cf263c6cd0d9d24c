"""Images of several platforms with docker's client: whole indexes, told, saved, pushed, removed."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from enginekit import RunningEngine, docker_runner
from imagekit import OCI_INDEX, build_image, build_index, digest, docker_registry

Docker = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningEngine]:
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    running = RunningEngine()
    running.start()
    yield running
    running.remove()


@pytest.fixture(scope="module")
def docker(
    engine: RunningEngine, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Docker:
    config = str(tmp_path_factory.mktemp("docker-config"))
    return docker_runner(
        docker_command, {**os.environ, "DOCKER_HOST": engine.host, "DOCKER_CONFIG": config}
    )


def test_an_index_stays_whole(engine: RunningEngine, docker: Docker, tmp_path: Path) -> None:
    """The answers are those of dockerd 28.5.2 with containerd's image store."""
    images = {arch: build_image([{arch: b"1"}], oci=True, architecture=arch)
              for arch in ("amd64", "arm64")}  # fmt: skip
    index = build_index(
        [(image, {"os": "linux", "architecture": arch}) for arch, image in images.items()]
    )
    names = {"io.containerd.image.name": "docker.io/library/multi:1"}
    top = {"mediaType": OCI_INDEX, "digest": digest(index), "size": len(index)}
    top["annotations"] = names  # type: ignore[assignment]
    files = {"index.json": json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()}
    files |= {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    for data in (index, *(i.manifest for i in images.values())):
        files[f"blobs/sha256/{digest(data)[7:]}"] = data
    for image in images.values():
        files |= {f"blobs/sha256/{key[7:]}": data for key, data in image.blobs.items()}
    with tarfile.open(tmp_path / "multi.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    docker("load", "-i", str(tmp_path / "multi.tar"))
    tree = docker("images", "--tree").stdout
    assert [word in tree for word in ("linux/amd64", "linux/arm64", digest(index)[7:19])] == [
        True
    ] * 3
    found = json.loads(docker("image", "inspect", "multi:1").stdout)[0]
    assert (found["Id"], found["Descriptor"]["digest"]) == (digest(index),) * 2
    assert found["RepoDigests"] == [f"multi@{digest(index)}"]
    assert found["GraphDriver"] == {"Data": None, "Name": "overlayfs"}
    arm = docker("image", "inspect", "--platform", "linux/arm64", "-f", "{{.Id}}", "multi:1")
    assert arm.stdout.strip() == images["arm64"].digest
    docker("create", "--name", "arm", "--platform", "linux/arm64", "multi:1", "x")
    listed = engine.json("GET", "/v1.51/containers/json?all=1")[0]
    assert listed["ImageID"] == digest(index)
    assert listed["ImageManifestDescriptor"]["digest"] == images["arm64"].digest
    manifests = engine.json("GET", "/v1.51/images/multi:1/json?manifests=1")["Manifests"]
    assert [m["ImageData"]["Containers"] for m in manifests] == [None, [listed["Id"]]]
    docker("rm", "arm")
    with docker_registry(tmp_path / "registry") as host:
        docker("tag", "multi:1", f"{host}/multi:1")
        assert (
            f"digest: {digest(index)} size: {len(index)}"
            in docker("push", f"{host}/multi:1").stdout
        )
        docker("rmi", "-f", "--platform", "linux/arm64", "multi:1")
        docker("tag", "multi:1", f"{host}/multi:2")
        said = docker("push", f"{host}/multi:2").stdout
        assert f"digest: {images['amd64'].digest}" in said
    docker("save", "-o", str(tmp_path / "again.tar"), "multi:1")
    with tarfile.open(tmp_path / "again.tar") as tar:
        kept = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        assert kept["manifests"][0]["digest"] == digest(index)
    info = engine.json("GET", "/v1.51/info")
    assert info["DriverStatus"] == [["driver-type", "io.containerd.snapshotter.v1"]]
