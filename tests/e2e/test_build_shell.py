"""``portside build --on-fail=shell``, and progress on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

BASE = "portside/base"
READY = 60
"""Seconds that something may take on a busy machine."""


class Terminal:
    """``portside`` on a pseudo terminal."""

    def __init__(self, env: dict[str, str], place: Path, *args: str) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        import fcntl
        import struct
        import termios

        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "portside", "build", *args, str(place)],
            env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, pattern: str) -> str:
        """What came up to a pattern, and is taken."""
        limit = time.monotonic() + READY
        while (found := re.search(pattern, self.seen)) is None:
            left = limit - time.monotonic()
            if left <= 0 or not self._more(left):
                pytest.fail(f"{pattern!r} did not come:\n{self.seen}")
        taken, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return taken

    def _more(self, seconds: float) -> bool:
        waiting = select.poll()
        waiting.register(self._master, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        limit = time.monotonic() + READY
        while self.process.poll() is None and time.monotonic() < limit:
            self._more(0.2)
        while self._more(0.1):
            pass
        os.close(self._master)
        return self.process.wait(READY)


def test_a_shell_in_the_step_that_failed(docker_env: dict[str, str], tmp_path: Path) -> None:
    """With what the step wrote, its mounts, its environment and its directory."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {BASE}\nENV WORD=said\nWORKDIR /here\n"
        "RUN --mount=type=bind,target=/context --mount=type=secret,id=key "
        "echo made > /here/file; exit 7\n"
    )
    (tmp_path / "key").write_text("hush")
    terminal = Terminal(
        docker_env, tmp_path, "--on-fail=shell", "--progress=plain", "--secret",
        f"id=key,src={tmp_path}/key",
    )  # fmt: skip
    terminal.until("failed with status 7")
    terminal.until("[#$] ")
    for command, told in (
        ("cat file; pwd", "made\r\n/here"),
        ("echo word=$WORD", "word=said"),
        ("ls /context; cat /run/secrets/key; echo", "(?s)Dockerfile.*hush"),
        ("stty size", "40 120"),
    ):
        terminal.type(f"{command}\n")
        terminal.until(told)
    terminal.type("exit\n")
    assert terminal.end() == 1
    assert "Dockerfile:4" in terminal.seen
    assert 'process "/bin/sh -c' in terminal.seen


def test_a_shell_takes_what_is_piped(docker_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BASE}\nRUN echo left > /left; false\n")
    done = subprocess.run(
        [sys.executable, "-m", "portside", "build", "--on-fail=shell", str(tmp_path)],
        env=docker_env, input="cat /left; echo typed-$((40+2))\n", capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == "left\ntyped-42\n"
    assert "exit code: 1" in done.stderr


def test_progress_on_a_terminal(docker_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BASE}\nRUN echo live; sleep 1; echo over\n")
    terminal = Terminal(docker_env, tmp_path, "--no-cache", "-t", "on-a-terminal")
    terminal.until(r"\[\+\] Building [0-9.]+s \(\d+/\d+\)")
    terminal.until(r" => => # [0-9.]+ live")
    assert terminal.end() == 0
    assert "FINISHED" in terminal.seen and "[2/2] RUN echo live" in terminal.seen
    again = Terminal(docker_env, tmp_path, "-t", "on-a-terminal")
    assert again.end() == 0
    assert "CACHED [2/2] RUN echo live" in again.seen
