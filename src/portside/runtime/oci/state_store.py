"""Where the command line keeps a container between its calls.

::

    ROOT/ID/state.json      what is known of it      (missing: it has no process yet)
           /config.json     the bundle's, as it was at create
           /seccomp.bpf     the compiled filter, for exec
           /exec.fifo       while it waits for "start"
           /exec.result     locked by it until execve(2); then what went wrong since "start"
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

import msgspec

from portside.kernel.cgroup import Cgroup
from portside.model.errors import Conflict, InvalidParameter, NotFound, PortsideError
from portside.model.ociruntime import SPEC_VERSION, Spec, State
from portside.runtime import messages
from portside.runtime.oci import notify
from portside.runtime.state_files import start_ticks, write_whole

_ID = re.compile(r"[\w+.-]{1,1024}")


class Saved(msgspec.Struct, frozen=True):
    """``state.json``."""

    id: str
    pid: int
    pid_started: int
    """Clock ticks since boot, which tell a reused number (proc_pid_stat(5), field 22)."""
    bundle: str
    rootfs: str
    cgroup: str
    created: str
    """RFC 3339."""
    owner: str = ""
    creating: bool = False
    """``create`` has not come to its end, or never will."""


class Container:
    """One container below ``root``; nothing is read before it is asked for."""

    def __init__(self, root: str, id: str) -> None:
        if not _ID.fullmatch(id) or id in (".", ".."):
            raise InvalidParameter(f"invalid container ID format: {id!r}")
        self.id = id
        self.directory = f"{root}/{id}"

    def make(self) -> None:
        """Its directory. Raises Conflict when there is one of this name."""
        os.makedirs(os.path.dirname(self.directory), 0o711, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o711)
        except FileExistsError:
            raise Conflict("container with given ID already exists") from None

    def save(self, saved: Saved) -> None:
        write_whole(f"{self.directory}/state.json", msgspec.json.encode(saved), sync=False)

    def load(self) -> Saved:
        """Raises NotFound."""
        try:
            with open(f"{self.directory}/state.json", "rb") as file:
                return msgspec.json.decode(file.read(), type=Saved)
        except FileNotFoundError:
            raise NotFound("container does not exist") from None
        except msgspec.MsgspecError as err:
            raise InvalidParameter(f"{self.directory}/state.json is damaged: {err}") from err

    def spec(self) -> Spec:
        """The configuration it was created with."""
        return read_spec(f"{self.directory}/config.json")

    def seccomp(self) -> bytes:
        with suppress(FileNotFoundError), open(f"{self.directory}/seccomp.bpf", "rb") as file:
            return file.read()
        return b""

    @property
    def fifo(self) -> str:
        return f"{self.directory}/exec.fifo"

    @property
    def result(self) -> str:
        return f"{self.directory}/exec.result"

    def status(self, saved: Saved) -> str:
        """creating, created, running, paused or stopped."""
        if not lives(saved.pid, saved.pid_started):
            return "stopped"
        if saved.creating:
            return "creating"
        with suppress(PortsideError, OSError):
            if Cgroup(saved.cgroup).frozen():
                return "paused"
        return "created" if os.path.exists(self.fifo) else "running"

    def state(self, saved: Saved, spec: Spec, status: str = "") -> State:
        """What hooks are told."""
        status = status or self.status(saved)
        pid = 0 if status == "stopped" else saved.pid
        return State(SPEC_VERSION, self.id, status, saved.bundle, pid, spec.annotations)

    def remove(self) -> None:
        notify.remove(self.directory)
        for name in ("state.json", "config.json", "seccomp.bpf", "exec.fifo", "exec.result"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{name}")
        with suppress(OSError):
            os.rmdir(self.directory)


def lives(pid: int, started: int) -> bool:
    """Whether a process is there, is the one meant, and is no zombie."""
    try:
        if start_ticks(pid) != started:
            return False
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def read_spec(path: str, bundle: bool = False) -> Spec:
    """A ``config.json``, our own or a ``bundle``'s. Raises NotFound or InvalidParameter."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        spec = messages.decode(data, Spec)
        if bundle and "ociVersion" not in msgspec.json.decode(data):
            raise InvalidParameter(f"{path}: the required property ociVersion is missing")
        return spec
    except FileNotFoundError:
        raise NotFound(f"JSON specification file {path} not found") from None
    except msgspec.MsgspecError as err:
        raise InvalidParameter(f"{path}: {err}") from err


def everyone(root: str) -> list[Container]:
    """All containers below a root, by name."""
    found = []
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(root)):
            if os.path.exists(f"{root}/{name}/state.json"):
                found.append(Container(root, name))
    return found
