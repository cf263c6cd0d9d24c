"""From a forked child to the container's PID 1: namespaces, root, identity, execve.

The steps, in the child of the monitor (``Child.fork``)::

    namespaces ─► root and mounts (detached, by descriptor) ─► wait for "go" (control group)
      ─► cgroup namespace and view ─► pivot_root ─► terminal, user, capabilities, seccomp
      ─► execve

Each step's end is stamped; a failure is reported to the monitor as a value with the step's
name. Nothing is imported and no thread exists here: the process was forked to do this.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter

from portside.kernel import apparmor, selinux
from portside.kernel import c_socket as socket
from portside.kernel.light_stdlib import suppress
from portside.kernel.netns import loopback_up
from portside.kernel.openat2 import IN_ROOT, openat2
from portside.kernel.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    NAMESPACES,
    PR_SET_DUMPABLE,
    close_all_but,
    fork_sibling,
    getcwd,
    join_session_keyring,
    last_capability,
    prctl,
    setdomainname,
    sethostname,
    setns,
    unshare,
)
from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.model.ociruntime import Mount, Process, Spec
from portside.runtime import (
    device_nodes,
    executable,
    hooks,
    init_program,
    masked_paths,
    mounts,
    privileges,
    rootfs,
    scheduling,
    terminal,
    userns,
)
from portside.runtime.confinement import Confinement
from portside.runtime.init_channel import Given, Outcome, Own, explain
from portside.runtime.messages import StartRequest
from portside.runtime.mounts import label_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
else:
    import _signal as signal  # without enum

_last_capability = 40


def prepare() -> None:
    """Learn what forks would have to ask again."""
    global _last_capability
    _last_capability = last_capability()
    mounts.prepare()
    for module in (apparmor, selinux):  # a container's /sys does not show it
        module.enabled()


def choose_child_namespaces(spec: Spec) -> None:
    """Choose the namespaces that only children to come are in: PID and time."""
    for kind, flag in (("pid", CLONE_NEWPID), ("time", CLONE_NEWTIME)):
        found = spec.namespace(kind)
        if found is None or (kind == "pid" and found.path):
            continue  # one that has processes is joined last (Own.pass_on)
        if found.path:
            with _opened(found.path) as fd:
                setns(fd, flag, found.path)
            continue
        unshare(flag)
        if kind == "time":
            userns.offset_clocks(spec)


def joins_others(spec: Spec) -> bool:
    """Whether the container comes into a PID namespace in which others can see it."""
    found = spec.namespace("pid")
    return found is not None and bool(found.path)


def keep_children_here(spec: Spec) -> None:
    """After the fork: our further children (hooks) are in our own namespaces again."""
    if spec.hooks is None or userns.wanted(spec):
        return
    for kind, flag in (("pid", CLONE_NEWPID), ("time", CLONE_NEWTIME)):
        if spec.namespace(kind) is not None and not (kind == "pid" and joins_others(spec)):
            with _opened(f"/proc/self/ns/{kind}") as fd:
                setns(fd, flag, f"our own {kind} namespace")


class _opened:
    """A namespace's descriptor, closed at the end."""

    def __init__(self, path: str, flags: int = os.O_RDONLY) -> None:
        self._fd = os.open(path, flags | os.O_CLOEXEC)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _root() -> _opened:
    """Our root directory, which is the container's by now."""
    return _opened("/", os.O_PATH | os.O_DIRECTORY)


class _NoDirectory(executable.CommandError):
    """The working directory is none. In dockerd's words, without those of an OCI runtime: dockerd
    looks before it asks one."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Cannot mkdir: {path} is not a directory", prefix="")


def run_init(request: StartRequest, spec: Spec, own: Own, given: Given, seccomp: bytes) -> None:
    """Become the container's first process; returns only by raising."""
    assert spec.process is not None
    try:
        _build(request, spec, own, given)
    except _NoDirectory:
        raise
    except (PortsideError, OSError) as err:
        raise SystemFailure(executable.INIT + explain(own, err)) from err
    finish(own, spec.process, request, seccomp, init=request.init)


