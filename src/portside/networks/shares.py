"""Shares of a resource that all containers use: one container cannot take it from the others.

A user of the resource gets at most ``each``. When the ``total`` is used up, those that have
less than ``assured`` still get what they ask for, so a few that took much cannot stop the rest.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Hashable


class Shares:
    """Counts what each user of one resource has. Used from the event loop only."""

    def __init__(self, each: int, total: int = 0, assured: int = 8) -> None:
        """``total`` 0: a quarter of the descriptors that the process may open."""
        self._each, self._assured = each, assured
        self._total = total or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._taken: Counter[Hashable] = Counter()
        self._sum = 0

    def take(self, user: Hashable) -> bool:
        """One more for ``user``; False when its share is used up."""
        if not self.available(user):
            return False
        self._taken[user] += 1
        self._sum += 1
        return True

    def available(self, user: Hashable) -> bool:
        """Whether ``take`` would succeed."""
        have = self._taken.get(user, 0)
        return have < self._each and (self._sum < self._total or have < self._assured)

    @property
    def full(self) -> bool:
        """Whether nothing is left but what each user is assured of."""
        return self._sum >= self._total

    def give(self, user: Hashable) -> None:
        """``user`` has one less."""
        self._sum -= 1
        self._taken[user] -= 1
        if not self._taken[user]:
            del self._taken[user]
