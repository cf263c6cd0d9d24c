"""Fixtures of all tests: a private engine, the docker CLI and docker-py against it.

Each engine has directories, a socket, a bridge and a subnet of its own, so that tests run
beside other engines. When it ends, nothing of it may be left on the machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine, docker_runner


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rounds", type=int, default=0, help="rounds of the stress tests (0: the short form)"
    )


def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")


@pytest.fixture(scope="session")
def engine() -> Iterator[RunningEngine]:
    """One engine for the whole session."""
    _needs_root()
    running = RunningEngine()
    running.start()
    yield running
    running.remove()


@pytest.fixture
def private_engine() -> Iterator[RunningEngine]:
    """An engine for one test, which may kill and restart it."""
    _needs_root()
    running = RunningEngine()
    running.start()
    yield running
    running.remove()


@pytest.fixture(scope="session")
def docker_command() -> list[str]:
    """The real docker CLI."""
    found = shutil.which("docker", path="/usr/local/bin:/usr/bin")
    if found is None:
        pytest.skip("needs the docker CLI")
    return [found]


@pytest.fixture(scope="session")
def docker_env(engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the docker CLI talks to the session's engine."""
    config = tmp_path_factory.mktemp("docker-config")
    return {**os.environ, "DOCKER_HOST": engine.host, "DOCKER_CONFIG": str(config)}


@pytest.fixture(scope="session")
def docker(
    docker_command: list[str], docker_env: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[Any]]:
    """Run the docker CLI: ``docker("run", "--rm", …, check=True, input=None, text=True)``.

    The base image is there already, so that no test sees its first pull.
    """
    run = docker_runner(docker_command, docker_env)
    run("pull", "-q", "portside/base")
    return run


@pytest.fixture(scope="session")
def docker_py(engine: RunningEngine) -> Iterator[Any]:
    """A docker-py client of the session's engine."""
    module = pytest.importorskip("docker")
    client = module.DockerClient(base_url=engine.host, version="auto", timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def base(docker: Callable[..., Any]) -> str:
    """The embedded base image, present in the engine."""
    return "portside/base"


@pytest.fixture(scope="session")
def debian() -> Callable[..., Path]:
    """``debian(name, *packages)``: a Debian root file system as a tar, from the machine's own
    package mirror; made once and kept (``PORTSIDE_TEST_CACHE``, else below /var/tmp). Skips where
    it cannot be made."""

    def make(name: str = "debian", *packages: str) -> Path:
        cache = Path(os.environ.get("PORTSIDE_TEST_CACHE", "/var/tmp/portside-tests"))
        path = cache / f"{name}.tar"
        if path.exists():
            return path
        if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
            pytest.skip("needs mmdebstrap, and root to run it")
        cache.mkdir(parents=True, exist_ok=True)
        made = cache / f"{name}-{os.getpid()}.tar"
        suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
        include = [f"--include={','.join(packages)}"] if packages else []
        command = ["mmdebstrap", "--variant=apt", *include, suite, str(made)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                timeout=500 if packages else 100,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            made.unlink(missing_ok=True)
            pytest.skip("mmdebstrap takes too long here")
        if done.returncode:
            made.unlink(missing_ok=True)
            pytest.skip(f"mmdebstrap cannot make one here: {done.stderr[-300:]}")
        made.rename(path)
        return path

    return make
