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
import signal
import termios
from contextlib import suppress

from portside.kernel import apparmor, selinux
from portside.kernel import process as kernel
from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.model.ociruntime import Process, Spec
from portside.runtime import (
    device_nodes,
    executable,
    hooks,
    init_reaper,
    masked_paths,
    mounts,
    privileges,
    rootfs,
    scheduling,
    terminal,
    userns,
)
from portside.runtime.init_channel import Outcome, Own, explain
from portside.runtime.messages import StartRequest

_last_capability = 40


def prepare() -> None:
    """Learn what forks would have to ask again."""
    global _last_capability
    _last_capability = kernel.last_capability()
    mounts.prepare()


def choose_child_namespaces(spec: Spec) -> None:
    """Choose the namespaces that only children to come are in: PID and time."""
    for kind, flag in (("pid", kernel.CLONE_NEWPID), ("time", kernel.CLONE_NEWTIME)):
        found = spec.namespace(kind)
        if found is None:
            continue
        if found.path:
            with _opened(found.path) as fd:
                kernel.setns(fd, flag, found.path)
            continue
        kernel.unshare(flag)
        if kind == "time":
            userns.offset_clocks(spec)


def keep_children_here(spec: Spec) -> None:
    """After the fork: our further children (hooks) are in our own namespaces again."""
    if spec.hooks is None or userns.wanted(spec):
        return
    for kind, flag in (("pid", kernel.CLONE_NEWPID), ("time", kernel.CLONE_NEWTIME)):
        if spec.namespace(kind) is not None:
            with _opened(f"/proc/self/ns/{kind}") as fd:
                kernel.setns(fd, flag, f"our own {kind} namespace")


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
    assert spec.process is not None
    try:
        _build(request, spec, own, netns)
    except (PortsideError, OSError) as err:
        raise SystemFailure(executable.INIT + explain(own, err)) from err
    finish(own, spec.process, request, seccomp, init=request.init)


def _build(request: StartRequest, spec: Spec, own: Own, netns: int) -> None:
    """Everything around the process: namespaces, root, mounts, names, terminal."""
    assert spec.process is not None and spec.linux is not None and spec.root is not None
    steps = own.steps
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody inside may look at us through /proc
    steps.enter("namespaces")
    if userns.wanted(spec):
        prepared = _enter_user_namespace(request, spec, own, netns)
        os.setsid()
        state_dir = "."  # by name it may be out of reach now
    else:
        os.setsid()
        _enter_namespaces(spec, netns)
        prepared = userns.Prepared(sources=mounts.open_shared(spec.mounts))
        set_oom_score(spec.process)
        state_dir = request.state_dir
    steps.enter("root")
    self_ns = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = rootfs.attach(
        request.rootfs, state_dir, spec.linux.rootfs_propagation, opened=prepared.root
    )
    steps.enter("mounts")
    mounts.mount_all(root, [m for m in spec.mounts if m.type != "cgroup"], prepared.sources)
    device_nodes.make_devices(root, spec)
    if not request.bundle:
        mounts.link_mtab(root)
    steps.enter("control group")
    own.wait_for_hooks(spec.hooks)
    own.wait_for_go()
    found = spec.namespace("cgroup")
    if found and not found.path:
        kernel.unshare(kernel.CLONE_NEWCGROUP)
    mounts.mount_cgroups(root, spec.mounts, request.cgroup, private=found is not None)
    steps.enter("pivot")
    apparmor.enter_at_exec(spec.process.apparmor_profile)
    selinux.enter_at_exec(spec.process.selinux_label)
    if request.init:
        own.profile = apparmor.open_entry(spec.process.apparmor_profile)
    mounts.write_sysctls(spec)
    if spec.hooks is not None:
        hooks.run("createContainer", spec.hooks.create_container, own.state_of(request, spec))
    rootfs.pivot(root, self_ns, spec.linux.rootfs_propagation)
    steps.enter("paths")
    _make_cwd(spec.process.cwd)
    masked_paths.protect(spec)
    _names(spec)
    if own.terminal:
        open_terminal(own, spec.process, console=True)
    scheduling.set_domain(spec.linux.personality)
    if own.hold < 0:
        _start_hooks(own, request, spec)
    own.at_start = lambda: _start_hooks(own, request, spec)


