"""Docker's stream of JSON messages as lines: live on a terminal, one by one elsewhere."""

from __future__ import annotations

import os

from portside.cli.stream_pump import write_all
from portside.model.errors import PortsideError
from portside.model.golang.sizes import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


class StreamFailed(PortsideError):
    """The work failed after the engine had begun to report progress."""


def show(
    messages: Iterable[dict[str, Any]],
    fd: int = 1,
    on_aux: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Print messages as they arrive. Raises StreamFailed when one reports a failure."""
    screen: Screen | Plain = Screen(fd) if os.isatty(fd) else Plain(fd)
    for message in messages:
        if message.get("error"):
            detail = message.get("errorDetail") or {}
            raise StreamFailed(str(detail.get("message") or message["error"]))
        if message.get("aux") is not None:
            if on_aux is not None:
                on_aux(message["aux"])
            continue
        screen.show(message)


def drain(
    messages: Iterable[dict[str, Any]], on_aux: Callable[[dict[str, Any]], None] | None = None
) -> None:
    """Print nothing, but fail as :func:`show` does."""
    for message in messages:
        if message.get("error"):
            raise StreamFailed(str(message["error"]))
        if message.get("aux") is not None and on_aux is not None:
            on_aux(message["aux"])


class Plain:
    """Not a terminal: a line for what happens, none for how far it is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def show(self, message: dict[str, Any]) -> None:
        if message.get("stream"):
            write_all(self._fd, str(message["stream"]).encode())
            return
        if message.get("progressDetail") and message.get("progress"):
            return
        item = f"{message['id']}: " if message.get("id") else ""
        write_all(self._fd, f"{item}{message.get('status', '')}\n".encode())


class Screen:
    """A terminal: an item's line is overwritten by its next message."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: dict[str, int] = {}

    def show(self, message: dict[str, Any]) -> None:
        if message.get("stream"):
            self._write(str(message["stream"]).replace("\n", "\r\n"))
            self._lines.clear()
            return
        item = str(message.get("id") or "")
        text = str(message.get("status", ""))
        if item:
            text = f"{item}: {text}"
        if bar := self._bar(message):
            text = f"{text} {bar}"
        if not item:
            self._lines.clear()
            self._write(f"{text}\r\n")
            return
        if "progressDetail" not in message:
            self._lines.clear()
            self._write(f"{text}\r\n")
            return
        below = len(self._lines) - self._lines.setdefault(item, len(self._lines))
        if below <= 0:  # a new item
            self._write(f"\x1b[2K{text}\r\n")
        else:
            self._write(f"\x1b[{below}A\x1b[2K\r{text}\r\x1b[{below}B")

    def _write(self, text: str) -> None:
        write_all(self._fd, text.encode())

    def _bar(self, message: dict[str, Any]) -> str:
        detail = message.get("progressDetail") or {}
        current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
        if current <= 0 and total <= 0:
            return ""
        if total <= 0 or current > total:
            units = detail.get("units")
            return f"{current} {units}" if units else f"{human_size(current):>8}"
        try:
            room = os.get_terminal_size(self._fd).columns
        except OSError:
            room = 80
        half = min(current * 50 // total, 50)
        numbers = f"{human_size(current):>8}/{human_size(total)}"
        if room <= 110:
            return numbers
        return f"[{'=' * half}{'>' if half < 50 else ''}{' ' * (49 - half)}] {numbers}"
