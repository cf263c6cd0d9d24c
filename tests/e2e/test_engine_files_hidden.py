"""The engine's own files in a container are no changes of the container's."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine

Docker = Callable[..., subprocess.CompletedProcess[Any]]
BARE = "bare-of-directories"


@pytest.fixture(scope="module")
def bare(docker: Docker) -> Iterator[str]:
    """An image that holds one program and no directory of its own."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add("/bin/busybox", "busybox")
    docker("import", "-", BARE, input=out.getvalue(), text=False)
    yield BARE
    docker("rmi", "-f", BARE)


@pytest.fixture
def box(docker: Docker) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def create(*options: str, verb: str = "create") -> str:
        made.append(docker(verb, *options).stdout.strip())
        return made[-1]

    yield create
    for name in made:
        docker("rm", "-fv", name)


def test_diff_and_commit(
    docker: Docker, bare: str, box: Callable[..., str], engine: RunningEngine
) -> None:
    """Neither /proc, /sys, /dev nor /etc appear, only what the container has written."""
    name = box("-v", "/data/volume", bare, "/busybox", "sh", "-c", "echo x > /written")
    docker("start", "-a", name)
    lines = docker("diff", name).stdout.split("\n")
    assert "A /written" in lines
    for path in ("/proc", "/sys", "/dev", "/etc", "/etc/mtab", "/dev/shm"):
        assert f"A {path}" not in lines, lines
    image = docker("commit", name, "committed-bare").stdout.strip()
    try:
        status, _, data = engine.request("GET", f"/images/{image}/get")
        assert status == 200
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
            layer = archive.extractfile(manifest[0]["Layers"][-1])
            assert layer is not None
            with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
                names = {member.name for member in inner}
    finally:
        docker("rmi", "-f", image)
    assert "written" in names
    assert not names & {"proc", "sys", "dev", "etc", "etc/mtab"}, names


@pytest.mark.parametrize("running", [False, True])
def test_export(
    docker: Docker, bare: str, base: str, box: Callable[..., str], running: bool
) -> None:
    """Nothing of the engine's; what the image or the container has of the same name stays."""
    script = "echo x > /written; echo 127.9.9.9 mine > /etc/own"
    command = ("/busybox", "sh", "-c", script + ("; sleep 1000" if running else ""))
    name = box("-v", "/data/volume", bare, *command)
    docker("start", *(() if running else ("-a",)), name)
    if running:
        docker("exec", name, "/busybox", "sh", "-c", "until [ -s /etc/own ]; do sleep 0.1; done")
    assert exported(docker, name) == {"busybox", "written", "etc", "etc/own", "data", "data/volume"}
    name = box(base, "true")
    docker("start", "-a", name)
    names = exported(docker, name)
    assert {"proc", "sys", "dev"} <= names or not names & {"proc", "sys", "dev"}
    assert ".dockerenv" not in names


def exported(docker: Docker, name: str) -> set[str]:
    data = docker("export", name, text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name for member in archive}


def test_a_directory_that_the_container_fills_is_a_change(
    docker: Docker, bare: str, box: Callable[..., str]
) -> None:
    script = "echo x > /etc/own; /busybox chmod 700 /etc"
    name = box(bare, "/busybox", "sh", "-c", script)
    docker("start", "-a", name)
    assert {"A /etc", "A /etc/own"} <= set(docker("diff", name).stdout.split("\n"))


def test_the_whole_root_of_a_running_container(
    docker: Docker, base: str, box: Callable[..., str]
) -> None:
    """``cp C:/ -`` does not walk into /proc."""
    name = box("-d", base, "sleep", "1000", verb="run")
    done = docker("cp", f"{name}:/", "-", text=False)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = [member.name.strip("/") for member in archive]
    assert "bin/busybox" in names or "usr/bin/busybox" in names
    assert "proc" in names
    assert not [name for name in names if name.startswith(("proc/", "sys/", "dev/"))]
    docker("kill", name)


