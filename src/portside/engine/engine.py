"""The composition root: builds the services, wires them to each other, starts and stops them.

Services never import one another; what one needs of another it receives here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from portside.containers.service import ContainerService
from portside.engine import info, wiring
from portside.engine.events import EventBus
from portside.engine.limits import Limits, limits
from portside.engine.options import DaemonOptions
from portside.images.service import ImageService
from portside.model.instance import Instance
from portside.model.system import Info, Version
from portside.networks.service import NetworkService
from portside.store.store import Store
from portside.volumes.service import VolumeService

if TYPE_CHECKING:
    from portside.runtime.launcher import Launcher

log = logging.getLogger(__name__)


class Engine:
    """One engine on one data root. Build it with :meth:`start`, end it with :meth:`close`."""

    def __init__(self, options: DaemonOptions, instance: Instance, launcher: Launcher) -> None:
        self.options, self.instance, self.launcher = options, instance, launcher
        self.events = EventBus()
        self.store = Store.open(instance.data_root, options.storage_driver)
        self.identity = info.engine_id(instance.data_root)
        self.images: ImageService = wiring.images(self)
        self.networks: NetworkService = wiring.networks(self)
        self.volumes: VolumeService = wiring.volumes(self)
        self.containers: ContainerService = wiring.containers(self)
        self.stop_requested: Callable[[bool], None] = lambda containers: None
        """Set by the daemon: end this engine, with its containers or without."""

    @classmethod
    async def start(
        cls, options: DaemonOptions, instance: Instance, launcher: Launcher
    ) -> Engine:
        """Open everything and take over what an earlier engine left."""
        engine = cls(options, instance, launcher)
        await engine.images.start()
        await engine.networks.start()
        await engine.volumes.start()
        await engine.containers.start()
        return engine

    async def close(self, *, containers: bool = False) -> None:
        """Stop the engine. Containers go on unless ``containers`` says to stop them too."""
        if containers:
            await self.containers.stop_all(self.options.shutdown_timeout)
        await self.containers.close()
        await self.networks.close()
        if containers:
            await self.networks.clean()
        await self.images.close()
        await self.store.close()

    def reconfigure(self, options: DaemonOptions) -> None:
        """Take over reloadable options (SIGHUP)."""
        self.options = options
        self.images.reconfigure(wiring.registry_options(options))
        self.containers.reconfigure(wiring.container_options(options))
        self.events("daemon", "reload", self.identity, wiring.reload_attributes(options))

    def limits(self) -> Limits:
        return limits()

    def version(self) -> Version:
        return info.version()

    async def info(self) -> Info:
        return await asyncio.shield(info.gather(self))
