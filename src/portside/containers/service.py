"""The containers service: the face the engine and the API use.

Each method finds its container and hands over to the module that knows the work:
``create``, ``lifecycle``, ``streams``, ``looking``, ``logs``, ``stats``, ``files``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portside.containers import (
    attach_exec,
    container_files,
    container_list,
    container_networks,
    create,
    exit,
    inspect,
    remove,
    start,
    stop,
    update,
)
from portside.containers.attach_exec import AttachOptions, Take
from portside.containers.container import Container
from portside.containers.container_files import CommitOptions
from portside.containers.container_list import PRUNE_FILTERS
from portside.containers.core import ContainerOptions, Core, unless_removed
from portside.containers.interfaces import Images, Networks, Volumes
from portside.containers.processes import cgroup_of
from portside.containers.validation import parse_signal
from portside.model import filters as matching
from portside.model.container import (
    CreateRequest,
    ExecConfig,
    ExecStart,
    ReshapeRequest,
    UpdateRequest,
)
from portside.model.containerstate import (
    ContainerInspect,
    ContainersPruned,
    ContainerSummary,
    Created,
    ExecInspect,
    Reshaped,
    Top,
    Waited,
)
from portside.model.errors import Conflict, InvalidParameter, NotFound, PortsideError
from portside.model.events import Publisher
from portside.model.filters import Filters
from portside.model.instance import Instance
from portside.model.network import EndpointSettings
from portside.model.platform import Platform
from portside.model.stats import StatsResponse
from portside.store.archive_values import Change, PathStat
from portside.store.store import Store

if TYPE_CHECKING:
    from portside.containers.log_reader import LogsOptions
    from portside.runtime.launcher_client import Launcher


@dataclass(frozen=True, slots=True)
class Counts:
    """Containers by state, for ``info``."""

    total: int
    running: int
    paused: int
    stopped: int


class ContainerService:
    """All containers of an engine. Only the engine's asyncio thread may call it."""

    def __init__(
        self,
        store: Store,
        instance: Instance,
        launcher: Launcher,
        images: Images,
        networks: Networks,
        volumes: Volumes,
        options: ContainerOptions,
        publish: Publisher,
    ) -> None:
        self.core = Core(
            store=store,
            instance=instance,
            launcher=launcher,
            images=images,
            networks=networks,
            volumes=volumes,
            options=options,
            publish=publish,
        )

    # -- the service's own life --------------------------------------------------------------

    async def start(self) -> None:
        """Read the records, find running containers again, undo what was half done, and start
        what its restart policy wants running. Networks and volumes must be started."""
        from portside.containers import restore

        await restore.restore(self.core)

    async def close(self) -> None:
        """Let go of the containers; they run on."""
        for container in self.core.containers.values():
            if container.restart is not None:
                container.restart.cancel()
            if container.health is not None:
                container.health.end()
            if container.monitor is not None:
                monitor, container.monitor = container.monitor, None
                monitor.close()
        tasks = list(self.core.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.core.launcher.close()

    async def stop_all(self, timeout: int) -> None:
        """Stop every running container at once (``portside daemon stop --containers``)."""
        running = [item for item in self.core.containers.values() if item.record.running]
        work = (stop.stop_container(self.core, item, "", timeout) for item in running)
        await asyncio.gather(*work, return_exceptions=True)
        for item in running:
            item.record.stopped_by_user = False
            self.core.save(item)

    def reconfigure(self, options: ContainerOptions) -> None:
        """Use other daemon options for containers made from now on."""
        self.core.options = options

    # -- life --------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        request: CreateRequest,
        platform: Platform | None = None,
        *,
        read_only_non_recursive: bool = False,
    ) -> Created:
        """Raises NotFound (image), Conflict (name), InvalidParameter.

        ``read_only_non_recursive``: what is mounted below a read-only bind mount stays writable.
        """
        wish = create.CreateOptions(name, request, platform, read_only_non_recursive)
        return await create.create_container(self.core, wish)

    async def start_container(self, name: str) -> None:
        """Raises NotFound, NotModified, Conflict, CommandNotFound and their kin."""
        await start.start_container(self.core, self.core.find(name))

    async def stop(self, name: str, signal: str = "", timeout: int | None = None) -> str:
        """Raises NotModified when it does not run. See :func:`lifecycle.stop`."""
        return await stop.stop_container(self.core, self.core.find(name), signal, timeout)

    async def restart(self, name: str, signal: str = "", timeout: int | None = None) -> None:
        await start.restart_container(self.core, self.core.find(name), signal, timeout)

    async def kill(self, name: str, signal: str = "") -> None:
        words = f"cannot kill container: {name}"
        try:
            number = parse_signal(signal or "KILL")
            container = self.core.find(name)
        except InvalidParameter as err:
            raise InvalidParameter(f"{words}: {err}") from None
        except NotFound as err:
            raise NotFound(f"{words}: {err}") from None
        await stop.kill_container(self.core, container, number)

    async def pause(self, name: str) -> None:
        await stop.pause_container(self.core, self.core.find(name))

    async def unpause(self, name: str) -> None:
        await stop.unpause_container(self.core, self.core.find(name))

    async def remove(self, name: str, *, force: bool = False, volumes: bool = False) -> None:
        container = self.core.find(name)
        await remove.remove_container(self.core, container, force=force, volumes=volumes)

    async def remove_link(self, name: str) -> None:
        """``PARENT/ALIAS``. Raises NotFound."""
        from portside.containers import container_networks

        await container_networks.remove_link(self.core, name)

    def wait(self, name: str, condition: str = "") -> asyncio.Future[tuple[int, str]]:
        """Registers at once; see :func:`lifecycle.wait` and :meth:`waited`."""
        exit.check_condition(condition)  # before the container is looked for, as dockerd
        return exit.wait_container(self.core.find(name), condition)

    @staticmethod
    def waited(result: tuple[int, str]) -> Waited:
        return exit.waited(result)

    # -- streams -----------------------------------------------------------------------------

    async def attach(self, name: str, options: AttachOptions, take: Take) -> None:
        await attach_exec.attach_container(self.core, self.core.find(name), options, take)

    async def exec_create(self, name: str, config: ExecConfig) -> str:
        """The new exec's ID."""
        return (await attach_exec.create_exec(self.core, self.core.find(name), config)).id

    async def exec_start(self, exec_id: str, start: ExecStart, take: Take | None) -> None:
        await attach_exec.start_exec(self.core, self.core.find_exec(exec_id), start, take)

    def exec_config(self, exec_id: str) -> ExecConfig:
        return self.core.find_exec(exec_id).config

    def exec_inspect(self, exec_id: str) -> ExecInspect:
        return attach_exec.inspect_exec(self.core.find_exec(exec_id))

    async def resize(self, name: str, height: int, width: int) -> None:
        container = self.core.find(name)
        await attach_exec.resize(container, height, width)
        size = {"height": str(height), "width": str(width)}
        self.core.event(container, "resize", size)

    async def exec_resize(self, exec_id: str, height: int, width: int) -> None:
        await attach_exec.resize_exec(self.core.find_exec(exec_id), height, width)

    def logs(self, name: str, options: LogsOptions) -> tuple[bool, AsyncIterator[bytes]]:
        """Whether there is a terminal, and the log in its framing."""
        from portside.containers import log_reader

        container = self.core.find(name)
        log_reader.check(container, options)
        return container.record.config.tty, log_reader.read_logs(self.core, container, options)

    # -- looking -----------------------------------------------------------------------------

    def find(self, name: str) -> Container:
        return self.core.find(name)

    def is_running(self, identifier: str) -> bool:
        container = self.core.containers.get(identifier)
        return container is not None and container.record.running

    def counts(self) -> Counts:
        states = [item.record.status for item in self.core.containers.values()]
        running = states.count("running")
        paused = states.count("paused")
        return Counts(len(states), running, paused, len(states) - running - paused)

    async def inspect(self, name: str, *, size: bool = False) -> ContainerInspect:
        return await inspect.inspect_container(self.core, self.core.find(name), size)

    async def list(
        self, filters: Filters, *, all: bool = False, limit: int = 0, size: bool = False
    ) -> list[ContainerSummary]:
        return await container_list.list_containers(
            self.core, filters, all=all, limit=limit, size=size
        )

    async def top(self, name: str, arguments: str) -> Top:
        """The processes. Raises Conflict when it does not run."""
        from portside.containers import top

        container = self.core.find(name)
        record = container.record
        if record.restarting:
            raise Conflict(
                f"Container {record.id} is restarting, wait until the container is running"
            )
        if not record.running:
            raise Conflict(f"container {record.id} is not running")
        group = cgroup_of(self.core, container)
        found = await asyncio.to_thread(lambda: top.table(group.pids(), arguments))
        self.core.event(container, "top")
        return found

    def stats(self, name: str, *, stream: bool, one_shot: bool) -> AsyncIterator[StatsResponse]:
        """Samples once a second (two for a single complete one). Raises NotFound now."""
        from portside.containers import stats

        return stats.stats_samples(
            self.core, self.core.find(name), stream=stream, one_shot=one_shot
        )

    # -- files ---------------------------------------------------------------------------------

    async def archive_stat(self, name: str, path: str) -> PathStat:
        return await container_files.archive_stat(self.core, self.core.find(name), path)

    async def archive_get(self, name: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        return await container_files.archive_get(self.core, self.core.find(name), path)

    async def archive_put(
        self,
        name: str,
        path: str,
        data: AsyncIterable[bytes],
        *,
        keep_kind: bool = False,
        copy_owner: bool = False,
    ) -> None:
        await container_files.archive_put(
            self.core, self.core.find(name), path, data, keep_kind=keep_kind,
            copy_owner=copy_owner)  # fmt: skip

    def export(self, name: str) -> AsyncIterator[bytes]:
        return container_files.export_container(self.core, self.core.find(name))

    async def changes(self, name: str) -> Sequence[Change]:
        return await container_files.changes(self.core, self.core.find(name))

    async def commit(self, name: str, wish: CommitOptions) -> str:
        return await container_files.commit_container(self.core, self.core.find(name), wish)

    # -- changing ------------------------------------------------------------------------------

    async def rename(self, name: str, new: str) -> None:
        await update.rename_container(self.core, self.core.find(name), new)

    async def update(self, name: str, wish: UpdateRequest) -> Sequence[str]:
        return await update.update_container(self.core, self.core.find(name), wish)

    async def reshape(self, name: str, wish: ReshapeRequest) -> Reshaped:
        """Beyond Docker: ports and labels live, environment and mounts by starting again."""
        from portside.containers import update

        return await update.reshape_container(self.core, self.core.find(name), wish)

    async def network_connect(
        self, name: str, network: str, config: EndpointSettings | None
    ) -> None:
        await container_networks.network_connect(self.core, self.core.find(name), network, config)

    async def network_disconnect(self, name: str, network: str, force: bool = False) -> None:
        try:
            container = self.core.find(name)
        except NotFound as err:
            if not force:
                raise
            self.core.networks.inspect(network)
            raise NotFound(f"endpoint {name} not found") from err
        await container_networks.network_disconnect(self.core, container, network, force)

    def oci(self, name: str) -> bytes:
        """The runtime-spec configuration of the last start. Raises NotFound."""
        container = self.core.find(name)
        try:
            return (self.core.state_dir(container.id) / "config.json").read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"container {container.name} has not been started since the machine was: "
                "there is no configuration yet"
            ) from None

    def timings(self, name: str) -> Mapping[str, float]:
        """Milliseconds of the last start's steps; empty when this engine did not start it."""
        return self.core.find(name).timings

    # -- housekeeping ------------------------------------------------------------------------

    async def prune(self, filters: Filters) -> ContainersPruned:
        """Remove every container that does not run and matches."""
        matching.check(filters, PRUNE_FILTERS)
        until = matching.until(filters)
        labels = {name: values for name, values in filters.items() if name != "until"}
        removed: list[str] = []
        freed = 0
        for container in container_list.choose(self.core, labels, all=True, limit=0):
            record = container.record
            if record.status not in ("created", "exited", "dead"):
                continue
            if until is not None and record.created_ns >= until:
                continue
            try:
                with unless_removed(container):
                    size = await self.core.store.layers.size_rw(record.id)
                await remove.remove_container(self.core, container)
            except PortsideError:
                continue
            removed.append(record.id)
            freed += size
        return ContainersPruned(containers_deleted=tuple(removed) or None, space_reclaimed=freed)
