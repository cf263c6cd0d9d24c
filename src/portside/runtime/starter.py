"""The starter: forked by a monitor to bring one process up, and gone once that is done.

All the work of a start is done here, so that the monitor, which lives as long as the
container, never touches the memory this takes, and never waits for it::

    monitor ──request──► starter ──fork──► container's init ─► … ─► execve
       ▲                    │ control group, hooks, user mappings
       └──Placed or Failed──┘ then it ends; init becomes the monitor's child (subreaper)
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from portside.kernel import polling, process
from portside.kernel.cgroup import Cgroup, detect, warm_up
from portside.kernel.seccomp import NEW_LISTENER
from portside.model.errors import PortsideError
from portside.model.ociruntime import Spec, State
from portside.model.spec_version import SPEC_VERSION
from portside.runtime import (
    exec_init,
    hooks,
    init,
    init_program,
    messages,
    seccomp_listener,
    userns,
)
from portside.runtime.external import External
from portside.runtime.init_channel import Child, Given, Outcome, Own, Steps, explain_kill
from portside.runtime.messages import (
    Call,
    Exec,
    Failed,
    Placed,
    Started,
    StartRequest,
    StateFile,
)
from portside.runtime.state_files import complain, start_ticks, write_whole

Step = Callable[[], tuple[Placed, list[int]]]


def prepare() -> None:
    """Done once in the launcher, so that no fork has to: caches that forks share."""
    detect()
    init.prepare()
    polling.prepare()
    import portside.kernel.cgroup.oom  # noqa: F401 - else each start imports it

    # A type's decoder is made at its first use: here, not in every fork.
    for kind in (Spec, StartRequest, Call):
        with suppress(msgspec.MsgspecError):
            msgspec.json.decode(b"{}", type=kind)
    msgspec.json.encode(Placed(Started(0, 0)))


def wait_for_start(monitor: socket.socket) -> None:
    """The life of a starter kept in reserve: one start, or none when the monitor goes."""
    data, fds = messages.receive(monitor)
    if not data:
        return
    request = msgspec.json.decode(data, type=StartRequest)
    given = Given(*(fds.pop(0) if has else -1 for has in (request.has_netns, request.has_userns)))
    seccomp = read_all(fds.pop(0)) if request.has_seccomp else b""
    start = Start(request, given, seccomp)
    _report(monitor, lambda: (start.run_external if request.runtime else start.run)(monitor))


def start_exec(
    monitor: socket.socket, request: Exec, start: StartRequest, init_pidfd: int, seccomp: int
) -> None:
    """The life of a starter that executes a process beside the container's."""
    process.close_all_but([monitor.fileno(), init_pidfd, *([seccomp] if seccomp >= 0 else [])])
    program = read_all(seccomp) if seccomp >= 0 else b""
    _report(monitor, lambda: _exec(monitor, request, start, init_pidfd, program))


def _report(monitor: socket.socket, body: Callable[[], None]) -> None:
    """Run ``body``; errors that it raises are sent to the monitor."""
    try:
        body()
    except BaseException as err:
        text = str(err)
        if not isinstance(err, PortsideError | OSError):
            text = f"{type(err).__name__}: {err}"
        with suppress(OSError):
            messages.send(monitor, Failed(text, messages.kind_of(err)))


