"""The composition root: builds the services, wires them to each other, starts and stops them.

Services never import one another; what one needs of another it receives here.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from portside.containers import restore, stop
from portside.containers.core import Core
from portside.containers.docker_root import link_layers
from portside.engine import wiring
from portside.engine.events import EventBus
from portside.engine.options import DaemonOptions
from portside.engine.space_watch import SpaceWatch
from portside.images.service import ImageService
from portside.kernel.cgroup.machine import machine
from portside.model.idmap import short
from portside.model.instance import Instance
from portside.model.progress import Progress, quiet
from portside.networks.service import NetworkService
from portside.store.store import Store
from portside.volumes.service import VolumeService

if TYPE_CHECKING:
    from portside.builder.service import BuildService
    from portside.builder.wire.grpc_endpoint import GrpcEndpoint
    from portside.model.explain import Explanation
    from portside.runtime.launcher_client import Launcher
    from portside.store.store_check import Report

log = logging.getLogger(__name__)

_PATIENCE = 20
"""Looks, 50 ms apart, for what the last monitors still remove."""


class Engine:
    """One engine on one data root. Build it with :meth:`start`, end it with :meth:`close`."""

    def __init__(self, options: DaemonOptions, instance: Instance, launcher: Launcher) -> None:
        self.options, self.instance, self.launcher = options, instance, launcher
        self.events = EventBus()
        self.store = Store.open(
            instance.data_root,
            options.storage_driver.replace("overlayfs", "overlay2"),
            spill=instance.exec_root / "metadata.db",
        )
        self.identity = wiring.engine_id(instance.data_root)
        self.space = SpaceWatch(self.store, self.events, self.identity)
        self.id_mappings = wiring.id_mappings(options)
        self.images: ImageService = wiring.images(
            self.store, options, self.events, lambda found: self.containers.is_running(found)
        )
        self.networks: NetworkService = wiring.networks(
            self.store, instance, options, self.id_mappings, self.events, launcher.hold
        )
        self.volumes: VolumeService = VolumeService(self.store, self.events)
        self.containers: Core = Core(
            store=self.store,
            instance=instance,
            launcher=launcher,
            images=self.images,
            networks=self.networks,
            volumes=self.volumes,
            options=wiring.container_options(options, self.id_mappings),
            publish=self.events,
        )
        self._builder: BuildService | None = None
        self._grpc: GrpcEndpoint | None = None
        self.stop_requested: Callable[..., None] = lambda containers, reset=False: None
        """Set by the daemon: end this engine, with its containers or without; ``reset``: and
        delete all it has."""

    @property
    def cgroup_version(self) -> int:
        """1 (also where both are mounted and the controllers are on version 1) or 2."""
        return machine().cgroup_version

    @classmethod
    async def start(cls, options: DaemonOptions, instance: Instance, launcher: Launcher) -> Engine:
        """Open everything and take over what an earlier engine left."""
        engine = cls(options, instance, launcher)
        await engine.store.recover()
        link_layers(instance.data_root, engine.storage_driver)
        await engine.images.start()
        await engine.volumes.start()
        await engine.networks.start()
        await restore.restore(engine.containers)
        engine._drop_left_builds()
        engine.store.layers.sweep_copies(engine.id_mappings)
        engine.space.start()
        return engine

    def _drop_left_builds(self) -> None:
        """Remove contexts and secrets of a killed engine's builds; their steps have ended."""
        contexts = self.store.root / "contexts"
        if contexts.exists():
            self.store.trash.discard(contexts)
        for left in self.containers.instance.exec_root.glob("build-*"):
            shutil.rmtree(left, ignore_errors=True)

    def builder(self) -> BuildService:
        """The build service, which is imported and made at the first call."""
        if self._builder is None:
            self._builder = wiring.builder(self.containers, self.images, self.options)
        return self._builder

    def grpc(self) -> GrpcEndpoint:
        """BuildKit's services, imported and made at the first call."""
        if self._grpc is None:
            self._grpc = wiring.grpc(self.builder(), self.networks, self.identity)
        return self._grpc

    def has_builder(self) -> bool:
        """Whether anything was built since the start."""
        return self._builder is not None

    def has_build_cache(self) -> bool:
        """Whether there is anything in the build cache, without importing the builder."""
        return len(self.store.db.collection("buildcache", object)) > 0

    async def close(self, *, containers: bool = False) -> None:
        """Stop the engine. Containers continue unless ``containers`` says to stop them too.
        When none runs, nothing is left on the machine but the engine's two roots: bridges,
        firewall table and control groups are made again by the next start."""
        self.space.close()
        if self._grpc is not None:
            await self._grpc.close()
        if self._builder is not None:
            await self._builder.close()
        if containers:
            await stop.stop_all(self.containers, self.options.shutdown_timeout)
        await self.containers.close()
        if containers or not self.networks.in_use():
            await self.networks.clean()
            await self._remove_control_group()
        await self.networks.close()
        await self.images.close()
        await self.store.close()

    async def _remove_control_group(self) -> None:
        """The group that held the containers' goes once the last monitor has removed its own, and
        that of the monitors once they are gone.

        Only empty directories go: whoever else lives there, or below, stays.
        """
        from portside.kernel.cgroup import Cgroup

        own = (self.instance.monitors_cgroup, self.instance.cgroup)
        groups = [Cgroup(path) for path in (*own, self.options.cgroup_parent) if path]
        for _ in range(_PATIENCE):
            if all(group.remove_empty() for group in groups):  # the first is in the second
                break
            await asyncio.sleep(0.05)

    def reconfigure(self, options: DaemonOptions) -> None:
        """Take over reloadable options (SIGHUP)."""
        self.options = options
        self.images.reconfigure(wiring.registry_options(options))
        self.containers.options = wiring.container_options(options, self.id_mappings)
        self.events("daemon", "reload", self.identity, wiring.reload_attributes(options))

    @property
    def storage_driver(self) -> str:
        """The driver under the name clients know."""
        return self.store.layers.snapshotter

    def storage_status(self) -> tuple[tuple[str, str], ...]:
        """Values that show clients that image IDs are digests of manifests and indexes, and which
        identifiers containers have on the host."""
        found = [("driver-type", "io.containerd.snapshotter.v1")]
        if self.id_mappings is not None:
            found.append(("uid mapping", " ".join(short(self.id_mappings.uids))))
            found.append(("gid mapping", " ".join(short(self.id_mappings.gids))))
        return tuple(found)

    def image_count(self) -> int:
        return len(self.store.db.collection("image", object))

    async def check(self, *, repair: bool, progress: Callable[[Progress], None] = quiet) -> Report:
        """Verify what is stored, and repair it when asked; ``progress`` receives how far it is."""
        from portside.containers import container
        from portside.images.image_store import ImageRecord
        from portside.store.store_check import check
        from portside.volumes import volume_records

        types = {"container": container.Record, "image": ImageRecord,
                 "volume": volume_records.Record}  # fmt: skip
        return await check(self.store, repair, types, progress)

    async def explain(self, name: str) -> Explanation:
        """A container in the kernel's terms, from its namespaces to its firewall rules."""
        from portside.containers.explain import explain

        container = self.containers.find(name)
        path = self.networks.explain(container.id) if container.record.running else []
        return await asyncio.to_thread(explain, self.containers, container, path)
