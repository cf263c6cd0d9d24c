"""Progress of long work as plain values, and the JSON messages Docker makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from portside.model.golang.sizes import human_size


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One message. Either ``stream`` text, or a ``status`` (of the item ``id``), or ``aux``."""

    status: str = ""
    id: str = ""
    current: int = 0
    """Bytes done; 0 with ``total`` 0 means nothing to count."""
    total: int = 0
    """Bytes in all; 0 when not known."""
    is_item: bool = False
    """A line of its own that is overwritten by later messages of the same ``id``."""
    stream: str = ""
    aux: Any = None
    """A result in the middle of the stream, any JSON value."""

    def message(self) -> dict[str, Any]:
        """Docker's JSON message (``jsonmessage``)."""
        if self.stream:
            return {"stream": self.stream}
        if self.aux is not None:
            return {"progressDetail": {}, "aux": self.aux}
        message: dict[str, Any] = {"status": self.status}
        if self.is_item:
            message["progressDetail"] = self._detail()
        if self.current > 0 or self.total > 0:
            message["progress"] = bar(self.current, self.total)
        if self.id:
            message["id"] = self.id
        return message

    def _detail(self) -> dict[str, int]:
        detail: dict[str, int] = {}
        if self.current > 0:
            detail["current"] = self.current
        if self.total > 0:
            detail["total"] = self.total
        return detail


Report = Callable[[Progress], None]
"""Receives progress; must not block and must not raise."""


def quiet(_: Progress) -> None:
    """A Report for callers that do not care."""


def bar(current: int, total: int) -> str:
    """``[=====>     ]  1.2MB/3.4MB`` as older clients print it."""
    if total <= 0 or current > total:
        return f"{human_size(current):>8}"
    done = current * 100 // total // 2
    return f"[{'=' * done}>{' ' * (50 - done)}] {human_size(current):>8}/{human_size(total)}"
