"""What an engine leaves on the machine: nothing when no container runs, and nothing at all after
``system reset``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from enginekit import ROOT, RunningEngine, docker_runner

from portside.kernel.cgroup import Cgroup
from portside.model.instance import Instance

IMAGE = "portside/base"


def portside(
    engine: RunningEngine, *arguments: str, answer: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "portside", *arguments],
        capture_output=True, text=True, timeout=100, input=answer, cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": engine.host, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip


def test_an_engine_that_ends(private_engine: RunningEngine, docker_command: list[str]) -> None:
    engine = private_engine
    docker = docker_runner(docker_command, {**os.environ, "DOCKER_HOST": engine.host})
    docker("network", "create", "--subnet", "10.253.99.0/24", "kept")
    docker("volume", "create", "data")
    docker("run", "--rm", "--network", "kept", "-v", "data:/d", IMAGE, "sh", "-c", "echo x >/d/f")
    engine.stop()
    nothing_remains(engine)
    engine.start()
    run = ("run", "-d", "--name", "one", "--network", "kept", "-p", "127.0.0.1::80", IMAGE)
    docker(*run, "sleep", "1000")
    assert "10.253.99.0/24" in docker("network", "inspect", "kept").stdout
    assert docker("run", "--rm", "-v", "data:/d", IMAGE, "cat", "/d/f").stdout == "x\n"
    engine.stop()
    found = engine.remains()
    assert any("cgroup" in item for item in found), "a container runs, and keeps what it needs"
    assert any("table" in item for item in found) and any("link" in item for item in found)
    engine.start()
    assert docker("exec", "one", "echo", "alive").stdout == "alive\n"

    asked = portside(engine, "system", "reset", answer="n\n")
    assert "all volumes with the data in them" in asked.stdout
    assert docker("ps", "-q").stdout, "nothing was done"
    done = portside(engine, "system", "reset", "-f")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert engine.process is not None and engine.process.wait(30) == 0
    nothing_remains(engine)
    assert not engine.data_root.exists() and not engine.exec_root.exists()


def test_an_engine_that_ends_before_its_launcher_is_ready(private_engine: RunningEngine) -> None:
    """The launcher makes the control group of containers while the engine starts."""
    engine = private_engine
    group = Cgroup(Instance.of(engine.data_root, engine.exec_root).cgroup)
    cold = Cgroup.create(f"/portside-test-{os.getpid()}", None)
    try:
        end_with_frozen_launcher(engine, group, cold)
        nothing_remains(engine)
    finally:
        group.remove_empty()
        cold.delete()


def end_with_frozen_launcher(engine: RunningEngine, group: Cgroup, cold: Cgroup) -> None:
    for _ in range(5):  # until it is caught before it has made the group
        engine.stop()
        nothing_remains(engine)
        start_with_frozen_launcher(engine, cold)
        if not group.exists():
            break
        cold.thaw()
    else:
        pytest.fail("the launcher is always ready at once")
    launcher = launcher_of(engine)
    assert engine.process is not None
    engine.process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        engine.process.wait(5)  # it must wait for the launcher, which is made to wait for this
    cold.thaw()
    assert engine.process.wait(60) == 0
    until = time.monotonic() + 60
    while Path(f"/proc/{launcher}").exists() and time.monotonic() < until:
        time.sleep(0.05)


def nothing_remains(engine: RunningEngine) -> None:
    """The kernel takes its time to remove a namespace and the links in it."""
    until = time.monotonic() + 10
    while (found := engine.remains()) and time.monotonic() < until:
        time.sleep(0.05)
    assert found == []


def launcher_of(engine: RunningEngine) -> int:
    """The engine's child that starts containers; 0 while there is none."""
    if engine.process is None:
        return 0
    pid = engine.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"portside.runtime.launcher" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return 0


def start_with_frozen_launcher(engine: RunningEngine, cold: Cgroup) -> None:
    before = engine.process
    starting = threading.Thread(target=engine.start)
    starting.start()
    while starting.is_alive():
        with contextlib.suppress(OSError):
            if engine.process is not before and (pid := launcher_of(engine)):
                cold.add(pid)
                cold.freeze()
                break
    starting.join(60)


def test_reset_deletes_nothing_that_is_mounted(private_engine: RunningEngine) -> None:
    """A volume's data on another file system is not the engine's to delete."""
    engine = private_engine
    elsewhere = engine.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    inside = engine.data_root / "volumes" / "v" / "_data"
    inside.mkdir(parents=True)
    (Path(engine.data_root) / "link").symlink_to(elsewhere)
    subprocess.run(["mount", "--bind", elsewhere, inside], check=True)
    try:
        done = portside(engine, "system", "reset", "--force")
        assert done.returncode == 0, done
    finally:
        subprocess.run(["umount", inside], check=False, capture_output=True)
    assert not engine.data_root.exists()
    assert (elsewhere / "precious").read_text() == "x"
