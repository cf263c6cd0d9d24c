"""Counts bytes and reports them at a bearable rate."""

from __future__ import annotations

import time

from portside.model.digest import Digest
from portside.model.ids import SHORT
from portside.model.progress import Progress, Report

_PERIOD = 0.1
"""Seconds between two reports of one item."""


class Meter:
    """Progress of one item (a layer), shown under its short digest."""

    def __init__(self, report: Report, digest: str, total: int) -> None:
        self._report = report
        self.id = Digest(digest).hex[:SHORT]
        self.total = max(total, 0)
        self._next = 0.0
        self.status = ""

    def say(self, status: str) -> None:
        """A new state without counts."""
        self.status, self._next = status, 0.0
        self._report(Progress(status=status, id=self.id, is_item=True))

    def count(self, status: str, current: int) -> None:
        """``current`` bytes are done; most calls only look at the clock."""
        moment = time.monotonic()
        if status == self.status and moment < self._next:
            return
        self.status, self._next = status, moment + _PERIOD
        self._report(
            Progress(status=status, id=self.id, is_item=True, current=current, total=self.total)
        )
