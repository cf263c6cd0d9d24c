"""``create``: from a bundle to a process that waits for ``start``."""

from __future__ import annotations

import os
import time

import msgspec

from portside.kernel import polling, seccomp
from portside.kernel.cgroup import Cgroup
from portside.kernel.light_stdlib import suppress
from portside.model.errors import InvalidParameter, PortsideError
from portside.model.ociruntime import DeviceCgroup, Linux, Resources, Spec, State
from portside.model.rootfs import Rootfs
from portside.runtime import hooks, init, rootfs, seccomp_listener, userns
from portside.runtime.init_channel import Child, Given, Own, explain_kill
from portside.runtime.messages import StartRequest
from portside.runtime.oci import console, notify, runtime_log, spec_file, validate
from portside.runtime.oci.spec_file import read_spec
from portside.runtime.oci.state_store import Container, Saved
from portside.runtime.state_files import start_ticks, write_whole


class Wanted(msgspec.Struct):
    """Options of ``create`` and ``run``."""

    root: str
    id: str
    bundle: str
    pid_file: str = ""
    console_socket: str = ""
    pidfd_socket: str = ""
    preserve_fds: int = 0
    listen_fds: int = 0
    """Number of descriptors that are sockets which systemd listens on for the container."""
    detach: bool = True
    keyring: bool = True
    systemd: bool = False
    no_pivot: bool = False


def load(bundle: str) -> Spec:
    """A bundle's configuration, with paths made absolute. Raises InvalidParameter, NotFound."""
    spec = read_spec(f"{bundle}/config.json")
    for warning in validate.check(spec):
        runtime_log.write("warning", warning)
    assert spec.root is not None and spec.linux is not None
    _deny_devices(spec.linux)
    spec.root.path = os.path.realpath(os.path.join(bundle, spec.root.path))
    for mount in spec.mounts:
        bind = mount.type == "bind" or {"bind", "rbind"}.intersection(mount.options)
        if bind and not mount.source.startswith("/"):
            mount.source = os.path.join(bundle, mount.source)
        # relative is deprecated, but accepted; ".." leads no further than the root
        mount.destination = os.path.normpath("/" + mount.destination.lstrip("/"))
    for device in spec.linux.devices:
        device.path = os.path.normpath("/" + device.path.lstrip("/"))
    if not os.path.isdir(spec.root.path):
        raise InvalidParameter(f"invalid rootfs: {spec.root.path} is not a directory")
    return spec


def _deny_devices(linux: Linux) -> None:
    """Deny every device that no rule allows, also without any rule."""
    limits = linux.resources or Resources()
    limits.devices = (DeviceCgroup(False, access="rwm"), *limits.devices)
    linux.resources = limits


def cgroup_path(spec: Spec, id: str, systemd: bool) -> str:
    """Path of the control group; systemd's ``slice:prefix:name`` means the path of that scope."""
    assert spec.linux is not None
    given = spec.linux.cgroups_path
    if not systemd:
        return os.path.normpath("/" + given.lstrip("/")) if given else f"/{id}"
    parts = given.split(":") if given else ["", "portside", id]
    if len(parts) != 3:
        raise InvalidParameter(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            f"got {given!r} instead"
        )
    scope = f"{parts[1]}-{parts[2]}.scope" if not parts[2].endswith(".slice") else parts[2]
    return f"{_slice(parts[0] or 'system.slice')}/{scope}"


def _slice(name: str) -> str:
    """``a-b.slice`` lies in ``a.slice`` (systemd.slice(5))."""
    if name == "-.slice":
        return ""
    words = name.removesuffix(".slice").split("-")
    return "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))


def create(wanted: Wanted) -> Child:
    """Make a container that waits for ``start``; nothing is left of it on failure."""
    box = Container(wanted.root, wanted.id)
    bundle = os.path.realpath(wanted.bundle)
    spec = load(bundle)
    assert spec.process is not None and spec.linux is not None
    console.check(wanted.console_socket, detach=wanted.detach, terminal=spec.process.terminal)
    if wanted.listen_fds:
        variables = (f"LISTEN_FDS={wanted.listen_fds}", "LISTEN_PID=1")
        spec.process.env = (*spec.process.env, *variables)
    filter = b""
    if spec.linux.seccomp is not None:
        filter = seccomp.compile_filter(spec.linux.seccomp)
    box.make()
    try:
        notify.offer(box.directory, spec)
        os.mkfifo(box.fifo, 0o600)
        os.mkfifo(box.done, 0o600)
        write_whole(f"{box.directory}/config.json", msgspec.json.encode(spec), sync=False)
        if filter:
            write_whole(f"{box.directory}/seccomp.bpf", filter, sync=False)
        return _Creation(wanted, box, spec, bundle, filter).run()
    except BaseException:
        box.remove()
        raise


