"""A build on a terminal: one line a step with its time, rewritten while steps run."""

from __future__ import annotations

import os
import time

from portside.cli.build.build_progress import Silent, Vertex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INTERVAL = 0.15
_LOG_ROWS = 6
"""Output lines shown below a running step."""


class Screen(Silent):
    """``--progress=tty``."""

    timeout: float | None = _INTERVAL

    def __init__(self) -> None:
        super().__init__()
        self._rows = 0
        self._drawn = 0.0

    def show(self, message: dict[str, Any]) -> None:
        super().show(message)
        if time.monotonic() - self._drawn >= _INTERVAL:
            self._draw()

    def tick(self) -> None:
        self._draw()

    def close(self, failed: bool) -> None:
        self._draw(final=True, failed=failed)

    def _draw(self, *, final: bool = False, failed: bool = False) -> None:
        self._drawn = time.monotonic()
        if self._held is not None:
            self._rows = 0  # drawn anew below what was shown meanwhile
            return
        try:
            size = os.get_terminal_size(2)
            columns, rows = max(size.columns, 20), max(size.lines, 6)
        except OSError:
            columns, rows = 80, 24
        lines = self._lines(columns, final, failed)
        if not final and len(lines) > rows - 1:
            lines = [lines[0], *lines[-(rows - 2) :]]
        text = f"\x1b[{self._rows}A" if self._rows else ""
        text += "".join(f"\r\x1b[2K{line}\n" for line in lines) + "\x1b[J"
        self._rows = 0 if final else len(lines)
        self.write(text)

    def _lines(self, columns: int, final: bool, failed: bool) -> list[str]:
        vertices = [v for v in self.record.vertices.values() if v.started]
        done = sum(bool(v.completed) for v in vertices)
        state = "ERROR" if failed else "FINISHED" if final else ""
        seconds = time.time() - self.record.began
        lines = [f"[+] Building {seconds:.1f}s ({done}/{len(vertices)}) {state}".rstrip()]
        for vertex in vertices:
            lines.append(_line(vertex, columns))
            if not vertex.completed and not final:
                lines += [f" => => # {line[: columns - 9]}" for line in vertex.lines[-_LOG_ROWS:]]
        return lines


def _line(vertex: Vertex, columns: int) -> str:
    mark = "CACHED " if vertex.cached else "ERROR " if vertex.error else ""
    left, right = f" => {mark}{vertex.name}", f"{vertex.seconds:.1f}s"
    room = columns - len(right) - 1
    if len(left) > room:
        left = left[: room - 3] + "..."
    color = "\x1b[31m" if vertex.error else "\x1b[34m" if vertex.completed else ""
    return f"{color}{left:<{room}} {right}" + ("\x1b[0m" if color else "")
