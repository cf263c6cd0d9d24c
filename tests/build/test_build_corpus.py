"""Every Dockerfile of the corpus by the clients of our engine, and by a real dockerd where one is
given (``PORTSIDE_TEST_PEER``, its address): the images run, and are the same.

Each is built by ``portside build`` and by one of the other clients in turn; with ``--rounds`` by
all of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker as docker_py_module
import pytest
from dockerfile_corpus import SAMPLES, Sample

BASE = "portside/base"
PEER = os.environ.get("PORTSIDE_TEST_PEER", "")
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
VOLATILE = ("dev", "etc", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab",
            "dockerenv", "proc", "sys")  # fmt: skip
IN_TURN = ("Hostname", "Image", "AttachStdout", "AttachStderr", "ArgsEscaped")


class Client:
    """The docker CLI and one engine."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def docker(self, *words: str, input: bytes | None = None) -> bytes:
        done = subprocess.run(
            ["docker", *words], env=self.env, capture_output=True, input=input, timeout=180
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def tree(self, image: str) -> dict[str, Any]:
        """Everything in the image: kind, mode, owner, link, content, extended attributes."""
        container = self.docker("create", image, "x").decode().strip()
        try:
            data = self.docker("export", container)
        finally:
            self.docker("rm", "-v", container)
        found: dict[str, Any] = {}
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                name = member.name.strip("./")
                if not name or name in VOLATILE or name.startswith(("dev/", "proc/", "sys/")):
                    continue
                file = tar.extractfile(member) if member.isfile() else None
                content = hashlib.sha256(file.read()).hexdigest() if file else ""
                if member.islnk():
                    content = found[member.linkname.strip("./")][-2]
                kind = b"0" if member.islnk() else member.type
                xattrs = {k: v for k, v in member.pax_headers.items() if "xattr" in k}
                link = member.linkname if member.issym() else ""
                found[name] = (kind, member.mode, member.uid, member.gid, link, content, xattrs)
        return found

    def config(self, image: str) -> dict[str, Any]:
        found = json.loads(self.docker("image", "inspect", image))[0]
        config = {k: v for k, v in found["Config"].items() if v and k not in IN_TURN}
        return {"config": config, "os": found["Os"], "arch": found["Architecture"],
                "author": found.get("Author", "")}  # fmt: skip

    def history(self, image: str) -> list[str]:
        lines = self.docker("history", "--no-trunc", "--format", "{{json .}}", image)
        return [json.loads(line)["CreatedBy"] for line in lines.splitlines()]


@pytest.fixture(scope="session")
def ours(docker: Any, docker_env: dict[str, str]) -> Client:
    return Client({**docker_env, "DOCKER_BUILDKIT": "0"})


@pytest.fixture(scope="session")
def peer(ours: Client, docker_env: dict[str, str]) -> Iterator[Client]:
    """A real dockerd with the same base image."""
    if not PEER:
        pytest.skip("no other engine is given: set PORTSIDE_TEST_PEER to its address")
    client = Client({**docker_env, "DOCKER_HOST": PEER})
    client.docker("load", input=ours.docker("save", BASE))
    yield client


@pytest.fixture(scope="session")
def debian_image(ours: Client, debian: Callable[..., Path]) -> str:
    """A small Debian, made once; skips where it cannot be."""
    ours.docker("import", str(debian("corpus")), "corpus/debian")
    return "corpus/debian"


@pytest.fixture(scope="session")
def debian_of_both(ours: Client, peer: Client, debian_image: str) -> None:
    peer.docker("load", input=ours.docker("save", debian_image))


def prepared(sample: Sample, directory: Path) -> Path:
    for name, content in sample.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    text = re.sub(r"\bDEBIAN\b", "corpus/debian", sample.text)
    (directory / "Dockerfile").write_text(re.sub(r"\bBASE\b", BASE, text))
    return directory


def by_portside(client: Client, sample: Sample, place: Path, tag: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "portside", "build", "-t", tag, *sample.flags, str(place)],
        env=client.env, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def by_docker_py(client: Client, sample: Sample, place: Path, tag: str) -> None:
    flags = dict(zip(sample.flags[::2], sample.flags[1::2], strict=True))
    arguments = dict([flags["--build-arg"].split("=", 1)]) if "--build-arg" in flags else {}
    py = docker_py_module.DockerClient(base_url=client.env["DOCKER_HOST"], timeout=180)
    try:
        py.images.build(
            path=str(place), tag=tag, buildargs=arguments, target=flags.get("--target"), rm=True
        )
    finally:
        py.close()


def by_classic(client: Client, sample: Sample, place: Path, tag: str) -> None:
    client.docker("build", "-t", tag, *sample.flags, str(place))


def by_buildx(client: Client, sample: Sample, place: Path, tag: str) -> None:
    """With the plugins of the user's own configuration."""
    done = subprocess.run(
        ["docker", "buildx", "build", "-q", "-t", tag, *sample.flags, str(place)],
        env={**client.env, "DOCKER_CONFIG": os.path.expanduser("~/.docker")},
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
def test_the_clients_make_the_same_image(
    sample: Sample, ours: Client, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if sample.debian:
        request.getfixturevalue("debian_image")
    place = prepared(sample, tmp_path)
    mine = f"corpus/{sample.name}:mine"
    by_portside(ours, sample, place, mine)
    others = (by_classic, by_docker_py, by_buildx)
    number = SAMPLES.index(sample) % len(others)
    if not request.config.getoption("--rounds"):
        others = others[number : number + 1]
    for build in others:
        tag = f"corpus/{sample.name}:{build.__name__}"
        build(ours, sample, place, tag)
        assert ours.tree(tag) == ours.tree(mine)
        assert ours.config(tag) == ours.config(mine)
    if sample.runs:
        said = ours.docker("run", "--rm", mine).decode()
        assert said == sample.says.replace("HOST_ARCH", ARCH)


SHARED = [sample for sample in SAMPLES if sample.name != "copy-parents-exclude"]
"""dockerd 28's own frontend has no ``COPY --parents``."""


@pytest.mark.parametrize("sample", SHARED, ids=[sample.name for sample in SHARED])
def test_dockerd_makes_the_same_image(
    sample: Sample, ours: Client, peer: Client, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if sample.debian:
        request.getfixturevalue("debian_of_both")
    place = prepared(sample, tmp_path)
    tag = f"corpus/{sample.name}:peer"
    by_portside(ours, sample, place, tag)
    text = (place / "Dockerfile").read_text()
    if text.startswith("# syntax"):  # its frontend is an image, which cannot be pulled here
        (place / "Dockerfile").write_text(text.partition("\n")[2])
    by_buildx(peer, sample, place, tag)
    theirs, mine = peer.tree(tag), ours.tree(tag)
    assert {name: (each, theirs.get(name)) for name, each in mine.items()
            if theirs.get(name) != each} == {}  # fmt: skip
    assert theirs.keys() - mine.keys() == set()
    assert ours.config(tag) == peer.config(tag)
    assert ours.history(tag) == peer.history(tag)


def test_a_trigger_of_the_base_runs_in_the_child(ours: Client, tmp_path: Path) -> None:
    parent = next(sample for sample in SAMPLES if sample.name == "onbuild")
    by_portside(ours, parent, prepared(parent, tmp_path), "corpus/parent")
    child = Sample("child", "FROM corpus/parent\nCMD cat /list\n", "", {"mine": ""})
    by_portside(ours, child, prepared(child, tmp_path), "corpus/child")
    assert ours.docker("run", "--rm", "corpus/child").decode() == "Dockerfile\nmine\n"