def _now() -> str:
    """RFC 3339 with nanoseconds."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z"


class _Creation:
    """One ``create`` under way."""

    def __init__(
        self, wanted: Wanted, box: Container, spec: Spec, bundle: str, filter: bytes
    ) -> None:
        assert spec.linux is not None and spec.root is not None
        self.wanted, self.box, self.spec, self.filter = wanted, box, spec, filter
        self._created = _now()
        self._freezer = ""
        self._groups: tuple[str, ...] = ()
        flags = seccomp.flags_of(spec.linux.seccomp) if spec.linux.seccomp is not None else 0
        self.request = StartRequest(
            id=wanted.id,
            state_dir=spec.root.path,
            rootfs=Rootfs("bind", upper=spec.root.path),
            cgroup=cgroup_path(spec, wanted.id, wanted.systemd),
            seccomp_flags=flags,
            bundle=bundle,
            no_pivot=wanted.no_pivot,
        )
        self._mounted = "" if spec.namespace("mount") else spec.root.path
        """Mount point of the root in our own namespace; the container has no mount namespace."""

    def run(self) -> Child:
        spec, request = self.spec, self.request
        assert spec.process is not None and spec.linux is not None
        init.prepare()
        if spec.hooks is not None:
            polling.prepare()
        if not userns.wanted(spec):
            init.choose_child_namespaces(spec)
        hold = os.open(self.box.fifo, os.O_RDWR | os.O_CLOEXEC)
        result = os.open(
            self.box.result, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        done = os.open(self.box.done, os.O_RDWR | os.O_CLOEXEC)
        child = Child.fork(
            lambda own: self._become(own, hold, result, done),
            terminal=spec.process.terminal,
            stdin=False,
            inherit=True,
            passes=init.joins_others(spec),
        )
        for fd in (hold, result, done):
            os.close(fd)
        child.notified = lambda fd: self._notified(fd, child.pid)
        group: Cgroup | None = None
        try:
            group = Cgroup.create(request.cgroup, spec.linux.resources)
            self._freezer, self._groups = group.freezer_file(), tuple(group.directories())
            child.settle(spec)
            group.add(child.pid)
            self.box.save(self._saved(child.pid))  # so that "delete" finds it if we are killed
            init.keep_children_here(spec)
            if child.await_hooks(spec):
                self._move_devices(child.pid)
                self._hooks(child.pid)
            child.go()
            child.outcome()
            self._done(child)
        except BaseException as err:
            child.kill()
            if group is not None:
                try:
                    explain_kill(err, group)
                finally:
                    with suppress(PortsideError, OSError):
                        group.delete()
                    self._unmount()
                    self._poststop()
            raise
        return child

    def _become(self, own: Own, hold: int, result: int, done: int) -> None:
        own.hold, own.result, own.done = hold, result, done
        own.preserve = self.wanted.preserve_fds
        own.keyring = self.wanted.keyring
        init.run_init(self.request, self.spec, own, Given(), self.filter)

    def _notified(self, fd: int, pid: int) -> None:
        assert self.spec.linux is not None and self.spec.linux.seccomp is not None
        state = self._state(pid, "creating")
        seccomp_listener.hand_over(self.spec.linux.seccomp, fd, pid, state)

    def _state(self, pid: int, status: str) -> State:
        return spec_file.state(self._saved(pid), self.spec, status)

    def _move_devices(self, pid: int) -> None:
        assert self.spec.linux is not None
        if self.spec.linux.net_devices:
            from portside.runtime import net_devices  # few containers have any

            net_devices.move(self.spec.linux.net_devices, pid)

    def _hooks(self, pid: int) -> None:
        if self.spec.hooks is None:
            return
        state = self._state(pid, "creating")
        hooks.run("prestart", self.spec.hooks.prestart, state)
        hooks.run("createRuntime", self.spec.hooks.create_runtime, state)

    def _unmount(self) -> None:
        if self._mounted:
            with suppress(OSError):
                rootfs.detach(self._mounted)

    def _poststop(self) -> None:
        """The container is over before it was created; hooks may have something to undo."""
        if self.spec.hooks is not None:
            state = self._state(0, "stopped")
            for text in hooks.run_all("poststop", self.spec.hooks.poststop, state):
                runtime_log.write("warning", text)

    def _saved(self, pid: int, created: bool = False) -> Saved:
        assert self.spec.root is not None
        return Saved(
            id=self.box.id,
            pid=pid,
            pid_started=start_ticks(pid) if pid else 0,
            bundle=self.request.bundle,
            rootfs=self.spec.root.path,
            cgroup=self.request.cgroup,
            created=self._created,
            creating=not created,
            freezer=self._freezer,
            groups=self._groups,
            mounted=self._mounted,
            poststart=bool(self.spec.hooks and self.spec.hooks.poststart),
            poststop=bool(self.spec.hooks and self.spec.hooks.poststop),
        )

    def _done(self, child: Child) -> None:
        if child.leader >= 0 and self.wanted.console_socket:
            console.hand_over(self.wanted.console_socket, child.leader)
            child.leader = -1
        if self.wanted.pidfd_socket:
            console.hand_over_pidfd(self.wanted.pidfd_socket, child.pid)
        if self.wanted.pid_file:
            write_whole(self.wanted.pid_file, str(child.pid).encode(), sync=False)
        saved = self._saved(child.pid, created=True)
        self.box.save(saved)
        self.box.save_quick(saved)
