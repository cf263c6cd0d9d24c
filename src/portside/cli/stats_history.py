"""``stats --history``: the last two minutes as sparklines, from the monitor where one answers.

Without a monitor they begin empty and fill while the table is shown.
"""

from __future__ import annotations

import os
import time
from collections import deque

from portside.cli.stats_table import cpu_percent, memory_used
from portside.client.client import quote
from portside.model import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from portside.cli.stats_table import Entry

_BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24
"""Characters of a sparkline: five seconds each."""
_WINDOW = 5 * WIDTH
_AGAIN = 5.0
_NAMES = 50
"""Containers in one request to the monitor."""
ADDRESS = "http://127.0.0.1:8080"
"""Where a monitor listens unless set otherwise; ``PORTSIDE_MONITOR`` names another."""


def sparkline(values: Iterable[float | None], top: float = 0.0) -> str:
    """Bars from 0 to the highest value (or ``top``, if that is higher); a blank for no value."""
    found = list(values)
    highest = max([value for value in found if value is not None] + [top, 1e-9])
    last = len(_BARS) - 1
    return "".join(
        " " if value is None else _BARS[min(last, int(value / highest * last + 0.5))]
        for value in found
    )


class History:
    """Sparklines of all containers in the table."""

    def __init__(self, address: str = "") -> None:
        self._address = (address or os.environ.get("PORTSIDE_MONITOR") or ADDRESS).rstrip("/")
        self._own: dict[str, tuple[deque[float], deque[float]]] = {}
        self._due = 0.0
        self.problem = ""
        """Why there is no history; empty while the monitor answers."""
        if not self._address.startswith(("http://", "https://")):
            self.problem = (
                f"the monitor's address (PORTSIDE_MONITOR) must be http://HOST:PORT, "
                f"not {self._address!r}"
            )

    def update(self, entries: list[Entry]) -> None:
        """Fill the entries' sparklines; the monitor is read every five seconds."""
        now = time.monotonic()
        if now < self._due:
            return
        known = self._asked(entries) if not self.problem else {}
        self._due = now + (_AGAIN if known else 1.0)
        for entry in entries:
            cpu, memory = self._sampled(entry)
            series = known.get(_id(entry))
            if series is not None:
                entry.history = (sparkline(series[0], 0.01), sparkline(series[1]))
            else:
                entry.history = (_padded(sparkline(cpu, 1.0)), _padded(sparkline(memory)))

    def _sampled(self, entry: Entry) -> tuple[deque[float], deque[float]]:
        """This command's own samples of a container."""
        kept = self._own.setdefault(entry.asked, (deque(maxlen=WIDTH), deque(maxlen=WIDTH)))
        if entry.sample is not None:
            kept[0].append(cpu_percent(entry.sample))
            kept[1].append(memory_used(entry.sample))
        return kept

    def _asked(self, entries: list[Entry]) -> dict[str, tuple[list[float | None], ...]]:
        """The monitor's history by the container's ID; empty, and a problem, without it."""
        found: dict[str, tuple[list[float | None], ...]] = {}
        names = [name for entry in entries if (name := _id(entry))]
        try:
            for start in range(0, len(names), _NAMES):
                found |= self._part(names[start : start + _NAMES])
        except OSError as err:
            cause = getattr(err, "reason", err)  # urllib wraps what the system said
            why = str(getattr(cause, "strerror", None) or cause).lower()
            self.problem = (
                f"no monitor answers at {self._address}: {why}: 'portside monitor' starts one, "
                "and PORTSIDE_MONITOR names another address"
            )
        except (ValueError, KeyError, TypeError):
            self.problem = f"what answers at {self._address} is not a Portside monitor"
        return found

    def _part(self, names: list[str]) -> dict[str, tuple[list[float | None], ...]]:
        import urllib.request

        # "/", the machine, makes it several names: of these, unknown ones are left out
        query = "&".join(f"name={quote(name)}" for name in ["/", *names])
        url = f"{self._address}/api/portside/v1/history?{query}&window={_WINDOW}s&points={WIDTH}"
        with urllib.request.urlopen(f"{url}&series=cpu,working_set", timeout=3) as answer:
            charts = jsontext.loads(answer.read(8 << 20))
        return {
            _container(chart["name"]): tuple(
                _carried(chart["series"][name]["mean"]) for name in ("cpu", "working_set")
            )
            for chart in charts
        }


def _container(group: str) -> str:
    """The ID in a group's path: ``/docker/ID``, ``/system.slice/docker-ID.scope``."""
    return group.rpartition("/")[2].removesuffix(".scope").rpartition("-")[2]


def _carried(values: list[float | None]) -> list[float | None]:
    """An idle container is looked at less often: its last value counts on."""
    last: float | None = None
    found = []
    for value in values:
        last = last if value is None else value
        found.append(last)
    return found


def _id(entry: Entry) -> str:
    return str((entry.sample or {}).get("id", ""))


def _padded(text: str) -> str:
    return " " * (WIDTH - len(text)) + text
