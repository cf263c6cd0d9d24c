"""Bad Compose files: one clear error each, with its place, and nothing half-made is left."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import composekit
import pytest
from enginekit import RunningEngine

TABLE = (Path(__file__).parent / "compose_bad_input.txt").read_text()
"""The cases; the head of the file describes the format."""
_RESULT = re.compile(r"(\d+)(?: \((\d+|-)\))?(?: left: (.*))?")
SLEEP = "command: sleep 1000, init: true, stop_grace_period: 0s"
PROJECT = "bad-input"


def cases() -> Iterator[Any]:
    for part in re.split(r"^== ", TABLE, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        text, _, rest = rest.partition("=> ")
        result, _, said = rest.partition("\n")
        found = _RESULT.fullmatch(result)
        assert found is not None, result
        status, theirs, left = int(found[1]), found[2] or found[1], found[3]
        allowed = set(left.split(", ")) if left else set()
        yield pytest.param(text, status, theirs, allowed, said.strip("\n"), id=name)


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port of the host that something listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def programs(
    tmp_path: Path, docker: Callable[..., Any], docker_env: dict[str, str]
) -> tuple[composekit.Program, composekit.Program]:
    """The real program and ours, in a directory with files to include."""
    (tmp_path / "other.yaml").write_text("services: {o: {image: portside/base}}\n")
    (tmp_path / "bad.env").write_text("A=1\nB B=2\n")
    env = {name: value for name, value in docker_env.items() if name != "NOTSET"}
    return composekit.both(tmp_path, {**env, "HOME": "/root"})


@pytest.mark.parametrize(("text", "status", "theirs", "allowed", "said"), list(cases()))
def test_one_clear_error(
    text: str, status: int, theirs: str, allowed: set[str], said: str,
    programs: tuple[composekit.Program, composekit.Program],
    engine: RunningEngine, tmp_path: Path, taken: int,
) -> None:  # fmt: skip
    text = text.replace("SLEEP", SLEEP).replace("PORT", str(taken))
    (tmp_path / "compose.yaml").write_text(text)
    names = [] if text.startswith("name:") else ["-p", PROJECT]
    docker_compose, ours = programs
    try:
        done = ours(*names, "up", "-d", status=status)
        _check_output(done, said, tmp_path, taken)
        assert set(composekit.state(engine, PROJECT)) <= allowed
    finally:
        _remove(ours, engine)
    if theirs != "-":
        try:
            docker_compose(*names, "up", "-d", status=int(theirs))
        finally:
            _remove(ours, engine)


def _check_output(
    done: subprocess.CompletedProcess[str], said: str, folder: Path, taken: int
) -> None:
    found = composekit.plain(done.stderr).replace(str(folder), "DIR").rstrip("\n")
    found = re.sub(r":[0-9.]+:80/", ":ADDRESS:80/", found).replace(str(taken), "PORT")
    assert "Traceback" not in found
    if said.startswith("DIR/"):  # known before anything was begun
        assert found == composekit.plain(said)
    elif done.returncode:
        assert f"\n{found}".endswith(f"\n{composekit.plain(said)}"), found
    else:
        assert found.endswith(composekit.plain(said)), found


def _remove(ours: composekit.Program, engine: RunningEngine) -> None:
    if composekit.state(engine, PROJECT):
        by_labels = composekit.Program(ours.command, Path("/"), ours.env)  # no file is there
        by_labels("-p", PROJECT, "down", "-v", "-t", "0")
    assert composekit.state(engine, PROJECT) == {}


def test_progress_of_a_failed_pull(
    programs: tuple[composekit.Program, composekit.Program], tmp_path: Path
) -> None:
    """The line says ``Error`` once, the message says whose error it is."""
    (tmp_path / "compose.yaml").write_text("services: {a: {image: '127.0.0.1:1/nosuch'}}\n")
    refused = 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
    for program in programs[::-1]:
        lines = program("-p", PROJECT, "up", "-d", status=1).stderr.splitlines()
        assert lines[-2:] == [f" a Error {refused}", f"Error response from daemon: {refused}"]
