"""Small files of a running container's state, and how one process is distinguished from another."""

from __future__ import annotations

import posix

_PF_EXITING = 0x4
"""include/linux/sched.h."""
_SIGKILL = 1 << 9 - 1
"""SIGKILL's bit in a set of signals."""


def write_whole(path: str, data: bytes, sync: bool = True) -> None:
    """Replace a file as a whole; with ``sync`` it is on the disk when this returns."""
    temporary = f"{path}.new"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
    fd = posix.open(temporary, flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[posix.write(fd, view) :]
        if sync:
            posix.fsync(fd)
    finally:
        posix.close(fd)
    posix.rename(temporary, path)


def exists(path: str) -> bool:
    """Like os.path.exists, for programs that start without ``os``."""
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def start_ticks(pid: int) -> int:
    """When a process was started, in clock ticks since boot (proc_pid_stat(5), field 22)."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie (proc_pid_stat(5), field 3)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_ending(pid: int) -> bool:
    """Whether a process is gone, exits, or has SIGKILL before it.

    A PID namespace's first process kills the others while it exits (zap_pid_ns_processes()), so
    they can be gone before it is a zombie: PF_EXITING in its flags shows it (proc_pid_stat(5),
    field 9). A process that a group's kill has not reached yet has the signal pending
    (proc_pid_status(5)).
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        if fields[0] in "ZX" or int(fields[6]) & _PF_EXITING:
            return True
        return bool(_signals(pid, "SigPnd", "ShdPnd") & _SIGKILL)
    except OSError:
        return True


def takes_signal(pid: int, number: int) -> bool:
    """Whether a PID namespace's first process handles a signal or has blocked it: the kernel drops
    any other one but SIGKILL and SIGSTOP (pid_namespaces(7)). True for a process that is gone.

    A process in sigtimedwait(2), as docker-init is, has blocked what it waits for, but its status
    does not show them meanwhile; its wait channel (proc(5)) does.
    """
    try:
        if _signals(pid, "SigCgt", "SigBlk") >> number - 1 & 1:
            return True
        with open(f"/proc/{pid}/wchan") as file:
            return "sigtimedwait" in file.read()
    except OSError:
        return True


def _signals(pid: int, *names: str) -> int:
    """The union of a process's sets of signals (proc_pid_status(5)). Raises OSError."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    found = 0
    for name in names:
        found |= int(lines[name], 16)
    return found


def complain(state_dir: str, text: str) -> None:
    """Append a message to ``monitor.err``, for whoever examines a broken container."""
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC | posix.O_NOFOLLOW
    try:
        fd = posix.open(f"{state_dir}/monitor.err", flags, 0o600)
        with open(fd, "wb", buffering=0) as file:
            file.write(text.encode(errors="surrogateescape") + b"\n")
    except OSError:
        pass


def place_of(state_dir: str) -> str:
    """Where another runtime keeps a container: not among its state, which is our own."""
    import os

    above, id = os.path.split(state_dir)
    return f"{os.path.dirname(above)}/runtimes/{id}"


def clean(state_dir: str) -> None:
    """Remove what another runtime may have left of a container whose processes are gone."""
    place = place_of(state_dir)
    if exists(place):
        import shutil

        shutil.rmtree(place, ignore_errors=True)
