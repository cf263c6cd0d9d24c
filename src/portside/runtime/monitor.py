"""The monitor: one small process beside each container, which the engine may come and go from.

It owns the container's streams and log, has its processes started (:mod:`starter`), waits
for them and writes the end to ``exit.json`` before it informs anybody. Its life::

    request ─► starter ─► "Started", or "Failed" and it ends
       │
       └─ loop: engine's sockets, streams, pidfds ─► init exits ─► exit.json ─► "Exited" ─► end

It is the subreaper of what it has started, and stays small: a page it writes to is one it no
longer shares with the launcher and the other monitors.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from contextlib import suppress

import msgspec

from portside.kernel import process
from portside.kernel.cgroup import Cgroup
from portside.model.errors import PortsideError
from portside.runtime import messages, starter, terminal
from portside.runtime.fluentd_log import Fluentd
from portside.runtime.gelf_log import Gelf
from portside.runtime.init_channel import Child
from portside.runtime.logs import LogWriter, open_log, register
from portside.runtime.messages import (
    Answer,
    Attach,
    Call,
    Done,
    Exec,
    Exited,
    Failed,
    Oom,
    Placed,
    Resize,
    Signal,
    Started,
    StartRequest,
)
from portside.runtime.poller import Poller
from portside.runtime.remote_logs import Journald, Syslog, with_cache
from portside.runtime.state_files import complain, is_ending, write_whole
from portside.runtime.streams import READ, WRITE, Channel

FLUSH = 10.0
"""Seconds the end waits for attached readers that are behind."""
OOM_WATCH = 2.0
"""Seconds after memory ran out within which a kill is looked for."""
_OUTCOME = msgspec.json.Decoder(Placed | Failed)
NOT_RUNNING = Failed("the container is not running", "not-running")
_CALL = msgspec.json.Decoder(Call)
_REQUEST = msgspec.json.Decoder(StartRequest)
register("syslog", lambda config: with_cache(config, Syslog(config)))
register("journald", lambda config: with_cache(config, Journald(config)))
register("gelf", lambda config: with_cache(config, Gelf(config)))
register("fluentd", lambda config: with_cache(config, Fluentd(config)))
MAX_UNREAD = 4096
"""Answers kept for an engine that does not read; then it receives nothing more."""


def prepare() -> None:
    """Done once in the launcher: caches that forks share."""
    _OUTCOME.decode(msgspec.json.encode(Placed(Started(0, 0))))
    _CALL.decode(msgspec.json.encode(Call(0, Signal(0))))
    msgspec.json.encode(Answer(0, Started(0, 0)))
    time.time_ns(), time.monotonic()


class Client:
    """One engine that talks to us; what it does not read at once is kept in order."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.unread: list[Answer] = []

    def send(self, answer: Answer) -> bool:
        """Send or keep; False when there is something left to send. Raises OSError."""
        self.unread.append(answer)
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; False while the client's socket is full."""
        while self.unread:
            try:
                messages.send(self.sock, self.unread[0])
            except BlockingIOError:
                del self.unread[MAX_UNREAD:]
                return False
            del self.unread[0]
        return True


class Running:
    """One process of the container: its streams, its pidfd once it runs."""

    def __init__(self, channel: Channel, exec_id: str = "") -> None:
        self.channel = channel
        self.exec_id = exec_id
        self.pid = 0
        self.pidfd = -1


class Starting:
    """A process that a starter is bringing up, and who asked for it."""

    def __init__(self, running: Running, by: socket.socket | Child, pid: int) -> None:
        self.running = running
        self.by = by
        """The starter's socket, or an exec's child that the monitor forked itself."""
        self.pid = pid
        self.attachments: list[tuple[socket.socket, messages.Streams]] = []
        self.client: Client | None = None
        self.number = 0


