"""A command on a pseudoterminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time

import pytest

PATIENCE = 30


class Terminal:
    """A command on a pseudoterminal of its own."""

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        size: tuple[int, int],
        folder: str | None = None,
    ) -> None:
        self.leader, follower = pty.openpty()
        self.resize(*size)
        self.process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=env,
            cwd=folder,
            start_new_session=True,
            close_fds=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(follower)
        os.set_blocking(self.leader, False)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, size)

    def type(self, text: bytes) -> None:
        os.write(self.leader, text)

    def expect(self, pattern: bytes) -> bytes:
        """Wait until what was shown since the last match contains the pattern."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            match = re.search(pattern, self.seen)
            if match:
                self.seen = self.seen[match.end() :]
                return match[0]
            try:
                self.seen += os.read(self.leader, 65536)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        pytest.fail(f"{pattern!r} did not appear in {self.seen!r}")

    def end(self) -> int:
        """The exit status, once the terminal has been read to its end."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self.seen += os.read(self.leader, 65536)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.leader)
