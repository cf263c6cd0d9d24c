"""The engine's look at the disk: a warning before it is full, and the way back when it was."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portside.engine.events import EventBus
    from portside.store.store import Store

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two looks; each is one system call."""


class SpaceWatch:
    """Publishes ``disk-low`` and ``disk-recovered`` as events of the daemon."""

    def __init__(self, store: Store, events: EventBus, identity: str) -> None:
        self._store, self._events, self._identity = store, events, identity
        self._low = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.look()

    def look(self) -> None:
        """Look now, and again later."""
        self._timer = asyncio.get_running_loop().call_later(EVERY, self.look)
        space = self._store.space
        self._store.db.come_home()
        if space.low == self._low:
            return
        self._low = space.low
        attributes = {
            "path": str(self._store.root), "free": str(space.free), "total": str(space.total),
        }  # fmt: skip
        self._events("daemon", "disk-low" if space.low else "disk-recovered", self._identity,
                     attributes)  # fmt: skip
        if space.low:
            log.warning("%s", "; ".join(self.warnings()))

    def warnings(self) -> tuple[str, ...]:
        """Warnings of ``info`` and ``system df`` about the disk; empty when there is room."""
        space, root = self._store.space, self._store.root
        found = []
        if self._store.db.spilled or space.full:
            found.append(
                f"WARNING: the disk of {root} is full: containers, images and volumes can be "
                "stopped, removed and looked at; nothing new can be made"
            )
        elif space.low:
            found.append(
                f"WARNING: the disk of {root} is nearly full: {_size(space.free)} of "
                f"{_size(space.total)} are free"
            )
        if self._store.backups.damaged:
            found.append(
                f"WARNING: the metadata of {root} are damaged: stop the engine and run "
                "`portside system check --repair --offline`"
            )
        return tuple(found)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
