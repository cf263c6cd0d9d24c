"""Containers by another OCI runtime (runc, crun …) below our own monitor.

::

    starter ──► own mount namespace with the root at DIR/rootfs
       │──────► RUNTIME create --bundle DIR/bundle …   init waits; the monitor inherits it
       └──────► RUNTIME start                            (subreaper), as it does ours

Streams, log, exit and signals stay the monitor's. Its ``exec`` is the runtime's, so that one
with a kernel of its own (runsc) works, too.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
from contextlib import suppress

import msgspec

from portside.kernel import mount
from portside.kernel.process import CLONE_NEWNS, unshare
from portside.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    PortsideError,
    SystemFailure,
)
from portside.model.ociruntime import Mount, Process, Spec, User, complete
from portside.runtime import init_program, privileges, rootfs
from portside.runtime.init_channel import START_TIMEOUT, Given, StartError, pipes
from portside.runtime.messages import Exec, Identity, StartRequest
from portside.runtime.state_files import clean, place_of

_VERSION = "1.0.2"
"""Version of the runtime-spec that all runtimes read (crun before 1.9 refuses later versions)."""
_NOT_FOUND = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE = ("permission denied", "exec format error", "is a directory")


class Streams:
    """Both ends of a process's standard streams, or the socket its terminal will come by."""

    def __init__(self, terminal: bool, stdin: bool, directory: str) -> None:
        self.terminal = terminal
        self.inner, self.outer = pipes(stdin and not terminal, not terminal)
        self.listener: socket.socket | None = None
        self.leader = -1
        if terminal:
            # by descriptor: an address has room for 107 bytes only (unix(7))
            opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.path = f"/proc/{os.getpid()}/fd/{opened}/console"
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            self.listener = socket.socket(socket.AF_UNIX)
            os.fchmod(self.listener.fileno(), 0o600)  # the mode that bind(2) gives the file
            self.listener.bind(self.path)
            self.listener.listen(1)

    def option(self) -> list[str]:
        return ["--console-socket", self.path] if self.terminal else []

    def take_terminal(self) -> None:
        """The leading side, which the runtime has sent by now."""
        if self.listener is None:
            return
        self.listener.settimeout(START_TIMEOUT)
        connection, _ = self.listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        self.listener.close()
        if not fds:
            raise SystemFailure("the runtime sent no terminal")
        self.leader = fds[0]

    def descriptors(self, pid: int) -> list[int]:
        """Descriptors in the order of ``messages.Placed``."""
        pidfd = os.pidfd_open(pid)
        if self.terminal:
            return [pidfd, self.leader]
        stdin, stdout, stderr = self.outer
        return [pidfd, stdout, stderr, *([stdin] if stdin >= 0 else [])]


