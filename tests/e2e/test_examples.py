"""The examples do what they say, as a reader would run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from enginekit import ROOT, RunningEngine

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def host(engine: RunningEngine) -> str:
    return engine.host


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a socket's path has at most 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


def run(*command: str, host: str = "", cwd: Path = ROOT) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, **({"DOCKER_HOST": host} if host else {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def portside(*words: str, host: str) -> str:
    return run(sys.executable, "-m", "portside", *words, host=host)


def test_embed_engine() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    kept = RunningEngine()  # its names, and its check of what is left; it is not started
    try:
        script = EXAMPLES / "embed_engine.py"
        printed = run(sys.executable, str(script), str(kept.root), "echo", "hello")
        assert printed == "hello\n"
        kept.data_root, kept.exec_root = kept.root / "data", kept.root / "exec"
        assert kept.remains() == []
        failed = subprocess.run(
            [sys.executable, script, str(kept.root), "sh", "-c", "exit 7"], timeout=120
        )
        assert failed.returncode == 7
    finally:
        kept.remove_files()


def test_watch_events(host: str) -> None:
    printed = run(sys.executable, str(EXAMPLES / "watch_events.py"), host).splitlines()
    wanted = ["container create", "container start", "container die", "container destroy"]
    assert [line for line in printed if line in wanted] == wanted


def test_receive_logs(host: str, folder: Path) -> None:
    path = folder / "logs"
    receiver = subprocess.Popen(
        [sys.executable, EXAMPLES / "receive_logs.py", path, "2"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=unixgram://{path}",
                   "--log-opt", "tag={{.Name}}", "--name", "logging")  # fmt: skip
        command = "echo one; sleep 0.1; echo two >&2"
        portside("run", "--rm", *options, "portside/base", "sh", "-c", command, host=host)
        assert receiver.communicate(timeout=60)[0].splitlines() == [
            "logging output: one",
            "logging error: two",
        ]
    finally:
        receiver.kill()
        receiver.wait()


def test_compose(host: str) -> None:
    file = ("-f", str(EXAMPLES / "compose" / "compose.yaml"), "-p", "example")
    try:
        portside("compose", *file, "up", "-d", host=host)
        read = portside("compose", *file, "run", "--rm", "-T", "reader", host=host)
        assert read == "hello from a project\n"
        address = portside("compose", *file, "port", "page", "80", host=host).strip()
        assert address.startswith("127.0.0.1:")
    finally:
        portside("compose", *file, "down", "-v", host=host)


def test_build(host: str) -> None:
    folder = str(EXAMPLES / "build")
    try:
        portside("build", "-q", "-t", "hello", "--build-arg", "GREETING=hi", folder, host=host)
        assert portside("run", "--rm", "hello", host=host) == "hi from a build\n"
    finally:
        portside("image", "rm", "-f", "hello", host=host)


def test_the_table_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for entry in EXAMPLES.iterdir():
        if entry.name != "README.md" and not entry.name.startswith("__"):
            assert f"[{entry.name}" in text, entry.name
