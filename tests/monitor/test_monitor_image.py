"""``portside/monitor`` and Debian's cadvisor with the command line that people use for cAdvisor."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine
from monitorkit import free_port, until

Docker = Callable[..., Any]
DEB = "http://deb.debian.org/debian/pool/main/c/cadvisor/cadvisor_0.38.7+ds1-2+b7_amd64.deb"
DEB_SHA256 = "42d4fa456d31caa972bd2686f993c43ccbc4c784009b6104b538e69af8615e14"


def fetch(base: str, path: str) -> str:
    with urllib.request.urlopen(base + path, timeout=30) as answer:
        return str(answer.read().decode())


def answers(base: str) -> bool:
    try:
        return fetch(base, "/healthz") == "ok"
    except OSError:
        return False


def test_the_command_of_cadvisor(docker: Docker, engine: RunningEngine) -> None:
    """The volumes are the usual ones; the engine's socket is where this test has it."""
    docker("pull", "-q", "portside/monitor", timeout=300)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    docker("run", "-d", "--name", "watched", "-m", "64m", "portside/base", "sleep", "1000")
    try:
        docker(
            "run", "--volume=/:/rootfs:ro", "--volume=/var/run:/var/run:ro",
            "--volume=/sys:/sys:ro", f"--volume={engine.data_root}/:/var/lib/docker:ro",
            "--volume=/dev/:/dev/disk:ro", f"--publish=127.0.0.1:{port}:8080", "--detach=true",
            "--name=cadvisor", "--privileged", "--device=/dev/kmsg", "portside/monitor",
            "--engine", f"unix:///rootfs{engine.socket}", "--housekeeping_interval=200ms",
            "--details-interval=500ms",
        )  # fmt: skip

        def get(path: str) -> str:
            return fetch(base, path)

        until(lambda: answers(base), "it does not answer", 60)

        def known() -> Any:
            rows = json.loads(get("/api/portside/v1/groups?containers=1"))
            return [row for row in rows if row["shown"] == "watched"]

        (row,) = until(known, "the container has no name")
        assert row["memory_limit"] == 64 << 20 and row["image"] == "portside/base"

        def detailed() -> Any:
            found = json.loads(get("/api/portside/v1/group?name=watched"))["sample"]
            has = found["details"]["processes"] and found["details"]["filesystems"]
            return found if has and found["links"] else None

        sample = until(detailed, "no processes, file systems or network of it")
        assert sample["links"][0]["name"] == "eth0" and sample["details"]["descriptors"] > 0
        processes = json.loads(get("/api/v2.0/ps/watched?type=docker"))
        assert [process["cmd"] for process in processes] == ["sleep"]
        assert 'name="watched"' in get("/metrics")
        for page in ("/containers/", "/docker/"):
            assert "Portside monitor" in get(page)
    finally:
        docker("rm", "-f", "cadvisor", "watched", check=False)


@pytest.fixture(scope="module")
def cadvisor_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with the program of Debian's package and the libraries that it needs."""
    directory = tmp_path_factory.mktemp("cadvisor")
    program = shutil.which("cadvisor") or _from_the_package(directory)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    libraries = [word for line in listed.splitlines() for word in line.split() if word[0] == "/"]
    if "not found" in listed or not libraries:
        pytest.skip(f"the libraries of cadvisor are not here: {listed}")
    made = directory / "root.tar"
    with tarfile.open(made, "w") as archive:
        for name in ("tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for source, place in ((program, "usr/bin/cadvisor"), *((path, path) for path in libraries)):
            content = Path(source).read_bytes()
            entry = tarfile.TarInfo(place.lstrip("/"))
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return made


def _from_the_package(directory: Path) -> str:
    package = directory / "cadvisor.deb"
    try:
        with urllib.request.urlopen(DEB, timeout=60) as answer:
            package.write_bytes(answer.read())
    except OSError as err:
        pytest.skip(f"Debian's cadvisor cannot be had here: {err}")
    assert hashlib.sha256(package.read_bytes()).hexdigest() == DEB_SHA256
    try:
        subprocess.run(["dpkg-deb", "-x", package, directory / "x"], check=True)
    except FileNotFoundError:
        pytest.skip("needs dpkg-deb")
    return str(directory / "x/usr/bin/cadvisor")


def test_debians_cadvisor_in_an_image(
    docker: Docker, engine: RunningEngine, cadvisor_tar: Path
) -> None:
    """It finds the containers with names, images, labels, limits and networks."""
    docker("import", str(cadvisor_tar), "debian-cadvisor", timeout=300)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    docker(
        "run", "-d", "--name", "seen", "-m", "64m", "--label", "team=blue", "portside/base",
        "sleep", "1000",
    )  # fmt: skip
    try:
        docker(
            "run", "--volume=/:/rootfs:ro", "--volume=/var/run:/var/run:ro",
            "--volume=/sys:/sys:ro", f"--volume={engine.data_root}/:/var/lib/docker:ro",
            "--volume=/dev/:/dev/disk:ro", f"--publish=127.0.0.1:{port}:8080", "--detach=true",
            "--name=cadvisor", "--privileged", "--device=/dev/kmsg", "debian-cadvisor",
            "cadvisor", "-logtostderr", f"-docker=unix:///rootfs{engine.socket}",
        )  # fmt: skip
        until(lambda: answers(base), "it does not answer", 90)

        def sampled(name: str) -> Any:
            """Its name for the container, and what it knows of it; of ``/metrics`` it answers
            nothing as long as any control group of the machine has no sample."""
            try:
                (found,) = json.loads(fetch(base, f"/api/v1.3/docker/{name}")).values()
            except OSError:
                return None
            has = found["stats"] and found["stats"][-1]["network"].get("interfaces")
            return found if has else None

        found = until(lambda: sampled("seen"), "no sample of it with a network", 60)
        spec, last = found["spec"], found["stats"][-1]
        assert "seen" in found["aliases"] and spec["image"].startswith("portside/base")
        assert spec["labels"]["team"] == "blue" and spec["memory"]["limit"] == 64 << 20
        assert last["memory"]["usage"] > 0 and last["cpu"]["usage"]["total"] > 0
        assert [link["name"] for link in last["network"]["interfaces"]] == ["eth0"]
        until(lambda: sampled("cadvisor"), "no sample of itself", 60)
    finally:
        docker("rm", "-f", "cadvisor", "seen", check=False)
        docker("rmi", "-f", "debian-cadvisor", check=False)
