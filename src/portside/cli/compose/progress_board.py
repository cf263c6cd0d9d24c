"""Progress of the work on a project: a board on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import threading
import time

from portside.compose.progress_events import DONE, ERROR, WARNING, WORKING, Event
from portside.model.light_dataclass import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

_DRY = "DRY-RUN MODE - "
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BARS = "⠀⡀⣀⣄⣤⣦⣶⣷⣿"
_SIGNS = {DONE: "\x1b[32m✔\x1b[0m", WARNING: "\x1b[33m!\x1b[0m", ERROR: "\x1b[31m✘\x1b[0m"}
_COLORS = {DONE: "32", WARNING: "33;1", ERROR: "31;1"}
_REDRAW = 0.1
"""Seconds between two pictures; time that has passed is part of them."""


class Board:
    """Shows nothing: the base of the others, and what ``quiet`` is."""

    def report(self, event: Event) -> None:
        """Called by any thread."""

    def finish(self) -> None:
        """Show the last state, and stop."""


class Lines(Board):
    """One line for each event."""

    def __init__(self, dry_run: bool, stream: TextIO) -> None:
        self._stream = stream
        self._prefix = _DRY if dry_run else ""
        self._lock = threading.Lock()

    def report(self, event: Event) -> None:
        with self._lock:
            self._stream.write(f"{self._prefix} {event.id} {event.detail} {event.text}\n")
            self._stream.flush()


class Json(Board):
    """One JSON object for each event."""

    def __init__(self, dry_run: bool, stream: TextIO) -> None:
        self._stream = stream
        self._dry_run = dry_run
        self._lock = threading.Lock()

    def report(self, event: Event) -> None:
        import json

        found: dict[str, Any] = {
            "dry-run": self._dry_run, "id": event.id, "parent_id": event.parent,
            "text": event.detail, "status": event.text, "current": event.current,
            "total": event.total, "percent": event.percent,
        }  # fmt: skip
        text = json.dumps({key: value for key, value in found.items() if value},
                          ensure_ascii=False, separators=(",", ":"))  # fmt: skip
        with self._lock:
            self._stream.write(f"{text}\n")
            self._stream.flush()


class _Item:
    """The state of one resource."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.begun = time.monotonic()
        self.ended: float | None = None

    def take(self, event: Event) -> None:
        last = self.event
        if event.status == WORKING:
            self.ended = None
        elif self.ended is None or last.status == WORKING:
            self.ended = time.monotonic()
        self.event = replace(
            event, current=max(last.current, event.current),
            total=max(last.total, event.total), percent=max(last.percent, event.percent),
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        return (time.monotonic() if self.ended is None else self.ended) - self.begun


class Screen(Board):
    """A terminal: one line for each resource, drawn over again while work is under way."""

    def __init__(self, dry_run: bool, title: str, stream: TextIO) -> None:
        self._stream = stream
        self._prefix = f"\x1b[36m{_DRY}\x1b[0m" if dry_run else ""
        self._title = title
        self._items: dict[str, _Item] = {}
        self._drawn = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def report(self, event: Event) -> None:
        with self._lock:
            item = self._items.get(event.id)
            if item is None:
                item = self._items[event.id] = _Item(event)
            item.take(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._draw_on, daemon=True)
                self._thread.start()

    def finish(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._draw()

    def _draw_on(self) -> None:
        while not self._over.wait(_REDRAW):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            lines = self._lines()
            up = f"\x1b[{self._drawn}A" if self._drawn else ""
            text = "".join(f"\x1b[2K{line}\n" for line in lines)
            self._stream.write(f"\x1b[?25l{up}\r{text}\x1b[J\x1b[?25h")
            self._stream.flush()
            self._drawn = len(lines)

    def _lines(self) -> list[str]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
            columns, rows = size.columns or 80, size.lines or 24
        except OSError:
            columns, rows = 80, 24
        done = sum(item.event.status != WORKING for item in self._items.values())
        first = f"[+] {self._title} {done}/{len(self._items)}"
        lines = [f"\x1b[34m{first}\x1b[0m" if done == len(self._items) else first]
        width = max((len(item.event.id) for item in self._items.values()), default=0)
        shows_parts = len(self._items) <= rows - 2
        for item in self._items.values():
            if item.event.parent:
                continue
            parts = [other for other in self._items.values()
                     if other.event.parent == item.event.id]  # fmt: skip
            lines.append(self._line(item, parts, "", width, columns))
            if shows_parts:
                lines += [self._line(part, [], "  ", width - 2, columns) for part in parts]
        return [lines[0], *lines[max(1, len(lines) - (rows - 2)) :]]

    def _line(self, item: _Item, parts: list[_Item], pad: str, width: int, columns: int) -> str:
        event = item.event
        sign = _SIGNS.get(event.status)
        if sign is None:
            sign = f"\x1b[33m{_SPINNER[int(item.seconds * 10) % len(_SPINNER)]}\x1b[0m"
        name = event.id
        if parts and event.status == WORKING:
            bar = "".join(_BARS[(len(_BARS) - 1) * part.event.percent // 100] for part in parts)
            total = sum(part.event.total for part in parts)
            current = sum(part.event.current for part in parts)
            name += f" [{bar}]" + (f" {_size(current):>7} / {_size(total):<7}" if total else "")
        elif event.detail:
            name += f" {event.detail}"
        timer = f"{item.seconds:.1f}s "
        room = columns - len(pad) - 3 - max(len(name), width) - 1 - len(timer)
        status = event.text.partition("\n")[0][: max(room - 1, 0)]
        shown = (
            f"\x1b[{_COLORS[event.status]}m{status}\x1b[0m" if event.status in _COLORS else status
        )
        gap = " " * max(room - len(status), 0)
        return f"{pad} {sign} {self._prefix}{name:<{width}} {shown}{gap}\x1b[34m{timer}\x1b[0m"


def _size(count: int) -> str:
    from portside.model.golang.sizes import human_size

    return human_size(count, 4)


def board(mode: str, dry_run: bool, title: str, stream: TextIO) -> Board:
    """A board of a mode: auto, tty, plain, json or quiet."""
    if mode == "quiet":
        return Board()
    if mode == "json":
        return Json(dry_run, stream)
    if mode == "tty" or (mode == "auto" and stream.isatty()):
        return Screen(dry_run, title, stream)
    return Lines(dry_run, stream)