def _build(request: StartRequest, spec: Spec, own: Own, given: Given) -> None:
    """Everything around the process: namespaces, root, mounts, names, terminal."""
    assert spec.process is not None and spec.linux is not None and spec.root is not None
    steps = own.steps
    prctl(PR_SET_DUMPABLE, 0)  # processes inside must not read us through /proc
    label_mounts(spec)
    steps.enter("namespaces")
    if userns.wanted(spec):
        prepared = _enter_user_namespace(request, spec, own, given)
        os.setsid()
        state_dir = "."  # by name it may be out of reach now
    else:
        os.setsid()
        _enter_namespaces(spec, given.netns)
        prepared = userns.Prepared(sources=mounts.open_shared(spec.mounts))
        set_oom_score(spec.process)
        state_dir = request.state_dir
    steps.enter("root")
    self_ns = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    propagation = spec.linux.rootfs_propagation
    shared = spec.namespace("mount") is None
    root = rootfs.attach(request.rootfs, state_dir, propagation, prepared.root, shared)
    steps.enter("mounts")
    late = _of_proc(root, spec, prepared.sources) if joins_others(spec) else []
    groups = _cgroup_mounts(spec)
    over = _over_cgroups(spec, groups)
    early = [m for m in spec.mounts if m.type != "cgroup" and m not in late and m not in over]
    filled = mounts.mount_all(root, early, prepared.sources)
    device_nodes.make_devices(root, spec)
    if not request.bundle:
        mounts.link_mtab(root)
    steps.enter("control group")
    own.wait_for_hooks(spec)
    own.wait_for_go()
    found = spec.namespace("cgroup")
    if found and not found.path:
        unshare(CLONE_NEWCGROUP)
    mounts.mount_cgroups(root, groups, request.cgroup, private=found is not None)
    if over:
        filled += mounts.mount_all(root, over, prepared.sources)
    steps.enter("pivot")
    mounts.write_sysctls(spec)
    _make_cwd(root, spec.process.cwd)
    mounts.make_read_only(filled)
    join = _open_pid_namespace(spec)
    if spec.hooks is not None:
        hooks.run("createContainer", spec.hooks.create_container, own.state_of(request, spec))
    if shared or request.no_pivot:
        os.close(self_ns)
        rootfs.enter(root) if shared else rootfs.move(root, propagation)
    else:
        rootfs.pivot(root, self_ns, propagation)
    forbid_imports()
    steps.enter("paths")
    _names(spec)
    if own.terminal:
        open_terminal(own, spec.process, console=True)
    connect_streams(own, [*prepared.sources.values(), join])
    if join >= 0:
        setns(join, CLONE_NEWPID, "the PID namespace")
        os.close(join)
        own.pass_on()
        os.setsid()
        with _root() as root:
            mounts.make_read_only(mounts.mount_all(root, late, prepared.sources))
    if own.terminal:
        terminal.make_controlling(0)
    masked_paths.protect(spec)
    scheduling.set_domain(spec.linux.personality)
    if own.hold < 0:
        _start_hooks(own, request, spec)
    own.at_start = lambda: _start_hooks(own, request, spec)


def forbid_imports() -> None:
    """From now on the files that an import would find are the container's."""
    finders: list[object] = [BuiltinImporter, FrozenImporter]
    sys.meta_path[:] = finders  # type: ignore[assignment]


def _start_hooks(own: Own, request: StartRequest, spec: Spec) -> None:
    if spec.hooks is not None and spec.hooks.start_container:
        state = own.state_of(request, spec, "created")
        hooks.run("startContainer", spec.hooks.start_container, state)


def _cgroup_mounts(spec: Spec) -> list[Mount]:
    """The cgroup file systems that no mount listed after them covers, such as the machine's own
    ``/sys``: they come late, and would cover it instead."""
    found: list[Mount] = []
    for mount in spec.mounts:
        above = mount.destination.rstrip("/") + "/"
        found = [one for one in found if not f"{one.destination.rstrip('/')}/".startswith(above)]
        if mount.type == "cgroup":
            found.append(mount)
    return found


def _over_cgroups(spec: Spec, groups: list[Mount]) -> list[Mount]:
    """The mounts beneath a cgroup file system that is listed before them: it comes late."""
    found: list[Mount] = []
    places: list[str] = []
    for mount in spec.mounts:
        if mount in groups:
            places.append(mount.destination.rstrip("/") + "/")
        elif places and mount.destination.startswith(tuple(places)):
            found.append(mount)
    return found


def _of_proc(root: int, spec: Spec, sources: dict[int, int]) -> list[Mount]:
    """The mounts of proc and over it, for who is not in the PID namespace yet that proc shows;
    their places and ``sources`` are prepared with what is only to be had now."""
    found = []
    for mount in spec.mounts:
        place = os.path.normpath("/" + mount.destination.lstrip("/"))
        if mount.type == "proc" or place.startswith("/proc/"):
            found.append(mount)
        if mount.type == "proc":
            os.close(mounts.resolve(root, mount.destination, True))
            if userns.wanted(spec):
                sources[id(mount)] = _proc_of(spec, mount)
    missing = [m for m in found if id(m) not in sources]
    known = mounts.Mappers(spec)
    sources.update(mounts.open_shared(missing, known))
    known.close()
    return found


