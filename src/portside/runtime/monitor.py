"""The monitor: one small process beside each container, which the engine may come and go from.

It owns the container's streams and log, starts and executes its processes, waits for them
and writes the end to ``exit.json`` before anybody is told. Its life::

    request ─► control group ─► fork init ─► "Started" or "Failed" (and it ends)
       │
       └─ loop: engine's sockets, streams, pidfds ─► init exits ─► exit.json ─► "Exited" ─► end

The monitor has left the engine's PID namespace for its children only
(``unshare(CLONE_NEWPID)``): whatever it forks is in the container's, PID 1 first.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from portside.kernel import process as kernel
from portside.kernel.cgroup import Cgroup, detect, warm_up
from portside.model.errors import PortsideError
from portside.model.ociruntime import Spec
from portside.runtime import container, execute, messages
from portside.runtime.container import Child
from portside.runtime.logs import LogWriter, open_log
from portside.runtime.messages import (
    Answer,
    Attach,
    Call,
    Done,
    Exec,
    Exited,
    Failed,
    Resize,
    Signal,
    Started,
    StartRequest,
    StateFile,
)
from portside.runtime.streams import READ, Channel, Poller

FLUSH = 10.0
"""Seconds the end waits for attached readers that are behind."""


def prepare() -> None:
    """Done once in the launcher, so that no monitor has to: caches that forks share."""
    detect()
    container.prepare()
    msgspec.json.decode(b"{}", type=Spec)


class Running:
    """One process of the container: its streams and its pidfd."""

    def __init__(self, pid: int, channel: Channel, exec_id: str = "") -> None:
        self.pid = pid
        self.channel = channel
        self.exec_id = exec_id
        self.pidfd = os.pidfd_open(pid)


class Monitor:
    """State of one monitor."""

    def __init__(self, request: StartRequest, engine: socket.socket) -> None:
        self.request = request
        self.state_dir = Path(request.state_dir)
        self.poller = Poller()
        self.clients: dict[int, socket.socket] = {}
        self.listener: socket.socket | None = None
        self.log: LogWriter = LogWriter()
        self.init: Running | None = None
        self.execs: dict[str, Running] = {}
        self.cgroup: Cgroup | None = None
        self.seccomp = b""
        self.ended = False
        self.add_client(engine)

    # conversation

    def add_client(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.clients[sock.fileno()] = sock
        self.poller.set(sock.fileno(), READ, lambda _: self.hear(sock))

    def listen(self) -> None:
        """Serve engines that come later."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        directory = os.open(self.state_dir, os.O_PATH | os.O_DIRECTORY)
        try:
            with suppress(FileNotFoundError):
                os.unlink("monitor.sock", dir_fd=directory)
            listener.bind(f"/proc/self/fd/{directory}/monitor.sock")
        finally:
            os.close(directory)
        listener.listen(8)
        listener.setblocking(False)
        self.listener = listener
        self.poller.set(listener.fileno(), READ, lambda _: self.accept(listener))

    def accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            sock, _ = listener.accept()
            self.add_client(sock)

    def hear(self, sock: socket.socket) -> None:
        try:
            data, fds = messages.receive(sock)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self.poller.drop(sock.fileno())
            self.clients.pop(sock.fileno(), None)
            sock.close()
            return
        number = 0
        try:
            call = msgspec.json.decode(data, type=Call)
            number = call.number
            reply = self.serve(call, fds)
        except PortsideError as err:
            reply = Failed(str(err))
        except (OSError, msgspec.MsgspecError) as err:
            reply = Failed(f"the container's monitor: {err}")
        finally:
            for fd in fds:
                os.close(fd)
        self.tell(sock, Answer(number, reply))

    def tell(self, sock: socket.socket, answer: Answer) -> None:
        with suppress(OSError):
            messages.send(sock, answer)

    def tell_all(self, reply: Started | Failed | Exited) -> None:
        for sock in list(self.clients.values()):
            self.tell(sock, Answer(0, reply))

    def serve(self, call: Call, fds: list[int]) -> messages.Reply:
        request = call.request
        if isinstance(request, Exec):
            return self.execute(request, fds)
        running = self.execs.get(request.exec_id) if request.exec_id else self.init
        if running is None:
            return Failed(f"No such exec instance: {request.exec_id}", "no-exec")
        if isinstance(request, Attach):
            running.channel.attach(socket.socket(fileno=fds.pop()), request.streams)
        elif isinstance(request, Resize):
            if running.channel.terminal >= 0:
                execute.resize(running.channel.terminal, request.height, request.width)
        elif isinstance(request, Signal):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(running.pidfd, request.number)
        return Done()

    # processes

    def start(self, spec: Spec, netns: int, sockets: list[socket.socket]) -> Started:
        """Bring the container up to its execve; raises PortsideError."""
        request = self.request
        self.log = open_log(request.log)
        assert spec.linux is not None and spec.process is not None
        container.join_pid_namespace(spec)
        self.cgroup = Cgroup.create(request.cgroup, spec.linux.resources)
        terminal = spec.process.terminal
        child = Child.fork(
            lambda own: container.run_init(request, spec, own, netns, self.seccomp),
            terminal=terminal,
            stdin=request.open_stdin,
        )
        try:
            self.cgroup.add(child.pid)
            child.go()
            told = child.outcome()
        except BaseException:
            child.kill()
            raise
        channel = Channel(self.poller, self.log, stdin_once=request.stdin_once)
        self.init = Running(child.pid, channel)
        self.connect(child, channel, sockets, request.attachments)
        self.poller.set(self.init.pidfd, READ, lambda _: self.init_exited())
        return Started(child.pid, time.time_ns(), told.timings, told.uid, told.gid)

    def connect(
        self,
        child: Child,
        channel: Channel,
        sockets: list[socket.socket],
        streams: tuple[messages.Streams, ...],
    ) -> None:
        for sock, wanted in zip(sockets, streams, strict=True):
            channel.attach(sock, wanted)
        if child.leader >= 0:
            channel.use_terminal(child.leader)
        else:
            channel.use_pipes(child.stdin, child.stdout, child.stderr)

    def execute(self, request: Exec, fds: list[int]) -> messages.Reply:
        if self.init is None or self.ended:
            return Failed("the container is not running")
        if request.exec_id in self.execs:
            return Failed(f"exec {request.exec_id} is running already")
        sockets = [socket.socket(fileno=fd) for fd in fds]
        fds.clear()
        init = self.init
        program = b"" if request.privileged else self.seccomp
        child = Child.fork(
            lambda own: execute.run_exec(request, own, init.pidfd, program, self.request),
            terminal=request.process.terminal,
            stdin=request.open_stdin,
        )
        try:
            assert self.cgroup is not None
            self.cgroup.add(child.pid, beside=init.pid)
            child.go()
            child.outcome()
        except PortsideError as err:
            child.kill()
            for sock in sockets:
                sock.close()
            return Failed(str(err), getattr(err, "kind", "system"))
        channel = Channel(self.poller, LogWriter())
        running = Running(child.pid, channel, request.exec_id)
        self.execs[request.exec_id] = running
        self.connect(child, channel, sockets, request.attachments)
        self.poller.set(running.pidfd, READ, lambda _: self.exec_exited(running))
        return Started(child.pid, time.time_ns())

    def exec_exited(self, running: Running) -> None:
        code = self.reap(running)
        self.execs.pop(running.exec_id, None)
        self.tell_all(Exited(code, time.time_ns(), running.exec_id))

    def reap(self, running: Running) -> int:
        """The exit code of a process whose pidfd is readable; its streams are finished."""
        self.poller.drop(running.pidfd)
        _, status = os.waitpid(running.pid, 0)
        os.close(running.pidfd)
        running.channel.finish()
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code

    def init_exited(self) -> None:
        """The container is over: write it down, then tell everybody."""
        assert self.init is not None and self.cgroup is not None
        self.ended = True
        at_ns = time.time_ns()
        code = self.reap(self.init)
        for running in list(self.execs.values()):  # the kernel killed them with PID 1
            self.exec_exited(running)
        oom = False
        with suppress(PortsideError, OSError):
            oom = self.cgroup.oom_kills() > 0
        exit = Exited(code, at_ns, "", oom)
        write_durably(self.state_dir / "exit.json", msgspec.json.encode(exit))
        self.tell_all(exit)
        try:
            self.cgroup.delete()
        except (PortsideError, OSError) as err:
            _complain(self.state_dir, f"control group: {err}")

    def loop(self) -> None:
        """Until the container is over and its readers have had what they were promised."""
        deadline = 0.0
        while True:
            self.poller.turn(1.0 if self.ended else None)
            if self.ended:
                deadline = deadline or time.monotonic() + FLUSH
                channel = self.init.channel if self.init else None
                busy = channel is not None and channel.attached
                if not busy or time.monotonic() > deadline:
                    return


