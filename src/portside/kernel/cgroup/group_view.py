"""Attributes of a group that the modules of this folder read; for type checkers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from portside.kernel.cgroup.layout import Layout


class GroupView(Protocol):
    """See :class:`portside.kernel.cgroup.group.Cgroup`."""

    path: str
    layout: Layout

    def directory(self, controller: str) -> str: ...

    def pids(self) -> Sequence[int]: ...

    def oom_kills(self) -> int: ...
