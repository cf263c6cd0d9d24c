"""version, info, events, system df, system audit, system check, system reset, daemon stop."""

from __future__ import annotations

import os

from portside.cli.verb import verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.client.client import Client
    from portside.flags.table import Options

FORMAT = """
  -f, --format string   Print by a Go template, or 'json'
"""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


# -- version ---------------------------------------------------------------------------------


@verb("version", usage="[OPTIONS]", about="Show the versions of this command and of the engine",
      flags=FORMAT)  # fmt: skip
def version(session: Session, options: Options, arguments: list[str]) -> int:
    from portside.cli.session import describe
    from portside.model.errors import PortsideError

    server, problem = None, ""
    try:
        server = session.client.get("/version")
    except PortsideError as err:
        problem = describe(err)
    client = _client_version(session)
    if options.given("format"):
        from portside.cli import shapes
        from portside.cli.format import print_value

        value = {"Client": client, "Server": server}
        shape = shapes.version
        print_value(session, options.text("format"), value, "version", "versionInfo", shape)
    else:
        session.out(_version_text(client, server))
    if problem:
        session.warn(problem)
    return 1 if problem else 0


def _client_version(session: Session) -> dict[str, Any]:
    from portside import __version__
    from portside.client.client import VERSION
    from portside.model import build_info

    machine = os.uname().machine
    return {
        "Platform": {"Name": "Portside"},
        "Version": __version__,
        "ApiVersion": session.client.version if session._client else VERSION,
        "DefaultAPIVersion": VERSION,
        "GitCommit": build_info.commit(),
        "GoVersion": "",
        "Os": "linux",
        "Arch": _ARCHITECTURES.get(machine, machine),
        "BuildTime": "",
        "Context": session.context,
    }


def _version_text(client: dict[str, Any], server: dict[str, Any] | None) -> str:
    lines = [
        f"Client: {client['Platform']['Name']}",
        f" Version:           {client['Version']}",
        f" API version:       {client['ApiVersion']}",
        f" OS/Arch:           {client['Os']}/{client['Arch']}",
        f" Context:           {client['Context']}",
    ]
    if server is None:
        return "\n".join(lines)
    name = (server.get("Platform") or {}).get("Name", "")
    lines += ["", f"Server: {name}".rstrip()]
    for component in server.get("Components") or ():
        details = component.get("Details") or {}
        lines += [f" {component['Name']}:", f"  Version:          {component['Version']}"]
        if component["Name"] == "Engine":
            minimum = details.get("MinAPIVersion") or server.get("MinAPIVersion", "")
            lines += [
                f"  API version:      {server['ApiVersion']} (minimum version {minimum})",
                f"  OS/Arch:          {server['Os']}/{server['Arch']}",
                f"  Kernel:           {server.get('KernelVersion', '')}",
            ]
        if details.get("GitCommit"):
            lines.append(f"  GitCommit:        {details['GitCommit']}")
    return "\n".join(lines)


# -- info ------------------------------------------------------------------------------------


@verb("info", "system info", usage="[OPTIONS]", about="Show information about the engine",
      flags=FORMAT)  # fmt: skip
def info(session: Session, options: Options, arguments: list[str]) -> int:
    from portside.cli import info_text

    return info_text.show(session, options.text("format"))


# -- events ----------------------------------------------------------------------------------


@verb("events", "system events", usage="[OPTIONS]", about="Show what happens in the engine, live",
      flags="""
  -f, --filter filter   Only events that match, such as type=container
      --format string   Print by a Go template, or 'json'
      --since string    Also events from this time on (2024-01-02T13:23:37Z, or 42m ago)
      --until string    End at this time
""")  # fmt: skip
def events(session: Session, options: Options, arguments: list[str]) -> None:
    import sys

    from portside.cli import format, shapes, table
    from portside.cli.times import engine_time
    from portside.client.client import filters_text

    query = {
        "since": engine_time(options.text("since")),
        "until": engine_time(options.text("until")),
        "filters": filters_text(table.filters(options)),
    }
    text = options.text("format")
    template = _event_template(text) if text else None
    for event in session.client.messages("GET", "/events", query):
        if template is None:
            session.out(_event_text(event))
        else:
            session.out(format.execute(template, shapes.event(event)))
        sys.stdout.flush()


