"""From a forked child to the container's PID 1: namespaces, root, identity, execve.

The steps, in the child of the monitor (``Child.fork``)::

    namespaces ─► root and mounts (detached, by descriptor) ─► wait for "go" (control group)
      ─► cgroup namespace and view ─► pivot_root ─► terminal, user, capabilities, seccomp
      ─► execve

Each step's end is stamped; a failure is told to the monitor as a value with the step's
name. Nothing is imported and no thread exists here: the process was forked to do this.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import termios
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from portside.kernel import process as kernel
from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.model.ociruntime import Process, Spec
from portside.runtime import command, identity, mounts, reaper, rootfs, terminal
from portside.runtime.messages import StartRequest

_last_capability = 40
START_TIMEOUT = 120.0
"""Seconds a start may take before it is given up (a dead network file system, say)."""


def prepare() -> None:
    """Learn what forks would have to ask again."""
    global _last_capability
    _last_capability = kernel.last_capability()
    mounts.prepare()


class Outcome(msgspec.Struct):
    """What a child tells before its execve closes the pipe, or instead of it."""

    error: str = ""
    kind: str = ""
    uid: int = 0
    gid: int = 0
    timings: dict[str, float] = {}


class StartError(SystemFailure):
    """A start that failed in the child; ``kind`` as in ``messages.Failed``."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class Steps:
    """Names and times of what has been done."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self.current = "start"
        self.timings: dict[str, float] = {}

    def enter(self, name: str) -> None:
        """The step before is done, this one begins."""
        now = time.monotonic()
        self.timings[self.current] = round((now - self._begin) * 1000, 3)
        self._begin, self.current = now, name


class Own:
    """The child's side: where its streams are and whom it tells."""

    def __init__(self, tell: socket.socket, streams: tuple[int, int, int], terminal: bool) -> None:
        self.tell = tell
        self.streams = streams
        self.terminal = terminal
        self.steps = Steps()

    def wait_for_go(self) -> None:
        """Until the monitor has put us into the control group."""
        if not self.tell.recv(1):
            os._exit(1)

    def give_terminal(self, leader: int) -> None:
        """Hand the leading side of our terminal to the monitor."""
        socket.send_fds(self.tell, [b"t"], [leader])
        os.close(leader)

    def report(self, outcome: Outcome) -> None:
        outcome.timings = self.steps.timings
        self.tell.send(b"o" + msgspec.json.encode(outcome))


class Child:
    """The monitor's side of a child that is on its way to execve."""

    def __init__(self, pid: int, tell: socket.socket, streams: tuple[int, int, int]) -> None:
        self.pid = pid
        self._tell = tell
        self.stdin, self.stdout, self.stderr = streams
        self.leader = -1

    @classmethod
    def fork(cls, body: Callable[[Own], None], *, terminal: bool, stdin: bool) -> Child:
        """Fork a child that runs ``body``, which never returns but by failing."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inner, outer = _pipes(stdin and not terminal, not terminal)
        pid = os.fork()
        if pid == 0:
            ours.close()
            for fd in outer:
                if fd >= 0:
                    os.close(fd)
            _run(body, Own(theirs, inner, terminal))
        theirs.close()
        for fd in inner:
            if fd >= 0:
                os.close(fd)
        return cls(pid, ours, outer)

    def go(self) -> None:
        """Let the child go on: it is in its control group."""
        with suppress(OSError):
            self._tell.send(b"g")

    def outcome(self) -> Outcome:
        """Wait for execve or failure; raises StartError."""
        told = Outcome()
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._tell], [], [], left)[0]:
                raise StartError(f"the start was not done within {START_TIMEOUT:g} s", "system")
            data, fds, _, _ = socket.recv_fds(self._tell, 1 << 17, 1)
            if data == b"t":
                self.leader = fds[0]
                os.set_inheritable(self.leader, False)
            elif data[:1] == b"o":
                told = msgspec.json.decode(data[1:], type=Outcome)
                if told.error:
                    raise StartError(told.error, told.kind or "system")
            else:
                break
        self._tell.close()
        # killed before it could tell: the pipe closes as at execve, but nobody lives
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and not told.timings:
            raise StartError("the container's process was killed while it was started", "system")
        return told

    def kill(self) -> None:
        """End a child whose start failed, and everything that was made for it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._tell.close()
        for fd in (self.stdin, self.stdout, self.stderr, self.leader):
            if fd >= 0:
                os.close(fd)


