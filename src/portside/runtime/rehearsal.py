"""One monitor's life played through in the launcher, so that forks find everything warm.

CPython fills caches as code runs for the first times: of attributes (in one table of its
own), of instructions (in the code itself, PEP 659). Filled before the fork they stay shared,
so that a monitor is smaller and a start is quicker. The container played is a process that
ends at once; its directory is on a file system that is mounted nowhere.
"""

from __future__ import annotations

import os
import signal
import socket
import time

import msgspec

from portside.kernel import process as kernel
from portside.model.errors import SystemFailure
from portside.model.rootfs import Rootfs
from portside.runtime import logs, messages, monitor, mounts
from portside.runtime.messages import (
    Call,
    LogConfig,
    Placed,
    Signal,
    Started,
    StartRequest,
    Streams,
)

_PATIENCE = 5.0
"""Seconds after which it is given up."""
_TIMES = 3
"""Instructions are specialised after a few runs."""


def rehearse() -> None:
    """Play a few starts, outputs and ends; called once, with no child of our own about."""
    state = mounts.filesystem("tmpfs", "tmpfs", ["mode=700"], 0)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    try:
        for _ in range(_TIMES):
            _play(f"/proc/self/fd/{state}")
    finally:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)
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
    player.poller.turn(_PATIENCE)  # the start
    messages.send(ours, Call(1, Signal(0)))
    player.poller.turn(_PATIENCE)
    os.close(release)
    deadline = time.monotonic() + _PATIENCE
    while not player.ended:
        if time.monotonic() > deadline:
            raise SystemFailure("the rehearsal did not end")
        player.poller.turn(0.2)
    # not player.loop(): with the end behind it, it would wait a second for readers
    player.poller.close()
    for sock in (ours, theirs, attached):
        sock.close()


def _act(monitor_socket: socket.socket, hold: int) -> None:
    """The starter's part: a process whose output is two lines and which ends when told."""
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