class Start:
    """One start of a container; :meth:`run` undoes what it made when a step fails."""

    def __init__(self, request: StartRequest, given: Given, seccomp: bytes) -> None:
        self.request, self.given, self.seccomp = request, given, seccomp
        self._clock = Steps()

    def run(self, monitor: socket.socket) -> None:
        """Start the container and report to the monitor; raises what makes the start fail."""
        request = self.request
        spec = messages.read_spec(request.state_dir)
        assert spec.linux is not None and spec.process is not None
        if not userns.wanted(spec):
            init.choose_child_namespaces(spec)
        joins = _joins_itself(spec)
        if not joins:
            warm_up()
        self._clock.enter("create control group")
        group = Cgroup.create(request.cgroup, spec.linux.resources)
        child: Child | None = None
        try:
            self._clock.enter("fork")
            program = init_program.open_copy(request.init_path) if request.init else -1

            def become(own: Own) -> None:
                own.init_program = program
                init.run_init(request, spec, own, self.given, self.seccomp)

            child = Child.fork(
                become,
                terminal=spec.process.terminal,
                stdin=request.open_stdin,
                into=group if joins else None,
                passes=init.joins_others(spec),
            )
            self._listen(spec, child)
            child.settle(spec)
            if not joins:
                group.add(child.pid)
            # All this while the child makes its mounts, on another processor.
            oom = _watch_oom(group)
            state = _state_of(request, child.pid)
            self._clock.enter("wait")
            init.keep_children_here(spec)
            if child.await_hooks(spec):
                self._hooks(spec, child.pid)
            child.go()
            outcome = child.outcome()
            started = Started(
                child.pid,
                time.time_ns(),
                self._clock.done() | outcome.timings,
                outcome.uid,
                outcome.gid,
            )
            if child.pid != state.pid:  # it has passed on to a sibling
                state = _state_of(request, child.pid)
            state = msgspec.structs.replace(state, started_ns=started.started_ns)
            write_whole(f"{request.state_dir}/state.json", msgspec.json.encode(state), sync=False)
            if spec.hooks is not None and spec.hooks.poststart:
                hooks.run(
                    "poststart", spec.hooks.poststart, self._state(spec, child.pid, "running")
                )
            placed = Placed(started, child.leader >= 0, bool(oom), _has_poststop(spec))
            messages.send(monitor, placed, [*child.descriptors(), *oom])
        except BaseException as err:
            if child is not None:
                child.kill()
            try:
                explain_kill(err, group)
            finally:
                with suppress(PortsideError, OSError):
                    group.delete()
            raise

    def run_external(self, monitor: socket.socket) -> None:
        """The same by another OCI runtime, which makes control group and hooks itself."""
        request = self.request
        spec = messages.read_spec(request.state_dir)
        other = External(request)
        try:
            self._clock.enter("runtime create")
            pid, streams = other.create(spec, self.given)
            group = Cgroup(request.cgroup)
            descriptors = streams.descriptors(pid)
            oom = _watch_oom(group)
            self._clock.enter("runtime start")
            other.start()
            started = Started(pid, time.time_ns(), self._clock.done())
            state = msgspec.structs.replace(_state_of(request, pid), started_ns=started.started_ns)
            write_whole(f"{request.state_dir}/state.json", msgspec.json.encode(state), sync=False)
            placed = Placed(started, streams.terminal, bool(oom), True)
            messages.send(monitor, placed, [*descriptors, *oom])
        except BaseException:
            other.delete()
            with suppress(PortsideError, OSError):
                Cgroup(request.cgroup).delete()
            raise

    def _listen(self, spec: Spec, child: Child) -> None:
        assert spec.linux is not None
        profile = spec.linux.seccomp
        if profile is not None and profile.listener_path:
            child.notified = lambda fd: seccomp_listener.hand_over(
                profile, fd, child.pid, self._state(spec, child.pid, "creating")
            )

    def _hooks(self, spec: Spec, pid: int) -> None:
        if spec.hooks is None:
            return
        state = self._state(spec, pid, "creating")
        hooks.run("prestart", spec.hooks.prestart, state)
        hooks.run("createRuntime", spec.hooks.create_runtime, state)

    def _state(self, spec: Spec, pid: int, status: str) -> State:
        directory = self.request.bundle or self.request.state_dir
        return State(SPEC_VERSION, self.request.id, status, directory, pid, spec.annotations)


def _joins_itself(spec: Spec) -> bool:
    """Whether the child joins its control group itself, before it gives up the host's rights.

    Hooks that run before want to find it there already. For a user namespace it needs room for
    two processes for a moment.
    """
    hooks = spec.hooks
    early = hooks is not None and bool(hooks.prestart or hooks.create_runtime)
    return not early and not (userns.wanted(spec) and _room_for_one(spec))


