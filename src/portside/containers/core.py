"""State that all parts of the containers service share: the containers, and the services beside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from portside.containers.container import Container, ExecInstance, Record
from portside.containers.interfaces import Images, Networks, Volumes
from portside.containers.spec.oci_spec import Defaults
from portside.kernel.inotify import DirectoryWatch
from portside.kernel.selinux import ContainerContexts
from portside.model.container import Ulimit
from portside.model.errors import Conflict, InvalidParameter, NotFound, NotRunning, PortsideError
from portside.model.events import Publisher
from portside.model.idmap import IDMappings
from portside.model.instance import Instance
from portside.runtime.state_files import is_alive
from portside.store.db import NameTaken
from portside.store.store import Store

if TYPE_CHECKING:
    from portside.runtime.launcher_client import Launcher
    from portside.runtime.messages import Exited


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """The daemon's options for containers."""

    log_driver: str = "json-file"
    log_opts: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = 64 << 20
    ipc_mode: str = "private"
    cgroupns_mode: str = ""
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    """JSON text, ``unconfined`` or empty."""
    apparmor_profile: str = ""
    selinux: ContainerContexts | None = None
    """The policy's contexts for containers; None: they are not labelled."""
    init: bool = False
    init_path: str = ""
    id_mappings: IDMappings | None = None
    """Mappings of the user namespace that containers have by default (``--userns-remap``)."""
    default_runtime: str = "portside"
    runtimes: Mapping[str, str] = field(default_factory=dict)
    """Name to path of further OCI runtimes."""
    cdi_spec_dirs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """Containers by state, for ``info``."""

    total: int
    running: int
    paused: int
    stopped: int


@dataclass(slots=True, kw_only=True)
class Core:
    """The containers of an engine, and the ways to the rest of it.

    What is done with containers are functions that take this as their first argument, each in the
    file of its name (``create``, ``start``, ``stop`` …); the API calls them directly. Only the
    engine's asyncio thread may.
    """

    store: Store
    instance: Instance
    launcher: Launcher
    images: Images
    networks: Networks
    volumes: Volumes
    publish: Publisher
    options: ContainerOptions
    containers: dict[str, Container] = field(default_factory=dict)
    by_name: dict[str, str] = field(default_factory=dict)
    execs: dict[str, ExecInstance] = field(default_factory=dict)
    probes: dict[str, asyncio.Future[Exited]] = field(default_factory=dict)
    """Health probes that run, by their exec's ID."""
    spare_ranges: list[IDMappings] = field(default_factory=list)
    """Ranges of identifiers of the next containers with ``--userns=auto``, in nobody's record."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    log_watch: DirectoryWatch = field(default_factory=DirectoryWatch)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work of the service's own; a failure is logged, never lost."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Let go of the containers; they run on."""
        for container in self.containers.values():
            container.cancel_restart()
            if container.health is not None:
                container.health.end()
            if container.monitor is not None:
                monitor, container.monitor = container.monitor, None
                monitor.close()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self.launcher.end)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (err := task.exception()) is not None:
            log.error("container work failed: %s", err, exc_info=err)

    # -- finding -----------------------------------------------------------------------------

    def find(self, name: str) -> Container:
        """Find a container by ID, name or unique beginning of an ID. Raises NotFound and
        InvalidParameter."""
        if not name:
            raise InvalidParameter('invalid name or ID supplied: ""')
        container = self.containers.get(name)
        if container is not None:
            return container
        identifier = self.by_name.get(name.removeprefix("/"))
        if identifier is not None:
            return self.containers[identifier]
        if "/" in name.strip("/") and (linked := self._linked(name)) is not None:
            return linked
        found = [key for key in self.containers if key.startswith(name)]
        if len(found) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {name}")
        if not found:
            raise NotFound(f"No such container: {name}")
        return self.containers[found[0]]

    def _linked(self, name: str) -> Container | None:
        """Find a container by the name in a legacy link: ``PARENT/ALIAS``."""
        parent, _, wanted = name.strip("/").partition("/")
        holder = self.containers.get(self.by_name.get(parent, ""))
        for text, alias, _ in links_of(self, holder.record) if holder is not None else ():
            if alias == wanted and holder is not None:
                return self.containers.get(holder.record.link_targets.get(text, ""))
        return None

    def find_exec(self, identifier: str) -> ExecInstance:
        instance = self.execs.get(identifier)
        if instance is None:
            raise NotFound(f"No such exec instance: {identifier}")
        return instance

    def forget_exec(self, instance: ExecInstance) -> None:
        self.execs.pop(instance.id, None)
        instance.container.execs.pop(instance.id, None)

    def is_running(self, identifier: str) -> bool:
        container = self.containers.get(identifier)
        return container is not None and container.record.running

    def counts(self) -> Counts:
        states = [item.record.status for item in self.containers.values()]
        running = states.count("running")
        paused = states.count("paused")
        return Counts(len(states), running, paused, len(states) - running - paused)

    # -- keeping -----------------------------------------------------------------------------

    def insert(self, record: Record) -> None:
        """Store a new record; Conflict in Docker's words when its name is taken."""
        holder = self.by_name.get(record.name)
        try:
            if holder is not None:
                raise NameTaken("container", record.name, holder)
            self.store.db.collection("container", Record).insert(record.id, record, record.name)
        except NameTaken as err:
            raise Conflict(name_conflict(record.name, err.holder)) from None

    def add(self, container: Container) -> None:
        """Know a container that has been stored."""
        self.containers[container.id] = container
        self.by_name[container.name] = container.id

    def save(self, container: Container) -> None:
        """Store the record as it is now."""
        if not container.removed:
            self.store.db.collection("container", Record).put(container.id, container.record)

    def forget(self, container: Container) -> None:
        """The container is gone: its record, names, references and layer go in one step."""
        with self.store.db.transaction():
            self.store.writables.forget(container.id)
            self.store.db.collection("container", Record).delete(container.id)
            self._keep_last_name(container)
        container.removed = True
        self.containers.pop(container.id, None)
        if self.by_name.get(container.name) == container.id:
            del self.by_name[container.name]
        for identifier in container.execs:
            self.execs.pop(identifier, None)

    def _keep_last_name(self, target: Container) -> None:
        """Legacy links outlive their target, and keep its last name."""
        for container in self.containers.values():
            record = container.record
            gone = [text for text, id in record.link_targets.items() if id == target.id]
            for text in gone:
                alias = text.partition(":")[2] or text.removeprefix("/")
                new = f"{target.name}:{alias}"
                links = tuple(new if each == text else each for each in record.host.links or ())
                record.host = msgspec.structs.replace(record.host, links=links)
                record.link_targets[new] = record.link_targets.pop(text)
            if gone:
                self.save(container)

    # -- places ------------------------------------------------------------------------------

    def directory(self, identifier: str) -> Path:
        """Directory of a container's files: logs, hosts, hostname, resolv.conf."""
        return self.instance.data_root / "containers" / identifier

    def state_dir(self, identifier: str) -> Path:
        """Directory of the runtime's state of a running container."""
        return self.instance.exec_root / "containers" / identifier

    def log_path(self, identifier: str) -> str:
        return str(self.directory(identifier) / f"{identifier}-json.log")

    def defaults(self) -> Defaults:
        """The daemon's options as the spec builder wants them."""
        options = self.options
        return Defaults(
            cgroup_parent=options.cgroup_parent or self.instance.cgroup,
            ulimits=options.ulimits,
            shm_size=options.shm_size,
            ipc_mode=options.ipc_mode,
            cgroupns_mode=options.cgroupns_mode or "private",
            no_new_privileges=options.no_new_privileges,
            seccomp_profile=options.seccomp_profile,
            apparmor_profile=options.apparmor_profile,
            init=options.init,
        )

    # -- events ------------------------------------------------------------------------------

    def event(
        self, container: Container, action: str, extra: Mapping[str, str] | None = None
    ) -> None:
        """Publish an event about a container, with its labels, as Docker does."""
        record = container.record
        attributes = dict(record.config.labels or {})
        attributes |= {"image": record.config.image, "name": record.name}
        self.publish("container", action, record.id, attributes | dict(extra or {}))


