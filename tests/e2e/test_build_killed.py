"""``kill -9`` of the engine or of a client in the middle of a step: nothing stays, and the next
build continues from the cache."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine

BASE = "portside/base"
PATIENCE = 30
"""Seconds for what should take one, on a busy machine."""


def _until(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not wanted() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert wanted()


def _until_nothing_is_left(engine: RunningEngine) -> None:
    deadline = time.monotonic() + PATIENCE
    while (left := _left(engine)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _sleeping(seconds: str) -> bool:
    """Whether a step's process runs."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes().split(b"\0")[:2] == [b"sleep", seconds.encode()]:
                return True
        except OSError:
            continue
    return False


def _left(engine: RunningEngine) -> set[str]:
    """Mounts, control groups, and directories of steps."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = {path for path in mounts if path.startswith(str(engine.data_root / "containers"))}
    for place in (
        engine.exec_root / "containers", engine.data_root / "containers",
        engine.data_root / "contexts",
    ):  # fmt: skip
        # digests of a client's directory are kept for its next build
        found |= {str(path) for path in place.glob("*") if path.suffix != ".digests"}
    return found | {str(path) for path in engine.exec_root.glob("build-*")}


def _begin(engine: RunningEngine, command: list[str], place: Path) -> subprocess.Popen[Any]:
    env = {**os.environ, "DOCKER_HOST": engine.host, "BUILDX_BUILDER": "default"}
    return subprocess.Popen(
        [*command, str(place)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


OURS = [sys.executable, "-m", "portside", "build", "--progress=plain"]


def test_the_engine_is_killed_in_a_step(private_engine: RunningEngine, tmp_path: Path) -> None:
    engine = private_engine
    (tmp_path / "gate").write_text("sleep 4712")
    text = (
        f"FROM {BASE}\nRUN echo first > /first\nCOPY gate /gate\n"
        "RUN --mount=type=bind,target=/c --mount=type=secret,id=k echo half > /half; sh /gate\n"
    )
    (tmp_path / "Dockerfile").write_text(text)
    (tmp_path / "key").write_text("hush")
    secret = ["--secret", f"id=k,src={tmp_path}/key"]
    client = _begin(engine, [*OURS, *secret], tmp_path)
    _until(lambda: _sleeping("4712"))
    engine.kill()
    assert client.wait(PATIENCE) == 1  # it is told that the engine is gone
    engine.start()
    _until(lambda: not _sleeping("4712"))
    _until_nothing_is_left(engine)
    (tmp_path / "gate").write_text("true")
    env = {**os.environ, "DOCKER_HOST": engine.host}
    done = subprocess.run(
        [*OURS, *secret, "-t", "after", str(tmp_path)], env=env, capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    number = re.search(r"#(\d+) \[stage-0 \d/\d\] RUN echo first", done.stderr)
    assert number and f"#{number[1]} CACHED" in done.stderr
    _until_nothing_is_left(engine)


@pytest.mark.parametrize(
    "command", [OURS, ["docker", "buildx", "build"]], ids=["portside", "buildx"]
)
def test_a_client_is_killed(engine: RunningEngine, tmp_path: Path, command: list[str]) -> None:
    """Its step ends, and what the step had."""
    seconds = "4713" if command is OURS else "4714"
    (tmp_path / "Dockerfile").write_text(f"FROM {BASE}\nRUN sleep {seconds}\n")
    containers = engine.exec_root / "containers"
    before = {path.name for path in containers.glob("*")}
    client = _begin(engine, command, tmp_path)
    _until(lambda: _sleeping(seconds))
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    _until(lambda: not _sleeping(seconds))
    _until(lambda: {path.name for path in containers.glob("*")} <= before)
