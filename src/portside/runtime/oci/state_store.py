"""The state of a container between two calls of the command line.

::

    ROOT/ID/state.json      what is known of it      (missing: it has no process yet)
           /config.json     the bundle's, as it was at create
           /seccomp.bpf     the compiled filter, for exec
           /exec.fifo       it waits for "start" to write here
           /exec.done       a FIFO that it has open for writing until execve(2)
           /exec.result     what went wrong between "start" and execve(2)
           /started         "start" was called
           /quick           what the script portside-runtime needs, when that is enough
"""

from __future__ import annotations

import posix

from portside.model import jsontext
from portside.model.errors import Conflict, InvalidParameter, NotFound, PortsideError
from portside.runtime.state_files import exists, start_ticks, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Saved:
    """``state.json``. A class without msgspec: ``start`` and ``delete`` do without its types."""

    def __init__(
        self, *, id: str, pid: int, pid_started: int, bundle: str, rootfs: str, cgroup: str,
        created: str, owner: str = "", creating: bool = False, freezer: str = "",
        groups: tuple[str, ...] = (), poststart: bool = True, poststop: bool = True,
        mounted: str = "", **_: Any,
    ) -> None:  # fmt: skip
        self.id, self.pid = id, pid
        self.pid_started = pid_started
        """Clock ticks since boot, which identify a reused PID (proc_pid_stat(5), field 22)."""
        self.bundle, self.rootfs, self.cgroup = bundle, rootfs, cgroup
        self.created = created
        """RFC 3339."""
        self.owner = owner
        self.creating = creating
        """``create`` has not come to its end, or never will."""
        self.freezer = freezer
        """The file that says whether the container is paused."""
        self.groups = groups
        """The container's directories in all control group hierarchies, version 2 last."""
        self.poststart, self.poststop = poststart, poststop
        """Whether there are such hooks."""
        self.mounted = mounted
        """Mount point of the root in our own namespace; the container has no mount namespace."""


class Container:
    """One container below ``root``; nothing is read before it is asked for."""

    def __init__(self, root: str, id: str) -> None:
        plain = all(letter.isascii() and (letter.isalnum() or letter in "_+.-") for letter in id)
        if not plain or not 0 < len(id) <= 1024 or id in (".", ".."):
            raise InvalidParameter(f"invalid container ID format: {id!r}")
        self.id = id
        self.directory = f"{root}/{id}"

    def make(self) -> None:
        """Make the container's directory. Raises Conflict when the name is in use."""
        import os

        os.makedirs(os.path.dirname(self.directory), 0o711, exist_ok=True)
        try:
            posix.mkdir(self.directory, 0o711)
        except FileExistsError:
            raise Conflict("container with given ID already exists") from None

    def save(self, saved: Saved) -> None:
        write_whole(
            f"{self.directory}/state.json", jsontext.dumps(saved.__dict__).encode(), sync=False
        )

    def save_quick(self, saved: Saved) -> None:
        """Offer a container to the script portside-runtime, unless it asks for more."""
        if saved.poststart or saved.poststop or saved.mounted or exists(f"{self.directory}/notify"):
            return
        values = (str(saved.pid), str(saved.pid_started), saved.freezer, *reversed(saved.groups))
        if not any("\n" in value for value in values):
            text = "".join(f"{value}\n" for value in values)
            write_whole(f"{self.directory}/quick", text.encode(), sync=False)

    def load(self) -> Saved:
        """Raises NotFound."""
        path = f"{self.directory}/state.json"
        try:
            with open(path, "rb") as file:
                return Saved(**jsontext.loads(file.read()))
        except FileNotFoundError:
            raise NotFound("container does not exist") from None
        except (PortsideError, TypeError) as err:
            raise InvalidParameter(f"{path} is damaged: {err}") from err

    def seccomp(self) -> bytes:
        """The compiled filter, for exec; empty when there is none."""
        try:
            with open(f"{self.directory}/seccomp.bpf", "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    @property
    def fifo(self) -> str:
        return f"{self.directory}/exec.fifo"

    @property
    def done(self) -> str:
        return f"{self.directory}/exec.done"

    @property
    def started(self) -> str:
        return f"{self.directory}/started"

    @property
    def result(self) -> str:
        return f"{self.directory}/exec.result"

    def status(self, saved: Saved) -> str:
        """creating, created, running, paused or stopped."""
        if not lives(saved.pid, saved.pid_started):
            return "stopped"
        if saved.creating:
            return "creating"
        if _frozen(saved):
            return "paused"
        return "created" if exists(self.fifo) and not exists(self.started) else "running"

    def failure(self) -> str:
        """What kept the command from being executed; empty when nothing did, or not yet."""
        try:
            with open(self.result, errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def remove(self) -> None:
        """Remove the container's state; a file that another call has removed is not an error."""
        for name in sorted(self._names()):
            if name == "notify":
                from portside.runtime.oci import notify

                notify.remove(self.directory)
                continue
            try:
                posix.unlink(f"{self.directory}/{name}")
            except FileNotFoundError:
                continue
        try:
            posix.rmdir(self.directory)
        except OSError:
            pass

    def _names(self) -> list[str]:
        try:
            return posix.listdir(self.directory)
        except FileNotFoundError:
            return []


def _frozen(saved: Saved) -> bool:
    if not saved.freezer:
        return False
    try:
        with open(saved.freezer) as file:
            return file.read().strip() in ("1", "FROZEN", "FREEZING")
    except OSError:
        return False


def lives(pid: int, started: int) -> bool:
    """Whether a process exists, has this start time, and is not a zombie."""
    try:
        if start_ticks(pid) != started:
            return False
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def everyone(root: str) -> list[Container]:
    """All containers below a root, by name."""
    try:
        names = sorted(posix.listdir(root))
    except FileNotFoundError:
        return []
    return [Container(root, name) for name in names if exists(f"{root}/{name}/state.json")]