def _start_hooks(own: Own, request: StartRequest, spec: Spec) -> None:
    if spec.hooks is not None and spec.hooks.start_container:
        state = own.state_of(request, spec, "created")
        hooks.run("startContainer", spec.hooks.start_container, state)


def _make_cwd(path: str) -> None:
    """The working directory, when it is missing, while the root can be written to."""
    if not path.startswith("/") or os.path.isdir(path):
        return
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as err:
        raise SystemFailure(f"Cannot mkdir: {path} is not a directory") from err


def _enter_user_namespace(
    request: StartRequest, spec: Spec, own: Own, netns: int
) -> userns.Prepared:
    """The host's part of the work, then the user namespace, then a child of our parent's."""
    assert spec.process is not None
    userns.check(spec)
    user = spec.namespace("user")
    assert user is not None
    set_oom_score(spec.process)
    userns.raise_limits(spec)
    prepared = userns.Prepared(
        rootfs.mount(request.rootfs, private=False), mounts.open_shared(spec.mounts, True)
    )
    os.chdir(request.state_dir)
    userns.become_root(own.tell, user.path)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else our own files in /proc are not ours
    choose_child_namespaces(spec)
    _enter_namespaces(spec, netns)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    pid = kernel.fork_sibling()
    if pid:
        own.tell.send(b"p%d" % pid)
        os._exit(0)
    return prepared


def _enter_namespaces(spec: Spec, netns: int) -> None:
    """Join the namespaces that are given and make the new ones, all at once."""
    assert spec.linux is not None
    new = 0
    for wanted in spec.linux.namespaces:
        flag, _ = kernel.NAMESPACES.get(wanted.type, (0, ""))
        if not flag:
            raise InvalidParameter(f"unknown namespace type {wanted.type!r}")
        if wanted.type in ("pid", "time", "user"):
            continue  # chosen before the fork
        if wanted.type == "cgroup" and not wanted.path:
            continue  # made once we are in the control group
        if wanted.type == "network" and netns >= 0:
            kernel.setns(netns, kernel.CLONE_NEWNET, "network namespace")
        elif wanted.path:
            with _opened(wanted.path) as fd:
                kernel.setns(fd, flag, wanted.path)
        else:
            new |= flag
    if not spec.namespace("mount"):
        raise InvalidParameter("a container needs a mount namespace")
    kernel.unshare(new)


def set_oom_score(process: Process) -> None:
    if process.oom_score_adj is None:
        return
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(process.oom_score_adj))
    except OSError as err:
        raise SystemFailure(
            f"cannot set oom_score_adj to {process.oom_score_adj}: {(err.strerror or '').lower()}"
        ) from err


def _names(spec: Spec) -> None:
    if spec.hostname and spec.namespace("uts"):
        kernel.sethostname(spec.hostname)
    if spec.domainname and spec.namespace("uts"):
        kernel.setdomainname(spec.domainname)


def open_terminal(own: Own, process: Process, console: bool) -> None:
    """A terminal of the container's own devpts; its leading side goes to the monitor."""
    leader, follower = terminal.open_pair()
    size = process.console_size
    if size is not None:
        terminal.set_size(leader, size.height, size.width)
    if console:
        terminal.bind_console(follower)
    own.give_terminal(leader)
    own.streams = (follower, follower, follower)


