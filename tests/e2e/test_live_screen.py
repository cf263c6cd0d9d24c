"""``portside ui`` and ``stats`` in a pseudo terminal, as a user sees them, and in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import ROOT, RunningEngine

pyte = pytest.importorskip("pyte")
pytest.importorskip("textual")
Docker = Callable[..., Any]
COLUMNS, LINES = 150, 40


def _interruptible() -> None:
    """Whoever started the tests may have switched the signal off."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _own_terminal() -> None:
    """In the child: standard input becomes the terminal whose keys send signals."""
    _interruptible()
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command in a pseudo terminal, and what its screen shows."""

    def __init__(self, engine: RunningEngine, *words: str) -> None:
        self.leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
        self.screen = pyte.Screen(COLUMNS, LINES)
        self.stream = pyte.ByteStream(self.screen)
        environment = {
            **os.environ, "TERM": "xterm-256color", "DOCKER_HOST": engine.host,
            "PYTHONPATH": str(ROOT / "src"), "COLORTERM": "truecolor",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "portside", *words], stdin=follower, stdout=follower,
            stderr=follower, env=environment, preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(follower)

    def read(self, seconds: float = 0.1) -> None:
        poll = select.poll()
        poll.register(self.leader, select.POLLIN)
        while poll.poll(seconds * 1000):
            try:
                data = os.read(self.leader, 65536)
            except OSError:
                return
            # pyte does not know these: private modes and keyboard protocols are no text
            self.stream.feed(
                re.sub(rb"\x1b\[[<>=?][0-9;]*[a-zA-Z$]+|\x1b\[\?[0-9;]*\$p", b"", data)
            )
            seconds = 0

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def until(self, check: Callable[[str], object], what: str = "") -> str:
        deadline = time.monotonic() + 60
        while not check(self.text):
            if time.monotonic() > deadline:
                pytest.fail(f"{what} is never seen:\n{self.text}")
            self.read()
        return self.text

    def sees(self, wanted: str) -> str:
        return self.until(lambda text: wanted in text, wanted)

    def press(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def click(self, wanted: str) -> None:
        """The left button on the first place of a text (xterm's SGR protocol)."""
        for number, line in enumerate(self.screen.display):
            if wanted in line:
                at = f"{line.index(wanted) + 1};{number + 1}"
                self.press(f"\x1b[<0;{at}M\x1b[<0;{at}m")
                return
        pytest.fail(f"{wanted} is not on the screen:\n{self.text}")

    def close(self) -> int:
        """Wait for its end, taking what it writes meanwhile; the status."""
        try:
            deadline = time.monotonic() + 60
            while self.process.poll() is None and time.monotonic() < deadline:
                self.read()
            return self.process.wait(0)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            os.close(self.leader)


@pytest.fixture
def two(docker: Docker) -> Iterator[None]:
    docker("volume", "prune", "-a", "-f")  # other tests' would come first in the list
    loop = "i=0; while :; do i=$((i+1)); echo line $i; usleep 100000; done"
    docker("run", "-d", "--name", "screen-a", "portside/base", "sh", "-c", loop)
    docker("run", "-d", "--name", "screen-b", "-v", "screen-data:/d", "portside/base", "sleep",
           "1000")  # fmt: skip
    yield
    docker("rm", "-f", "screen-a", "screen-b", check=False)
    docker("volume", "rm", "-f", "screen-data", check=False)


def state_of(docker: Docker, name: str) -> str:
    return str(docker("inspect", "-f", "{{.State.Status}}", name).stdout.strip())


def eventually(check: Callable[[], bool], terminal: Terminal) -> None:
    terminal.until(lambda _: check(), "the change")


def test_screen_of_containers(engine: RunningEngine, docker: Docker, two: None) -> None:
    terminal = Terminal(engine, "top")
    try:
        terminal.sees("screen-a")
        terminal.sees("screen-b")
        # a filter, then the log of what is chosen
        terminal.press("/")
        terminal.sees("Filter;")
        terminal.press("screen-a")
        terminal.until(lambda text: "screen-b" not in text, "only screen-a")
        terminal.press("\r")
        terminal.sees("l Logs")  # the keys are the table's again, no longer the filter's
        terminal.until(lambda text: re.search(r"screen-a .*\d\.\d\d%", text), "a sample")
        terminal.press("l")
        terminal.sees("Log of screen-a")
        terminal.until(lambda text: len(re.findall(r"line \d+", text)) > 5, "lines")
        terminal.press("\x1b")
        terminal.until(lambda text: "Log of" not in text, "the table")
        # stop and start
        terminal.press("s")
        eventually(lambda: state_of(docker, "screen-a") == "exited", terminal)
        terminal.press("a")
        terminal.sees("Exited")
        terminal.press("s")
        eventually(lambda: state_of(docker, "screen-a") == "running", terminal)
        # a shell, and back
        terminal.until(lambda text: re.search(r"screen-a +Up", text), "it runs")
        terminal.press("e")
        terminal.sees("shell in screen-a")
        terminal.press("echo in-$((40+2)) > /proc/1/fd/1; exit\r")
        terminal.sees("Containers")
        eventually(lambda: "in-42" in docker("logs", "screen-a").stdout, terminal)
        # removal is asked first
        terminal.press("d")
        terminal.sees("Remove the container screen-a?")
        terminal.press("n")
        terminal.until(lambda text: "Remove the" not in text, "no question")
        assert state_of(docker, "screen-a") == "running"
        terminal.press("q")
        terminal.until(lambda _: terminal.process.poll() == 0, "the end")
    finally:
        terminal.process.kill()
        terminal.close()


def test_mouse_images_and_volumes(engine: RunningEngine, docker: Docker, two: None) -> None:
    terminal = Terminal(engine, "ui", "--all")
    try:
        terminal.sees("screen-a")
        terminal.click("Name")
        terminal.sees("Name ↑")
        terminal.until(
            lambda text: 0 < text.find("screen-a") < text.find("screen-b"), "sorted by name"
        )
        terminal.click("Name ↑")
        terminal.until(
            lambda text: 0 < text.find("screen-b") < text.find("screen-a"), "the other way"
        )
        terminal.sees("Start/stop")
        terminal.click("2 Images")
        terminal.sees("portside/base")
        terminal.until(lambda text: "Start/stop" not in text, "only the keys for images")
        terminal.press("3")
        terminal.sees("screen-data")
        docker("rm", "-f", "screen-b")
        terminal.press("d")
        terminal.sees("Remove the volume screen-data?")
        terminal.press("y")
        names = "{{.Name}}"
        eventually(
            lambda: "screen-data" not in docker("volume", "ls", "--format", names).stdout, terminal
        )
        terminal.press("q")
        terminal.until(lambda _: terminal.process.poll() == 0, "the end")
    finally:
        terminal.process.kill()
        terminal.close()


def test_an_engine_that_goes_and_comes_back(private_engine: RunningEngine) -> None:
    """The cause is shown once, the title says it until the engine answers again."""
    terminal = Terminal(private_engine, "ui")
    try:
        terminal.sees("Start/stop")
        private_engine.kill()
        terminal.sees("(does not answer)")
        # it stays for longer than the pause between attempts: one for each would never end
        terminal.until(lambda text: "Cannot connect" not in text, "the message's end")
        assert "(does not answer)" in terminal.text
        private_engine.start()
        terminal.until(lambda text: "(does not answer)" not in text, "the engine")
        terminal.press("q")
        terminal.until(lambda _: terminal.process.poll() == 0, "the end")
    finally:
        terminal.process.kill()
        terminal.close()


def test_stats_of_named_containers(engine: RunningEngine, two: None) -> None:
    """As Docker: each container once, every unknown name reported, no fields but Docker's."""
    once = run(engine, "stats", "--no-stream", "--format", "{{.Name}}", "screen-b", "screen-b")
    assert (once.returncode, once.stdout) == (0, "screen-b\n")
    for options in ((), ("--no-stream",)):
        missing = run(engine, "stats", *options, "no-one", "screen-b", "no-other")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert missing.stderr.splitlines() == [
            f"Error response from daemon: No such container: {name}"
            for name in ("no-one", "no-other")
        ]
    fields = run(engine, "stats", "--no-stream", "--format", "json", "screen-b").stdout
    assert "MemPerc" in fields and "History" not in fields


def run(engine: RunningEngine, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "portside", *words], capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "DOCKER_HOST": engine.host, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip


def test_no_screen_without_a_terminal(engine: RunningEngine) -> None:
    found = run(engine, "ui")
    assert found.returncode == 1 and "needs a terminal" in found.stderr
    assert "stats --no-stream" in found.stderr
    found = run(engine, "top")
    assert found.returncode == 1 and "requires at least 1 argument" in found.stderr


def test_live_stats_in_a_terminal_and_a_pipe(engine: RunningEngine, two: None) -> None:
    terminal = Terminal(engine, "stats", "--history", "screen-a", "screen-b")
    try:
        terminal.until(lambda text: re.search(r"screen-a +\d+\.\d\d%", text), "a sample")
        assert "CPU 2 MIN" in terminal.text and terminal.text.count("NAME") == 1
        terminal.until(lambda text: re.search(r"screen-a.*[▁▂▃▄▅▆▇█]{3}", text), "sparklines")
        assert terminal.text.count("screen-a") == 1, "drawn over, not below"
    finally:
        terminal.press("\x03")
        assert terminal.close() == 130
    piped = subprocess.Popen(
        [sys.executable, "-m", "portside", "stats", "--format", "{{.Name}} {{.CPUPerc}}",
         "screen-a"],
        stdout=subprocess.PIPE, text=True, preexec_fn=_interruptible,
        env={**os.environ, "DOCKER_HOST": engine.host, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert piped.stdout is not None
    try:
        lines = [piped.stdout.readline() for _ in range(3)]
    finally:
        piped.send_signal(signal.SIGINT)
        piped.wait(30)
        piped.stdout.close()
    assert all(re.fullmatch(r"screen-a \d+\.\d\d%\n", line) for line in lines), lines


def test_history_of_a_monitor(engine: RunningEngine, two: None, tmp_path: Path) -> None:
    from monitorkit import RunningMonitor, until

    nothing = run(engine, "stats", "--no-stream", "--history", "screen-a")
    assert "no monitor answers at" in nothing.stderr and "CPU 2 MIN" in nothing.stdout
    monitor = RunningMonitor(tmp_path, engine=engine.host).start()
    os.environ["PORTSIDE_MONITOR"] = f"http://127.0.0.1:{monitor.port}"
    try:
        until(lambda: monitor.request("/api/portside/v1/group?name=screen-a")[0] == 200)
        shown = until(
            lambda: re.search(
                r"[▁▂▃▄▅▆▇█]{2}",
                run(engine, "stats", "--no-stream", "--history", "--format",
                    "{{.CPUHistory}}", "screen-a").stdout,
            ),
            "no sparkline", 60,
        )  # fmt: skip
        assert shown
    finally:
        del os.environ["PORTSIDE_MONITOR"]
        monitor.stop()
