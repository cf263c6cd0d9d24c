"""Both ends of the channel between a child on its way to execve and the process that waits for it.

::

    Child (the monitor's or the command line's side)      Own (the child's side)
      fork ───────────────────────────────────────────►  body(own), may pass on to a sibling
      settle, await_hooks, go   ◄── one SOCK_SEQPACKET ──►  wait_for_hooks, wait_for_go
      outcome                   ◄──────────────────────   report, or the end of the socket: execve
"""

from __future__ import annotations

import os
import time

import msgspec

from portside.kernel import c_socket as socket
from portside.kernel import process
from portside.kernel.cgroup import Cgroup
from portside.kernel.light_stdlib import suppress
from portside.kernel.polling import readable
from portside.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    PortsideError,
    SystemFailure,
)
from portside.model.ociruntime import Spec, State
from portside.model.spec_version import SPEC_VERSION
from portside.runtime import messages, userns
from portside.runtime.messages import StartRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    import signal
    from collections.abc import Callable
else:
    import _signal as signal  # without enum

_MADV_DONTFORK = 10
START_TIMEOUT = 120.0
"""Seconds a start may take before it is given up (a dead network file system, say)."""


class Given(msgspec.Struct, frozen=True):
    """Descriptors of namespaces that were made before, -1 where there is none."""

    netns: int = -1
    userns: int = -1


class Outcome(msgspec.Struct):
    """A child's report before its execve closes the channel, or instead of execve."""

    error: str = ""
    kind: str = ""
    uid: int = 0
    gid: int = 0
    timings: dict[str, float] = {}


class StartError(SystemFailure):
    """A start that was not done, for another reason than its command."""


def _reported(outcome: Outcome) -> PortsideError:
    """The error that a child reported, by its class again."""
    return messages.CLASSES.get(outcome.kind, StartError)(outcome.error)


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

    def done(self) -> dict[str, float]:
        """The last step is done: milliseconds of each."""
        self.enter("")
        return self.timings


def needs_namespaces(spec: Spec) -> bool:
    """Whether the other side has work to do between the namespaces and the process."""
    found = spec.hooks
    hooks = found is not None and (found.prestart or found.create_runtime)
    return bool(hooks or (spec.linux is not None and spec.linux.net_devices))


class Own:
    """The child's side: its streams and its channel."""

    def __init__(
        self, channel: socket.socket, streams: tuple[int, int, int], terminal: bool
    ) -> None:
        self.channel = channel
        self.streams = streams
        self.terminal = terminal
        self.steps = Steps()
        self.joins(None, False)
        self.hold = -1
        """A FIFO to read from before execve: the command line's ``create`` stops there."""
        self.result = -1
        """A file for what goes wrong after that."""
        self.done = -1
        """A FIFO that only we have open for writing, until execve(2) or our end closes it."""
        self.at_start: Callable[[], None] = lambda: None
        """Called after ``hold`` was read, before execve."""
        self.preserve = 0
        """Number of descriptors after the three streams that the command inherits."""
        self.keyring = True
        self.init_program = -1
        """Directory of the program that is PID 1 (``--init``), else -1."""
        self.page: mmap.mmap | None = None
        """Shared page to which :meth:`pass_on` writes the sibling's PID."""

    def joins(self, group: Cgroup | None, cloned: bool, beside: int = 0) -> Own:
        """We join ``group`` ourselves, or its version 1 part if we were cloned into it."""
        self.group, self.cloned, self.beside = group, cloned, beside
        self.joined = False
        return self

    def descriptors(self) -> list[int]:
        """Descriptors besides the streams that stay open until execve(2)."""
        more = (self.channel.fileno(), self.hold, self.result, self.done, self.init_program)
        return [fd for fd in (*more, *range(3, 3 + self.preserve)) if fd >= 0]

    def pass_on(self) -> None:
        """Continue as a child of our parent's, in the PID namespace chosen for our children.

        Everything inside sees that process from its first moment, so nothing of the host may be
        left in it: the caller has entered the container's other namespaces and root, and has
        closed what is not the container's. The parent learns the PID from memory that the
        sibling does not get: a message could be forged by who is allowed to trace it.
        """
        assert self.page is not None
        self.page.madvise(_MADV_DONTFORK)
        pid = process.fork_sibling()
        if pid:
            self.page[:4] = pid.to_bytes(4, "little")
            os._exit(0)

    def wait_for_hooks(self, spec: Spec) -> None:
        """Have the other side do what comes once the namespaces are there: move network devices,
        run hooks."""
        if needs_namespaces(spec):
            self.channel.send(b"h")

    def state_of(self, request: StartRequest, spec: Spec, status: str = "creating") -> State:
        """The state that a hook receives, with the PID as the hook's own PID namespace sees it."""
        return State(
            oci_version=SPEC_VERSION,
            id=request.id,
            status=status,
            bundle=request.bundle or request.state_dir,
            pid=os.getpid(),
            annotations=spec.annotations,
        )

    def join_group(self) -> None:
        """Join the control group now, if we are to do that ourselves."""
        if self.group is not None:
            self.group.join(self.beside, skip_unified=self.cloned)
            self.group, self.joined = None, True

    def wait_for_go(self) -> None:
        """Join the control group, or wait until the other side has put us there."""
        self.join_group()
        if not self.joined and not self.channel.recv(1):
            os._exit(1)

    def give_terminal(self, leader: int) -> None:
        """Hand the leading side of our terminal to the monitor."""
        socket.send_fds(self.channel, [b"t"], [leader])
        os.close(leader)

    def give_listener(self, fd: int) -> None:
        """Hand what hears of seccomp notifications to the other side, which knows the agent."""
        socket.send_fds(self.channel, [b"s"], [fd])
        os.close(fd)

    def report(self, outcome: Outcome) -> None:
        outcome.timings = self.steps.timings
        self.channel.send(b"o" + msgspec.json.encode(outcome))