def _pipes(stdin: bool, outputs: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The child's and the monitor's ends of its three streams; -1 where there is none."""
    child_in, our_in = os.pipe() if stdin else (-1, -1)
    our_out, child_out = os.pipe() if outputs else (-1, -1)
    our_err, child_err = os.pipe() if outputs else (-1, -1)
    return (child_in, child_out, child_err), (our_in, our_out, our_err)


def _run(body: Callable[[Own], None], own: Own) -> None:
    """The child's whole life before execve; it never gets back into the monitor's code."""
    try:
        body(own)
    except PortsideError as err:
        own.report(Outcome(str(err), getattr(err, "kind", "system")))
    except OSError as err:
        where = f" {err.filename}" if err.filename else ""
        text = f"{own.steps.current}:{where}: {err.strerror}"
        own.report(Outcome(text, getattr(err, "kind", "system")))
    except BaseException as err:
        own.report(Outcome(f"{own.steps.current}: {err!r}", "system"))
    finally:
        os._exit(1)


def join_pid_namespace(spec: Spec) -> None:
    """Choose, in the monitor, the PID namespace of all children to come."""
    found = spec.namespace("pid")
    if found is None:
        return
    if not found.path:
        kernel.unshare(kernel.CLONE_NEWPID)
        return
    with _opened(found.path) as fd:
        kernel.setns(fd, kernel.CLONE_NEWPID, found.path)


class _opened:
    """A namespace's descriptor, closed at the end."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def run_init(request: StartRequest, spec: Spec, own: Own, netns: int, seccomp: bytes) -> None:
    """Become the container's first process; returns only by raising."""
    assert spec.process is not None and spec.linux is not None and spec.root is not None
    steps = own.steps
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody inside may look at us through /proc
    os.setsid()
    steps.enter("namespaces")
    _enter_namespaces(spec, netns)
    steps.enter("root")
    self_ns = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = rootfs.attach(request.rootfs, request.state_dir, spec.linux.rootfs_propagation)
    steps.enter("mounts")
    mounts.mount_all(root, [m for m in spec.mounts if m.type != "cgroup"])
    mounts.make_devices(root, spec)
    steps.enter("control group")
    own.wait_for_go()
    if (found := spec.namespace("cgroup")) and not found.path:
        kernel.unshare(kernel.CLONE_NEWCGROUP)
    mounts.mount_all(root, [m for m in spec.mounts if m.type == "cgroup"])
    steps.enter("pivot")
    _oom_score(spec.process)
    mounts.write_sysctls(spec)
    rootfs.pivot(root, self_ns)
    steps.enter("paths")
    mounts.protect(spec)
    _names(spec)
    if own.terminal:
        open_terminal(own, spec.process, console=True)
    finish(own, spec.process, request, seccomp, init=request.init)


def _enter_namespaces(spec: Spec, netns: int) -> None:
    """Join the namespaces that are given and make the new ones, all at once."""
    assert spec.linux is not None
    new = 0
    for wanted in spec.linux.namespaces:
        flag, _ = kernel.NAMESPACES.get(wanted.type, (0, ""))
        if not flag:
            raise InvalidParameter(f"unknown namespace type {wanted.type!r}")
        if wanted.type in ("pid", "cgroup") and not wanted.path:
            continue  # chosen by the monitor, and made once we are in the control group
        if wanted.type == "pid":
            continue
        if wanted.type in ("user", "time"):
            raise InvalidParameter(f"{wanted.type} namespaces are not built yet")
        if wanted.type == "network" and netns >= 0:
            kernel.setns(netns, kernel.CLONE_NEWNET, "network namespace")
        elif wanted.path:
            with _opened(wanted.path) as fd:
                kernel.setns(fd, flag, wanted.path)
        else:
            new |= flag
    kernel.unshare(new)


def _oom_score(process: Process) -> None:
    if process.oom_score_adj is not None:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(process.oom_score_adj))


def _names(spec: Spec) -> None:
    if spec.hostname and spec.namespace("uts"):
        kernel.sethostname(spec.hostname)
    if spec.domainname and spec.namespace("uts"):
        kernel.setdomainname(spec.domainname)


def open_terminal(own: Own, process: Process, console: bool) -> None:
    """A terminal of the container's own devpts; its leading side goes to the monitor."""
    leader, follower, path = terminal.open_pair()
    size = process.console_size
    if size is not None:
        terminal.set_size(leader, size.height, size.width)
    if console:
        terminal.bind_console(path)
    own.give_terminal(leader)
    own.streams = (follower, follower, follower)


def finish(
    own: Own, process: Process, request: StartRequest, seccomp: bytes, *, init: bool
) -> None:
    """From inside the root to execve: who we are, what we may do, and the command."""
    steps = own.steps
    steps.enter("identity")
    who = identity.resolve(process.user, request.identity)
    env = identity.environment(process.env, who)
    _chdir(process.cwd or "/", who)
    _connect_streams(own, who)
    path = command.find(process.args, env, who)
    identity.set_limits(process.rlimits)
    kernel.join_session_keyring()
    own.report(Outcome(uid=who.uid, gid=who.gid))
    if init:
        reaper.become(own.tell)
    identity.drop(process, who, _last_capability, seccomp, request.seccomp_flags)
    _execute(own, path, process.args, env)


def _chdir(path: str, who: identity.Who) -> None:
    """Go to the working directory, which is made when it is missing (as Docker does)."""
    if not path.startswith("/"):
        raise InvalidParameter(
            f"the working directory {path!r} is invalid, it needs to be an absolute path"
        )
    try:
        os.chdir(path)
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)
        os.chdir(path)
    except PermissionError:
        os.setegid(who.gid)
        os.seteuid(who.uid)
        os.chdir(path)
        os.seteuid(0)
        os.setegid(0)
    if os.readlink("/proc/self/cwd").startswith("(unreachable)"):
        raise SystemFailure("the working directory is outside of the container's root")


def _connect_streams(own: Own, who: identity.Who) -> None:
    """Make our streams descriptors 0, 1 and 2, and close all that is not the container's."""
    stdin, stdout, stderr = own.streams
    if stdin < 0:
        stdin = os.open("/dev/null", os.O_RDONLY)
    keep = os.dup(own.tell.fileno()) if own.tell.fileno() <= 2 else own.tell.fileno()
    for source, target in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target, inheritable=True)
    if own.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for fd in {0, 1, 2}:
        with suppress(OSError):
            os.fchown(fd, who.uid, -1)
    if keep > 3:
        kernel.close_range(3, keep - 1)
    kernel.close_range(keep + 1)


def _execute(own: Own, path: str, args: tuple[str, ...], env: dict[str, str]) -> None:
    for number in range(1, signal.NSIG):
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execve(path, list(args), env)
    except OSError as err:
        raise command.explain(path, args[0], err) from err