def _proc_of(spec: Spec, mount: Mount) -> int:
    """A proc that shows the PID namespace we are about to join. In a user namespace it can only be
    made while the host's is in sight (mount_namespaces(7)), so before pivot_root(2)."""
    join = _open_pid_namespace(spec)
    try:
        return mounts.proc_of(join, mount)
    finally:
        os.close(join)


def _open_pid_namespace(spec: Spec) -> int:
    """The PID namespace of others that the container joins, or -1."""
    found = spec.namespace("pid")
    return os.open(found.path, os.O_RDONLY | os.O_CLOEXEC) if found and found.path else -1


def _make_cwd(root: int, path: str) -> None:
    """The working directory, when it is missing, beneath the root while it can be written to."""
    if not path.startswith("/"):
        return
    try:
        found = mounts.resolve(root, os.path.normpath(path), True)
    except (NotADirectoryError, FileExistsError) as err:
        raise _NoDirectory(path) from err
    except (PortsideError, OSError):
        return  # chdir(2) says what is wrong, with the command's own rights
    try:
        if not stat.S_ISDIR(os.fstat(found).st_mode):
            raise _NoDirectory(path)
    finally:
        os.close(found)


def _enter_user_namespace(
    request: StartRequest, spec: Spec, own: Own, given: Given
) -> userns.Prepared:
    """The host's part of the work, then the user namespace, then a child of our parent's."""
    assert spec.process is not None
    userns.check(spec)
    user = spec.namespace("user")
    assert user is not None
    set_oom_score(spec.process)
    userns.raise_limits(spec)
    if os.geteuid():
        return _enter_without_rights(request, spec, own, given)
    existing = given.userns
    if existing < 0 and user.path:
        existing = os.open(user.path, os.O_RDONLY | os.O_CLOEXEC)
    known = mounts.Mappers(spec, existing)
    prepared = userns.Prepared(sources=mounts.open_shared(spec.mounts, known))
    prepared.root = rootfs.open_root(
        request.rootfs, False, known.of_root(request.rootfs), prepared.used
    )
    known.close()
    os.chdir(request.state_dir)
    own.join_group()
    userns.become_root(own.channel, existing)
    prctl(PR_SET_DUMPABLE, 1)  # else our own files in /proc are not ours
    choose_child_namespaces(spec)
    _enter_namespaces(spec, given.netns)
    prctl(PR_SET_DUMPABLE, 0)
    _continue_as_sibling(own, prepared.used)
    return prepared


def _enter_without_rights(
    request: StartRequest, spec: Spec, own: Own, given: Given
) -> userns.Prepared:
    """The same for an ordinary user, who may copy mounts inside of the namespace only."""
    user = spec.namespace("user")
    assert user is not None
    existing = given.userns
    if existing < 0 and user.path:
        existing = os.open(user.path, os.O_RDONLY | os.O_CLOEXEC)
    os.chdir(request.state_dir)
    prctl(PR_SET_DUMPABLE, 1)  # the mappings are written by our own user
    userns.become_root(own.channel, existing)
    prctl(PR_SET_DUMPABLE, 1)  # a change of identity has taken it away
    choose_child_namespaces(spec)
    _enter_namespaces(spec, given.netns)
    prctl(PR_SET_DUMPABLE, 0)
    _continue_as_sibling(own, [])
    return userns.Prepared(sources=mounts.open_shared(spec.mounts))


def _continue_as_sibling(own: Own, used: list[int]) -> None:
    """Continue as a child of our parent's, which learns the new PID before anything else that the
    sibling reports: it waits until we have ended. ``used``: see :func:`userns.introduce`."""
    ended, ours = os.pipe()
    pid = fork_sibling()
    if pid:
        userns.introduce(own.channel, pid, used)
        os._exit(0)
    os.close(ours)
    os.read(ended, 1)
    os.close(ended)


def _enter_namespaces(spec: Spec, netns: int) -> None:
    """Join the namespaces that are given and make the new ones, all at once."""
    assert spec.linux is not None
    new = 0
    for wanted in spec.linux.namespaces:
        flag, _ = NAMESPACES.get(wanted.type, (0, ""))
        if not flag:
            raise InvalidParameter(f"unknown namespace type {wanted.type!r}")
        if wanted.type in ("pid", "time", "user"):
            continue  # chosen before the fork
        if wanted.type == "cgroup" and not wanted.path:
            continue  # made once we are in the control group
        if wanted.type == "network" and netns >= 0:
            setns(netns, CLONE_NEWNET, "network namespace")
        elif wanted.path:
            with _opened(wanted.path) as fd:
                setns(fd, flag, wanted.path)
        else:
            new |= flag
    unshare(new)
    if new & CLONE_NEWNET:
        loopback_up()


