"""A container's life after its creation: start, end, stop, kill, pause, restart, removal.

::

    created ──start──► running ──pause──► paused
       ▲                 │  ▲                │
       │                exit └───unpause─────┘
       │                 ▼
       │              exited ──policy──► restarting ──► running
       └── remove ◄──────┘
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from portside.containers import container_networks, mounts, selinux_labels, user_mapping
from portside.containers.attach_exec import exec_ended
from portside.containers.container import Container, PendingAttachment, Record, hang_up
from portside.containers.container_networks import network_request
from portside.containers.core import Core, make_directory
from portside.containers.exit import handle_exit, monitor_lost
from portside.containers.log_config import monitor_log
from portside.containers.processes import end_processes, give_back
from portside.containers.remove import remove_locked
from portside.containers.spec import security_options
from portside.containers.spec.oci_spec import SpecInputs, apparmor_of, build_spec
from portside.containers.stop import stop_container
from portside.kernel import apparmor
from portside.model.container import HostConfig
from portside.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    InvalidParameter,
    NotFound,
    NotModified,
    PortsideError,
    SystemFailure,
    Unavailable,
)
from portside.model.idmap import IDMappings
from portside.model.network import NetworkAttachment
from portside.model.ociruntime import Mount, Spec, User
from portside.model.rootfs import Rootfs
from portside.runtime.messages import Exited, Identity, StartRequest
from portside.store.failpoints import reach

if TYPE_CHECKING:
    from portside.runtime.monitor_client import MonitorClient

log = logging.getLogger(__name__)

# -- start -----------------------------------------------------------------------------------


async def start_container(core: Core, container: Container) -> None:
    """Start a container. Raises NotModified, Conflict, CommandNotFound and similar errors."""
    container.cancel_restart()
    async with container.lock:
        check_startable(container)
        container.record.restart_count, container.restart_delay = 0, 0.0
        try:
            await launch(core, container)
        except Exception:  # whatever it was: who waits for the removal must not wait for ever
            if container.record.host.auto_remove:
                await remove_locked(core, container, volumes=True)
            raise


async def restart_container(
    core: Core, container: Container, signal: str = "", timeout: int | None = None
) -> None:
    """Stop if it runs, and start."""
    container.kept = True
    try:
        with suppress(NotModified):
            await stop_container(core, container, signal, timeout)
        with suppress(NotModified):  # another request has started it
            await start_container(core, container)
    finally:
        container.kept = False
    core.event(container, "restart")


async def launch(core: Core, container: Container) -> None:
    """Start the container, watch for its end and publish the event; the caller holds the lock."""
    await bring_up(core, container)
    watch(core, container)
    core.networks.announce(container.id)
    core.event(container, "start")
    if container.record.config.healthcheck is not None:
        from portside.containers.health import HealthMonitor

        container.health = HealthMonitor.begin(core, container)


def watch(core: Core, container: Container) -> None:
    """Handle the container's end whenever it comes."""
    monitor = container.monitor
    assert monitor is not None

    def ended(future: asyncio.Future[Exited]) -> None:
        if container.monitor is monitor:
            core.spawn(_handle_end(core, container, future))

    monitor.exited.add_done_callback(ended)
    monitor.on_exec_exit = lambda exit: exec_ended(core, exit)
    monitor.on_oom = lambda: _out_of_memory(core, container)


def _out_of_memory(core: Core, container: Container) -> None:
    """The kernel has killed a process of it because memory ran out; the others may continue."""
    container.record.oom_killed = True
    core.save(container)
    core.event(container, "oom")


async def _handle_end(core: Core, container: Container, future: asyncio.Future[Exited]) -> None:
    try:
        exit = future.result()
    except Unavailable:
        exit = await monitor_lost(core, container)
    lived = await handle_exit(core, container, exit)
    if lived is not None:
        schedule_restart(core, container, lived)


# -- restart policies ----------------------------------------------------------------------


FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
_LONG_LIFE = 10 * 10**9


