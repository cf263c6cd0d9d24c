"""The live table of ``stats``: a stream for each container, one ``poll`` over all of them."""

from __future__ import annotations

import os
import select
import sys
import time

from portside.cli.stats_table import Entry, chosen, lines
from portside.client.client import filters_text, path_of
from portside.client.errors import Refused
from portside.model import jsontext
from portside.model.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from portside.cli.session import Session
    from portside.client.http import Response
    from portside.flags.table import Options

_CLEAR = "\x1b[H\x1b[J"
_LINE_END = "\x1b[K"
_REFRESH = 0.5
"""Seconds between two drawings of the table; samples arrive once a second."""
_PATIENCE = 2.0
"""Seconds after which a container without a new sample is shown as unknown."""


class StatsSource:
    """A stream of JSON lines that is read only when there is something."""

    def __init__(self, response: Response, entry: Entry | None) -> None:
        self.entry = entry
        self._response = response
        self._pieces: Iterator[bytes] = response.pieces()
        self._rest = b""
        self.fd = response.fileno()
        self.ended = False
        self.due = time.monotonic() + _PATIENCE
        """The time by which the next sample must arrive."""

    def messages(self) -> Iterator[object]:
        """The complete messages; ``ended`` is set at the end."""
        while not self.ended:
            try:
                piece = next(self._pieces, None)
            except Unavailable:
                piece = None
            if piece is None:
                self.ended = True
                return
            *whole, self._rest = (self._rest + piece).split(b"\n")
            for line in whole:
                if line.strip():
                    yield jsontext.loads(line)
            if not self._response.buffered:
                return

    def close(self) -> None:
        self._response.close()


class _Watch:
    def __init__(self, session: Session, options: Options, names: list[str]) -> None:
        self.session, self.options, self.names = session, options, names
        self.client = session.client
        self.full = options.flag("no-trunc")
        self.entries: dict[str, Entry] = {}
        self.sources: dict[int, StatsSource] = {}
        self.poll = select.poll()
        self.problems: list[Refused] = []
        """Why named containers cannot be shown."""

    def add(self, name: str) -> None:
        if name in self.entries:
            return
        entry = Entry(name, self.full)
        try:
            response = self.client.request(
                "GET", path_of("containers", name, "stats"), {"stream": True}
            )
        except Refused as err:
            if self.names:
                self.problems.append(err)
            return
        self.entries[name] = entry
        self._register(StatsSource(response, entry))

    def _register(self, source: StatsSource) -> None:
        self.sources[source.fd] = source
        self.poll.register(source.fd, select.POLLIN)

    def follow_events(self) -> None:
        """New containers appear by themselves when none were named."""
        kinds = ["create"] if self.options.flag("all") else ["start"]
        filters = filters_text({"type": ["container"], "event": [*kinds, "die", "destroy"]})
        response = self.client.request("GET", "/events", {"filters": filters})
        self._register(StatsSource(response, None))

    def ready(self, fd: int) -> None:
        source = self.sources[fd]
        for message in source.messages():
            if not isinstance(message, dict):
                continue
            if source.entry is not None:
                source.entry.sample = message
                source.due = time.monotonic() + _PATIENCE
            else:
                self._event(message)
        if source.ended:
            self._drop(source)

    def _event(self, event: dict[str, object]) -> None:
        actor = event.get("Actor")
        name = str(actor.get("ID", ""))[:12] if isinstance(actor, dict) else ""
        if event.get("Action") in ("start", "create"):
            self.add(name)
        elif event.get("Action") == "destroy" or not self.options.flag("all"):
            self.entries.pop(name, None)

    def expire(self) -> None:
        """Drop samples that were not followed by another in time."""
        now = time.monotonic()
        for source in self.sources.values():
            if source.entry is not None and source.due < now:
                source.entry.sample = None

    def is_waiting(self) -> bool:
        """Whether a container's first sample is still to come."""
        now = time.monotonic()
        return any(
            source.entry is not None and source.entry.sample is None and now < source.due
            for source in self.sources.values()
        )

    def _drop(self, source: StatsSource) -> None:
        self.poll.unregister(source.fd)
        del self.sources[source.fd]
        source.close()
        if source.entry is not None and not self.names:
            self.entries.pop(source.entry.asked, None)


def watch(session: Session, options: Options, arguments: list[str], format: str) -> int:
    """Until interrupted, or until no named container is left."""
    from portside.cli.session import describe

    watching = _Watch(session, options, arguments)
    if not arguments:
        watching.follow_events()
    for name in chosen(session, session.client, options, arguments):
        watching.add(name)
    if watching.problems:
        for problem in watching.problems:
            session.warn(describe(problem))
        return 1
    due = 0.0
    history = None
    if options.flag("history"):
        from portside.cli.stats_history import History

        history = History()
    while watching.sources:
        left = _REFRESH if watching.is_waiting() else max(due - time.monotonic(), 0)
        for fd, _ in watching.poll.poll(left * 1000):
            if fd in watching.sources:
                watching.ready(fd)
        if arguments and all(source.entry is None for source in watching.sources.values()):
            return 0
        if watching.is_waiting() or time.monotonic() < due:
            continue
        due = time.monotonic() + _REFRESH
        watching.expire()
        shown = list(watching.entries.values())
        if history is not None:
            history.update(shown)
        _draw(lines(shown, format, history is not None))
    return 0


def _draw(text: list[str]) -> None:
    if os.isatty(1):
        end = f"{_LINE_END}\n"
        sys.stdout.write(_CLEAR + "".join(line + end for line in text))
    else:
        sys.stdout.write("\n".join(text) + "\n")
    sys.stdout.flush()