class Monitor:
    """State of one monitor."""

    def __init__(self, request: StartRequest, engine: socket.socket, seccomp: int) -> None:
        self.request = request
        self.state_dir = request.state_dir
        self.poller = Poller()
        self.clients: dict[int, Client] = {}
        self.log: LogWriter = LogWriter()
        self.init: Running | None = None
        self.execs: dict[str, Running] = {}
        self.starting: dict[int, Starting] = {}
        self.seccomp = seccomp
        self.oom = -1
        self.oom_kills = 0
        self.oom_until = 0.0
        self.ended = self.failed = self.poststop = False
        self.engine = self.add_client(engine)

    # conversation

    def add_client(self, sock: socket.socket) -> Client:
        client = Client(sock)
        self.clients[sock.fileno()] = client
        self.poller.set(sock.fileno(), READ, lambda events: self.client_event(client, events))
        return client

    def listen(self) -> None:
        """Serve engines that come later."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        directory = os.open(self.state_dir, os.O_PATH | os.O_DIRECTORY)
        try:
            with suppress(FileNotFoundError):
                os.unlink("monitor.sock", dir_fd=directory)
            os.fchmod(listener.fileno(), 0o600)  # the mode that bind(2) gives the file
            listener.bind(f"/proc/self/fd/{directory}/monitor.sock")
        finally:
            os.close(directory)
        listener.listen(8)
        listener.setblocking(False)
        self.poller.set(listener.fileno(), READ, lambda _: self.accept(listener))

    def accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            sock, _ = listener.accept()
            self.add_client(sock)

    def client_event(self, client: Client, events: int) -> None:
        if events & WRITE:
            self.send(client)
        if events & ~WRITE and client.sock.fileno() >= 0:
            self.hear(client)

    def hear(self, client: Client) -> None:
        """Receive and answer one message of a client, or let a client go that has closed."""
        try:
            data, fds = messages.receive(client.sock)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self.drop(client)
            return
        number = 0
        reply: messages.Reply | None
        try:
            call = _CALL.decode(data)
            number = call.number
            reply = self.serve(client, call, fds)
        except PortsideError as err:
            reply = Failed(str(err))
        except (OSError, msgspec.MsgspecError) as err:
            reply = Failed(f"the container's monitor: {err}")
        except Exception as err:  # a request's failure is its own, the container continues
            complain(self.state_dir, f"request {number}: {err!r}")
            reply = Failed(f"the container's monitor: {err!r}")
        finally:
            for fd in fds:
                os.close(fd)
        if reply is not None:
            self.send(client, Answer(number, reply))

    def send(self, client: Client, answer: Answer | None = None) -> None:
        """Send an answer to a client, now or when the client reads again."""
        if client.sock.fileno() < 0:
            return
        try:
            done = client.send(answer) if answer is not None else client.flush()
        except OSError:
            self.drop(client)
            return
        events = READ if done else READ | WRITE
        self.poller.set(
            client.sock.fileno(), events, lambda events: self.client_event(client, events)
        )

    def drop(self, client: Client) -> None:
        if client.sock.fileno() >= 0:
            self.poller.drop(client.sock.fileno())
            self.clients.pop(client.sock.fileno(), None)
            client.sock.close()

    def send_all(self, reply: Started | Failed | Exited | Oom) -> None:
        for client in list(self.clients.values()):
            self.send(client, Answer(0, reply))

    def serve(self, client: Client, call: Call, fds: list[int]) -> messages.Reply | None:
        """The answer to a request; None when it comes later."""
        request = call.request
        if isinstance(request, Exec):
            return self.execute(client, call.number, request, fds)
        running = self.execs.get(request.exec_id) if request.exec_id else self.init
        if running is None:
            return Failed(f"No such exec instance: {request.exec_id}", "no-exec")
        if isinstance(request, Attach):
            if not fds:
                return Failed("attach needs a socket")
            running.channel.attach(socket.socket(fileno=fds.pop()), request.streams)
        elif isinstance(request, Resize):
            if running.channel.terminal >= 0:
                terminal.set_size(running.channel.terminal, request.height, request.width)
        elif running.pidfd >= 0:  # else it is over, and its end is being written down
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(running.pidfd, request.number)
        return Done()

    # processes

    def await_init(self, sock: socket.socket, pid: int, attached: list[socket.socket]) -> None:
        """The container's first process is on its way."""
        channel = Channel(self.poller, self.log, stdin_once=self.request.stdin_once)
        starting = Starting(Running(channel), sock, pid)
        starting.attachments = list(zip(attached, self.request.attachments, strict=True))
        self.watch(starting, sock)

    def execute(
        self, client: Client, number: int, request: Exec, fds: list[int]
    ) -> messages.Reply | None:
        """Fork the init of an exec. Returns the refusal, or None: its outcome is the answer."""
        init = self.init
        if init is None or self.ended:
            return NOT_RUNNING
        if request.exec_id in self.execs:
            return Failed(f"exec {request.exec_id} is running already")
        if len(fds) != len(request.attachments):
            return Failed("exec needs one socket for each attachment")
        running = Running(Channel(self.poller, LogWriter()), request.exec_id)
        if starter.needs_starter(self.request):
            sock, pid = starter.fork(
                lambda own: starter.start_exec(own, request, self.request, init.pidfd, self.seccomp)
            )
            starting = Starting(running, sock, pid)
            self.watch(starting, sock)
        else:
            filter = starter.read_all(self.seccomp) if self.seccomp >= 0 else b""
            child = starter.fork_exec(request, self.request, init.pidfd, init.pid, filter)
            starting = Starting(running, child, child.pid)
            self.starting[child.fileno()] = starting
            self.poller.set(child.fileno(), READ, lambda _: self.exec_reported(starting, child))
        sockets = [socket.socket(fileno=fd) for fd in fds]
        fds.clear()
        starting.attachments = list(zip(sockets, request.attachments, strict=True))
        starting.client, starting.number = client, number
        return None

    def exec_reported(self, starting: Starting, child: Child) -> None:
        """An exec that is being started has sent a message, or has reached execve(2)."""
        failed: Failed | None = None
        try:
            if not child.take():
                return
        except (PortsideError, OSError) as err:
            failed = Failed(str(err), messages.kind_of(err))
        self.poller.drop(child.fileno())  # before the number can be another descriptor's
        del self.starting[child.fileno()]
        try:
            if failed is None:
                outcome = child.executed()
                placed, fds = starter.placed(child, outcome), child.descriptors()
        except (PortsideError, OSError) as err:
            failed = Failed(str(err), messages.kind_of(err))
        if failed is None:
            self.place(starting, placed, fds)
            return
        child.kill()
        for sock, _ in starting.attachments:
            sock.close()
        self.reply(starting, failed)

    def watch(self, starting: Starting, sock: socket.socket) -> None:
        self.starting[sock.fileno()] = starting
        self.poller.set(sock.fileno(), READ, lambda _: self.started(starting, sock))

    def started(self, starting: Starting, sock: socket.socket) -> None:
        """A starter has reported its outcome, or died without a report."""
        try:
            data, fds = messages.receive(sock)
        except OSError:
            data, fds = b"", []
        self.poller.drop(sock.fileno())
        del self.starting[sock.fileno()]
        sock.close()
        reply: Placed | Failed = Failed("the process that was to start the container was killed")
        if data:
            reply = _OUTCOME.decode(data)
        if isinstance(reply, Failed):
            for sock, _ in starting.attachments:
                sock.close()
            self.reply(starting, reply)
        else:
            self.place(starting, reply, fds)
        os.waitpid(starting.pid, 0)  # from here on its child is ours

    def place(self, starting: Starting, placed: Placed, fds: list[int]) -> None:
        """Take PID 1 over from the starter, with its pidfd and the descriptor for OOM kills."""
        running, started = starting.running, placed.started
        running.pid, running.pidfd = started.pid, fds.pop(0)
        if placed.oom:
            self.oom = fds.pop()
            self.poller.set(self.oom, READ, lambda _: self.out_of_memory())
        for sock, wanted in starting.attachments:
            running.channel.attach(sock, wanted)
        if running.exec_id:
            self.execs[running.exec_id] = running
        else:
            self.init, self.poststop = running, placed.poststop
        self.reply(starting, started)
        if placed.terminal:
            running.channel.use_terminal(fds[0])
        else:
            running.channel.use_pipes(fds[2] if len(fds) > 2 else -1, fds[0], fds[1])
        self.poller.set(running.pidfd, READ, lambda _: self.exited(running))

    def reply(self, starting: Starting, reply: Started | Failed) -> None:
        """Answer the client that asked for the start."""
        if starting.client is not None:
            if isinstance(reply, Failed) and (self.ended or self.init_is_ending()):
                reply = NOT_RUNNING  # which is why the exec failed, wherever it was
            self.send(starting.client, Answer(starting.number, reply))
            return
        self.failed = isinstance(reply, Failed)
        self.send(self.engine, Answer(0, reply))
        if self.engine.sock.fileno() < 0 and not self.failed:
            # Nobody knows of this start, and the next engine will find it not done.
            self.failed = True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(starting.running.pidfd, signal.SIGKILL)

    def init_is_ending(self) -> bool:
        return self.init is not None and is_ending(self.init.pid)

    def exited(self, running: Running) -> None:
        if running is self.init:
            self.init_exited(running)
        else:
            self.exec_exited(running)

    def exec_exited(self, running: Running) -> None:
        code = self.reap(running)
        self.execs.pop(running.exec_id, None)
        # sent before the streams end, since their end makes clients ask for the code
        self.send_all(Exited(code, time.time_ns(), running.exec_id))
        running.channel.finish()

    def reap(self, running: Running) -> int:
        """The exit code of a process whose pidfd is readable."""
        self.poller.drop(running.pidfd)
        _, status = os.waitpid(running.pid, 0)
        os.close(running.pidfd)
        running.pidfd = -1
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code

    def out_of_memory(self) -> None:
        """Perhaps an OOM kill: the control group's own count decides."""
        with suppress(OSError):
            os.read(self.oom, 4096)
        self.oom_until = time.monotonic() + OOM_WATCH
        self.look_for_kill()

    def look_for_kill(self) -> None:
        """Version 1 reports that memory ran out, which comes a moment before the kill."""
        kills = self.count_oom_kills()
        if kills > self.oom_kills and not self.ended:
            self.oom_kills, self.oom_until = kills, 0.0
            self.send_all(Oom(time.time_ns()))
        elif time.monotonic() > self.oom_until:
            self.oom_until = 0.0

    def count_oom_kills(self) -> int:
        try:
            return Cgroup(self.request.cgroup).oom_kills()
        except (PortsideError, OSError):
            return 0

    def init_exited(self, init: Running) -> None:
        """The container has ended: write the exit to disk, then inform every client."""
        self.ended = True
        at_ns = time.time_ns()
        code = self.reap(init)
        init.channel.drain()
        for running in list(self.execs.values()):  # the kernel killed them with PID 1
            self.exec_exited(running)
        exit = Exited(code, at_ns, "", self.count_oom_kills() > 0)
        write_whole(f"{self.state_dir}/exit.json", msgspec.json.encode(exit))
        if self.request.runtime:  # before anybody starts a container of this name again
            self.run_poststop()
        self.send_all(exit)
        init.channel.finish()
        self.remove_group()
        if self.poststop and not self.request.runtime:
            self.run_poststop()

    def run_poststop(self) -> None:
        sock, pid = starter.fork(lambda own: starter.run_poststop(self.request))
        os.waitpid(pid, 0)
        sock.close()

    def log_drained(self) -> None:
        """The log takes more again."""
        if self.init is not None:
            self.init.channel.drained()

    def remove_group(self) -> None:
        try:
            Cgroup(self.request.cgroup).delete()
        except (PortsideError, OSError) as err:
            complain(self.state_dir, f"control group: {err}")

    def loop(self) -> None:
        """Until the container is over and its readers have had what they were promised."""
        deadline = 0.0
        while not (self.failed and self.init is None):
            self.poller.turn(1.0 if self.ended else 0.05 if self.oom_until else None)
            if not self.ended:
                if self.oom_until:
                    self.look_for_kill()
                continue
            deadline = deadline or time.monotonic() + FLUSH
            waiting = [c for c in self.clients.values() if c.unread]
            if time.monotonic() > deadline or not (
                waiting or (self.init and self.init.channel.attached)
            ):
                break