def schedule_restart(core: Core, container: Container, lived_ns: int) -> None:
    """Start the container again after its delay."""
    if lived_ns >= _LONG_LIFE or not container.restart_delay:
        container.restart_delay = FIRST_DELAY
    else:
        container.restart_delay = min(container.restart_delay * 2, LONGEST_DELAY)
    container.restart = core.spawn(_restart(core, container, container.restart_delay))


async def _restart(core: Core, container: Container, delay: float) -> None:

    await asyncio.sleep(delay)
    async with container.lock:
        container.restart = None
        record = container.record
        if record.running or record.removing or not record.restarting:
            return
        record.restart_count += 1
        try:
            await launch(core, container)
        except PortsideError as err:
            log.warning("container %s could not be restarted: %s", record.id, err)
            container.exited.set()
            container.wake(record.exit_code, str(err))


# -- bringing it up ------------------------------------------------------------------------


def check_startable(container: Container) -> None:
    """Raise what Docker answers when a container cannot be started as it is."""
    record = container.record
    if record.running:
        if record.paused:
            raise Conflict("cannot start a paused container, try unpause instead")
        raise NotModified(f"container {record.id} is already running")
    if record.removing or record.dead or container.removed:
        raise Conflict("container is marked for removal and cannot be started")


async def bring_up(core: Core, container: Container) -> None:
    """Start a container; its lock is held. The caller watches its end afterwards."""
    record = container.record
    clock = _Clock()
    pending = container.take_pending()
    try:
        shared = joined(core, record)
        _take_names(record, shared)
        check_profile(core, record)
        selinux_labels.assign(core, record)
        selinux_labels.check(core, record)
        container_networks.check_links_running(core, record)
        mappings = user_mapping.of(core, record)
        await core.store.writables.store_as(record.id, mappings)
        runtime_mounts = await mounts.runtime_mounts(core, record)
        await selinux_labels.label_sources(core, record, runtime_mounts)
        clock.mark("mounts")
        attachment = await core.networks.attach(network_request(core, record))
        container.networked = True
        _label_network_files(core, record, attachment, "network" in shared)
        if mappings is not None:
            mounts.own_files(attachment.directory, mappings)
        clock.mark("network")
        reach("container.start:networked")
        record.link_variables = (
            *attachment.environment, *container_networks.link_environment(core, record)
        )  # fmt: skip
        spec = _specification(core, record, attachment, runtime_mounts, shared)
        groups = _devices(core, record, spec)
        directory = write_bundle(core, record.id, spec)
        clock.mark("specification")
        client = await core.launcher.start(
            _request(core, record, spec, attachment, directory, pending, groups),
            netns_fd=attachment.netns_fd,
            userns_fd=attachment.userns_fd,
            seccomp=seccomp_program(core, spec),
            sockets=tuple(item.sock for item in pending),
        )
        clock.mark("runtime")
        reach("container.start:launched")
    except BaseException as err:
        for item in pending:
            hang_up(item.sock)
        pending = []
        await _failed(core, container, err)
        if isinstance(err, SystemFailure):
            joined(core, record)  # says so when the other has ended meanwhile
        raise
    finally:
        for item in pending:
            item.sock.close()
    for instance in list(container.execs.values()):  # of the run before
        core.forget_exec(instance)
    _running(core, container, client)
    core.launcher.refill()
    user_mapping.expect_another(core, record.host)
    container.timings = clock.steps | {
        f"init {name}": value for name, value in client.started.result().timings.items()
    }