def name_conflict(name: str, holder: str) -> str:
    return (
        f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


def make_directory(path: Path, mode: int = 0o700) -> None:
    """A directory of ours; parents are made, an existing one is kept."""
    try:
        path.mkdir(mode)
    except FileExistsError:
        pass
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=mode, exist_ok=True)


def parse_link(text: str) -> tuple[str, str]:
    """Target and alias of ``TARGET[:ALIAS]``. Raises InvalidParameter in Docker's words."""
    target, _, alias = text.partition(":")
    if not text:
        raise InvalidParameter("empty string specified for links")
    if ":" in alias:
        raise InvalidParameter(f"bad format for links: {text}")
    target = target.removeprefix("/")
    return target, alias or target


def links_of(core: Core, record: Record) -> Iterator[tuple[str, str, str]]:
    """Each link as it was asked for, its alias, and its target's present or last name."""
    for text in record.host.links or ():
        name, alias = parse_link(text)
        target = core.containers.get(record.link_targets.get(text, ""))
        yield text, alias.rpartition("/")[2], target.name if target is not None else name


def not_running(container: Container) -> NotRunning:
    """The refusal in Docker's words."""
    return NotRunning(f"container {container.id} is not running")


def removed(container: Container) -> NotFound:
    return NotFound(f"No such container: {container.name}")


def has_ended(container: Container) -> bool:
    """Whether its first process is over, also when its monitor has not said so yet."""
    record, monitor = container.record, container.monitor
    if container.removed or not record.running or monitor is None:
        return True
    return monitor.gone or monitor.exited.done() or not is_alive(record.pid)


@contextmanager
def unless_ended(container: Container) -> Iterator[None]:
    """Work that needs the running container: raises NotRunning when it failed since that ended.

    What has been refused on purpose (Conflict, NotFound) stays as it is.
    """
    try:
        yield
    except (Conflict, NotFound):
        raise
    except (PortsideError, OSError) as err:
        if not has_ended(container):
            raise
        raise not_running(container) from err


@contextmanager
def unless_removed(container: Container) -> Iterator[None]:
    """Work on a container's files: raises NotFound when it failed since that was removed."""
    try:
        yield
    except (PortsideError, OSError) as err:
        if not container.removed and not container.record.removing:
            raise
        raise removed(container) from err


@asynccontextmanager
async def held(core: Core, container: Container) -> AsyncIterator[None]:
    """Hold the container's lock; raises NotFound when it was removed while we waited."""
    async with container.lock:
        if container.removed:
            raise removed(container)
        yield
