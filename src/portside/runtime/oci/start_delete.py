"""``start`` and ``delete``. Each is a process of its own that has little to do: what is imported
here is most of its time, so everything that is only sometimes needed is imported there."""

from __future__ import annotations

import posix

from portside.model.errors import PortsideError, SystemFailure
from portside.runtime.oci.state_store import Container, Saved
from portside.runtime.state_files import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.runtime.oci.arguments import Context, Options

_KILL_WAIT = 10.0
"""Seconds a killed container may take to be gone."""
_SIGKILL = 9


def start_verb(context: Context, options: Options) -> int:
    start(context.root, options.operand())
    return 0


def delete_verb(context: Context, options: Options) -> int:
    delete(context.root, options.operand(), options.flag("force"))
    return 0


def start(root: str, id: str) -> None:
    """Let a created container execute its command."""
    box = Container(root, id)
    saved = box.load()
    if error := box.failure():  # the shell that started it leaves it to us to report
        raise SystemFailure(error)
    status = box.status(saved)
    if status == "stopped":
        raise SystemFailure(f"cannot start a container that has stopped{_why(saved)}")
    if status == "paused":
        raise SystemFailure("cannot start a container in the paused state")
    if status == "creating":
        raise SystemFailure("cannot start a container that is still being created")
    if status != "created":
        raise SystemFailure("cannot start an already running container")
    try:
        fifo = posix.open(box.fifo, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError as err:
        raise SystemFailure(f"cannot start a container that has stopped{_why(saved)}") from err
    notify_socket = None
    if b"NOTIFY_SOCKET" in posix.environ:
        from portside.runtime.oci import notify

        notify_socket = notify.listen(box.directory)
    # it has a writer, or ends at once: opened for reading alone it could wait for one for ever
    done = posix.open(box.done, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    posix.set_blocking(done, True)
    try:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        posix.close(posix.open(box.started, flags, 0o600))
    except FileExistsError:
        raise SystemFailure("cannot start an already running container") from None
    posix.write(fifo, b"s")
    posix.close(fifo)
    while posix.read(done, 1):
        pass
    posix.close(done)
    if error := box.failure():
        raise SystemFailure(error)
    if notify_socket is not None:
        notify.pass_on(notify_socket, saved.pid)
    if saved.poststart:
        try:
            _hooks("poststart", box, saved, "running")
        except (PortsideError, OSError):
            delete(root, id, force=True)  # runtime.md, "Lifecycle": stopped and destroyed
            raise


def _light() -> None:
    """Before modules are imported that are made of msgspec's types."""
    from portside.runtime.oci import light_structs

    light_structs.install()


def _why(saved: Saved) -> str:
    _light()
    from portside.kernel.cgroup import Cgroup

    killed = Cgroup(saved.cgroup).oom_kills()
    return ": it was OOM-killed (memory limit too low?)" if killed else ""


def _hooks(name: str, box: Container, saved: Saved, status: str) -> None:
    """Run hooks: a failure of poststart is raised, one of poststop is only logged."""
    _light()
    from portside.runtime import hooks
    from portside.runtime.oci import runtime_log, spec_file

    spec = spec_file.of(box)
    if spec.hooks is not None:
        state = spec_file.state(saved, spec, status)
        if name == "poststart":
            hooks.run(name, spec.hooks.poststart, state)
            return
        for text in hooks.run_all(name, spec.hooks.poststop, state):
            runtime_log.write("warning", text)


def delete(root: str, id: str, force: bool) -> None:
    """Remove what a container leaves; ``force`` kills it first."""
    box = Container(root, id)
    if force and not exists(f"{box.directory}/state.json"):
        box.remove()
        return
    saved = box.load()
    status = box.status(saved)
    if status not in ("stopped", "created") and not force:
        raise SystemFailure(f"cannot delete container {id} that is not stopped: {status}")
    if status != "stopped":
        try:
            posix.kill(saved.pid, _SIGKILL)
        except ProcessLookupError:
            pass
    if status != "stopped" or not saved.groups or not _remove_empty(saved.groups):
        _end_group(saved, status)
    if saved.mounted:
        _light()
        from portside.runtime import rootfs

        rootfs.detach(saved.mounted)
    if saved.poststop:
        _hooks("poststop", box, saved, "stopped")
    box.remove()


def _remove_empty(groups: tuple[str, ...]) -> bool:
    """Whether nobody lived in the control groups, which are removed then. Version 2 goes first:
    it is the one that can kill whom it still has."""
    for directory in reversed(groups):
        try:
            posix.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _end_group(saved: Saved, status: str) -> None:
    _light()
    from portside.kernel.cgroup import Cgroup

    group = Cgroup(saved.cgroup)
    try:
        if group.exists():
            if status == "paused":
                group.thaw()
            group.kill(_KILL_WAIT)
    except (PortsideError, OSError):
        pass
    group.delete()