def test_no_line_in_the_kernel_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel logs each layer's directory that is not there: what each job process asks first
    names one that is. (Other engines' lines stand in the same log, so that it is not read.)"""
    from portside.kernel import fsopen, overlay

    asked: list[str] = []
    real = fsopen.fsconfig

    def fsconfig(context: int, command: int, key: str | None, value: str | None) -> None:
        if key is not None and key.startswith("lowerdir"):
            asked.append(str(value))
        real(context, command, key, value)

    monkeypatch.setattr(fsopen, "fsconfig", fsconfig)
    overlay.prepare.cache_clear()
    overlay.prepare()
    assert asked and all(Path(path).is_dir() for path in asked)


def test_hosts_of_a_stopped_container(docker: Docker, base: str, box: Callable[..., str]) -> None:
    name = box("--hostname", "told", base, "true")
    docker("start", "-a", name)
    for path, word in (("hosts", "localhost"), ("hostname", "told"), ("resolv.conf", "nameserver")):
        done = docker("cp", f"{name}:/etc/{path}", "-", text=False)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            file = archive.extractfile(path)
            assert file is not None and word in file.read().decode(), path


def test_cp_through_a_link_in_a_volume(
    docker: Docker, base: str, box: Callable[..., str], tmp_path: Path
) -> None:
    """A stopped container with a read-only root: its volume can be written, its root cannot, also
    not through a link that lies in the volume."""
    name = box("--read-only", "-v", "/v", base, "ln", "-s", "/etc", "/v/link")
    docker("start", "-a", name)
    source = tmp_path / "file"
    source.write_text("x")
    docker("cp", str(source), f"{name}:/v/file")
    done = docker("cp", str(source), f"{name}:/v/link/evil", check=False)
    assert done.returncode and "read-only" in done.stderr
    assert "evil" not in docker("diff", name).stdout


@pytest.mark.parametrize(
    ("options", "mode"),
    [("", "700"), (":mode=755", "755"), (":size=64k", "700")],
)
def test_tmpfs_keeps_the_mode(docker: Docker, base: str, options: str, mode: str) -> None:
    script = "stat -c %a /root /nowhere"
    docker("volume", "create", "unused", check=False)
    docker("volume", "rm", "unused")
    done = docker(
        "run", "--rm", "--tmpfs", f"/root{options}", "--tmpfs", "/nowhere", base, "sh", "-c", script
    )
    assert done.stdout.split() == [mode, "1777"]


def test_a_subpath_that_leaves_its_volume(docker: Docker, base: str) -> None:
    docker("volume", "create", "leaving")
    try:
        script = "mkdir /v/in; ln -s /etc /v/out; ln -s ../../.. /v/up; ln -s in /v/there"
        docker("run", "--rm", "-v", "leaving:/v", base, "sh", "-c", script)
        mount = "type=volume,source=leaving,target=/m,volume-subpath="
        for name in ("out", "up"):
            done = docker("run", "--rm", "--mount", mount + name, base, "ls", "/m", check=False)
            assert done.returncode == 125, name
        docker("run", "--rm", "--mount", f"{mount}there", base, "ls", "/m")
    finally:
        docker("volume", "rm", "leaving")


def test_a_subpath_is_filled_from_the_image(docker: Docker, base: str) -> None:
    """An empty directory of a volume is, one with files and one behind a link out are not."""
    docker("volume", "create", "filled")
    try:
        script = "mkdir /v/empty /v/full; touch /v/full/x; ln -s empty /v/link; ln -s /tmp /v/out"
        docker("run", "--rm", "-v", "filled:/v", base, "sh", "-c", script)
        expected = docker("run", "--rm", base, "ls", "/bin").stdout
        mount = "type=volume,source=filled,target=/bin,volume-subpath="
        for name, nocopy in (("full", ""), ("out", ""), ("empty", ",volume-nocopy")):
            made = docker("create", "--mount", mount + name + nocopy, base, "ls").stdout.strip()
            docker("rm", made)
        found = docker("run", "--rm", "-v", "filled:/v", base, "ls", "/v/empty", "/v/full", "/tmp")
        assert found.stdout == "/tmp:\n\n/v/empty:\n\n/v/full:\nx\n"
        docker("rm", docker("create", "--mount", f"{mount}link", base, "ls").stdout.strip())
        found = docker("run", "--rm", "-v", "filled:/v", base, "ls", "/v/empty")
        assert found.stdout == expected
    finally:
        docker("volume", "rm", "filled")


def test_binds_around_the_data_root(
    docker: Docker, base: str, box: Callable[..., str], engine: RunningEngine
) -> None:
    """``rslave`` unless something else is asked for; the private modes are refused."""
    for source in ("/", str(engine.root), str(engine.data_root), f"{engine.data_root}/volumes"):
        name = box("-v", f"{source}:/host", base, "true")
        [mount] = json.loads(docker("inspect", name).stdout)[0]["Mounts"]
        assert mount["Propagation"] == "rslave", source
        docker("start", "-a", name)
        done = docker("create", "-v", f"{source}:/host:private", base, check=False)
        assert done.returncode and "daemon root" in done.stderr
    name = box("-v", "/usr:/host", base, "true")
    [mount] = json.loads(docker("inspect", name).stdout)[0]["Mounts"]
    assert mount["Propagation"] == "rprivate"
