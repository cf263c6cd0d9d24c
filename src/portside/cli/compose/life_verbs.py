"""start, stop, restart, kill, pause, unpause, rm and wait."""

from __future__ import annotations

import sys

from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.session import Failed
from portside.client.client import path_of
from portside.compose import bringing_up, transitions
from portside.compose.observed import Container, containers
from portside.compose.progress_events import DONE, ERROR, WORKING
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from portside.cli.compose.compose_session import ComposeSession
    from portside.client.http import Connection
    from portside.flags.table import Options

_SERVICES = "[OPTIONS] [SERVICE...]"
_TIMEOUT = """
  -t, --timeout int   Seconds to wait for a container to stop
"""


@compose_verb("start", usage="[SERVICE...]", about="Start services", flags="""
      --wait               Wait until services run or are healthy
      --wait-timeout int   Seconds to wait at most
""")  # fmt: skip
def start(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project = session.known_project(arguments)
    actions = session.actions(project)
    found = containers(session.pool, project.name)
    if not found and not project.services:
        raise Failed(1, f'no container found for project "{project.name}": not found')
    for name in project.services:
        actions.containers[name] = [item for item in found if item.service == name]
    bringing_up.start(actions, session.parallel, wait=options.flag("wait"),
                      wait_seconds=options.number("wait-timeout") or 0)  # fmt: skip
    return 0


@compose_verb("stop", usage=_SERVICES, about="Stop services", flags=_TIMEOUT)
def stop(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project = session.known_project(arguments)
    session.board("Stopping")
    actions = session.actions(project, timeout=options.number("timeout"))
    transitions.stop(actions, arguments, session.parallel)
    return 0


@compose_verb("restart", usage=_SERVICES, about="Restart services", flags="""
      --no-deps       Leave services that depend on them alone
""" + _TIMEOUT)  # fmt: skip
def restart(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project = session.known_project()
    for name in arguments:
        project.service(name)
    session.board("Restarting")
    actions = session.actions(project, timeout=options.number("timeout"))
    transitions.restart(actions, arguments, not options.flag("no-deps"), session.parallel)
    return 0


@compose_verb("kill", usage=_SERVICES, about="End services at once", flags="""
      --remove-orphans   End containers of services that the files do not define, too
  -s, --signal string    The signal to send (default "SIGKILL")
""")  # fmt: skip
def kill(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project = session.known_project(arguments)
    found = containers(session.pool, project.name, all=False, one_off=None, services=arguments)
    if not options.flag("remove-orphans"):
        found = transitions.of_project(found, project)
    if not found:
        session.warn("no container to kill")
        return 0
    session.board("Killing")
    actions = session.actions(project)
    query = {"signal": options.text("signal", "SIGKILL")}

    def work(item: Container) -> None:
        actions.emit(item.event_id, WORKING, "Killing")
        try:
            if not actions.dry_run:
                actions.pool.post(path_of("containers", item.id, "kill"), query)
        except PortsideError:
            actions.emit(item.event_id, ERROR, "Error while Killing")
            raise
        actions.emit(item.event_id, DONE, "Killed")

    transitions.each(actions, found, work, session.parallel, "kill")
    return 0


@compose_verb("pause", usage="[SERVICE...]", about="Freeze services")
def pause(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    session.board("Pausing")
    actions = session.actions(session.known_project(arguments))
    transitions.toggle(actions, "pause", "Paused", arguments, session.parallel)
    return 0


@compose_verb("unpause", usage="[SERVICE...]", about="Let frozen services continue")
def unpause(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    actions = session.actions(session.known_project(arguments))
    transitions.toggle(actions, "unpause", "Unpaused", arguments, session.parallel)
    return 0


@compose_verb("rm", usage=_SERVICES, about="Remove containers of services that do not run\n\n"
              "Anonymous volumes stay unless -v is given.", flags="""
  -a, --all       hidden:
  -f, --force     Do not ask
  -s, --stop      Stop the containers first
  -v, --volumes   Remove their anonymous volumes, too
""")  # fmt: skip
def rm(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project = session.known_project(arguments)
    actions = session.actions(project)
    if options.flag("stop"):
        session.board("Stopping")
        transitions.stop(actions, arguments, session.parallel)
        session.finish()
    ended = [
        item for item in containers(session.pool, project.name, services=arguments)
        if item.service in project.services
        and (item.state not in ("running", "paused", "restarting") or _dry(session, options))
    ]  # fmt: skip
    if not ended:
        session.warn("No stopped containers")
        return 0
    text = f"Going to remove {', '.join(item.name for item in ended)}"
    if options.flag("force"):
        session.out(text)
        sys.stdout.flush()
    elif not session.confirm(text):
        return 0
    actions = session.actions(project)

    def work(item: Container) -> None:
        actions.remove(item, options.flag("volumes"), force=options.flag("force"))

    transitions.each(actions, ended, work, session.parallel, "remove")
    return 0


def _dry(session: ComposeSession, options: Options) -> bool:
    return session.dry_run and options.flag("stop")


@compose_verb("wait", usage="SERVICE [SERVICE...] [OPTIONS]", arguments=(1, None),
              about="Wait until containers of services end", flags="""
      --down-project   Remove the project when the first container ends
""")  # fmt: skip
def wait(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project, name = session.project_or_name(arguments)
    found = containers(session.pool, name, all=False, services=arguments)
    if not found:
        raise Failed(1, f'no containers for project "{name}"')
    client = session.client
    begun = [(item, client.begin("POST", path_of("containers", item.id, "wait")))
             for item in found]  # fmt: skip
    status = 0
    for item, connection in _as_they_end(begun, options.flag("down-project")):
        answer = client._value(client.accepted(connection))
        status = int(answer["StatusCode"])
        session.out(f'container "{item.id}" exited with status code {status}')
    if options.flag("down-project"):
        from portside.compose import teardown
        from portside.compose.labelled_project import labelled

        actions = session.actions(project or labelled(session.pool, name))
        teardown.down(actions, teardown.DownOptions(remove_orphans=True), session.parallel)
    return status


def _as_they_end(
    begun: list[tuple[Container, Connection]], only_first: bool
) -> Iterator[tuple[Container, Connection]]:
    """Containers and connections in the order of their answers."""
    import select

    poll = select.poll()
    left = {connection.sock.fileno(): (item, connection) for item, connection in begun}
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    while left:
        for descriptor, _ in poll.poll():
            poll.unregister(descriptor)
            yield left.pop(descriptor)
            if only_first:
                return
