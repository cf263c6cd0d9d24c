"""The launcher's own life: import everything, then fork a monitor for each request.

::

    launcher ──fork──► monitor, in reserve ──fork──► starter, in reserve
        │ request          │ keeps the streams           │ forks the container's init,
        └─────────────────►└────────────────────────────►│ reports, then ends

It has one thread and never imports more once it is ready. One pair is kept in reserve, so
that a start waits neither for the forks nor for the pages a fresh process touches first.
"""

from __future__ import annotations

import fcntl
import gc
import os
import re
import resource
import signal
import socket
import sys
import time
from contextlib import suppress

import msgspec

from portside.kernel import c_socket, cgroup, idmapped, process
from portside.kernel.polling import readable
from portside.model.errors import PortsideError, SystemFailure
from portside.model.ociruntime import CPU, Resources
from portside.model.rootfs import Rootfs
from portside.runtime import logs, messages, monitor, mounts, starter
from portside.runtime.messages import (
    Call,
    LogConfig,
    Placed,
    Signal,
    Started,
    StartRequest,
    Streams,
)

_SHARES = 10 * 1024
"""The launcher's CPU shares; a container has 1024 by default."""
_QUIET = 0.1
"""Seconds without a request after which the launcher forks a monitor in reserve."""


def main(fd: int, parent: str, home: str, files: int) -> None:
    """Serve the engine on an inherited socket until it is gone; never returns.

    ``parent`` is the control group that most containers will be made in, ``home`` the one that
    this process and its monitors live in (:attr:`Instance.monitors_cgroup`; empty: as they are),
    ``files`` the soft limit of open files that containers get: the engine has raised its own.
    """
    os.set_inheritable(fd, False)
    os.umask(0o022)  # monitors and starters have it, too: mount points and control groups are 0755
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    try:
        _serve(socket.socket(fileno=fd), parent, home)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(0)


