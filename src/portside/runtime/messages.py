"""Messages between the engine, the launcher, the monitor and the container's init.

All travel as JSON over SOCK_SEQPACKET sockets, one message a packet, with descriptors
beside them (unix(7), SCM_RIGHTS). Each message documents the order of its descriptors.
Bodies that may be large (the runtime-spec) are files beside the container's state.
"""

from __future__ import annotations

import msgspec

from portside.kernel import c_socket as socket
from portside.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    InvalidParameter,
    NotFound,
    NotRunning,
    PortsideError,
    TooLarge,
)
from portside.model.ociruntime import Process, Spec
from portside.model.rootfs import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeVar

    _T = TypeVar("_T")

MAX_PACKET = 180_000
"""Bytes; the kernel's default buffer for a packet is about 208 KiB."""
MAX_FDS = 64


class LogConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The log of a container's output. ``driver``: json-file, local, none, syslog,
    journald, gelf, fluentd."""

    driver: str = "json-file"
    path: str = ""
    """File of the drivers that write one."""
    options: dict[str, str] = {}
    """``max-size``, ``max-file``, ``compress``, ``mode``, ``max-buffer-size``, ``tag`` …"""
    attributes: dict[str, str] = {}
    """Labels and variables chosen by the options, written with each line."""
    names: dict[str, str] = {}
    """``id``, ``name``, ``image_id``, ``image_name``, ``daemon_name`` for the tag; ``command`` and
    ``created`` for gelf."""


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """User and groups of the process in Docker's form, resolved inside the root at start.

    ``user`` is ``name|uid[:group|gid]``, empty for the specification's own numbers.
    """

    user: str = ""
    groups: tuple[str, ...] = ()
    """Further groups by name or number (``--group-add``)."""


class StartRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Start a container whose ``config.json`` lies in ``state_dir``.

    Descriptors along with it: the monitor's end of the control socket; then as the flags
    say the network namespace, the user namespace, the seccomp program; then one socket an
    attachment.
    """

    id: str
    state_dir: str
    """Absolute; holds config.json, and while it runs state.json, exit.json, monitor.sock."""
    rootfs: Rootfs
    cgroup: str
    """Path of the control group, relative to each hierarchy's root."""
    log: LogConfig = LogConfig()
    identity: Identity = Identity()
    open_stdin: bool = False
    stdin_once: bool = False
    init: bool = False
    """PID 1 is a program that reaps and passes signals on (``--init``)."""
    init_path: str = ""
    """Path of the init program; empty for the system's."""
    has_netns: bool = False
    has_userns: bool = False
    """The user namespace is there already, with the specification's mappings."""
    has_seccomp: bool = False
    seccomp_flags: int = 0
    attachments: tuple[Streams, ...] = ()
    runtime: str = ""
    """Another OCI runtime to use instead of our own: its path and options, as for a shell."""
    bundle: str = ""
    """Where ``config.json`` came from, for hooks; empty for ``state_dir``."""
    no_pivot: bool = False
    """Move the root over the old one instead of pivot_root(2), which an initramfs refuses."""


class Streams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which streams an attached socket carries."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    raw: bool = False
    """Bytes as they are (a terminal); else framed by 8-byte headers."""
    detach_keys: bytes = b""
    """Input that ends the attachment and nothing else; empty for never."""
    marks_end: bool = False
    """A frame without data says that its stream has ended; the process may continue to run."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """The command has been executed."""

    pid: int
    started_ns: int
    timings: dict[str, float] = {}
    """Milliseconds from the request's arrival to the end of each step."""
    uid: int = 0
    gid: int = 0


CLASSES: dict[str, type[PortsideError]] = {
    "not-found": CommandNotFound,
    "not-executable": CommandNotExecutable,
    "no-exec": NotFound,
    "not-running": NotRunning,
}
"""The names that errors have on their way between processes; any other is ``system``."""


def kind_of(err: BaseException) -> str:
    """The name of a failed start's or exec's error on its way to another process."""
    if isinstance(err, CommandNotFound):
        return "not-found"
    return "not-executable" if isinstance(err, CommandNotExecutable) else "system"


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The request failed; ``kind`` names the error's class, see :data:`CLASSES`."""

    message: str
    kind: str = "system"


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A process is gone; ``exec_id`` is empty for the container itself."""

    code: int
    """Exit status, or 128 plus the signal's number."""
    at_ns: int
    exec_id: str = ""
    oom_killed: bool = False
    error: str = ""


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Connect a socket (the one descriptor) to the container's or an exec's streams."""

    streams: Streams
    exec_id: str = ""


class Exec(msgspec.Struct, frozen=True, tag=True):
    """Execute a process beside the container's; descriptors: one socket an attachment."""

    exec_id: str
    process: Process
    identity: Identity = Identity()
    open_stdin: bool = False
    attachments: tuple[Streams, ...] = ()