def _event_template(text: str) -> Any:
    from portside.cli.session import Failed
    from portside.model.golang.template import ParseError, Template

    try:
        return Template("{{json .}}" if text == "json" else text)
    except ParseError as err:
        raise Failed(64, f"Error parsing format: {err}") from None


def _event_text(event: dict[str, Any]) -> str:
    """``2024-01-02T15:04:05.123456789Z container start ID (image=…, name=…)``."""
    import time

    nanoseconds = int(event.get("timeNano") or event.get("time", 0) * 10**9)
    parts = time.localtime(nanoseconds // 10**9)
    zone = time.strftime("%z", parts)
    shown = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", parts)
    actor = event.get("Actor") or {}
    line = (f"{stamp}.{nanoseconds % 10**9:09d}{shown} {event['Type']} {event['Action']} "
            f"{actor.get('ID', '')}")  # fmt: skip
    attributes = actor.get("Attributes") or {}
    if attributes:
        pairs = ", ".join(f"{name}={attributes[name]}" for name in sorted(attributes))
        line += f" ({pairs})"
    return line


# -- disk usage ------------------------------------------------------------------------------


@verb("system df", usage="[OPTIONS]", about="Show what uses the disk", flags="""
      --format string   Print by a Go template, 'table TEMPLATE' or 'json'
  -v, --verbose         Show each image, container and volume
""")  # fmt: skip
def df(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli import disk_usage

    disk_usage.show(session, options.text("format"), options.flag("verbose"))


# -- check and stop --------------------------------------------------------------------------


@verb("system check", usage="[OPTIONS]", about="Verify everything the engine has stored", flags="""
      --offline   Look at the data root while no engine runs (see --offline --help)
      --repair    Repair what can be repaired (download, rebuild or remove)
""")  # fmt: skip
def check(session: Session, options: Options, arguments: list[str]) -> int:
    from portside.cli import progress
    from portside.model.counted import counted
    from portside.model.golang.sizes import human_size

    repair = options.flag("repair")
    report: dict[str, Any] = {}
    query = {"repair": repair or None, "progress": True}
    messages = session.client.messages("POST", "/portside/check", query)
    if os.isatty(2):
        progress.show(messages, 2, on_aux=report.update)
    else:
        progress.drain(messages, on_aux=report.update)
    problems = report.get("problems") or []
    session.out(f"Read {counted(report['blobs'], 'blobs')} ({human_size(report['bytes'])}) and "
                f"{counted(report['layers'], 'layers')}: "
                f"{counted(len(problems), 'problems') if problems else 'no problems'}")  # fmt: skip
    left = 0
    for problem in problems:
        repaired = bool(problem.get("repaired"))
        left += not repaired
        words = [str(problem[key]) for key in ("kind", "subject", "text", "name", "message")
                 if problem.get(key)]  # fmt: skip
        session.out(f"  {': '.join(words)}" + (" (repaired)" if repaired else ""))
    if left and not repair:
        session.warn("Repair what can be repaired: portside system check --repair")
    return 1 if left else 0


@verb("system audit", usage="[OPTIONS]",
      about="Check the engine and its running containers by the CIS Docker Benchmark", flags="""
  -a, --all    Also show checks that pass
      --json   Print all findings as JSON
""")  # fmt: skip
def audit(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.model import jsontext

    findings = session.client.get("/portside/audit")
    if options.flag("json"):
        session.out(jsontext.dumps(findings, "    "))
        return
    counts = dict.fromkeys(("pass", "warn", "info"), 0)
    for item in findings:
        counts[item["verdict"]] += 1
        if item["verdict"] == "pass" and not options.flag("all"):
            continue
        subject = f" [{item['subject']}]" if item["subject"] else ""
        session.out(f"{item['verdict'].upper()}  {item['id']:5} {item['title']}{subject}")
        for text in (item["reason"], item["fix"]):
            if text:
                session.out(f"            {text}")
    session.out(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


@verb("daemon stop", usage="[OPTIONS]", about="End an engine; its containers continue", flags="""
      --containers   Also stop its containers
""")  # fmt: skip
def daemon_stop(session: Session, options: Options, arguments: list[str]) -> None:
    end_engine(session, containers=options.flag("containers"))


def end_engine(session: Session, *, containers: bool) -> None:
    """End the engine and wait for its end. Raises NotRunning."""
    from portside.cli import engine_unit
    from portside.client.errors import NotRunning

    if engine_unit.is_ended(session.endpoint):
        raise NotRunning(f"no engine runs at {session.endpoint.text}")
    query = {"containers": containers or None}
    _end(session.unconnected_client(), "/portside/daemon/stop", query)


@verb("system reset", usage="[OPTIONS]",
      about="Remove everything of the engine: containers, images, volumes, networks, and itself",
      flags="""
  -f, --force   Do not ask
""")  # fmt: skip
def system_reset(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.prune import confirm
    from portside.model.errors import SystemFailure
    from portside.model.paths import DEFAULT_DATA_ROOT, DEFAULT_LOG

    if _is_erased(session):
        session.out(f"Nothing to remove: there is no {DEFAULT_DATA_ROOT}, and no engine runs")
        return
    # What runs, what is mounted and what the kernel has of networks is known to an engine: where
    # none runs, one is started, which takes over all that and ends it.
    root = (session.client.get("/info") or {}).get("DockerRootDir", "")
    confirm(
        session, options,
        "WARNING! This will stop the engine and remove:\n  - all containers, running ones too\n"
        "  - all images\n  - all networks\n  - all volumes with the data in them\n"
        f"  - the engine's data root {root}\nNone of it can be brought back.\n",
    )  # fmt: skip
    local = _end(session.client, "/portside/reset", {})
    if local and os.path.isdir(root) and os.listdir(root):
        raise SystemFailure(f"{root} could not be deleted: the engine's log says why")
    if local and session.endpoint.is_default and os.path.exists(DEFAULT_LOG):
        os.unlink(DEFAULT_LOG)


def _is_erased(session: Session) -> bool:
    """This machine's engine does not run, and has no data."""
    from portside.cli import engine_unit
    from portside.model.paths import DEFAULT_DATA_ROOT, DEFAULT_SOCKET

    return (
        session.endpoint.is_default
        and session.endpoint.path == DEFAULT_SOCKET
        and not engine_unit.running_pid()
        and not (os.path.isdir(DEFAULT_DATA_ROOT) and os.listdir(DEFAULT_DATA_ROOT))
    )


def _end(client: Client, path: str, query: dict[str, Any]) -> bool:
    """Ask the engine to end, and wait until it has. Whether it ran on this machine."""
    from portside.cli import engine_unit

    socket_path = client.endpoint.path
    named = engine_unit.running_pid(os.path.dirname(socket_path)) if socket_path else 0
    response = client.request("POST", path, query)
    response.read()
    # The connection ends with the engine: wait for that, so that it has ended when we return.
    sock, _ = response._connection.steal()
    process = _peer(sock, named)
    while sock.recv(4096):
        pass
    if process is not None:
        _await_end(process)
    return process is not None


def _peer(sock: Any, named: int) -> int | None:
    """A pidfd of the process at the other end, if it is one of this machine.

    SO_PEERCRED identifies the process that called listen(2), see unix(7): with socket activation
    it is init, and the engine is the one that the pid file has ``named``.
    """
    import socket
    import struct

    if sock.family != socket.AF_UNIX:
        return None
    size = struct.calcsize("3i")
    pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    try:
        return os.pidfd_open(pid if pid > 1 else named) if max(pid, named) > 1 else None
    except OSError:
        return None


def _await_end(process: int) -> None:
    import select

    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()  # the containers' end may be awaited, which has no limit
    os.close(process)
