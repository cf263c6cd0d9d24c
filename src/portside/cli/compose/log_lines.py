"""Lines of containers' output with their names before them, in colours that stay."""

from __future__ import annotations

import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import TextIO

_COLORS = ("36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1")


class LogPrinter:
    """Prints lines of several sources; called by any thread."""

    def __init__(self, *, color: bool, prefix: bool, timestamps: bool, terminal: bool) -> None:
        self._color, self._prefix, self._timestamps = color, prefix, timestamps
        self._terminal = terminal
        self._names: dict[str, str] = {}
        self._width = 0
        self._lock = threading.Lock()
        self._footer = ""
        """Stays below the output, on a terminal."""
        self._hidden = 0

    def register(self, names: Iterable[str]) -> None:
        """Give sources their colours, in this order."""
        with self._lock:
            for name in names:
                self._register(name)

    def _register(self, name: str) -> None:
        if name not in self._names:
            self._names[name] = _COLORS[len(self._names) % len(_COLORS)] if self._color else ""
            self._width = max(self._width, len(name) + 1)

    def _colored(self, name: str, text: str) -> str:
        color = self._names[name]
        return f"\x1b[{color}m{text}\x1b[0m" if color else text

    def line(self, name: str, text: str, error: bool = False) -> None:
        """A line of output; hooks' names are the container's with an arrow behind."""
        root = name.partition(" ")[0]
        with self._lock:
            self._register(root)
            before = ""
            if self._prefix:
                before = self._colored(root, f"{name:<{self._width}} | ")
            if self._timestamps:
                before += _now() + " "
            self._write(sys.stderr if error else sys.stdout, f"{before}{text}\n")

    def status(self, name: str, text: str) -> None:
        """Print an event of a source: ``web-1 exited with code 0``."""
        with self._lock:
            self._register(name)
            start = "\r\x1b[K" if self._terminal else ""
            self._write(sys.stdout, start + self._colored(name, f"{name} {text}") + "\n")

    def message(self, text: str) -> None:
        """A line about no source."""
        with self._lock:
            self._write(sys.stdout, f"{text}\n")

    # -- the line below the output ----------------------------------------------------------

    def footer(self, text: str) -> None:
        """Keep a text below the output; nothing ends it."""
        with self._lock:
            self._clear()
            self._footer = text
            self._draw()

    def __enter__(self) -> LogPrinter:
        """While entered, others write to the terminal: there is nothing below."""
        with self._lock:
            self._clear()
            self._hidden += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._hidden -= 1
            self._draw()

    def _clear(self) -> None:
        if self._footer and not self._hidden:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def _draw(self) -> None:
        if self._footer and not self._hidden:
            sys.stdout.write(self._footer)
            sys.stdout.flush()

    def _write(self, stream: TextIO, text: str) -> None:
        self._clear()
        stream.write(text)
        stream.flush()
        self._draw()


def _now() -> str:
    now = time.time_ns()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
    return f"{stamp}.{now % 10**9:09d}Z"