class Resize(msgspec.Struct, frozen=True, tag=True):
    """Set a terminal's size in characters; ``exec_id`` empty means the container's own."""

    height: int
    width: int
    exec_id: str = ""


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to an exec's process, or with ``exec_id`` empty to PID 1."""

    number: int
    exec_id: str = ""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The request was carried out."""


class Placed(msgspec.Struct, frozen=True, tag=True):
    """From a starter to its monitor: a process has been executed.

    Descriptors: its pidfd; then the leading side of its terminal, or the other ends of its
    standard output, standard error and, when it is open, standard input; then, with ``oom``,
    one that is readable when memory ran out.
    """

    started: Started
    terminal: bool = False
    oom: bool = False
    poststop: bool = False
    """There are hooks to run once it is over."""


class Oom(msgspec.Struct, frozen=True, tag=True):
    """The kernel has killed a process of the container because memory ran out."""

    at_ns: int


Request = Attach | Exec | Resize | Signal
Reply = Started | Failed | Done


class Call(msgspec.Struct, frozen=True):
    """A request with a number that its answer repeats."""

    number: int
    request: Request


class Answer(msgspec.Struct, frozen=True):
    """From the monitor. Number 0 marks a message that answers no request: the start's outcome, an
    exit, an OOM kill."""

    number: int
    reply: Started | Failed | Done | Exited | Oom


class StateFile(msgspec.Struct, frozen=True):
    """``state.json``: enough to find the monitor and its container again."""

    id: str
    monitor_pid: int
    monitor_started: int
    """Clock ticks since boot (proc_pid_stat(5), field 22), which identifies a reused PID."""
    pid: int
    pid_started: int
    started_ns: int
    cgroup: str

    @classmethod
    def read(cls, state_dir: Path) -> StateFile:
        """A running container's; raises OSError, msgspec.MsgspecError."""
        return msgspec.json.decode((state_dir / "state.json").read_bytes(), type=cls)


def decode(data: bytes, kind: type[_T]) -> _T:
    """A specification that others wrote. Raises InvalidParameter, MsgspecError."""
    refuse_null(data)
    return msgspec.json.decode(data, type=kind)


def refuse_null(data: bytes) -> None:
    """Raise InvalidParameter for a document that has a null byte in a text: it would end there
    for the kernel, and what was checked would not be what is used."""
    if b"\\u0000" not in data:
        return
    import re

    if re.search(rb"(?<!\\)(?:\\\\)*\\u0000", data):
        place = _place_of_null(msgspec.json.decode(data), "")
        raise InvalidParameter(f"invalid value: {place.lstrip('.')}: a null byte in it")


def _place_of_null(value: object, place: str) -> str:
    """Where in a document the first text with a null byte is."""
    if isinstance(value, str):
        return place if "\0" in value else ""
    if isinstance(value, dict):
        parts = [(f"{place}.{key}", each) for key, each in value.items()]
        for inner, _ in parts:
            if "\0" in inner:
                return inner.replace("\0", "\\0")
    elif isinstance(value, list):
        parts = [(f"{place}[{number}]", each) for number, each in enumerate(value)]
    else:
        return ""
    return next(filter(None, (_place_of_null(each, inner) for inner, each in parts)), "")


def read_spec(state_dir: str) -> Spec:
    """A container's ``config.json``."""
    with open(f"{state_dir}/config.json", "rb") as file:
        return decode(file.read(), Spec)


def send(sock: socket.socket, message: msgspec.Struct, fds: list[int] | None = None) -> None:
    """Send one message; raises TooLarge, InvalidParameter for a request with a null byte, and
    OSError when nobody reads."""
    data = msgspec.json.encode(message)
    if isinstance(message, StartRequest | Call):
        refuse_null(data)
    if len(data) > MAX_PACKET:
        raise TooLarge(f"a message of {len(data)} bytes exceeds the limit of {MAX_PACKET}")
    if fds:
        socket.send_fds(sock, [data], fds)
    else:
        sock.send(data)


REFILL = b"refill"
"""The engine's message to the launcher once a start is done: prepare the next pair."""
HOLD = b"hold"
"""The engine's message to the launcher with a socket, and perhaps a user namespace: fork a process
that holds new namespaces (:func:`portside.kernel.idmapped.hold`)."""


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its descriptors (close-on-exec); empty at the end of the conversation."""
    try:
        return socket.recv_fds(sock, MAX_PACKET + 1024, MAX_FDS)
    except ConnectionResetError:
        # The other side is gone and had not read all of ours, which the kernel says first;
        # what it sent before is still there.
        return socket.recv_fds(sock, MAX_PACKET + 1024, MAX_FDS)
