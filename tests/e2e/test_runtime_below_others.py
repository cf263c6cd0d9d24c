"""``portside-runtime`` below podman and below dockerd with containerd, as their users see it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from runtimekit import is_root, make_root

pytestmark = pytest.mark.skipif(not is_root(), reason="containers need root here")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the runtime as a program and a root file system."""
    directory = tmp_path_factory.mktemp("below")
    program = directory / "portside-runtime"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT}/src exec {sys.executable} -m portside.runtime "$@"\n'
    )
    program.chmod(0o755)
    make_root(directory / "root")
    return directory


class Peer:
    """A peer's command line, bound to our runtime."""

    def __init__(self, command: list[str], run: list[str], environment: dict[str, str]) -> None:
        self.command, self.run_options = command, run
        self.environment = {**os.environ, **environment}

    def __call__(self, *args: str, **more: object) -> subprocess.CompletedProcess[str]:
        values: dict[str, object] = {"stdin": subprocess.DEVNULL} | more
        if "input" in more:
            del values["stdin"]
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [*self.command, *args], env=self.environment, capture_output=True, text=True,
            timeout=90, **values,
        )  # fmt: skip

    def run(self, *args: str, **more: object) -> subprocess.CompletedProcess[str]:
        return self("run", *self.run_options, *args, **more)


@pytest.fixture(scope="module")
def podman(place: Path) -> Iterator[Peer]:
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    (place / "storage.conf").write_text(
        f'[storage]\ndriver="vfs"\nrunroot="{place}/pr"\ngraphroot="{place}/pg"\n'
    )
    (place / "containers.conf").write_text(
        '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n'
        f'[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\ntmp_dir="{place}/pt"\n'
    )
    environment = {
        "CONTAINERS_STORAGE_CONF": f"{place}/storage.conf",
        "CONTAINERS_CONF": f"{place}/containers.conf",
    }
    command = ["podman", "--runtime", f"{place}/portside-runtime"]
    peer = Peer(command, ["--net", "none"], environment)
    _import(place, peer)
    yield peer
    peer("rm", "-fa")
    peer("rmi", "-fa")
    for parent in Path("/sys/fs/cgroup").glob("*/libpod_parent"):
        for path in sorted(parent.rglob("*/"), reverse=True):
            with suppress(OSError):  # somebody else's
                path.rmdir()
        with suppress(OSError):
            parent.rmdir()


def _import(place: Path, peer: Peer) -> None:
    subprocess.run(["tar", "-C", f"{place}/root", "-cf", f"{place}/root.tar", "."], check=True)
    name = "localhost/bb" if "podman" in peer.command[0] else "localhost/bb:latest"
    done = peer("import", f"{place}/root.tar", name)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def dockerd(place: Path) -> Iterator[Peer]:
    """A dockerd of our own in a mount namespace of its own, without networks."""
    if not shutil.which("dockerd") or not shutil.which("docker"):
        pytest.skip("dockerd is not installed")
    log = (place / "dockerd.log").open("wb")
    config = place / "daemon.json"
    config.write_text(json.dumps({"runtimes": {"portside": {"path": f"{place}/portside-runtime"}}}))
    process = subprocess.Popen(
        ["unshare", "-m", "dockerd", "--config-file", str(config), "--bridge", "none",
         "--iptables=false", "--ip-forward=false", "--data-root", f"{place}/dd", "--exec-root",
         f"{place}/dx", "-H", f"unix://{place}/d.sock", "-p", f"{place}/d.pid",
         "--cgroup-parent", f"/portside-below-{os.getpid()}"],
        stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    peer = Peer(
        ["docker", "-H", f"unix://{place}/d.sock"], ["--runtime", "portside", "--net", "none"], {}
    )
    deadline = time.monotonic() + 60
    while peer("version").returncode != 0:
        assert process.poll() is None and time.monotonic() < deadline, "dockerd did not start"
        time.sleep(0.2)
    _import(place, peer)
    yield peer
    names = peer("ps", "-aq").stdout.split()
    if names:
        peer("rm", "-f", *names)
    process.terminate()
    process.wait(60)
    log.close()
    for path in Path("/sys/fs/cgroup").glob(f"*/portside-below-{os.getpid()}"):
        path.rmdir()


@pytest.fixture(params=["podman", "dockerd"])
def peer(request: pytest.FixtureRequest) -> Peer:
    found: Peer = request.getfixturevalue(request.param)
    return found


IMAGE = "localhost/bb"


def test_run(peer: Peer) -> None:
    done = peer.run("--rm", "-u", "bob", IMAGE, "sh", "-c", "id -un; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "bob\n", "err\n")
    done = peer.run("--rm", "-i", IMAGE, "cat", input="typed")
    assert done.stdout == "typed"


def test_a_whole_life(peer: Peer) -> None:
    script = "echo up; trap 'exit 3' TERM; while :; do sleep 0.05; done"
    done = peer.run("-d", "--name", "life", "-m", "64m", IMAGE, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    try:
        assert peer("exec", "life", "sh", "-c", "exit 4").returncode == 4
        assert "root" in peer("exec", "life", "id").stdout
        assert "trap" in peer("top", "life").stdout
        assert peer("pause", "life").returncode == 0
        assert "aused" in peer("ps", "-a").stdout
        assert peer("unpause", "life").returncode == 0
        assert peer("stop", "life").returncode == 0
        assert peer("inspect", "-f", "{{.State.ExitCode}}", "life").stdout.strip() == "3"
        assert peer("start", "life").returncode == 0
        assert peer("logs", "life").stdout.count("up") >= 1
        assert peer("kill", "life").returncode == 0
    finally:
        peer("rm", "-f", "life")


def test_a_terminal(peer: Peer) -> None:
    done = peer.run("-d", "-t", "--name", "term", IMAGE, "sh", "-c", "tty; sleep 60")
    assert done.returncode == 0, done.stderr
    try:
        deadline = time.monotonic() + 20
        while "/dev/pts/0" not in peer("logs", "term").stdout:
            assert time.monotonic() < deadline
    finally:
        peer("rm", "-f", "term")


@pytest.mark.parametrize(("command", "code"), [("/nothing", 127), ("/etc", 126)])
def test_start_errors(peer: Peer, command: str, code: int) -> None:
    done = peer.run("--rm", IMAGE, command)
    assert done.returncode == code
    assert "unable to start container process" in done.stderr


def test_restrictions(peer: Peer) -> None:
    script = "touch /x; touch /t/y && ls /t; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status"
    done = peer.run("--rm", "--read-only", "--tmpfs", "/t", "--cap-drop", "all", "--security-opt",
                    "no-new-privileges", IMAGE, "sh", "-c", script)  # fmt: skip
    lines = done.stdout.split()
    assert lines == ["y", "CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert "Read-only file system" in done.stderr


def test_podmans_user_namespace_and_descriptors(podman: Peer) -> None:
    mapping = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]
    done = podman.run("--rm", *mapping, IMAGE, "cat", "/proc/self/uid_map")
    assert done.stdout.split() == ["0", "100000", "65536"], done.stderr
    with open("/etc/hostname") as file:
        if file.fileno() != 3:
            os.dup2(file.fileno(), 3)
        done = podman.run(
            "--rm", "--preserve-fds", "1", IMAGE, "sh", "-c", "cat <&3", pass_fds=(3,)
        )
    assert done.stdout == Path("/etc/hostname").read_text()