def _room_for_one(spec: Spec) -> bool:
    limits = spec.linux.resources if spec.linux is not None else None
    pids = limits.pids if limits is not None else None
    return pids is not None and pids.limit == 1


def _has_poststop(spec: Spec) -> bool:
    return spec.hooks is not None and bool(spec.hooks.poststop)


def run_poststop(request: StartRequest) -> None:
    """The hooks of a container that is over; what they complain of is left in its directory."""
    if request.runtime:
        External(request).delete()
        return
    spec = messages.read_spec(request.state_dir)
    if spec.hooks is not None:
        directory = request.bundle or request.state_dir
        state = State(SPEC_VERSION, request.id, "stopped", directory, 0, spec.annotations)
        for text in hooks.run_all("poststop", spec.hooks.poststop, state):
            complain(request.state_dir, text)


def _exec(
    monitor: socket.socket, request: Exec, start: StartRequest, init_pidfd: int, seccomp: bytes
) -> None:
    pid = exec_init.pid_of(init_pidfd)
    if start.runtime:
        began = Steps()
        number, streams = External(start).execute(request, pid)
        started = Started(number, time.time_ns(), began.done())
        messages.send(monitor, Placed(started, streams.terminal), streams.descriptors(number))
        return
    child = fork_exec(request, start, init_pidfd, pid, seccomp)
    _listen_for_exec(start, child, pid)
    try:
        messages.send(monitor, placed(child, child.outcome()), child.descriptors())
    except BaseException:
        child.kill()
        raise


def fork_exec(
    request: Exec, start: StartRequest, init_pidfd: int, init: int, seccomp: bytes
) -> Child:
    """Fork what becomes a process beside the container's first one, ``init``."""
    further = exec_init.further_namespaces(init)
    return Child.fork(
        lambda own: exec_init.run_exec(request, own, init_pidfd, seccomp, start, further),
        terminal=request.process.terminal,
        stdin=request.open_stdin,
        into=Cgroup(start.cgroup),
        beside=init,
        passes=True,
    )


def placed(child: Child, outcome: Outcome) -> Placed:
    """The report of an exec that has reached its execve(2)."""
    started = Started(child.pid, time.time_ns(), outcome.timings, outcome.uid, outcome.gid)
    return Placed(started, child.leader >= 0)


def needs_starter(start: StartRequest) -> bool:
    """Whether an exec has more to do than its monitor may wait for: another runtime, or an agent
    of the seccomp profile."""
    return bool(start.runtime or start.seccomp_flags & NEW_LISTENER)


def _listen_for_exec(start: StartRequest, child: Child, pid: int) -> None:
    """The agent of the container's seccomp profile decides for an exec as well."""
    spec = messages.read_spec(start.state_dir)
    profile = spec.linux.seccomp if spec.linux is not None else None
    if profile is not None:
        directory = start.bundle or start.state_dir
        state = State(SPEC_VERSION, start.id, "running", directory, pid, spec.annotations)
        child.notified = lambda fd: seccomp_listener.hand_over(profile, fd, child.pid, state)


def _watch_oom(group: Cgroup) -> list[int]:
    """A descriptor that reports OOM kills, if the kernel supports one; empty otherwise."""
    try:
        return [group.watch_oom().fileno()]
    except (PortsideError, OSError):
        return []


def _state_of(request: StartRequest, pid: int) -> StateFile:
    """The file by which a later engine finds the container, which is not started yet."""
    monitor = os.getppid()
    ticks = start_ticks(monitor), start_ticks(pid)
    return StateFile(request.id, monitor, ticks[0], pid, ticks[1], 0, request.cgroup)


def read_all(fd: int) -> bytes:
    """All of a small file by descriptor, from its beginning."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def fork(body: Callable[[socket.socket], None]) -> tuple[socket.socket, int]:
    """Fork a starter: the monitor's end of the conversation, and the PID."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            body(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours, pid