def main(request: StartRequest, fds: list[int]) -> None:
    """The life of one monitor, forked from the launcher."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    engine = socket.socket(fileno=fds[0])
    rest = fds[1:]
    monitor = Monitor(request, engine)
    try:
        warm_up()
        netns = rest.pop(0) if request.has_netns else -1
        if request.has_seccomp:
            monitor.seccomp = _read_all(rest.pop(0))
        sockets = [socket.socket(fileno=fd) for fd in rest]
        spec = msgspec.json.decode((monitor.state_dir / "config.json").read_bytes(), type=Spec)
        started = monitor.start(spec, netns, sockets)
        if netns >= 0:
            os.close(netns)
        del spec
        monitor.listen()
        write_state(monitor, started)
    except BaseException as err:
        _fail(monitor, err)
        return
    monitor.tell_all(started)
    monitor.loop()


def _fail(monitor: Monitor, err: BaseException) -> None:
    """Undo what the start has made and say why it failed."""
    if monitor.init is not None:
        with suppress(ProcessLookupError):
            os.kill(monitor.init.pid, signal.SIGKILL)
        os.waitpid(monitor.init.pid, 0)
    if monitor.cgroup is not None:
        with suppress(PortsideError, OSError):
            monitor.cgroup.delete()
    if not isinstance(err, PortsideError | OSError):
        import traceback

        _complain(monitor.state_dir, traceback.format_exc())
    kind = getattr(err, "kind", "system")
    monitor.tell_all(Failed(str(err) or repr(err), kind))


def _complain(state_dir: Path, text: str) -> None:
    """Leave a word where whoever looks into a broken container will find it."""
    with suppress(OSError), (state_dir / "monitor.err").open("a") as file:
        file.write(text + "\n")


def _read_all(fd: int) -> bytes:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    os.close(fd)
    return data


def start_ticks(pid: int | str) -> int:
    """When a process was started, in clock ticks since boot (proc_pid_stat(5), field 22)."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def write_state(monitor: Monitor, started: Started) -> None:
    state = StateFile(
        monitor.request.id,
        os.getpid(),
        start_ticks("self"),
        started.pid,
        start_ticks(started.pid),
        started.started_ns,
        monitor.request.cgroup,
    )
    write_durably(monitor.state_dir / "state.json", msgspec.json.encode(state), sync=False)


def write_durably(path: Path, data: bytes, sync: bool = True) -> None:
    """Replace a file as a whole; with ``sync`` it is on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
