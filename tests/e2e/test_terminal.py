"""The docker CLI, and ours, in a terminal: typing, resizing, detaching, two at one container."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clikit import PORTSIDE
from enginekit import RunningEngine
from terminalkit import PATIENCE, Terminal

BASE = "portside/base"


@pytest.fixture(params=["docker", "portside"])
def terminal(
    request: pytest.FixtureRequest,
    docker: Any,
    docker_command: list[str],
    docker_env: dict[str, str],
) -> Iterator[Callable[..., Terminal]]:
    """By the docker CLI and by our own command."""
    opened: list[Terminal] = []
    command = docker_command if request.param == "docker" else [PORTSIDE]

    def start(*arguments: str, size: tuple[int, int] = (24, 80)) -> Terminal:
        opened.append(Terminal([*command, *arguments], docker_env, size))
        return opened[-1]

    yield start
    for each in opened:
        each.close()
    docker("rm", "-f", "t1", "t2", check=False)


def test_a_shell_to_type_in(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--rm", BASE, "sh")
    shell.expect(rb"/ # ")
    shell.type(b"tty; echo $((6*7))\r")
    shell.expect(rb"/dev/pts/\d+\r\n42\r\n")
    shell.type(b"exit 3\r")
    assert shell.end() == 3


def test_control_d_and_control_c(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--rm", BASE, "sh")
    shell.expect(rb"/ # ")
    shell.type(b"sleep 100\r")
    shell.expect(rb"sleep 100")
    time.sleep(0.3)
    shell.type(b"\x03")
    shell.expect(rb"/ # ")
    shell.type(b"\x04")
    assert shell.end() in (0, 130)


def test_the_size_follows(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--rm", BASE, "sh", size=(31, 97))
    shell.expect(rb"/ # ")
    shell.type(b"stty size\r")
    shell.expect(rb"31 97")
    shell.resize(40, 111)
    os.kill(shell.process.pid, signal.SIGWINCH)
    deadline = time.monotonic() + PATIENCE
    while b"40 111" not in shell.seen and time.monotonic() < deadline:
        shell.type(b"stty size\r")
        shell.expect(rb"/ # ")
        time.sleep(0.1)
        try:
            shell.seen += os.read(shell.leader, 65536)
        except BlockingIOError:
            pass
    shell.expect(rb"40 111")


def test_detach_and_attach_again(docker: Any, terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--name", "t1", BASE, "sh")
    shell.expect(rb"/ # ")
    shell.type(b"x=kept\r")
    shell.expect(rb"/ # ")
    shell.type(b"\x10\x11")
    assert shell.end() == 0
    assert docker("inspect", "-f", "{{.State.Running}}", "t1").stdout == "true\n"
    again = terminal("attach", "--detach-keys", "ctrl-a,d", "t1")
    again.type(b"\recho $x\r")
    again.expect(rb"\nkept\r\n")
    again.type(b"\x01d")
    again.end()
    assert docker("inspect", "-f", "{{.State.Running}}", "t1").stdout == "true\n"


def test_two_terminals_at_one_container(terminal: Callable[..., Terminal]) -> None:
    first = terminal("run", "-it", "--name", "t2", BASE, "sh")
    first.expect(rb"/ # ")
    second = terminal("attach", "t2")
    time.sleep(0.5)
    second.type(b"echo from-second\r")
    first.expect(rb"\r\nfrom-second\r\n")
    second.expect(rb"\r\nfrom-second\r\n")
    first.type(b"exit\r")
    assert first.end() == 0
    assert second.end() == 0


def test_exec_in_a_terminal(docker: Any, terminal: Callable[..., Terminal]) -> None:
    docker("run", "-d", "--name", "t1", BASE, "sleep", "1000")
    shell = terminal("exec", "-it", "-e", "GREETING=hello", "t1", "sh", size=(20, 70))
    shell.expect(rb"/ # ")
    shell.type(b"echo $GREETING; stty size\r")
    shell.expect(rb"hello\r\n20 70")
    shell.type(b"exit 5\r")
    assert shell.end() == 5


def test_stats_show_every_second(
    engine: RunningEngine, terminal: Callable[..., Terminal], docker: Any
) -> None:
    docker("run", "-d", "--name", "t1", BASE, "sleep", "1000")
    for names in ((), ("t1",)):
        live = terminal("stats", *names, size=(24, 200))
        for _ in range(3):
            live.expect(rb"CONTAINER ID +NAME")
            live.expect(rb"t1 +\d+\.\d\d% +[\d.]+[KM]iB / ")
        live.process.kill()


def test_stats_into_a_pipe(docker: Any, docker_env: dict[str, str]) -> None:
    docker("run", "-d", "--name", "t1", BASE, "sleep", "1000")
    command = [PORTSIDE, "stats", "--format", "{{.Name}} {{.PIDs}}", "t1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=docker_env) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        process.wait(PATIENCE)
    docker("rm", "-f", "t1")
    assert lines == [b"t1 1\n"] * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_third_request_to_end_is_obeyed(
    docker: Any, docker_env: dict[str, str], number: int
) -> None:
    script = "trap '' INT TERM; echo ready; while :; do sleep 1; done"
    command = [PORTSIDE, "run", "--name", "t1", BASE, "sh", "-c", script]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=docker_env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(3):
            process.send_signal(number)
            time.sleep(0.2)  # the kernel makes one of two that are pending
        _, said = process.communicate(timeout=PATIENCE)
    docker("rm", "-f", "t1")
    assert process.returncode == 1
    assert said.endswith(b"got 3 SIGTERM/SIGINTs, forcefully exiting\n")
