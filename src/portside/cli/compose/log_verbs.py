"""logs, events, attach and stats."""

from __future__ import annotations

import sys

from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.compose.project_lists import one_container
from portside.cli.session import Failed
from portside.client.client import filters_text
from portside.compose.observed import Container, containers
from portside.compose.requests import ONEOFF, PROJECT, SERVICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.cli.compose.log_lines import LogPrinter
    from portside.flags.table import Options


@compose_verb("logs", usage="[OPTIONS] [SERVICE...]", about="Show the output of containers",
              flags="""
  -f, --follow          Follow log output
      --index int       Which of the service's containers
      --no-color        Print without colours
      --no-log-prefix   Print without names before lines
      --since string    Only from this time on (2024-01-02T13:23:37Z, or 42m for 42 minutes ago)
  -n, --tail string     Lines from the end of each log (default "all")
  -t, --timestamps      Show when each line was written
      --until string    Only before this time (2024-01-02T13:23:37Z, or 42m for 42 minutes ago)
""")  # fmt: skip
def logs(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.cli.compose.log_lines import LogPrinter
    from portside.cli.times import engine_time

    index = options.number("index") or 0
    if index and len(arguments) != 1:
        raise Failed(1, "--index requires one service to be selected")
    project, name = session.project_or_name(arguments)
    services = list(arguments)
    if project is not None and not services:
        services = [key for key, item in project.services.items()
                    if item.get("attach") is not False]  # fmt: skip
    found = containers(session.pool, name, services=services)
    if index:
        found = [one_container(session, name, arguments[0], index, all=True)]
    found.sort(key=lambda item: item.name)
    printer = LogPrinter(
        color=session.has_colors and not options.flag("no-color"),
        prefix=not options.flag("no-log-prefix"), timestamps=False, terminal=session.is_terminal,
    )  # fmt: skip
    printer.register(item.short_name for item in found)
    query = {
        "tail": options.text("tail", "all"),
        "since": engine_time(options.text("since"), "since"),
        "until": engine_time(options.text("until"), "until"),
    }
    timestamps = options.flag("timestamps")
    if options.flag("follow"):
        query["timestamps"] = "1" if timestamps else None
        _follow(session, name, services, found, printer, query)
    else:
        _print_all(session, found, printer, query, timestamps)
    return 0


def _print_all(
    session: ComposeSession, found: list[Container], printer: LogPrinter, query: dict[str, Any],
    timestamps: bool,
) -> None:  # fmt: skip
    """The logs of all containers, joined by time."""
    import heapq

    def entries(item: Container) -> Iterator[tuple[str, str, str]]:
        from portside.cli.compose.log_streams import open_log
        from portside.client.framed_lines import Lines

        response, framed = open_log(
            session.another_client(), item.id, {**query, "timestamps": True}
        )
        lines = Lines(framed)
        for piece in response.pieces():
            for text, _ in lines.feed(piece):
                stamp, _, rest = text.partition(" ")
                yield stamp, item.short_name, text if timestamps else rest
        for text, _ in lines.end():
            stamp, _, rest = text.partition(" ")
            yield stamp, item.short_name, text if timestamps else rest
        response.close()

    for _, name, text in heapq.merge(*map(entries, found), key=lambda entry: entry[0]):
        printer.line(name, text)


def _follow(
    session: ComposeSession, name: str, services: list[str], found: list[Container],
    printer: LogPrinter, query: dict[str, Any],
) -> None:  # fmt: skip
    from portside.cli.compose.log_streams import LogStreams
    from portside.cli.compose.project_monitor import ProjectMonitor

    streams = LogStreams(session.pool, printer)
    monitor = ProjectMonitor(session.pool, name, services, printer, streams)
    monitor.log_query = {"timestamps": query.get("timestamps")}
    monitor.begin()
    for item in found:
        streams.follow(item, query)
    monitor.running = {item.id for item in found if item.state in ("running", "restarting")}
    while monitor.running:
        kind, value = monitor.queue.get()
        if kind == "ended":
            return
        monitor.take(value)
    streams.drain_all()


# -- events ----------------------------------------------------------------------------------


@compose_verb("events", usage="[OPTIONS] [SERVICE...]", about="Show what happens to containers",
              flags="""
      --json           Print a JSON object for each event
      --since string   Events since this time
      --until string   Until this time
""")  # fmt: skip
def events(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.cli.times import engine_time

    _, name = session.project_or_name()
    query = {
        "since": engine_time(options.text("since"), "since"),
        "until": engine_time(options.text("until"), "until"),
        "filters": filters_text({"type": ["container"], "label": [f"{PROJECT}={name}"]}),
    }
    for event in session.client.messages("GET", "/events", query):
        attributes = dict((event.get("Actor") or {}).get("Attributes") or {})
        service = attributes.get(SERVICE, "")
        if attributes.get(ONEOFF) == "True" or (arguments and service not in arguments):
            continue
        session.out(_event_text(event, service, attributes, options.flag("json")))
        sys.stdout.flush()
    return 0


def _event_text(
    event: dict[str, Any], service: str, attributes: dict[str, str], as_json: bool
) -> str:
    """One event, without the labels that Compose sets."""
    import time

    own = {key: value for key, value in sorted(attributes.items())
           if not key.startswith("com.docker.compose.")}  # fmt: skip
    nanoseconds = int(event.get("timeNano") or event.get("time", 0) * 10**9)
    parts = time.localtime(nanoseconds // 10**9)
    identifier = event["Actor"]["ID"]
    if as_json:
        from portside.compose.config_output import go_json

        zone = time.strftime("%z", parts)
        zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
        fraction = f"{nanoseconds % 10**9:09d}".rstrip("0")
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", parts) + (f".{fraction}" if fraction else "")
        return go_json(
            {"action": event["Action"], "attributes": own, "id": identifier, "service": service,
             "time": stamp + zone, "type": "container"}
        )  # fmt: skip
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", parts)
    text = ", ".join(f"{key}={value}" for key, value in own.items())
    return (f"{stamp}.{nanoseconds % 10**9 // 1000:06d} container {event['Action']} "
            f"{identifier} ({text})")  # fmt: skip


# -- attach and stats ------------------------------------------------------------------------


@compose_verb("attach", usage="[OPTIONS] SERVICE", arguments=(1, 1),
              about="Attach standard input, output and error to a service's container", flags="""
      --detach-keys string   Keys that detach from the container (default "ctrl-p,ctrl-q")
      --index int            Which of the service's containers
      --no-stdin             Do not forward standard input
      --sig-proxy            Forward signals to the process (default true)
""")  # fmt: skip
def attach(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.cli import attach_exec_logs

    _, name = session.project_or_name()
    item = one_container(session, name, arguments[0], options.number("index") or 0)
    return attach_exec_logs.attach(session, options, [item.id]) or 0


@compose_verb("stats", usage="[OPTIONS] [SERVICE]", about="Show what containers use, live",
              arguments=(0, 1), flags="""
  -a, --all             Also containers that do not run
      --format string   Print by a Go template, 'table TEMPLATE' or 'json'
      --no-stream       Print once
      --no-trunc        Do not shorten anything
""")  # fmt: skip
def stats(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.cli.stats import stats as of_containers

    _, name = session.project_or_name(arguments)
    found = containers(
        session.pool, name, all=options.flag("all"), one_off=None, services=arguments
    )
    if not found:
        return 0
    of_containers(session, options, [item.id for item in found])
    return 0
