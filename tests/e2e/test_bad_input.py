"""What a user gets wrong: a clear error, Docker's exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from enginekit import ROOT

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"


def containers(docker: Docker) -> set[str]:
    return set(docker("ps", "-aq", "--no-trunc").stdout.split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "--rm", BASE, "no-such-command"), 127, "executable file not found in $PATH"),
        (("run", "--rm", BASE, "/no/such/file"), 127, "no such file or directory"),
        (("run", "--rm", BASE, "/etc/passwd"), 126, "permission denied"),
        (("run", "--rm", BASE, "/etc"), 126, "permission denied"),
        (("run", "--rm", "-u", "nobody-knows", BASE, "true"), 125, "nobody-knows"),
        (("run", "--rm", "-w", "relative", BASE, "true"), 125, "working directory"),
        (
            ("run", "--rm", "-w", "/etc/passwd", BASE, "true"),
            125,
            "daemon: Cannot mkdir: /etc/passwd is not a directory",
        ),
        (("run", "--rm", "-u", "-1", BASE, "true"), 125, "must be in range 0-2147483647"),
        (("run", "--rm", "-v", "/tmp:/proc/sys", BASE, "true"), 125, "it is inside /proc"),
        (("run", "--rm", "-m", "1k", BASE, "true"), 125, "Minimum memory limit allowed is 6MB"),
        (("run", "--rm", "-m", "-1", BASE, "true"), 125, "invalid"),
        (("run", "--rm", "--cpus", "9999", BASE, "true"), 125, "Range of CPUs is from 0.01"),
        (("run", "--rm", "--cpuset-cpus", "900", BASE, "true"), 125, "Requested CPUs"),
        (("run", "--rm", "--cap-add", "NO_SUCH", BASE, "true"), 125, "NO_SUCH"),
        (("run", "--rm", "--network", "nowhere", BASE, "true"), 125, "network nowhere not found"),
        (("run", "--rm", "--name", "/bad name", BASE, "true"), 125, "Invalid container name"),
        (("run", "--rm", "case/UPPER", "true"), 125, "must be lowercase"),
        (("run", "--rm", "bad::reference", "true"), 125, "invalid reference format"),
        (("run", "--rm", "--pull", "never", "not/here", "true"), 125, "No such image"),
        (("start", "no-such-container"), 1, "No such container: no-such-container"),
        (("exec", "no-such-container", "true"), 1, "No such container: no-such-container"),
        (("logs", "no-such-container"), 1, "No such container: no-such-container"),
        (("inspect", "no-such-object"), 1, "No such object"),
        (("rmi", "no-such-image"), 1, "No such image: no-such-image:latest"),
    ],
)
def test_mistakes(docker: Docker, arguments: tuple[str, ...], code: int, said: str) -> None:
    before = containers(docker)
    done = docker(*arguments, check=False)
    assert (done.returncode, said.lower() in done.stderr.lower()) == (code, True), done
    assert containers(docker) == before


def test_an_exec_in_a_directory_that_is_none(docker: Docker) -> None:
    """Told and ended as by dockerd 28.5.2."""
    docker("run", "-d", "--name", "nodirectory", BASE, "sleep", "300")
    try:
        for place, said in (
            ("/etc/passwd", "not a directory: Are you trying to mount a directory onto a file"),
            ("/etc/passwd/x", "not a directory: Are you trying to mount a directory onto a file"),
            ("/nowhere", "no such file or directory"),
        ):
            done = docker("exec", "-w", place, "nodirectory", "pwd", check=False)
            told = f'chdir to cwd ("{place}") set in config.json failed: {said}'
            assert (done.returncode, told in done.stdout + done.stderr) == (127, True), done
    finally:
        docker("rm", "-f", "nodirectory")


def test_a_name_is_taken_once(docker: Docker) -> None:
    docker("create", "--name", "taken", BASE, "true")
    try:
        done = docker("create", "--name", "taken", BASE, "true", check=False)
        assert done.returncode == 1
        assert 'Conflict. The container name "/taken" is already in use' in done.stderr
    finally:
        docker("rm", "-f", "taken")


def test_a_registry_that_is_down(docker: Docker) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    done = docker("run", "--rm", f"127.0.0.1:{port}/some/image", "true", check=False)
    assert done.returncode == 125
    assert "connection refused" in done.stderr


def test_failed_starts_explain_themselves(docker: Docker) -> None:
    """A missing interpreter, CRLF line ends and a foreign architecture are distinguished."""
    scripts = {
        "#!/no/such/shell\n": "/no/such/shell",
        "#!/bin/sh\r\necho hi\r\n": "CRLF",
    }
    for text, said in scripts.items():
        make = "printf '%s' \"$TEXT\" > /script; chmod +x /script"
        docker("run", "--name", "scripted", "-e", f"TEXT={text}", BASE, "sh", "-c", make)
        try:
            image = docker("commit", "scripted", "test/scripted").stdout.strip()
            done = docker("run", "--rm", "test/scripted", "/script", check=False)
            assert done.returncode == 127, done
            assert said in done.stderr, done
        finally:
            docker("rm", "-f", "scripted")
            docker("rmi", "-f", "test/scripted", check=False)
        assert image.startswith("sha256:")


def test_unknown_fields_of_state(docker: Docker) -> None:
    """A failed start leaves a container that says why, unless --rm was given."""
    docker("run", "--name", "failed", BASE, "no-such-command", check=False)
    try:
        state = json.loads(docker("inspect", "failed").stdout)[0]["State"]
        assert state["Status"] == "created"
        assert state["ExitCode"] == 127
        assert "no-such-command" in state["Error"]
    finally:
        docker("rm", "failed")


def test_an_engine_that_is_not_running(docker_command: list[str], tmp_path: Path) -> None:
    """Both command lines name the socket, and say what to do."""
    host = f"unix://{tmp_path}/none.sock"
    environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(tmp_path)}
    for command in (docker_command, [str(ROOT / "portside")]):
        done = subprocess.run(
            [*command, "ps"], capture_output=True, text=True, env=environment, timeout=60
        )
        assert done.returncode == 1
        assert f"Cannot connect to the Docker daemon at {host}" in done.stderr or (
            host in done.stderr and "running" in done.stderr
        ), done.stderr
