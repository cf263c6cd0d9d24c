"""stats: a live table, or one sample of each container."""

from __future__ import annotations

from portside.cli.stats_table import Entry, chosen, show
from portside.cli.verb import verb
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.model import jsontext
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Sample = dict[str, Any]

_UNKNOWN = "--"


@verb("container stats", "stats", usage="[OPTIONS] [CONTAINER...]", completes="running",
      about="Show what containers use, live", arguments=(0, None), flags="""
  -a, --all             Also containers that do not run
      --format string   Print by a Go template, 'table TEMPLATE' or 'json'
      --history         Show the last two minutes as sparklines: from 'portside monitor' if one
                        answers at PORTSIDE_MONITOR (default http://127.0.0.1:8080)
      --no-stream       Print one sample and end
      --no-trunc        Do not shorten anything
""")  # fmt: skip
def stats(session: Session, options: Options, arguments: list[str]) -> int:
    session.client  # noqa: B018 - connects before threads do
    format = options.text("format") or session.config.text("statsFormat")
    if options.flag("no-stream"):
        return _once(session, options, arguments, format)
    from portside.cli.livestats import watch

    return watch(session, options, arguments, format)


def _once(session: Session, options: Options, arguments: list[str], format: str) -> int:
    """One sample of each container, measured at the same time: each takes a second."""
    client = session.client
    full = options.flag("no-trunc")
    entries, asked = [], []
    for name in chosen(session, client, options, arguments):
        connection = client.begin("GET", path_of("containers", name, "stats"), {"stream": False})
        entries.append(Entry(name, full))
        asked.append(connection)
    problems: list[PortsideError] = []
    for entry, connection in zip(entries, asked, strict=True):
        try:
            response = client.accepted(connection)
            entry.sample = jsontext.loads(response.read())
            response.close()
        except Refused as err:
            entry.gone = True
            if arguments:
                problems.append(err)
        except PortsideError as err:
            entry.gone = True
            problems.append(err)
    if not problems or not arguments:
        shown = [entry for entry in entries if not entry.gone]
        if options.flag("history"):
            from portside.cli.stats_history import History

            past = History()
            past.update(shown)
            if past.problem:
                session.warn(past.problem)
        show(session, shown, format, options.flag("history"))
    for problem in problems:
        from portside.cli.session import describe

        session.warn(describe(problem))
    return 1 if problems else 0
