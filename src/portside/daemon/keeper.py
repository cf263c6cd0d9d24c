"""The keeper of an engine's namespaces when there is no root: small, and outside of them.

::

    user's session ─► portside daemon ── starts, or finds ──► keeper   host's namespaces
                        │ joins user, mount and network namespace │ holds them by descriptor
                        ▼                                         │ pasta or slirp4netns
                      engine (root in there) ── "bind …" ────────►│ sockets of the host

The namespaces outlive the engine with the containers in them: the keeper ends when neither an
engine nor a container is left. A killed keeper takes the way out along; its parent, the guard, does
nothing but wait for that, and starts another one, which finds the namespaces by a monitor or the
engine. When both are killed the next engine does so.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from portside.daemon import user_network
from portside.kernel import process, subordinate_ids
from portside.kernel.host_sockets import connect, open_socket
from portside.kernel.netns import loopback_up
from portside.kernel.polling import readable
from portside.model.errors import SystemFailure

NAMESPACES = ("user", "mnt", "net", "ipc")
_FLAGS = process.CLONE_NEWNS | process.CLONE_NEWNET | process.CLONE_NEWIPC
_RESTART_PAUSE = 1.0
"""Seconds between two starts of the network program, when it ends by itself."""


class Places:
    """Paths of a keeper's files in the exec root."""

    def __init__(self, exec_root: Path) -> None:
        self.exec_root = exec_root
        self.socket = exec_root / "keeper.sock"
        self.lock = exec_root / "keeper.lock"
        self.network = exec_root / "network.json"
        """The network program's PID and start time, for the keeper after a killed one."""
        self.warning = exec_root / "keeper.warning"


def run(places: Places, log: int, ready: int) -> None:
    """Be the keeper; never returns. ``ready`` is written to: nothing, or what went wrong."""
    os.setsid()
    process.set_name("portside-guard")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(log, 1)
    os.dup2(log, 2)
    pid = _fork_keeper(places, ready)
    while True:
        began = time.monotonic()
        if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            return
        time.sleep(max(0.0, _RESTART_PAUSE - (time.monotonic() - began)))
        pid = _another(places)
        if not pid:
            return