def finish(
    own: Own, process: Process, request: StartRequest, seccomp: bytes, *, init: bool,
    make_cwd: bool = True,
) -> None:  # fmt: skip
    """From inside the root to execve: who we are, what we may do, and the command."""
    steps = own.steps
    steps.enter("identity")
    who = privileges.resolve(process.user, request.identity)
    env = privileges.environment(process.env, who)
    _chdir(process.cwd or "/", who, make=make_cwd)
    _connect_streams(own, who)
    path = executable.find(process.args, env, who)
    scheduling.apply(process)
    privileges.set_limits(process.rlimits)
    if own.keyring:
        kernel.join_session_keyring()
    if own.hold < 0:
        own.report(Outcome(uid=who.uid, gid=who.gid))
    heard = privileges.drop(process, who, _last_capability, seccomp, request.seccomp_flags)
    if heard >= 0:
        own.give_listener(heard)
    if init:
        init_reaper.become(own.tell, process.args, own.profile, process.apparmor_profile)
    if own.hold >= 0:
        own.report(Outcome(uid=who.uid, gid=who.gid))
        _wait_for_start(own)
    _execute(own, path, process.args, env)


def _wait_for_start(own: Own) -> None:
    """Stand still, created, until ``start`` writes to the FIFO.

    ``start`` then waits for the lock on :attr:`Own.result`, which execve(2) or our end gives
    free, and reads there what went wrong. A first process ignores signals without a handler.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda got, _: os._exit(128 + got))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    own.tell.close()
    os.read(own.hold, 1)
    own.at_start()


def _chdir(path: str, who: privileges.Who, *, make: bool) -> None:
    """Go to the working directory; a container's is made when missing, an exec's is not."""
    if not path.startswith("/") and not make:
        raise executable.CommandError("Cwd must be an absolute path", "system")
    if not path.startswith("/"):
        raise InvalidParameter(
            f"the working directory {path!r} is invalid, it needs to be an absolute path"
        )
    try:
        os.chdir(path)
    except FileNotFoundError:
        if not make:
            raise executable.CommandError(
                f'chdir to cwd ("{path}") set in config.json failed: no such file or directory',
                "not-found",
            ) from None
        os.makedirs(path, 0o755, exist_ok=True)
        os.chdir(path)
    except NotADirectoryError:
        raise executable.CommandError(
            f'chdir to cwd ("{path}") set in config.json failed: not a directory',
            "not-executable",
        ) from None
    except PermissionError:
        os.setegid(who.gid)
        os.seteuid(who.uid)
        os.chdir(path)
        os.seteuid(0)
        os.setegid(0)
    if os.readlink("/proc/self/cwd").startswith("(unreachable)"):
        raise SystemFailure("the working directory is outside of the container's root")


def _connect_streams(own: Own, who: privileges.Who) -> None:
    """Make our streams descriptors 0, 1 and 2, and close all that is not the container's."""
    stdin, stdout, stderr = own.streams
    ours = {fd for fd, stream in enumerate(own.streams) if stream >= 0}
    if stdin < 0:
        stdin = os.open("/dev/null", os.O_RDONLY)
    keep = os.dup(own.tell.fileno()) if own.tell.fileno() <= 2 else own.tell.fileno()
    preserved = range(3, 3 + own.preserve)
    for source, target in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target, inheritable=True)
    if own.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for fd in ours:  # not /dev/null, which may be the host's own
        with suppress(OSError):
            if os.fstat(fd).st_rdev != os.makedev(1, 3):
                os.fchown(fd, who.uid, -1)
    more = [fd for fd in (own.hold, own.result, own.profile) if fd >= 0]
    kernel.close_all_but([keep, *preserved, *more])


def _execute(own: Own, path: str, args: tuple[str, ...], env: dict[str, str]) -> None:
    for fd in range(3, 3 + own.preserve):
        with suppress(OSError):
            os.set_inheritable(fd, True)
    for number in range(1, signal.NSIG):  # execve(2) itself resets those that are caught
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execve(path, list(args), env)
    except OSError as err:
        raise executable.explain(path, args[0], err) from err