def _shared_page() -> mmap.mmap:
    import mmap  # few containers need it

    return mmap.mmap(-1, mmap.PAGESIZE)


def _fork(into: Cgroup | None) -> tuple[int, bool]:
    """Fork, into a version 2 control group where that can be; whether it was done so."""
    if into is not None and into.layout.unified:
        with suppress(OSError):
            directory = into.open_dir()
            try:
                return process.fork_into(directory), True
            finally:
                os.close(directory)
    return os.fork(), False


class Child:
    """The monitor's side of a child that is on its way to execve."""

    def __init__(
        self,
        pid: int,
        channel: socket.socket,
        streams: tuple[int, int, int],
        page: mmap.mmap | None = None,
    ) -> None:
        self.pid = pid
        self._page = page
        self._kept: list[int] = []
        """Mounts that the child made its root of, attached nowhere. Closing the last descriptor of
        one waits for an RCU grace period: they are left to our own end."""
        self._outcome = Outcome()
        self._channel = channel
        self.stdin, self.stdout, self.stderr = streams
        self.leader = -1
        self.notified: Callable[[int], None] = os.close
        """Gets the descriptor of seccomp notifications, when the profile has any."""

    @classmethod
    def fork(
        cls, body: Callable[[Own], None], *, terminal: bool, stdin: bool, inherit: bool = False,
        into: Cgroup | None = None, beside: int = 0, passes: bool = False,
    ) -> Child:  # fmt: skip
        """Fork a child that runs ``body``, which never returns but by failing.

        ``inherit``: without a terminal its streams are ours. ``into``: a control group that it
        joins itself, or the one that process ``beside`` is in below it. ``passes``: it will
        :meth:`Own.pass_on`.
        """
        page = _shared_page() if passes else None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inner, outer = pipes(stdin and not terminal, not terminal and not inherit)
        if inner[0] < 0:  # the container's own could be anything
            inner = (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), *inner[1:])
        pid, cloned = _fork(into)
        if pid == 0:
            ours.close()
            for fd in outer:
                if fd >= 0:
                    os.close(fd)
            own = Own(theirs, (0, 1, 2) if inherit else inner, terminal)
            own.page = page
            _run(body, own.joins(into, cloned, beside))
        theirs.close()
        for fd in inner:
            if fd >= 0:
                os.close(fd)
        return cls(pid, ours, outer, page)

    def arrive(self) -> None:
        """Once a child that passes on has done so, :attr:`pid` is its sibling's; 0 when the
        child has ended without one."""
        if self._page is not None:
            os.waitpid(self.pid, 0)
            self.pid = int.from_bytes(self._page[:4], "little")
            self._page = None

    def settle(self, spec: Spec) -> None:
        """Help a child through a user namespace; afterwards ``pid`` is the container's init."""
        while userns.wanted(spec):
            data, fds = self._hear()
            if data == b"u":
                assert spec.linux is not None
                userns.write_mappings(self.pid, spec.linux)
                self._channel.send(b"m")
            elif data[:1] == b"p":
                self._kept += fds
                os.waitpid(self.pid, 0)
                self.pid = int(data[1:])
                return
            else:
                raise self._premature(data)

    def await_hooks(self, spec: Spec) -> bool:
        """Until the child has its namespaces, if hooks or network devices wait for that."""
        if not needs_namespaces(spec):
            return False
        data, _ = self._hear()
        if data != b"h":
            raise self._premature(data)
        return True

    def _hear(self) -> tuple[bytes, list[int]]:
        if not readable(self._channel, timeout=START_TIMEOUT):
            raise StartError(f"the start was not done within {START_TIMEOUT:g} s")
        return messages.receive(self._channel)

    def _premature(self, data: bytes) -> PortsideError:
        """The error for a message that was not the expected one."""
        if data[:1] == b"o":
            outcome = msgspec.json.decode(data[1:], type=Outcome)
            if outcome.error:
                return _reported(outcome)
        return StartError("the container's process was killed while it was started")

    def go(self) -> None:
        """Let the child continue: it is in its control group."""
        with suppress(OSError):
            self._channel.send(b"g")

    def outcome(self) -> Outcome:
        """Wait for execve or failure; raises StartError."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not readable(self._channel, timeout=left):
                raise StartError(f"the start was not done within {START_TIMEOUT:g} s")
            if self.take():
                return self.executed()

    def fileno(self) -> int:
        """Readable when :meth:`take` has something to do."""
        return self._channel.fileno()

    def take(self) -> bool:
        """Take one message; whether it was the last: :meth:`executed` comes next. Raises
        StartError."""
        data, fds = messages.receive(self._channel)
        if data == b"t":
            self.leader = fds[0]
            os.set_inheritable(self.leader, False)
            return False
        if data == b"s":
            self.arrive()
            self.notified(fds[0])
            return False
        if data[:1] == b"o":
            self._outcome = msgspec.json.decode(data[1:], type=Outcome)
            if self._outcome.error:
                raise _reported(self._outcome)
            return False
        return True

    def executed(self) -> Outcome:
        """The child's report before execve(2). Raises StartError when it did not reach execve."""
        outcome = self._outcome
        self._channel.close()
        self.arrive()
        # killed before it could report: the channel closes as at execve, but the child is dead
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if not self.pid or (os.waitid(os.P_PID, self.pid, flags) and not outcome.timings):
            raise StartError("the container's process was killed while it was started")
        return outcome

    def descriptors(self) -> list[int]:
        """The child's pidfd and streams, in the order of ``messages.Placed``."""
        pidfd = os.pidfd_open(self.pid)
        if self.leader >= 0:
            return [pidfd, self.leader]
        return [pidfd, self.stdout, self.stderr, *([self.stdin] if self.stdin >= 0 else [])]

    def kill(self) -> None:
        """End a child whose start failed, and everything that was made for it."""
        if self._page is not None:
            os.kill(self.pid, signal.SIGKILL)  # not waited for yet
            self.arrive()
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        self._channel.close()
        for fd in (self.stdin, self.stdout, self.stderr, self.leader):
            if fd >= 0:
                os.close(fd)


