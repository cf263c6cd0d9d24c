"""Docker's own benchmark script (docker/docker-bench-security, Apache-2.0) run against our engine.

``PORTSIDE_DOCKER_BENCH`` names a checkout of it; without one the test is skipped. What the script
says of containers must be what ``portside system audit`` says of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from enginekit import PATIENCE, RunningEngine

Docker = Callable[..., "CompletedProcess[str]"]
BENCH = os.environ.get("PORTSIDE_DOCKER_BENCH", "")
BASE = "portside/base"
CAREFUL = (
    "--user 1000 --health-cmd true --cap-drop ALL --memory 64m --cpus 0.5 --read-only "
    "--security-opt no-new-privileges --pids-limit 50 --network none "
    "-p 127.0.0.1::80 --restart on-failure:5"
).split()
CARELESS = (
    "--privileged --pid host --ipc host --uts host --network host --restart always -v /etc:/etc "
    "--cap-add NET_ADMIN --device /dev/null:/dev/other --userns host "
    "--security-opt seccomp=unconfined"
).split()
PUBLISHED = ("-p", "8089:80")
PARTS = ("4.1", "5.4", "5.5", "5.6", "5.10", "5.11", "5.12", "5.13", "5.14", "5.16",
         "5.17", "5.21", "5.22", "5.26", "5.27", "5.29", "5.32")  # fmt: skip
"""Checks that script and audit have in common, and of which the script names the containers."""

pytestmark = [
    pytest.mark.skipif(not BENCH, reason="PORTSIDE_DOCKER_BENCH names no docker-bench-security"),
    pytest.mark.skipif(not shutil.which("jq"), reason="jq is missing"),
]


@pytest.fixture
def three(docker: Docker, tmp_path: Path) -> Iterator[None]:
    names = ("careful", "careless", "published")
    socket = tmp_path / "docker.sock"
    socket.touch()
    careless = [*CARELESS, "-v", f"{socket}:/run/docker.sock"]
    try:
        for name, options in zip(names, (CAREFUL, careless, PUBLISHED), strict=True):
            docker("run", "-d", "--name", name, *options, BASE, "sleep", "1000")
        yield
    finally:
        docker("rm", "-f", *names)


def bench(engine: RunningEngine, place: Path) -> dict[str, Any]:
    """The script's results by the number of the check."""
    done = subprocess.run(
        ["bash", "./docker-bench-security.sh", "-b", "-l", str(place / "log")],
        cwd=BENCH,
        env={**os.environ, "DOCKER_HOST": engine.host},
        capture_output=True,
        text=True,
        timeout=300 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((place / "log.json").read_text())
    return {result["id"]: result for part in found["tests"] for result in part["results"]}


def test_the_script_and_the_audit_agree(
    engine: RunningEngine, docker: Docker, three: None, tmp_path: Path
) -> None:
    told = bench(engine, tmp_path)
    assert len(told) > 100
    findings = engine.json("GET", "/portside/audit")
    ours: dict[str, set[str]] = {}
    for finding in findings:
        if finding["verdict"] == "warn" and finding["subject"]:
            ours.setdefault(finding["id"], set()).add(finding["subject"])
    theirs = {
        number: {name.partition(":")[0] for name in told[number].get("items") or ()}
        for number in PARTS
    }
    assert theirs == {number: ours.get(number, set()) for number in PARTS}
    engine_verdicts = {f["id"]: f["verdict"] for f in findings if not f["subject"]}
    for number in ("2.2", "2.3", "2.4", "2.5", "2.6", "2.10", "2.11", "2.14", "2.15", "2.18"):
        expected = {"PASS": "pass", "WARN": "warn"}[told[number]["result"]]
        assert engine_verdicts[number] == expected, number