def _fork_keeper(places: Places, ready: int, *ours: int) -> int:
    """Its PID; ``ready`` is the keeper's then, and ``ours`` are not: a lock lasts until all copies
    of its descriptor are closed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for fd in ours:
                os.close(fd)
            _keep(places, ready)
            status = 0
        finally:
            os._exit(status)
    os.close(ready)
    return pid


def _another(places: Places) -> int:
    """After a killed keeper: the PID of another one; 0 when there is one, or no namespaces."""
    import fcntl

    lock = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError):
            connect(str(places.socket)).close()
            return 0
        found = dict(holders(places.exec_root))
        for fd in found.values():
            os.close(fd)
        if not found:
            return 0
        print("portside: the keeper was killed: starting another", file=sys.stderr, flush=True)
        heard, ready = os.pipe()
        pid = _fork_keeper(places, ready, lock, heard)
        readable(heard)
        os.close(heard)
        return pid
    finally:
        os.close(lock)


def _keep(places: Places, ready: int) -> None:
    process.set_name("portside-keeper")
    try:
        keeper = Keeper(places)
        os.write(ready, b"ok")
        os.close(ready)
        keeper.serve()
    except BaseException as err:
        with suppress(OSError):
            os.write(ready, str(err).encode())
        raise


class Keeper:
    """The namespaces of one exec root."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._clients: dict[int, socket.socket] = {}
        self._network: subprocess.Popen[bytes] | None = None
        self._network_fd = -1
        self._network_began = 0.0
        found = dict(holders(places.exec_root))
        holder, release = (next(iter(found)), -1) if found else self._make()
        try:
            self.fds = [_open_namespace(holder, name) for name in NAMESPACES]
            self._connect_network(holder)
        finally:
            for fd in found.values():
                os.close(fd)
            if release >= 0:
                os.close(release)  # ends the child that was the first in there
                os.waitpid(holder, 0)
        places.socket.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._listener.bind(str(places.socket))
        places.socket.chmod(0o600)
        self._listener.listen(16)

    # -- the namespaces ----------------------------------------------------------------------

    def _make(self) -> tuple[int, int]:
        """A child in new namespaces, and what to close to let it end. Raises SystemFailure."""
        ours, theirs = socket.socketpair()
        user, group = os.geteuid(), os.getegid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _first_inside(theirs)
        theirs.close()
        message = ours.recv(1024)
        if message != b"u":
            os.waitpid(pid, 0)
            raise SystemFailure(_no_namespaces(message.decode()))
        try:
            lacking = subordinate_ids.write_maps(pid, user, group)
        except OSError as err:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise SystemFailure(_no_namespaces(str(err))) from err
        _note(self.places.warning, lacking and f"only one user ID in containers: {lacking}")
        ours.send(b"m")
        message = ours.recv(1024)
        if message != b"r":
            os.waitpid(pid, 0)
            raise SystemFailure(_no_namespaces(message.decode()))
        return pid, ours.detach()

    def _connect_network(self, holder: int) -> None:
        """Have pasta or slirp4netns run for the namespaces of ``holder``."""
        left = _recorded(self.places.network)
        if left:
            os.kill(left, signal.SIGKILL)
            _await_end(left)
        with open(2, "ab", closefd=False) as log:
            found = user_network.start(holder, log)
        self._network_began = time.monotonic()
        if isinstance(found, str):
            print(f"portside: {found}", file=sys.stderr, flush=True)
            with self.places.warning.open("a") as file:
                file.write(f"{found}\n")
            return
        self._network, self._network_fd = found, os.pidfd_open(found.pid)
        record = {"pid": found.pid, "ticks": _ticks(found.pid)}
        self.places.network.write_text(json.dumps(record))

    def _again(self) -> None:
        """The network program has ended by itself: start it again, by a process inside."""
        assert self._network is not None
        self._network.wait()
        os.close(self._network_fd)
        self._network, self._network_fd = None, -1
        time.sleep(max(0.0, _RESTART_PAUSE - (time.monotonic() - self._network_began)))
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _visit(self.fds, theirs)
        theirs.close()
        if ours.recv(16) == b"r":
            self._connect_network(pid)
        ours.close()
        os.waitpid(pid, 0)

    # -- the service -------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer until neither an engine nor a container is left."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        watched = {fd: pid for pid, fd in holders(self.places.exec_root)}
        for fd in watched:  # a killed keeper took the connection of the engine with it
            poll.register(fd, select.POLLIN)
        while True:
            if self._network_fd >= 0:
                poll.register(self._network_fd, select.POLLIN)
            for fd, _ in poll.poll():
                if fd == self._listener.fileno():
                    client, _ = self._listener.accept()
                    self._clients[client.fileno()] = client
                    poll.register(client, select.POLLIN)
                elif fd == self._network_fd:
                    poll.unregister(fd)
                    self._again()
                elif fd in watched:
                    poll.unregister(fd)
                    watched.pop(fd)
                    os.close(fd)
                elif fd in self._clients and not self._answer(self._clients[fd]):
                    poll.unregister(fd)
                    self._clients.pop(fd).close()
            if not self._clients and not watched:
                watched = {fd: pid for pid, fd in holders(self.places.exec_root)}
                for fd in watched:
                    poll.register(fd, select.POLLIN)
                if not watched and self._end():
                    return

    def _answer(self, client: socket.socket) -> bool:
        """One request; False when the client has gone."""
        try:
            words = client.recv(4096).decode().split()
            if not words:
                return False
            if words[0] == "join":
                socket.send_fds(client, [b"0"], self.fds)
            elif words[0] == "bind":
                protocol, address, port, backlog = words[1:]
                try:
                    with open_socket(protocol, address, int(port), int(backlog)) as sock:
                        socket.send_fds(client, [b"0"], [sock.fileno()])
                except OSError as err:
                    client.send(str(err.errno or 22).encode())
            else:
                client.send(b"22")
        except (OSError, ValueError):
            return False
        return True

    def _end(self) -> bool:
        """Leave nothing behind; False when another process is about to connect."""
        import fcntl

        lock = os.open(self.places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            self._wait_for_client()
            return False
        if readable(self._listener, timeout=0):
            os.close(lock)
            return False
        if self._network is not None:
            user_network.end(self._network)
        for path in (self.places.socket, self.places.network, self.places.warning):
            path.unlink(missing_ok=True)
        os.close(lock)
        return True

    def _wait_for_client(self) -> None:
        readable(self._listener, timeout=1.0)


def _first_inside(theirs: socket.socket) -> None:
    """In a child: make the namespaces, report, and stay until asked to end."""
    try:
        process.unshare(process.CLONE_NEWUSER)
        theirs.send(b"u")
        if theirs.recv(1) != b"m":
            os._exit(1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        process.unshare(_FLAGS)
        loopback_up()
        _own_mounts()
        theirs.send(b"r")
        theirs.recv(1)
    except BaseException as err:
        with suppress(OSError):
            theirs.send(str(err).encode())
    finally:
        os._exit(0)


def _visit(fds: list[int], theirs: socket.socket) -> None:
    try:
        join(fds)
        theirs.send(b"r")
        theirs.recv(1)
    finally:
        os._exit(0)


def join(fds: list[int]) -> None:
    """Enter the namespaces, as root in there. The caller has one thread."""
    process.setns(fds[0], process.CLONE_NEWUSER, "the user namespace")
    with suppress(PermissionError):  # with a single ID mapped it is not allowed, nor needed
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.setns(fds[2], process.CLONE_NEWNET, "the network namespace")
    process.setns(fds[3], process.CLONE_NEWIPC, "the IPC namespace")
    cwd = Path.cwd()
    process.setns(fds[1], process.CLONE_NEWNS, "the mount namespace")
    os.chdir(cwd if cwd.is_dir() else "/")


def _own_mounts() -> None:
    """Mounts of the host are still seen when they come and go; ours are not seen there.

    Names are asked at the address where pasta or slirp4netns answer for the host's resolver:
    one on the host's loopback could not be reached from here.
    """
    from portside.kernel import fsopen, mount

    mount.mount("", "/", "", mount.MS_SLAVE | mount.MS_REC)
    kept = []
    with suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            if line.split()[:1] in (["search"], ["domain"], ["options"]):
                kept.append(line)
    target = os.path.realpath("/etc/resolv.conf")
    if not Path(target).exists():
        return
    context = fsopen.fsopen("tmpfs")
    fsopen.fsconfig(context, fsopen.FSCONFIG_CMD_CREATE, None, None)
    tree = fsopen.fsmount(context, 0)
    os.close(context)
    path = f"/proc/self/fd/{tree}/resolv.conf"
    Path(path).write_text("\n".join([f"nameserver {user_network.DNS}", *kept, ""]))
    Path(path).chmod(0o644)
    _bind(path, target, tree)


def _bind(path: str, target: str, tree: int) -> None:
    """A file of a detached mount over another: it is attached for a moment to be cloned."""
    from portside.kernel import mount

    place = os.open("/tmp", os.O_PATH | os.O_DIRECTORY)
    try:
        mount.move_mount(tree, place, "/tmp")
        clone = mount.open_tree(tree, "resolv.conf", mount.OPEN_TREE_CLONE)
        mount.umount2("/tmp", mount.MNT_DETACH)
        goal = os.open(target, os.O_PATH)
        mount.move_mount(clone, goal, target)
        os.close(goal)
        os.close(clone)
    finally:
        os.close(place)
        os.close(tree)


def _no_namespaces(why: str) -> str:
    hints = []
    for name, needed in (
        ("user/max_user_namespaces", "a number above 0"),
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
    ):
        with suppress(OSError):
            value = Path("/proc/sys", name).read_text().strip()
            if (value == "0") == (needed != "0"):
                hints.append(f"{name.replace('/', '.')} is {value}, and must be {needed}")
    hint = f" ({'; '.join(hints)}: see sysctl(8))" if hints else ""
    return f"this kernel lets users make no user namespaces: {why}{hint}"


def holders(exec_root: Path) -> Iterator[tuple[int, int]]:
    """Who lives in the engine's namespaces: the monitors, and the engine by its PID file. As
    :func:`monitors`."""
    yield from monitors(exec_root)
    with suppress(OSError, ValueError):
        pid = int((exec_root / "portside.pid").read_text())
        fd = os.pidfd_open(pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        user, ours = (Path(f"/proc/{one}/ns/user").stat() for one in (pid, "self"))
        is_engine = b"daemon" in words and any(b"portside" in word for word in words)
        if is_engine and user.st_ino != ours.st_ino and not readable(fd, timeout=0):
            yield pid, fd
        else:
            os.close(fd)


def monitors(exec_root: Path) -> Iterator[tuple[int, int]]:
    """The monitors of containers that run, which live in the engine's namespaces: each one's PID
    and a descriptor of it (pidfd), for the caller to close.

    One that has ended but was not waited for yet is none: it has no namespaces any more, and
    its PID vanishes at any moment.
    """
    for path in exec_root.glob("containers/*/state.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads(path.read_bytes())
            pid, began = int(state["monitor_pid"]), state["monitor_started"]
            fd = os.pidfd_open(pid)
            if _ticks(pid) == began and not readable(fd, timeout=0):
                yield pid, fd
            else:
                os.close(fd)


def _recorded(path: Path) -> int:
    """The PID of a record's process while it lives, else 0."""
    try:
        record = json.loads(path.read_bytes())
        return record["pid"] if _ticks(record["pid"]) == record["ticks"] else 0
    except (OSError, ValueError, KeyError):
        return 0


def _await_end(pid: int) -> None:
    with suppress(OSError):
        fd = os.pidfd_open(pid)
        readable(fd, timeout=5)
        os.close(fd)


def _ticks(pid: int) -> int:
    from portside.runtime.state_files import start_ticks

    return start_ticks(pid)


def _open_namespace(pid: int, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


def _note(path: Path, text: str) -> None:
    path.write_text(f"{text}\n" if text else "")
