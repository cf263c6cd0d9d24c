"""Functions that run, start -a, attach and exec share: terminals, signals, sizes, exit statuses."""

from __future__ import annotations

import os

from portside.cli import caller_terminal
from portside.cli.session import Failed
from portside.cli.signal_fd import PROXIED, SIGINT, SIGTERM, SIGWINCH, Signals, numbers
from portside.cli.stream_pump import Pump
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.cli.session import Session
    from portside.client.client import Client, Hijacked
    from portside.client.http import Connection

DETACHED = "read escape sequence"
_FORCED = 3
"""Requests to end after which the command ends, whether the container does or not."""


def check_terminal(tty: bool, stdin: bool) -> None:
    """``-it`` needs a terminal to read from. Raises Failed."""
    if tty and stdin and not os.isatty(0):
        raise Failed(1, "the input device is not a TTY")


def detach_keys(session: Session, given: str) -> tuple[str, bytes]:
    """Text and bytes of the keys, by flag, configuration file or default."""
    text = given or session.config.text("detachKeys") or caller_terminal.DETACH_KEYS
    return text, caller_terminal.keys(text)


def resize(client: Client, path: str) -> None:
    """Send the terminal's size; no error when the container has ended meanwhile."""
    rows, columns = caller_terminal.size()
    if rows and columns:
        try:
            client.post(path, {"h": rows, "w": columns})
        except Refused:
            pass


def stream(
    client: Client,
    hijacked: Hijacked,
    *,
    target: str,
    tty: bool,
    stdin: bool,
    keys: bytes,
    proxy: bool = False,
    begin: Callable[[], None] | None = None,
) -> bool:
    """Show a stream until it ends; False when the caller detached.

    ``target`` is the path of the container or exec, for sizes and signals. ``begin`` is
    called when everything is in place. ``proxy`` passes signals on.
    """
    forwarded = numbers(PROXIED) if proxy and not tty else {}
    wanted = [*forwarded, *([SIGWINCH] if tty else [])]

    asked_to_end = 0

    def caught(number: int) -> None:
        nonlocal asked_to_end
        if number in (SIGINT, SIGTERM):
            asked_to_end += 1
            if asked_to_end == _FORCED:
                raise Failed(1, f"\ngot {_FORCED} SIGTERM/SIGINTs, forcefully exiting")
        if number == SIGWINCH and tty:
            resize(client, f"{target}/resize")
        elif number in forwarded:
            try:
                client.post(f"{target}/kill", {"signal": forwarded[number]})
            except Refused:  # it has ended meanwhile
                pass

    with Signals(wanted) as signals:
        if begin is not None:
            begin()
        with caller_terminal.RawMode(0 if tty and stdin else -1):
            if tty:
                resize(client, f"{target}/resize")
            pump = Pump(
                hijacked,
                framed=hijacked.is_framed if hijacked.is_framed is not None else not tty,
                stdin=stdin,
                detach_keys=keys if tty else b"",
                signals=signals,
                on_signal=caught,
            )
            pump.run()
    return not pump.detached


class Waiting:
    """``POST /containers/ID/wait``, sent before the start and answered at the end."""

    def __init__(self, client: Client, container: str, condition: str) -> None:
        self._client = client
        path = path_of("containers", container, "wait")
        self._connection: Connection = client.begin("POST", path, {"condition": condition})

    def accepted(self) -> None:
        """The engine has begun to wait: the container may be started now."""
        self._response = self._client.accepted(self._connection)

    def status(self) -> int:
        """The exit status, as soon as there is one. Raises Failed."""
        from portside.model import jsontext

        data = self._response.read()
        value = jsontext.loads(data)
        if (value.get("Error") or {}).get("Message"):
            raise Failed(125, f"Error waiting for container: {value['Error']['Message']}")
        return int(value["StatusCode"])


def status_of_failed_start(error: PortsideError) -> int:
    """127: no such command, 126: it cannot be run, 125: everything else.

    Portside's engine sends the status in a header; for other engines the text decides.
    """
    if isinstance(error, Refused) and error.exit_status:
        return error.exit_status
    text = str(error)
    if "executable file not found" in text or "no such file or directory" in text:
        return 127
    if "permission denied" in text or "is a directory" in text:
        return 126
    return 125