def _serve(sock: socket.socket, parent: str, home: str) -> None:
    os.setsid()
    process.set_name("portside-launch")
    process.prctl(process.PR_SET_DUMPABLE, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # its end is the end of the engine's socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for the monitors' status
    process.default_internal_signals()
    starter.prepare()
    monitor.prepare()
    with suppress(PortsideError, OSError):  # where it cannot be played, nothing is lost
        rehearse()
    if parent:
        _prepare(parent)
    if home:
        _move(home)
    gc.collect()
    process.close_all_but([sock.fileno()])
    fill_pools()
    gc.freeze()
    gc.disable()
    spare: socket.socket | None = _fork_monitor(sock)
    while True:
        if spare is None and not readable(sock, timeout=_QUIET):
            spare = _fork_monitor(sock)
        data, fds = messages.receive(sock)
        if not data:
            return
        if data == messages.REFILL:
            spare = spare or _fork_monitor(sock)
            continue
        if data == messages.HOLD:
            _fork_holder(fds)
        else:
            _hand_over(sock, spare, data, fds)
            spare = None
        for fd in fds:
            os.close(fd)


def _prepare(parent: str) -> None:
    """Make the control group that holds containers', once for all monitors to come.

    Errors are ignored here: a container's own start reports them.
    """
    with suppress(PortsideError, OSError):
        cgroup.prepare(cgroup.detect(), parent)


def _move(home: str) -> None:
    """Go to a control group of our own; where that is not permitted, all is as good as it was.

    All monitors share its processor time: it weighs more than one container's.
    """
    group = cgroup.Cgroup(home)
    with suppress(PortsideError, OSError):
        group.enter()
        group.update(Resources(cpu=CPU(shares=_SHARES)))


def _hand_over(
    sock: socket.socket, spare: socket.socket | None, data: bytes, fds: list[int]
) -> None:
    """Give a request to the monitor in reserve, or to a fresh one when that was killed."""
    for attempt in (spare, None):
        chosen = attempt or _fork_monitor(sock)
        try:
            socket.send_fds(chosen, [data], fds)
            return
        except OSError:
            continue
        finally:
            chosen.close()


def _fork_monitor(sock: socket.socket) -> socket.socket:
    """Fork a monitor that waits for its request; where to send it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            sock.close()
            ours.close()
            monitor.main(theirs)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _fork_holder(fds: list[int]) -> None:
    """Fork a process that makes namespaces for the engine: it is small, the engine is not."""
    if os.fork() == 0:
        try:
            process.close_all_but(fds)
            engine = c_socket.socket(fileno=fds[0])
            engine.send(b"h")
            idmapped.hold(engine, *fds[1:], network=True)
        finally:
            os._exit(0)


_REHEARSAL = 5.0
"""Seconds after which it is given up."""
_TIMES = 3
"""Instructions are specialised after a few runs."""


# One monitor's life is played through, so that forks find everything warm: CPython fills caches as
# code runs for the first times, of attributes (in one table of its own) and of instructions (in the
# code itself, PEP 659). Filled before the fork they stay shared, so that a monitor is smaller and a
# start is quicker. The container played is a process that ends at once; its directory is on a file
# system that is mounted nowhere.


def rehearse() -> None:
    """Play a few starts, outputs and ends; called once, with no child of our own about."""
    state = mounts.filesystem("tmpfs", "tmpfs", ["mode=700"], 0)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    try:
        for _ in range(_TIMES):
            _play(f"/proc/self/fd/{state}")
    finally:
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 0)
        signal.signal(signal.SIGCHLD, before)
        os.close(state)


def _play(state_dir: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    attached, given = socket.socketpair()
    request = StartRequest(
        "rehearsal",
        state_dir,
        Rootfs("bind"),
        "/portside-rehearsal",
        LogConfig("json-file", "/dev/null"),
        attachments=(Streams(stdout=True, stderr=True),),
    )
    data = msgspec.json.encode(request)
    player = monitor.Monitor(msgspec.json.decode(data, type=StartRequest), theirs, -1)
    player.log = logs.open_log(request.log)
    player.log.drained = player.log_drained
    player.log.bind(player.poller)
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hold, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(release)
        _act(other, hold)
    other.close()
    os.close(hold)
    player.await_init(own, pid, [given])
    player.listen()
    player.poller.turn(_REHEARSAL)  # the start
    messages.send(ours, Call(1, Signal(0)))
    player.poller.turn(_REHEARSAL)
    os.close(release)
    deadline = time.monotonic() + _REHEARSAL
    while not player.ended:
        if time.monotonic() > deadline:
            raise SystemFailure("the rehearsal did not end")
        player.poller.turn(0.2)
    # not player.loop(): with the end behind it, it would wait a second for readers
    player.poller.close()
    for sock in (ours, theirs, attached):
        sock.close()


def _act(monitor_socket: socket.socket, hold: int) -> None:
    """The starter's part: a process whose output is two lines and which ends on request."""
    try:
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(out_w, b"a line\nand another\n")
            os.write(err_w, b"a complaint\n")
            os.read(hold, 1)
            os._exit(0)
        started = Placed(Started(pid, 1, {"step": 1.5}))
        messages.send(monitor_socket, started, [os.pidfd_open(pid), out_r, err_r])
    finally:
        os._exit(0)


_F_SETPIPE_SZ = 1031
_CLASS = re.compile(rb"^\s*\d+\s+(\d+)\s+\d+\s+\d+\s+(\d+)$", re.MULTILINE)
"""A line of the statistics: class, size in bytes, pools, blocks in use, available blocks."""
_HEADER = sys.getsizeof(b"")
"""Bytes that a bytes object takes besides its contents."""
_kept: list[object] = []


# Forks are kept small: no free places are left among the objects that parent and child share.
# Python
# keeps small objects in pools of one page or more. After imports most pools have a few free places,
# so that each new object of a forked child dirties a page it shared until then. With the places
# taken, the child's objects lie together on pages of its own: a monitor is a tenth smaller for it.


def fill_pools() -> None:
    """Take the free places; what takes them is kept. Call it last before forking."""
    for size, available in _CLASS.findall(_statistics()):
        wanted = int(size)
        if wanted > _HEADER:
            _kept.append([bytes(wanted - _HEADER) for _ in range(int(available))])
        else:
            _kept.append([number + 0.5 for number in range(int(available))])


def _statistics() -> bytes:
    """Statistics of CPython's allocator, which it writes to descriptor 2; empty for other
    interpreters."""
    print_statistics = getattr(sys, "_debugmallocstats", None)
    if print_statistics is None:
        return b""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, _F_SETPIPE_SZ, 1 << 20)  # nobody reads before it is all written
    saved = os.dup(2)
    try:
        os.dup2(writer, 2)
        print_statistics()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return file.read()