class _Clock:
    """Milliseconds of each step (``run --timings``)."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.steps: dict[str, float] = {}

    def mark(self, step: str) -> None:
        now = time.perf_counter()
        self.steps[step] = round((now - self._last) * 1000, 3)
        self._last = now


def _take_names(record: Record, shared: dict[str, Container]) -> None:
    """Containers in one network namespace are one machine to the world."""
    if donor := shared.get("network"):
        names = donor.record.config
        record.config = msgspec.structs.replace(
            record.config, hostname=names.hostname, domainname=names.domainname
        )


def _specification(
    core: Core,
    record: Record,
    attachment: NetworkAttachment,
    mounts: tuple[Mount, ...],
    shared: dict[str, Container],
) -> Spec:
    return build_spec(
        SpecInputs(
            id=record.id,
            config=record.config,
            host=record.host,
            directory=attachment.directory or str(core.directory(record.id)),
            user=User(0, 0),  # resolved inside the root by the runtime (Identity)
            mounts=mounts,
            links=record.link_variables,
            joined=_pids(core, record, shared),
            id_mappings=user_mapping.of(core, record),
            labels=selinux_labels.of(core, record),
            shows_selinux=selinux_labels.shows_selinux(core, record.host),
            defaults=core.defaults(),
        )
    )


def _label_network_files(
    core: Core, record: Record, attachment: NetworkAttachment, shared: bool
) -> None:
    directory = attachment.directory or str(core.directory(record.id))
    selinux_labels.label_network_files(selinux_labels.of(core, record).mount, directory, shared)


def _pids(core: Core, record: Record, shared: dict[str, Container]) -> dict[str, int]:
    """The processes whose namespaces are joined, by type."""
    found = {kind: other.record.pid for kind, other in shared.items()}
    donor = user_mapping.donor_of(core, record)
    if donor is not None:
        found["user"] = donor.pid
    return found


def _devices(core: Core, record: Record, spec: Spec) -> tuple[str, ...]:
    """Lay requested devices (``--gpus``) over the specification; groups they ask for."""
    if not record.host.device_requests:
        return ()
    from portside.containers.spec import cdi

    edits = cdi.resolve(record.host.device_requests, core.options.cdi_spec_dirs)
    return tuple(cdi.inject(spec, edits))


def check_profile(core: Core, record: Record) -> None:
    """Whether the AppArmor profile is there, before anything is made. Raises SystemFailure."""
    host = record.host
    if host.security_opt:
        options = security_options.parse_security(host.security_opt)
        if options.apparmor:
            apparmor.check(apparmor_of(options, host.privileged, core.defaults()))


def joined(core: Core, record: Record) -> dict[str, Container]:
    """The containers whose namespaces are shared, by type. Raises Conflict, InvalidParameter and
    SystemFailure as dockerd chooses them for each type."""
    host = record.host
    modes = {"network": host.network_mode, "pid": host.pid_mode, "ipc": host.ipc_mode}
    return {
        kind: _JOINS[kind](core, mode.partition(":")[2])
        for kind, mode in modes.items()
        if mode.startswith("container:")
    }


def _of_network(core: Core, name: str) -> Container:
    try:
        other = core.find(name)
    except NotFound as err:
        raise SystemFailure(f"joining network namespace of container: {err}") from None
    if other.record.restarting:
        raise Conflict(f"cannot join network namespace of container: {_waits(other)}")
    if not other.record.running:
        raise Conflict(
            "cannot join network namespace of a non running container: "
            f"container {other.record.name} is {other.record.status}"
        )
    return other


def _of_pids(core: Core, name: str) -> Container:
    try:
        return _running_one(core, name)
    except (NotFound, Conflict) as err:
        raise SystemFailure(f"failed to join PID namespace: {err}") from None


def _of_ipc(core: Core, name: str) -> Container:
    words = "failed to join IPC namespace"
    try:
        other = _running_one(core, name)
    except NotFound as err:
        raise InvalidParameter(f"{words}: {err}") from None
    except Conflict as err:
        raise Conflict(f"{words}: {err}") from None
    if other.record.host.ipc_mode not in ("shareable", "host"):
        raise InvalidParameter(
            f"{words}: container {other.id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)"
        )
    return other


_JOINS = {"network": _of_network, "pid": _of_pids, "ipc": _of_ipc}


def _running_one(core: Core, name: str) -> Container:
    other = core.find(name)
    if other.record.restarting:
        raise Conflict(_waits(other))
    if not other.record.running:
        raise Conflict(f"container {other.id} is not running")
    return other


def _waits(other: Container) -> str:
    return f"Container {other.id} is restarting, wait until the container is running"


def write_bundle(core: Core, identifier: str, spec: Spec) -> str:
    """The runtime's directory with config.json and nothing of an earlier run."""
    directory = core.state_dir(identifier)
    make_directory(directory, 0o700)
    for name in ("exit.json", "state.json", "monitor.sock", "monitor.err"):
        (directory / name).unlink(missing_ok=True)
    with open(directory / "config.json", "wb") as file:
        file.write(msgspec.json.encode(spec))
    return str(directory)