def explain_kill(err: BaseException, group: Cgroup) -> None:
    """Raise a better error when the kernel ended a child because memory ran out."""
    if isinstance(err, StartError) and group.oom_kills():
        raise StartError("container init was OOM-killed (memory limit too low?)") from err


def pipes(stdin: bool, outputs: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The child's and the monitor's ends of its three streams; -1 where there is none."""
    child_in, our_in = os.pipe() if stdin else (-1, -1)
    our_out, child_out = os.pipe() if outputs else (-1, -1)
    our_err, child_err = os.pipe() if outputs else (-1, -1)
    return (child_in, child_out, child_err), (our_in, our_out, our_err)


def explain(own: Own, err: BaseException) -> str:
    """The text of a child's error, with the step when the error does not name it."""
    if isinstance(err, OSError):
        where = f"{err.filename}: " if err.filename else ""
        return f"{own.steps.current}: {where}{(err.strerror or str(err)).lower()}"
    if isinstance(err, PortsideError):
        return str(err)
    return f"{own.steps.current}: {err!r}"


def _run(body: Callable[[Own], None], own: Own) -> None:
    """The child's whole life before execve; it never gets back into the monitor's code."""
    code = 1
    try:
        body(own)
    except BaseException as err:
        text = explain(own, err)
        if own.channel.fileno() >= 0:
            own.report(Outcome(text, messages.kind_of(err)))
        else:  # ``create`` has gone; ``start`` reads this
            code = 127 if isinstance(err, CommandNotFound) else 1
            code = 126 if isinstance(err, CommandNotExecutable) else code
            os.write(own.result if own.result >= 0 else 2, text.encode())
    finally:
        os._exit(code)
