"""User namespaces on a file system without idmapped mounts: copies of layers, made once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from crashkit import Fragile
from enginekit import docker_runner

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"
SAID = "idmapped mounts are not supported"


@pytest.fixture(scope="module")
def copying() -> Iterator[Fragile]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    engine = Fragile("--userns-remap", "default")
    engine.use_ext3()
    engine.start()
    yield engine
    engine.remove()


@pytest.fixture(scope="module")
def box(
    copying: Fragile, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Docker:
    config = tmp_path_factory.mktemp("docker-config")
    environment = {"DOCKER_HOST": copying.host, "DOCKER_CONFIG": str(config)}
    run = docker_runner(docker_command, {**os.environ, **environment})
    run("pull", "-q", BASE)
    return run


def copies(engine: Fragile) -> dict[str, set[str]]:
    """For each mapping: the layers that are there as copies."""
    found = {}
    for directory in (engine.data_root / "mapped").glob("*"):
        found[directory.name] = {path.name for path in directory.iterdir() if len(path.name) == 32}
    return found


def root_of(box: Docker, name: str) -> int:
    """The host's number of a container's root."""
    return int(box("exec", name, "cat", "/proc/self/uid_map").stdout.split()[1])


def test_one_copy_for_all_containers_of_a_mapping(box: Docker, copying: Fragile) -> None:
    before = copying.json("GET", "/v1.50/system/df?type=image")["LayersSize"]
    script = "echo x > /made; chown 5:6 /made; stat -c '%u:%g' / /bin/busybox /made /etc/hosts"
    for _ in range(2):
        done = box("run", "--rm", BASE, "sh", "-c", script)
        assert done.stdout.split() == ["0:0", "0:0", "5:6", "0:0"]
    (found,) = copies(copying).values()
    layers = json.loads(box("inspect", BASE).stdout)[0]["RootFS"]["Layers"]
    assert len(found) == len(layers)
    df = copying.json("GET", "/v1.50/system/df?type=image")
    assert df["LayersSize"] >= before and df["LayersSize"] >= 2 * sum(
        path.stat().st_size for path in (copying.data_root / "layers").glob("*/diff/bin/busybox")
    )
    info = json.loads(box("info", "-f", "{{json .Warnings}}").stdout)
    assert any(SAID in line for line in info)
    assert copying.log.read_text().count(SAID) == 1


def test_files_keep_the_containers_ids_in_every_way_out(
    box: Docker, copying: Fragile, tmp_path: Path
) -> None:
    script = "echo a > /made; chown 5:6 /made; rm /etc/group; sleep 1000"
    box("run", "-d", "--name", "out", "-v", "copied:/v", BASE, "sh", "-c", script)
    try:
        (tmp_path / "in").write_text("x")
        os.chown(tmp_path / "in", 9, 10)
        for place in ("/one", "/v/one"):
            box("cp", "-a", str(tmp_path / "in"), f"out:{place}")
        box("stop", "-t", "0", "out")
        for place in ("/two", "/v/two"):
            box("cp", "-a", str(tmp_path / "in"), f"out:{place}")
        lines = box("diff", "out").stdout.splitlines()
        assert sorted(lines) == ["A /made", "A /one", "A /two", "A /v", "C /etc", "D /etc/group"]
        assert copying.json("GET", "/containers/out/json?size=1")["SizeRw"] == 4
        box("start", "out")
        show = ("stat", "-c", "%u:%g", "/one", "/two", "/v/one", "/v/two")
        assert box("exec", "out", *show).stdout.split() == ["9:10"] * 4
        box("commit", "out", "out:1")
    finally:
        box("rm", "-f", "out")
    try:
        done = box("run", "--rm", "--userns", "host", "out:1", "stat", "-c", "%u:%g", "/made",
                   "/one", "/two")  # fmt: skip
        assert done.stdout.split() == ["5:6", "9:10", "9:10"]
        assert box("run", "--rm", "out:1", "ls", "/etc/group", check=False).returncode != 0
    finally:
        box("rmi", "out:1")
        box("volume", "rm", "copied")


def test_a_build_gives_the_same_layers(box: Docker, copying: Fragile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {BASE}\n"
        "COPY --chown=3:4 file /file\n"
        "RUN --mount=type=cache,target=/c --mount=type=bind,target=/ctx,source=. "
        "stat -c %u:%g /file / /c /ctx/file > /owner; chown 11:12 /owner; "
        "echo x >> /c/kept; cat /proc/self/uid_map >> /owner\n"
        f"FROM {BASE}\nCOPY --from=0 /owner /owner\n"
    )
    box("build", "-q", "-t", "built", str(tmp_path))
    try:
        show = ("built", "sh", "-c", "cat /owner; stat -c %u:%g /owner")
        for options in ((), ("--userns", "host")):
            lines = box("run", "--rm", *options, *show).stdout.splitlines()
            assert lines[:4] == ["3:4", "0:0", "0:0", "0:0"]
            assert lines[4].split()[0] == "0" and lines[4].split()[1] != "0"
            assert lines[5] == "11:12"
    finally:
        box("rmi", "-f", "built")


def test_volumes_of_an_image_are_filled(box: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {BASE}\nRUN mkdir /d; echo x > /d/f; chown -R 33:34 /d\nVOLUME /d\n"
    )
    box("build", "-q", "-t", "filled", str(tmp_path))
    try:
        script = "stat -c %u:%g /d /d/f; su nobody -s /bin/sh -c 'cat /d/f'; echo y > /d/g"
        assert box("run", "--rm", "filled", "sh", "-c", script).stdout.split() == (
            ["33:34", "33:34", "x"]
        )
        image = ("--mount", "type=image,source=filled,target=/i", BASE, "stat", "-c", "%u", "/i/d")
        assert box("run", "--rm", *image).stdout == "33\n"
    finally:
        box("rmi", "-f", "filled")


def test_a_range_of_its_own_is_copied_and_goes_with_the_container(
    box: Docker, copying: Fragile
) -> None:
    before = set(copies(copying))
    body = {"Image": BASE, "Cmd": ["sleep", "99"], "HostConfig": {"UsernsMode": "auto"}}
    made = copying.json("POST", "/containers/create?name=alone", body, 201)
    try:
        assert SAID in made["Warnings"][0]
        box("start", "alone")
        root = root_of(box, "alone")
        (new,) = set(copies(copying)) - before
        assert new.startswith(f"{root}.")
        assert box("exec", "alone", "stat", "-c", "%u", "/bin/busybox").stdout == "0\n"
    finally:
        box("rm", "-f", "alone")
    assert set(copies(copying)) == before


def test_a_copy_goes_with_its_layer(box: Docker, copying: Fragile, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BASE}\nCOPY Dockerfile /only-here\n")
    box("build", "-q", "--no-cache", "-t", "brief", str(tmp_path))
    box("run", "--rm", "brief", "cat", "/only-here")
    held = copies(copying)
    box("rmi", "brief")
    box("builder", "prune", "-af")
    left = copies(copying)
    assert sum(map(len, left.values())) < sum(map(len, held.values()))
    assert not list((copying.data_root / "mapped").glob("*/*/only-here"))


@pytest.mark.parametrize("point", ["mapped.layer:before-rename", "mapped.writable:before-rename",
                                   "mapped.writable:renamed"])  # fmt: skip
def test_a_killed_engine_leaves_no_half_copy(box: Docker, copying: Fragile, point: str) -> None:
    mapping = {"UsernsMode": "auto:size=70000"}
    identifier = copying.create("killed", "stat", "-c", "%u", "/", "/bin/busybox", host=mapping)
    try:
        copying.arm(point)
        assert copying.try_request("POST", f"/containers/{identifier}/start") == 0
        copying.reborn()
        assert not list((copying.data_root / "mapped").glob("tmp-*"))
        assert box("start", "-a", "killed").stdout.split() == ["0", "0"]
        writable = list((copying.data_root / "containers" / identifier).glob("own-*"))
        assert len(writable) == 1
    finally:
        box("rm", "-f", "killed")
    assert len(copies(copying)) == 1


def test_without_a_mapping_and_with_it_again(box: Docker, copying: Fragile) -> None:
    """A container is started again by an engine without a mapping, and by one that has it."""
    script = (
        "[ -e /made ] || { echo x > /made; chown 5:6 /made; }; stat -c %u:%g /made; exec sleep 99"
    )
    box("run", "-d", "--name", "wanders", BASE, "sh", "-c", script)
    try:
        first = root_of(box, "wanders")
        for options in ((), copying.options):
            box("stop", "-t", "0", "wanders")
            copying.stop()
            kept, copying.options = copying.options, options
            try:
                copying.start()
            finally:
                copying.options = kept
            box("start", "wanders")
            assert box("exec", "wanders", "stat", "-c", "%u:%g", "/made").stdout == "5:6\n"
            root = root_of(box, "wanders")
            assert (root == first) == (options == kept)
            assert len(copies(copying)) == (1 if options else 0)
    finally:
        box("rm", "-f", "wanders")
