"""start, stop, restart, kill, pause, unpause, wait, rm, rename."""

from __future__ import annotations

from portside.cli.session import Failed, describe
from portside.cli.verb import verb
from portside.client.client import path_of
from portside.model.errors import InvalidParameter, PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.session import Session
    from portside.flags.table import Options

_MANY = "CONTAINER [CONTAINER...]"


# -- start -----------------------------------------------------------------------------------


@verb("container start", "start", usage=f"[OPTIONS] {_MANY}", about="Start stopped containers",
      arguments=(1, None), completes="stopped", flags="""
  -a, --attach                  Show the output and forward signals
      --checkpoint string       Not supported: start from a checkpoint
      --checkpoint-dir string   Not supported: where checkpoints are
      --detach-keys string      Keys that detach from the container (default "ctrl-p,ctrl-q")
  -i, --interactive             Forward standard input to the container
      --sig-proxy               hidden: forward signals (default true)
""")  # fmt: skip
def start(session: Session, options: Options, arguments: list[str]) -> int:
    if options.given("checkpoint"):
        raise InvalidParameter("checkpoints are not supported")
    if options.flag("attach") or options.flag("interactive"):
        if len(arguments) > 1:
            raise InvalidParameter("you cannot start and attach multiple containers at once")
        return _start_attached(session, options, arguments[0])
    client = session.client
    failed = []
    for name in arguments:
        try:
            client.post(path_of("containers", name, "start"))
        except PortsideError as err:
            session.warn(describe(err))
            failed.append(name)
        else:
            session.out(name)
    if failed:
        raise Failed(1, f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(session: Session, options: Options, name: str) -> int:
    from portside.cli import attached

    client = session.client
    found = client.get(path_of("containers", name, "json"))
    path = path_of("containers", found["Id"])
    config = found["Config"]
    stdin = options.flag("interactive") and config["OpenStdin"]
    _, keys = attached.detach_keys(session, options.text("detach-keys"))
    query = {"stream": True, "stdin": stdin or None, "stdout": True, "stderr": True}
    given = options.text("detach-keys") or session.config.text("detachKeys")
    attaching = client.begin_hijack(f"{path}/attach", {**query, "detachKeys": given or None})
    removes = found["HostConfig"].get("AutoRemove")
    waiting = attached.Waiting(client, found["Id"], "removed" if removes else "next-exit")
    hijacked = client.hijacked(attaching)
    waiting.accepted()
    stays = attached.stream(
        client,
        hijacked,
        target=path,
        tty=config["Tty"],
        stdin=stdin,
        keys=keys,
        proxy=options.flag("sig-proxy"),
        begin=lambda: client.post(f"{path}/start"),
    )
    return waiting.status() if stays else 0


# -- ending ----------------------------------------------------------------------------------

_ENDING = """
  -s, --signal string   Signal to send first, instead of the container's own
  -t, --timeout int     Seconds to wait before the container is killed; -1 for no limit
      --time int        hidden:
"""


def _end(session: Session, options: Options, arguments: list[str], action: str) -> int:
    client = session.client
    timeout = options.number("timeout" if options.given("timeout") else "time")
    query = {"t": timeout, "signal": options.text("signal") or None}

    def act(name: str) -> None:
        response = client.request("POST", path_of("containers", name, action), query)
        response.read()
        client.release(response)
        warning = response.headers.get("portside-warning")
        if warning and timeout != 0:  # without a wait, a kill is expected
            session.warn(f"WARNING: {warning}")

    return session.each(arguments, act)


@verb("container stop", "stop", usage=f"[OPTIONS] {_MANY}", about="Stop running containers",
      flags=_ENDING, arguments=(1, None), completes="running")  # fmt: skip
def stop(session: Session, options: Options, arguments: list[str]) -> int:
    return _end(session, options, arguments, "stop")


@verb("container restart", "restart", usage=f"[OPTIONS] {_MANY}", about="Restart containers",
      flags=_ENDING, arguments=(1, None), completes="container")  # fmt: skip
def restart(session: Session, options: Options, arguments: list[str]) -> int:
    return _end(session, options, arguments, "restart")


@verb("container kill", "kill", usage=f"[OPTIONS] {_MANY}",
      about="Kill containers, or send them a signal", arguments=(1, None), completes="running",
      flags="""
  -s, --signal string   Signal to send (default KILL)
""")  # fmt: skip
def kill(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client
    query = {"signal": options.text("signal", "KILL")}
    return session.each(
        arguments, lambda name: client.post(path_of("containers", name, "kill"), query)
    )


@verb("container pause", "pause", usage=_MANY, about="Freeze all processes of containers",
      arguments=(1, None), completes="running")  # fmt: skip
def pause(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client
    return session.each(arguments, lambda name: client.post(path_of("containers", name, "pause")))


@verb("container unpause", "unpause", usage=_MANY, about="Resume paused containers",
      arguments=(1, None), completes="paused")  # fmt: skip
def unpause(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client
    return session.each(arguments, lambda name: client.post(path_of("containers", name, "unpause")))


@verb("container wait", "wait", usage=_MANY, arguments=(1, None), completes="container",
      about="Wait until containers have stopped, then print their exit codes")  # fmt: skip
def wait(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client

    def act(name: str) -> str:
        value = client.post(path_of("containers", name, "wait"))
        if (value.get("Error") or {}).get("Message"):
            raise Failed(1, value["Error"]["Message"])
        return str(value["StatusCode"])

    return session.each(arguments, act)


@verb("container rm", "container remove", "rm", usage=f"[OPTIONS] {_MANY}",
      about="Remove containers", arguments=(1, None), completes="container", flags="""
  -f, --force     Also kill and remove running containers
  -l, --link      Remove a link, not the container
  -v, --volumes   Also remove the containers' anonymous volumes
""")  # fmt: skip
def rm(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client
    query = {
        "force": options.flag("force") or None,
        "v": options.flag("volumes") or None,
        "link": options.flag("link") or None,
    }

    def act(name: str) -> None:
        name = name.strip("/")
        if not name:
            raise InvalidParameter("container name cannot be empty")
        client.delete(path_of("containers", name), query)

    return session.each(arguments, act, forgives_missing=options.flag("force"))


@verb("container rename", "rename", usage="CONTAINER NEW_NAME", about="Rename a container",
      arguments=(2, 2), completes="container")  # fmt: skip
def rename(session: Session, options: Options, arguments: list[str]) -> None:
    old, new = (name.strip() for name in arguments)
    if not old or not new:
        raise InvalidParameter("Error: Neither old nor new names may be empty")
    try:
        session.client.post(path_of("containers", old, "rename"), {"name": new})
    except PortsideError as err:
        session.warn(describe(err))
        raise Failed(1, f"Error: failed to rename container named {old}") from err