def main(launcher: socket.socket) -> None:
    """The life of one monitor, forked from the launcher, from waiting for its request on."""
    os.setsid()
    process.set_name("portside-mon")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    sock, pid = starter.fork(lambda own: _reserve(launcher, own))
    data, fds = messages.receive(launcher)
    launcher.close()
    if not data:
        return
    socket.send_fds(sock, [data], fds[1:])
    request = _REQUEST.decode(data)
    engine = socket.socket(fileno=fds.pop(0))
    for _ in range(request.has_netns + request.has_userns):  # the starter's
        os.close(fds.pop(0))
    monitor = Monitor(request, engine, fds.pop(0) if request.has_seccomp else -1)
    try:
        monitor.log = open_log(request.log)
        monitor.log.drained = monitor.log_drained
        monitor.log.bind(monitor.poller)
        monitor.await_init(sock, pid, [socket.socket(fileno=fd) for fd in fds])
        monitor.listen()
        _quiet()
        monitor.loop()
    except BaseException as err:
        _fail(monitor, err)


def _reserve(launcher: socket.socket, own: socket.socket) -> None:
    launcher.close()
    starter.wait_for_start(own)


def _quiet() -> None:
    """Let go of the launcher's standard streams, and have cycles collected: we live long."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    gc.enable()


def _fail(monitor: Monitor, err: BaseException) -> None:
    """End what has been started and say why."""
    if not isinstance(err, PortsideError | OSError):
        import traceback

        complain(monitor.state_dir, traceback.format_exc())
    for starting in list(monitor.starting.values()):
        if isinstance(starting.by, Child):
            starting.by.kill()
            continue
        starting.by.close()  # its starter cannot report to us, and undoes what it did
        os.waitpid(starting.pid, 0)
    if monitor.init is not None and not monitor.ended:
        with suppress(OSError):
            os.kill(monitor.init.pid, signal.SIGKILL)
    monitor.send_all(Failed(str(err) or repr(err), messages.kind_of(err)))
    if monitor.init is not None:
        monitor.remove_group()
