"""A further process in a running container (``exec``)."""

from __future__ import annotations

import os

from portside.kernel.id_maps import in_user_namespace
from portside.kernel.light_stdlib import suppress
from portside.kernel.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    prctl,
    setns,
)
from portside.runtime import executable, init, rootfs, scheduling, terminal, userns
from portside.runtime.init_channel import START_TIMEOUT, Own
from portside.runtime.messages import Exec, StartRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without enum

_ALL = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP


_NAMES = (
    (CLONE_NEWPID, "pid"),
    (CLONE_NEWUTS, "uts"),
    (CLONE_NEWIPC, "ipc"),
    (CLONE_NEWNET, "net"),
    (CLONE_NEWCGROUP, "cgroup"),
)


def pid_of(pidfd: int) -> int:
    """The number of a pidfd's process here (proc_pid_fdinfo(5)), 0 when it is gone."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return max(int(line.split()[1]), 0)
    return 0


def further_namespaces(pid: int) -> int:
    """Flags of the user and time namespace of a process, as far as they are not ours."""
    found = 0
    for flag, name in ((CLONE_NEWUSER, "user"), (CLONE_NEWTIME, "time")):
        with suppress(OSError):  # a kernel without time namespaces
            if not _shared(pid, name):
                found |= flag
    return found


def _shared(pid: int, name: str) -> bool:
    return os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")


def _common_namespaces(pid: int) -> int:
    """Namespaces that are ours already. Those of the host's cannot be joined from a user
    namespace, not even again (setns(2))."""
    found = 0
    for flag, name in _NAMES:
        if _shared(pid, name):
            found |= flag
    return found


def _join(pidfd: int, further: int) -> int:
    """Join the namespaces of a process, and its root; flags of those that were joined."""
    joined = _ALL | further
    if in_user_namespace():
        joined &= ~_common_namespaces(pid_of(pidfd))
    root = -1
    if _shared(pid_of(pidfd), "mnt"):  # the namespace does not name it: its root is the host's
        root = os.open(f"/proc/{pid_of(pidfd)}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    setns(pidfd, joined, "the container's namespaces")
    if root >= 0:
        rootfs.enter(root)
    return joined


def run_exec(
    request: Exec, own: Own, pidfd: int, seccomp: bytes, start: StartRequest, further: int
) -> None:
    """Join the namespaces of the container's first process and execute; returns by raising.

    Joining the mount namespace moves us to its root, which is the container's since
    pivot_root(2) made it so; in a shared one we go to the root of the first process. The PID
    namespace is our children's only, and comes last: what continues there has the container's
    namespaces and root, and no descriptor of ours.
    """
    prctl(PR_SET_DUMPABLE, 0)
    signal.alarm(int(START_TIMEOUT))
    init.set_oom_score(request.process)
    affinity = request.process.exec_cpu_affinity
    if affinity is not None:
        scheduling.run_on(affinity.initial)
    own.steps.enter("control group")
    own.wait_for_go()
    if affinity is not None:
        scheduling.run_on(affinity.final)
    own.steps.enter("namespaces")
    joined = _join(pidfd, further)
    if joined & CLONE_NEWUSER:
        userns.take_root()
    init.forbid_imports()
    process = request.process
    if process.terminal:
        init.open_terminal(own, process, console=False)
    init.connect_streams(own)
    own.pass_on()
    signal.alarm(int(START_TIMEOUT))  # until execve, see init.finish
    os.setsid()
    if process.terminal:
        terminal.make_controlling(0)
    plain = StartRequest(
        id=start.id,
        state_dir=start.state_dir,
        rootfs=start.rootfs,
        cgroup=start.cgroup,
        identity=request.identity,
        seccomp_flags=start.seccomp_flags,
    )
    try:
        init.finish(own, process, plain, seccomp)
    except executable.CommandError as err:
        raise err.of_exec() from err