def set_oom_score(process: Process) -> None:
    """Write ``oomScoreAdj`` (-1000 to 1000, proc(5)) for this process. Raises SystemFailure."""
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
        sethostname(spec.hostname)
    if spec.domainname and spec.namespace("uts"):
        setdomainname(spec.domainname)


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
    own: Own, process: Process, request: StartRequest, seccomp: bytes, *, init: bool = False
) -> None:
    """From inside the root to execve: who we are, what we may do, and the command."""
    steps = own.steps
    steps.enter("identity")
    who = privileges.resolve(process.user, request.identity)
    env = privileges.environment(process.env, who)
    arrived = _enter_cwd(process.cwd or "/")
    _own_streams(who)
    confinement = Confinement(process)
    scheduling.apply(process)
    privileges.set_limits(process.rlimits)
    if own.keyring:
        with confinement.keys():
            join_session_keyring()
    if own.hold < 0:
        own.report(Outcome(uid=who.uid, gid=who.gid))

    def as_user() -> str:
        if not arrived:
            _chdir(process.cwd)
        _verify_cwd()
        found = executable.find(process.args, env)
        confinement.enter()
        return found

    path, heard = privileges.drop(
        process, who, _last_capability, seccomp, request.seccomp_flags, as_user
    )
    if heard >= 0:
        own.give_listener(heard)
    if own.hold >= 0:
        own.report(Outcome(uid=who.uid, gid=who.gid))
        _wait_for_start(own)
    if init:
        _reset_signals(own)
        init_program.execute(own.init_program, process.args, env)
    _execute(own, path, process.args, env)


def _wait_for_start(own: Own) -> None:
    """Stand still, created, until ``start`` writes to the FIFO.

    ``start`` then reads :attr:`Own.done`, which ends at execve(2) or with us, and in
    :attr:`Own.result` what went wrong. A first process ignores signals without a handler.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda got, _: os._exit(128 + got))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    own.channel.close()
    os.read(own.hold, 1)
    own.at_start()


def _enter_cwd(path: str) -> bool:
    """Go to the working directory with root's rights, as far as they are the container's own:
    beneath the root, over no link of /proc. False when the user's rights have to decide."""
    if not path.startswith("/"):
        raise executable.CommandError("Cwd must be an absolute path")
    with suppress(OSError), _root() as root:
        directory = openat2(root, path, os.O_PATH | os.O_DIRECTORY, resolve=IN_ROOT)
        try:
            os.fchdir(directory)
            return True
        finally:
            os.close(directory)
    return False


def _chdir(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as err:
        reason = os.strerror(err.errno or 0).lower()
        is_missing = isinstance(err, FileNotFoundError | NotADirectoryError)
        if isinstance(err, NotADirectoryError):
            reason = mounts.WRONG_KIND
        failure = executable.NoCommand if is_missing else executable.DeniedCommand
        raise failure(f'chdir to cwd ("{path}") set in config.json failed: {reason}') from None


def _verify_cwd() -> None:
    """Refuse a directory outside of our root, whichever way it was reached (CVE-2024-21626)."""
    if not getcwd().startswith("/"):
        raise executable.DeniedCommand(
            "current working directory is outside of container mount namespace root -- "
            "possible container breakout detected"
        )


def connect_streams(own: Own, more: Iterable[int] = ()) -> None:
    """Make our streams descriptors 0, 1 and 2, and close all that is not the container's, but
    for ``more``."""
    if own.channel.fileno() <= 2:
        own.channel = socket.socket(
            fileno=fcntl.fcntl(own.channel.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        )
    for target, source in enumerate(own.streams):
        os.dup2(source, target, inheritable=True)
    close_all_but([*own.descriptors(), *(fd for fd in more if fd >= 0)])


def _own_streams(who: privileges.Who) -> None:
    """Give the streams to the user, so that /dev/stdout can be opened by name."""
    for fd in range(3):
        with suppress(OSError):
            if os.fstat(fd).st_rdev != os.makedev(1, 3):  # it is the host's own
                os.fchown(fd, who.uid, -1)


def _execute(own: Own, path: str, args: tuple[str, ...], env: dict[str, str]) -> None:
    _reset_signals(own)
    try:
        os.execve(path, list(args), env)
    except OSError as err:
        raise executable.explain(path, args[0], err) from err


def _reset_signals(own: Own) -> None:
    """Signals as a program expects them, and the descriptors that it is to inherit."""
    signal.alarm(0)
    for fd in range(3, 3 + own.preserve):
        with suppress(OSError):
            os.set_inheritable(fd, True)
    for number in range(1, signal.NSIG):  # execve(2) itself resets those that are caught
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
