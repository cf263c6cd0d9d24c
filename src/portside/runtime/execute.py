"""A further process in a running container (``exec``)."""

from __future__ import annotations

import os

from portside.kernel import process as kernel
from portside.runtime import container, terminal
from portside.runtime.container import Own
from portside.runtime.messages import Exec, StartRequest

_ALL = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWCGROUP
)


def resize(fd: int, height: int, width: int) -> None:
    """Change a terminal's size in characters."""
    terminal.set_size(fd, height, width)


def run_exec(request: Exec, own: Own, pidfd: int, seccomp: bytes, start: StartRequest) -> None:
    """Join the namespaces of the container's first process and execute; returns by raising.

    The PID namespace was chosen by the monitor for all its children. Joining the mount
    namespace moves us to its root, which is the container's since pivot_root(2) made it so.
    """
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    os.setsid()
    own.steps.enter("control group")
    own.wait_for_go()
    own.steps.enter("namespaces")
    kernel.setns(pidfd, _ALL, "the container's namespaces")
    os.close(pidfd)
    process = request.process
    if process.terminal:
        container.open_terminal(own, process, console=False)
    plain = StartRequest(
        id=start.id,
        state_dir=start.state_dir,
        rootfs=start.rootfs,
        cgroup=start.cgroup,
        identity=request.identity,
        seccomp_flags=start.seccomp_flags,
    )
    container.finish(own, process, plain, seccomp, init=False)
