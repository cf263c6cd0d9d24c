"""``exec``: a further process in a container of the command line's."""

from __future__ import annotations

import os

import msgspec

from portside.kernel import seccomp
from portside.kernel.cgroup import Cgroup
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import Capabilities, Process, Spec, User
from portside.model.rootfs import Rootfs
from portside.runtime import exec_init, init, messages, scheduling, seccomp_listener
from portside.runtime.init_channel import Child, Own
from portside.runtime.messages import Exec, StartRequest
from portside.runtime.oci import console, runtime_log, spec_file, validate
from portside.runtime.oci.arguments import Options
from portside.runtime.oci.foreground import attend, pass_signals
from portside.runtime.oci.state_store import Container
from portside.runtime.state_files import write_whole


def run(root: str, options: Options) -> int:
    """Execute; the exit status, 0 at once when detached."""
    preserve = options.preserved()  # before anything else is opened
    box = Container(root, options.operand())
    saved = box.load()
    status = box.status(saved)
    if status == "stopped":
        raise SystemFailure("cannot exec in a stopped container")
    if status == "paused" and not options.flag("ignore-paused"):
        raise SystemFailure("cannot exec in a paused container (use --ignore-paused to override)")
    spec = spec_file.of(box)
    process = _process(options, spec)
    detach = options.flag("detach")
    socket_path = options.text("console-socket")
    console.check(socket_path, detach=detach, terminal=process.terminal)
    child = _start(box, saved.pid, saved.cgroup, spec, process, options, preserve)
    if child.leader >= 0 and socket_path:
        console.hand_over(socket_path, child.leader)
        child.leader = -1
    if options.text("pidfd-socket"):
        console.hand_over_pidfd(options.text("pidfd-socket"), child.pid)
    if options.text("pid-file"):
        write_whole(options.text("pid-file"), str(child.pid).encode(), sync=False)
    if detach:
        return 0
    pass_signals(child)
    return attend(child)


def _start(
    box: Container, pid: int, cgroup: str, spec: Spec, process: Process, options: Options,
    preserve: int,
) -> Child:  # fmt: skip
    assert spec.linux is not None
    init.prepare()
    pidfd = os.pidfd_open(pid)
    filter = box.seccomp()
    flags = seccomp.flags_of(spec.linux.seccomp) if spec.linux.seccomp is not None else 0
    request = Exec(exec_id="exec", process=process)
    start = StartRequest(
        id=box.id,
        state_dir=box.directory,
        rootfs=Rootfs("bind"),
        cgroup=cgroup,
        seccomp_flags=flags,
    )
    further = exec_init.further_namespaces(pid)

    def become(own: Own) -> None:
        own.preserve = preserve
        exec_init.run_exec(request, own, pidfd, filter, start, further)

    child = Child.fork(become, terminal=process.terminal, stdin=False, inherit=True, passes=True)
    profile = spec.linux.seccomp
    if profile is not None and profile.listener_path:
        child.notified = lambda fd: seccomp_listener.hand_over(
            profile, fd, child.pid, spec_file.state(box.load(), spec, "running")
        )
    try:
        if below := options.text("cgroup"):
            _group_below(cgroup, below).add(child.pid)
        else:
            Cgroup(cgroup).add(child.pid, beside=pid)
        child.go()
        child.outcome()
    except BaseException:
        child.kill()
        raise
    return child


def _group_below(cgroup: str, below: str) -> Cgroup:
    """A group that the container has made of its own (``--cgroup``). Raises InvalidParameter."""
    path = os.path.normpath(f"{cgroup}/{below}")
    if not path.startswith(f"{cgroup.rstrip('/')}/") or not Cgroup(path).exists():
        raise InvalidParameter(f"{below} is not a sub cgroup path of the container")
    return Cgroup(path)


def _process(options: Options, spec: Spec) -> Process:
    """What to execute: the file of ``--process``, or the container's with changes."""
    if options.text("process"):
        path = options.text("process")
        try:
            with open(path, "rb") as file:
                process = messages.decode(file.read(), Process)
        except OSError as err:
            raise InvalidParameter(f"{path}: {err.strerror}") from err
        except msgspec.MsgspecError as err:
            raise InvalidParameter(f"{path}: {err}") from err
    else:
        process = _changed(options, spec)
    if process.oom_score_adj is None and spec.process is not None:
        process.oom_score_adj = spec.process.oom_score_adj
    if options.flag("tty"):
        process.terminal = True
    if not process.args:
        raise InvalidParameter("process args cannot be empty")
    for warning in validate.check_process(process):
        runtime_log.write("warning", warning)
    scheduling.check(process, None)
    return process


def _group(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidParameter(
            f'invalid value "{text}" for flag -g: strconv.ParseInt: parsing "{text}": '
            "invalid syntax"
        ) from None


def _changed(options: Options, spec: Spec) -> Process:
    assert spec.process is not None
    process = spec.process
    process.args = tuple(options.operands[1:])
    process.terminal = False
    process.cwd = options.text("cwd") or process.cwd
    process.env = (*process.env, *options.many("env"))
    process.apparmor_profile = options.text("apparmor") or process.apparmor_profile
    process.selinux_label = options.text("process-label") or process.selinux_label
    if options.flag("no-new-privs"):
        process.no_new_privileges = True
    if more := tuple(options.many("cap")):
        sets = process.capabilities or Capabilities()
        process.capabilities = Capabilities(
            bounding=sets.bounding + more,
            effective=sets.effective + more,
            permitted=sets.permitted + more,
            inheritable=sets.inheritable,
            ambient=sets.ambient,
        )
    if options.text("user") or options.many("additional-gids"):
        uid, _, gid = options.text("user").partition(":")
        more_groups = tuple(_group(text) for text in options.many("additional-gids"))
        try:
            user = User(int(uid or process.user.uid), int(gid or process.user.gid))
        except ValueError:
            raise InvalidParameter(f"parsing {options.text('user')!r} as uid[:gid]") from None
        user.additional_gids = more_groups or process.user.additional_gids
        process.user = user
    return process