def _request(
    core: Core,
    record: Record,
    spec: Spec,
    attachment: NetworkAttachment,
    directory: str,
    pending: list[PendingAttachment],
    groups: tuple[str, ...],
) -> StartRequest:
    linux = spec.linux
    assert linux is not None
    host = record.host
    return StartRequest(
        id=record.id,
        state_dir=directory,
        rootfs=labelled_root(core, record),
        cgroup=linux.cgroups_path,
        log=monitor_log(record, core.log_path(record.id)),
        identity=Identity(record.config.user or "0", (*(host.group_add or ()), *groups)),
        open_stdin=record.config.open_stdin,
        stdin_once=record.config.stdin_once,
        init=_has_init(host, core.options.init),
        init_path=core.options.init_path,
        has_netns=attachment.netns_fd is not None,
        has_userns=attachment.userns_fd is not None,
        has_seccomp=linux.seccomp is not None,
        seccomp_flags=seccomp_flags(spec),
        attachments=tuple(item.streams for item in pending),
        runtime=core.options.runtimes.get(host.runtime, ""),
    )


def labelled_root(core: Core, record: Record) -> Rootfs:
    """:func:`mapped_root`, all of whose files have the container's SELinux label."""
    root = mapped_root(core, record.id, user_mapping.of(core, record))
    label = selinux_labels.of(core, record).mount
    if not label or root.driver != "overlay":
        return root
    return msgspec.structs.replace(root, options=(*root.options, f"context={label}"))


def mapped_root(core: Core, identifier: str, mappings: IDMappings | None) -> Rootfs:
    """A container's root, whose files have the container's identifiers on disk, or the host's
    (:meth:`.WritableLayers.store_as`)."""
    root = core.store.writables.rootfs(identifier)
    return root if mappings is None or root.stored_uids else root.mapped(mappings)


def _has_init(host: HostConfig, default: bool) -> bool:
    """A shared PID namespace has a first process already; Docker ignores the option there."""
    wanted = default if host.init is None else host.init
    return wanted and not host.pid_mode


def seccomp_flags(spec: Spec) -> int:
    """The filter's flags; 0 without one."""
    if spec.linux is None or spec.linux.seccomp is None:
        return 0
    from portside.kernel.seccomp import flags_of

    return flags_of(spec.linux.seccomp)


def seccomp_program(core: Core, spec: Spec) -> bytes:
    """The compiled seccomp program of a specification."""
    if spec.linux is None or spec.linux.seccomp is None:
        return b""
    from portside.kernel.seccomp import cached

    return cached(spec.linux.seccomp, str(core.instance.data_root / "seccomp"))


def _running(core: Core, container: Container, client: MonitorClient) -> None:
    record = container.record
    container.monitor = client
    container.exited.clear()
    container.stopping = False
    record.running, record.paused, record.restarting = True, False, False
    record.pid, record.started_ns = client.pid, client.started_ns or time.time_ns()
    record.exit_code, record.error, record.oom_killed = 0, "", False
    record.stopped_by_user = False
    core.save(container)


async def _failed(core: Core, container: Container, err: BaseException) -> None:
    """A start that did not work: give everything back and note why."""
    record = container.record
    # a monitor that was killed with the container started cannot have ended it
    await asyncio.to_thread(end_processes, core, container)
    await give_back(core, container)
    record.running = record.restarting = record.paused = False
    record.pid = 0
    record.error = str(err) or type(err).__name__
    record.exit_code = exit_code_of(err)
    core.save(container)


def exit_code_of(err: BaseException) -> int:
    """The exit status that a failed start counts as."""
    if isinstance(err, CommandNotFound):
        return 127
    if isinstance(err, CommandNotExecutable):
        return 126
    return 128
