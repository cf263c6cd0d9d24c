"""attach, exec, logs."""

from __future__ import annotations

from portside.cli import attached
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.client import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options


# -- attach ----------------------------------------------------------------------------------


@verb("container attach", "attach", usage="[OPTIONS] CONTAINER", arguments=(1, 1),
      about="Attach standard input, output and error to a running container",
      completes="running", flags="""
      --detach-keys string   Keys that detach from the container (default "ctrl-p,ctrl-q")
      --no-stdin             Do not forward standard input
      --sig-proxy            Forward signals to the process (default true)
""")  # fmt: skip
def attach(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client
    found = client.get(path_of("containers", arguments[0], "json"))
    state, config = found["State"], found["Config"]
    for wrong, text in (
        (not state["Running"], "You cannot attach to a stopped container, start it first"),
        (state["Paused"], "You cannot attach to a paused container, unpause it first"),
        (
            state["Restarting"],
            "You cannot attach to a restarting container, wait until it is running",
        ),
    ):
        if wrong:
            raise Failed(1, text)
    stdin = config["OpenStdin"] and not options.flag("no-stdin")
    attached.check_terminal(config["Tty"], stdin)
    path = path_of("containers", found["Id"])
    _, keys = attached.detach_keys(session, options.text("detach-keys"))
    query = {"stream": True, "stdin": stdin or None, "stdout": True, "stderr": True}
    given = options.text("detach-keys") or session.config.text("detachKeys")
    waiting = attached.Waiting(client, found["Id"], "")
    attaching = client.begin_hijack(f"{path}/attach", {**query, "detachKeys": given or None})
    waiting.accepted()
    stays = attached.stream(
        client,
        client.hijacked(attaching),
        target=path,
        tty=config["Tty"],
        stdin=stdin,
        keys=keys,
        proxy=options.flag("sig-proxy"),
    )
    if not stays:
        raise Failed(1, attached.DETACHED)
    return waiting.status()


# -- exec ------------------------------------------------------------------------------------


@verb("container exec", "exec", usage="[OPTIONS] CONTAINER COMMAND [ARG...]", interspersed=False,
      about="Run a command in a running container", arguments=(2, None), completes="running",
      flags="""
  -d, --detach               Run the command in the background
      --detach-keys string   Keys that detach from the container (default "ctrl-p,ctrl-q")
  -e, --env list             Set a variable (NAME=VALUE), or pass on the variable NAME
      --env-file list        Read variables from a file
  -i, --interactive          Forward standard input to the command
      --privileged           Run the command with all privileges
  -t, --tty                  Allocate a terminal
  -u, --user string          User and group of the command (NAME|UID[:GROUP|GID])
  -w, --workdir string       Working directory of the command
""")  # fmt: skip
def exec_(session: Session, options: Options, arguments: list[str]) -> int:
    tty, stdin = options.flag("tty"), options.flag("interactive")
    detach = options.flag("detach")
    if not detach:
        attached.check_terminal(tty, stdin)
    client = session.client
    _, keys = attached.detach_keys(session, options.text("detach-keys"))
    given = options.text("detach-keys") or session.config.text("detachKeys")
    config = _exec_config(options, arguments[1:])
    if given:
        config["DetachKeys"] = given
    size = _size() if tty and not detach else None
    if size is not None:
        config["ConsoleSize"] = size
    made = client.post(path_of("containers", arguments[0], "exec"), body=config)
    path = path_of("exec", made["Id"])
    if detach:
        client.post(f"{path}/start", body={"Detach": True, "Tty": tty})
        return 0
    start: dict[str, Any] = {"Detach": False, "Tty": tty}
    if size is not None:
        start["ConsoleSize"] = size
    stays = attached.stream(
        client,
        client.hijack(f"{path}/start", body=start),
        target=path,
        tty=tty,
        stdin=stdin,
        keys=keys,
    )
    if not stays:
        raise Failed(1, attached.DETACHED)
    return int(client.get(f"{path}/json").get("ExitCode") or 0)


def _exec_config(options: Options, command: list[str]) -> dict[str, Any]:
    from portside.cli import envfile

    shows = not options.flag("detach")
    return {
        "User": options.text("user"),
        "Privileged": options.flag("privileged"),
        "Tty": options.flag("tty"),
        "AttachStdin": shows and options.flag("interactive"),
        "AttachStdout": shows,
        "AttachStderr": shows,
        "WorkingDir": options.text("workdir"),
        "Env": envfile.environment(options.many("env-file"), options.many("env")) or None,
        "Cmd": command,
    }


def _size() -> list[int] | None:
    from portside.cli import caller_terminal

    rows, columns = caller_terminal.size()
    return [rows, columns] if rows and columns else None


# -- logs ------------------------------------------------------------------------------------


@verb("container logs", "logs", usage="[OPTIONS] CONTAINER", about="Show a container's output",
      arguments=(1, 1), completes="container", flags="""
      --details        Show the labels and variables that the log options select
  -f, --follow         Follow log output
      --since string   Only from this time on (2024-01-02T13:23:37Z, or 42m for 42 minutes ago)
  -n, --tail string    Lines from the end (default "all")
  -t, --timestamps     Show when each line was written
      --until string   Only before this time (2024-01-02T13:23:37Z, or 42m for 42 minutes ago)
""")  # fmt: skip
def logs(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.stream_pump import write_all
    from portside.cli.times import engine_time
    from portside.client.framed_lines import Frames

    client = session.client
    found = client.get(path_of("containers", arguments[0], "json"))
    query = {
        "stdout": True,
        "stderr": True,
        "follow": options.flag("follow") or None,
        "timestamps": options.flag("timestamps") or None,
        "details": options.flag("details") or None,
        "tail": options.text("tail", "all"),
        "since": engine_time(options.text("since"), "since"),
        "until": engine_time(options.text("until"), "until"),
    }
    response = client.request("GET", path_of("containers", found["Id"], "logs"), query)
    frames = Frames() if not found["Config"]["Tty"] else None
    for piece in response.pieces():
        if frames is not None:
            for fd, part in frames.feed(piece):
                write_all(fd, part)
        else:
            write_all(1, piece)
