"""The way out of the network namespace of an engine without root: pasta(1) or slirp4netns(1).

Both give the namespace an interface and carry its traffic as ordinary sockets of the user.
One of them is started beside the namespaces and outlives the engine. The keeper ends it; the
kernel does when the keeper is killed, so that none is left behind without a namespace.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import IO

from portside.kernel import process
from portside.kernel.polling import readable

DNS = "10.0.2.3"
"""The address at which either program answers for the host's own resolver."""
MTU = 65520
TUN = "/dev/net/tun"
_PATIENCE = 10.0
"""Seconds until the interface has to be there."""
_PATH = ":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def program() -> str:
    """The program that is there, pasta first; empty when none is."""
    path = os.environ.get("PATH", "") + _PATH
    return shutil.which("pasta", path=path) or shutil.which("slirp4netns", path=path) or ""


def start(pid: int, log: IO[bytes]) -> subprocess.Popen[bytes] | str:
    """Connect the user and network namespace of process ``pid`` with the host's network.

    The running program, which has the interface up; or why there is none.
    """
    path = program()
    if not path:
        return "no way out of the engine's network: install the package passt or slirp4netns"
    if Path(TUN).exists() and not os.access(TUN, os.R_OK | os.W_OK):
        return f"no way out of the engine's network: {TUN} is closed to users: chmod 0666 {TUN}"
    ready, written = os.pipe()
    try:
        return _start(path, pid, log, ready, written)
    finally:
        os.close(ready)
        if written >= 0:
            os.close(written)


def _start(
    path: str, pid: int, log: IO[bytes], ready: int, written: int
) -> subprocess.Popen[bytes] | str:
    if path.endswith("/pasta"):
        # Ports are forwarded by the engine, so "none"; the host's loopback is not reachable
        # from inside (--no-map-gw), as with root.
        command = [path, "--foreground", "--config-net", "--no-map-gw", "--dns-forward", DNS,
                   "--ns-ifname", "tap0", "-t", "none", "-u", "none", "-T", "none",
                   "-U", "none", str(pid)]  # fmt: skip
        given: tuple[int, ...] = ()
    else:
        command = [path, "--configure", "--mtu", str(MTU), "--disable-host-loopback",
                   "--enable-ipv6", "--ready-fd", str(written), str(pid), "tap0"]  # fmt: skip
        given = (written,)
    # A session of its own: what ends a terminal's processes is not meant for it.
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=given,
        start_new_session=True, preexec_fn=functools.partial(_end_with, os.getpid()),
    )  # fmt: skip
    if _is_up(child, pid, ready if given else -1):
        return child
    end(child)
    return f"{Path(path).name} did not start (exit status {child.returncode}): the log says why"


def _end_with(keeper: int) -> None:
    """In the child: be killed when its parent ends (prctl(2), PR_SET_PDEATHSIG).

    The setting outlives execve(2) and joining a user namespace that belongs to the same user.
    """
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)


def _is_up(child: subprocess.Popen[bytes], pid: int, ready: int) -> bool:
    """Until the interface is there or the program has ended."""
    running = os.pidfd_open(child.pid)
    try:
        if ready >= 0:
            found = readable(ready, running, timeout=_PATIENCE)
            return ready in found and running not in found
        for _ in range(int(_PATIENCE * 100)):
            if _has_route(pid):
                return True
            if readable(running, timeout=0.01):
                return False
        return child.poll() is None
    finally:
        os.close(running)


def _has_route(pid: int) -> bool:
    """Whether the namespace has a route over an interface (proc_net_route: a line each)."""
    for table in ("route", "ipv6_route"):
        try:
            with open(f"/proc/{pid}/net/{table}") as file:
                if any("tap0" in line for line in file):
                    return True
        except OSError:
            continue
    return False


def end(child: subprocess.Popen[bytes]) -> None:
    """End it and wait for that."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(number)
            try:
                child.wait(3)
            except subprocess.TimeoutExpired:
                continue
