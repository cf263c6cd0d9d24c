"""The engine with other OCI runtimes, and our own runtime below other engines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from enginekit import RunningEngine, docker_runner

BASE = "portside/base"
Docker = Callable[..., "CompletedProcess[str]"]
needs_runc = pytest.mark.skipif(not shutil.which("runc"), reason="runc is not installed")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtimes")


@pytest.fixture(scope="module")
def served(directory: Path) -> Iterator[RunningEngine]:
    """An engine that knows runc, and our runtime by its command line."""
    config = directory / "daemon.json"
    ours = {"path": sys.executable, "runtimeArgs": ["-m", "portside.runtime"]}
    config.write_text(json.dumps({"runtimes": {"ours": ours, "runc": {"path": "runc"}}}))
    engine = RunningEngine()
    (engine.root / "daemon.json").write_text(config.read_text())
    engine.start()
    try:
        yield engine
    finally:
        engine.remove()


@pytest.fixture(scope="module")
def docker(
    served: RunningEngine, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    import os

    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "DOCKER_HOST": served.host, "HOME": str(home)}
    run = docker_runner(docker_command, environment)
    run("pull", BASE)
    return run


@pytest.fixture(params=[pytest.param("runc", marks=needs_runc), "ours"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_run(docker: Docker, runtime: str) -> None:
    script = "echo out; echo err >&2; hostname -i; id -u; exit 5"
    done = docker("run", "--rm", "--runtime", runtime, "-u", "1000", BASE, "sh", "-c", script,
                  check=False)  # fmt: skip
    assert done.returncode == 5 and done.stderr == "err\n"
    out, address, user = done.stdout.split()
    assert (out, user) == ("out", "1000") and address.count(".") == 3


def test_a_whole_life(docker: Docker, runtime: str) -> None:
    name = f"life-{runtime}"
    script = "echo up; trap 'exit 3' TERM; while :; do sleep 0.05; done"
    docker("run", "-d", "--name", name, "--runtime", runtime, "-m", "64m", "--pids-limit", "50",
           BASE, "sh", "-c", script)  # fmt: skip
    try:
        assert docker("inspect", "-f", "{{.HostConfig.Runtime}}", name).stdout.strip() == runtime
        assert docker("exec", name, "sh", "-c", "exit 4", check=False).returncode == 4
        assert docker("exec", "-i", name, "cat", input="typed").stdout == "typed"
        assert docker("exec", name, "nothing", check=False).returncode == 127
        assert "trap" in docker("top", name).stdout
        stats = docker("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", name).stdout
        assert "64MiB" in stats
        docker("pause", name)
        assert docker("ps", "-a", "--format", "{{.Names}} {{.State}}").stdout.split() == [
            name,
            "paused",
        ]
        docker("unpause", name)
        docker("update", "--pids-limit", "60", name)
        docker("stop", name)
        assert docker("inspect", "-f", "{{.State.ExitCode}}", name).stdout.strip() == "3"
        docker("start", name)
        docker("restart", "-t", "1", name)
        docker("kill", name)
        assert docker("logs", name).stdout == "up\n" * 3
    finally:
        docker("rm", "-f", name)


def test_start_errors(docker: Docker, runtime: str) -> None:
    done = docker("run", "--rm", "--runtime", runtime, BASE, "nothing", check=False)
    assert done.returncode == 127
    assert "executable file not found in $PATH" in done.stderr


def test_an_unknown_runtime(docker: Docker) -> None:
    done = docker("run", "--rm", "--runtime", "moon", BASE, "true", check=False)
    assert done.returncode == 125
    assert "unknown or invalid runtime name: moon" in done.stderr


def test_the_engine_goes_and_comes(docker: Docker, served: RunningEngine, runtime: str) -> None:
    name = f"stays-{runtime}"
    docker("run", "-d", "--name", name, "--runtime", runtime, BASE, "sleep", "1000")
    try:
        served.kill()
        served.start()
        assert docker("exec", name, "echo", "still").stdout == "still\n"
        docker("stop", "-t", "0", name)
        assert docker("inspect", "-f", "{{.State.Status}}", name).stdout.strip() == "exited"
    finally:
        docker("rm", "-f", name)