class External:
    """One container of another runtime."""

    def __init__(self, request: StartRequest) -> None:
        self.request = request
        self.command = shlex.split(request.runtime)
        self.directory = place_of(request.state_dir)
        self.log = f"{self.directory}/runtime.log"

    def create(self, spec: Spec, given: Given) -> tuple[int, Streams]:
        """Create it; the first process's PID and its streams. Raises StartError."""
        assert spec.process is not None
        os.makedirs(self.directory, 0o700, exist_ok=True)
        self._mount_root(given.userns)
        bundle = f"{self.directory}/bundle"
        os.makedirs(bundle, 0o700, exist_ok=True)
        self._write_bundle(spec, given)
        streams = Streams(spec.process.terminal, self.request.open_stdin, bundle)
        pid_file = f"{bundle}/pid"
        self._call(
            ["create", "--bundle", bundle, "--pid-file", pid_file, *streams.option()],
            streams,
        )
        streams.take_terminal()
        with open(pid_file) as file:
            return int(file.read()), streams

    def start(self) -> None:
        self._call(["start"], None)

    def delete(self) -> None:
        """Whatever is left of it; called when it is over or did not start."""
        with suppress(PortsideError, OSError):
            self._call(["delete", "--force"], None)
        clean(self.request.state_dir)

    def execute(self, request: Exec, init: int) -> tuple[int, Streams]:
        """A further process: its PID and streams. Raises StartError."""
        bundle = f"{self.directory}/bundle"
        process = request.process
        process.user = resolved(f"/proc/{init}/root", process.user, request.identity)
        name = f"{request.exec_id}.json"
        with open(f"{bundle}/{name}", "wb") as file:
            file.write(_process(process))
        streams = Streams(process.terminal, request.open_stdin, bundle)
        pid_file = f"{bundle}/{request.exec_id}.pid"
        try:
            options = ["--detach", "--process", f"{bundle}/{name}", "--pid-file", pid_file]
            self._call(["exec", *options, *streams.option()], streams)
            streams.take_terminal()
            with open(pid_file) as pid:
                return int(pid.read()), streams
        finally:
            for path in (f"{bundle}/{name}", pid_file, f"{bundle}/console"):
                with suppress(OSError):
                    os.unlink(path)

    def _mount_root(self, namespace: int) -> None:
        """The root, seen in a mount namespace that only this process and the runtime have."""
        place = f"{self.directory}/rootfs"
        os.makedirs(place, 0o711, exist_ok=True)
        unshare(CLONE_NEWNS)
        mount.mount("", "/", "", mount.MS_SLAVE | mount.MS_REC)
        root = rootfs.open_root(self.request.rootfs, namespace=namespace)
        target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.move_mount(root, target, place)
        os.close(target)
        os.close(root)

    def _write_bundle(self, spec: Spec, given: Given) -> None:
        assert spec.process is not None and spec.root is not None and spec.linux is not None
        spec.oci_version = _VERSION
        spec.root.path = f"{self.directory}/rootfs"
        spec.process.user = resolved(spec.root.path, spec.process.user, self.request.identity)
        paths = {"network": given.netns, "user": given.userns}
        for found in spec.linux.namespaces:
            if (fd := paths.get(found.type, -1)) >= 0:
                found.path = f"/proc/{os.getpid()}/fd/{fd}"
            if found.type == "user" and found.path:  # runc takes a path or mappings
                spec.linux.uid_mappings = spec.linux.gid_mappings = ()
        if self.request.init:
            self._add_init(spec, spec.process)
        with open(f"{self.directory}/bundle/config.json", "wb") as file:
            file.write(complete(spec))

    def _add_init(self, spec: Spec, process: Process) -> None:
        """The program of ``--init``, as a read-only file of the container's own."""
        program, path = f"{self.directory}/{init_program.NAME}", f"/sbin/{init_program.NAME}"
        shutil.copyfile(init_program.find(self.request.init_path), program)
        os.chmod(program, 0o555)
        options = ("bind", "ro", "nosuid", "nodev")
        spec.mounts = (*spec.mounts, Mount(path, "bind", program, options))
        process.args = (path, "--", *process.args)

    def _call(self, arguments: list[str], streams: Streams | None) -> None:
        """Run the runtime and wait; raises StartError with what it logged."""
        command = [*self.command, "--root", f"{self.directory}/runtime", "--log", self.log,
                   "--log-format", "json", *arguments, self.request.id]  # fmt: skip
        with suppress(FileNotFoundError):
            os.unlink(self.log)
        said = os.memfd_create("said", os.MFD_CLOEXEC)
        inner = streams.inner if streams is not None and not streams.terminal else (-1, said, said)
        pid = os.fork()
        if pid == 0:
            _become(command, inner, said)
        if streams is not None:
            for fd in streams.inner:
                if fd >= 0:
                    os.close(fd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text = os.pread(said, 4096, 0).decode(errors="replace").strip()
        os.close(said)
        if code != 0:
            raise _failure(self.command[0], self._logged() or text or f"exit status {code}")

    def _logged(self) -> str:
        """The message of the last error in its log: JSON objects, each of one line (runc) or of
        several (crun)."""
        import json

        message, text = "", ""
        with suppress(OSError), open(self.log, errors="replace") as file:
            text = file.read(1 << 16).lstrip()
        while text.startswith("{"):
            try:
                entry, end = json.JSONDecoder(strict=False).raw_decode(text)
            except ValueError:
                break
            if entry.get("level", "error") == "error":
                message = str(entry.get("msg", message))
            text = text[end:].lstrip()
        return message


def _process(process: Process) -> bytes:
    document = msgspec.to_builtins(process)
    document.setdefault("cwd", process.cwd)
    document.setdefault("user", {"uid": 0, "gid": 0})
    return msgspec.json.encode(document)


def _become(command: list[str], streams: tuple[int, int, int], said: int) -> None:
    """The runtime's process, from fork to execve."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDWR)
        copies = [os.dup(fd if fd >= 0 else null) for fd in streams]
        for target, source in enumerate(copies):
            os.dup2(source, target, inheritable=True)
        # everything else closes at execve: our descriptors are all close-on-exec
        os.execvpe(command[0], command, os.environ | {"PATH": _path()})
    except OSError as err:
        os.write(said, f"{command[0]}: {err.strerror}".encode())
    finally:
        os._exit(127)


def _path() -> str:
    return os.environ.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _failure(name: str, message: str) -> SystemFailure:
    """What a runtime said, as our own errors are distinguished; with its name, which runc says
    itself where dockerd shows one."""
    failure: type[SystemFailure] = StartError
    if "exec:" in message or "executable" in message:
        if any(words in message for words in _NOT_FOUND):
            failure = CommandNotFound
        elif any(words in message for words in _NOT_EXECUTABLE):
            failure = CommandNotExecutable
    own = os.path.basename(name)
    named = message if message.startswith((own, "exec failed")) else f"{own}: {message}"
    return failure(f"OCI runtime create failed: {named}")


def resolved(root: str, user: User, wanted: Identity) -> User:
    """The numbers behind a user's name, read from inside a root by a child that went there."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            os.chroot(root)
            os.chdir("/")
            who = privileges.resolve(user, wanted)
            theirs.send(b"u" + msgspec.json.encode([who.uid, who.gid, list(who.groups)]))
        except (PortsideError, OSError) as err:
            theirs.send(b"e" + str(err).encode())
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        data = ours.recv(1 << 20)
    os.waitpid(pid, 0)
    if data[:1] != b"u":
        raise SystemFailure(data[1:].decode() or "the user could not be looked up")
    uid, gid, groups = msgspec.json.decode(data[1:], type=tuple[int, int, tuple[int, ...]])
    return User(uid, gid, umask=user.umask, additional_gids=groups)
