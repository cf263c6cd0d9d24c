"""Containers without a kernel: the service on real metadata, with fakes behind its ports.

``kit(tmp_path)`` gives a :class:`Kit` whose launcher starts :class:`FakeMonitor` processes; a
test ends them with ``monitor.exit(code)`` and reads the events in ``kit.events``.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from portside.containers.core import ContainerOptions, Core
from portside.containers.create import CreateOptions, create_container
from portside.containers.start import start_container
from portside.model.container import ContainerConfig, CreateRequest, HostConfig
from portside.model.digest import Digest
from portside.model.errors import NotFound, PortsideError
from portside.model.ids import new_id
from portside.model.image import Image, ImageConfig, RunConfig
from portside.model.instance import Instance
from portside.model.network import (
    EndpointSettings,
    NetworkAttachment,
    NetworkRequest,
    NetworkResource,
    NetworkSettings,
    RunningContainer,
)
from portside.model.platform import Platform
from portside.model.rootfs import Rootfs
from portside.model.volume import ANONYMOUS, Volume, VolumeCreate, VolumeMount
from portside.runtime.launcher_client import Launcher
from portside.runtime.messages import Exec, Exited, Started, StartRequest, Streams
from portside.runtime.monitor_client import MonitorClient
from portside.store.db import Database, Ref, References
from portside.store.store import Store

IMAGE_ID = "sha256:" + "1" * 64


class FakeImages:
    """One image under the name ``image``."""

    def __init__(self) -> None:
        self.run = RunConfig(cmd=("sleep", "inf"), env=("PATH=/bin",))
        self.users: set[str] = set()

    def get(self, name_or_id: str, platform: Platform | None = None) -> Image:
        if name_or_id not in ("image", "image:latest", IMAGE_ID):
            raise NotFound(f"No such image: {name_or_id}:latest")
        config = ImageConfig(architecture="amd64", os="linux", config=self.run)
        return Image(id=IMAGE_ID, config=config)

    async def unpack(self, image: Image) -> Image:
        return image

    def acquire(self, image: Image, container_id: str) -> None:
        self.users.add(container_id)

    async def commit(self, container_id: str, parent_image: str, **_: Any) -> str:
        return "sha256:" + "2" * 64


class FakeNetworks:
    """Attaches everything to nothing, and remembers."""

    def __init__(self) -> None:
        self.attached: dict[str, NetworkRequest] = {}
        self.failure: PortsideError | None = None

    async def restore(self, running: Sequence[RunningContainer]) -> None:
        self.attached = {item.request.container_id: item.request for item in running}

    def validate(self, request: NetworkRequest) -> list[str]:
        return []

    async def attach(self, request: NetworkRequest) -> NetworkAttachment:
        if self.failure is not None:
            raise self.failure
        assert request.container_id not in self.attached
        self.attached[request.container_id] = request
        return NetworkAttachment(
            netns_fd=None, settings=NetworkSettings(), directory=request.directory
        )

    def announce(self, container_id: str) -> None: ...

    async def detach(self, container_id: str, *, announce: bool = True) -> None:
        self.attached.pop(container_id, None)

    def settings(self, container_id: str) -> NetworkSettings | None:
        return NetworkSettings() if container_id in self.attached else None

    def rename(self, container_id: str, name: str) -> None: ...

    async def republish(self, request: NetworkRequest) -> None:
        if self.failure is not None:
            raise self.failure
        self.attached[request.container_id] = request

    def id_of(self, name: str) -> str:
        return ""

    def kept(
        self, network: str, request: NetworkRequest, settings: EndpointSettings
    ) -> EndpointSettings:
        return settings

    def inspect(self, name: str) -> NetworkResource:
        raise NotFound(f"network {name} not found")

    async def connect(
        self, network: str, container_id: str, config: EndpointSettings | None
    ) -> EndpointSettings:
        return config or EndpointSettings()

    async def disconnect(self, network: str, container_id: str, force: bool = False) -> str:
        return network


class FakeVolumes:
    """Volumes by name with their users, who are in the metadata's references too."""

    def __init__(self, refs: References) -> None:
        self._refs = refs
        self.volumes: dict[str, Volume] = {}
        self.users: dict[str, set[str]] = {}
        self.mounted: set[tuple[str, str]] = set()

    async def restore(self, running: Iterable[str]) -> None: ...

    async def create(self, request: VolumeCreate) -> Volume:
        name = request.name or new_id()
        labels = {ANONYMOUS: ""} if not request.name else request.labels
        volume = Volume(created_at="", mountpoint=f"/volumes/{name}", name=name, labels=labels)
        return self.volumes.setdefault(name, volume)

    def get(self, name: str) -> Volume:
        return self.volumes[name]

    async def remove(self, name: str, force: bool = False) -> None:
        if self.users.get(name):
            raise PortsideError("in use")
        self.volumes.pop(name, None)

    def acquire(self, name: str, container_id: str) -> Volume:
        self.users.setdefault(name, set()).add(container_id)
        self._refs.add(Ref.container(container_id), Ref.volume(name))
        return self.volumes[name]

    def release(self, name: str, container_id: str) -> None:
        self.users.get(name, set()).discard(container_id)
        self._refs.remove(Ref.container(container_id), Ref.volume(name))

    async def mount(self, name: str, container_id: str, subpath: str = "") -> VolumeMount:
        self.mounted.add((name, container_id))
        place = self.volumes[name].mountpoint
        return VolumeMount(name, "local", f"{place}/{subpath}".rstrip("/"), place)

    async def unmount(self, name: str, container_id: str) -> None:
        self.mounted.discard((name, container_id))

    async def copy_up(self, name: str, rootfs: Rootfs, path: str, subpath: str = "") -> bool:
        return True


class FakeWritables:
    """Writable layers as a set of IDs."""

    def __init__(self, root: Path) -> None:
        self.containers_dir = root / "containers"
        self.containers_dir.mkdir(exist_ok=True)
        self.ids: set[str] = set()

    def create(
        self, container_id: str, chain: Digest | None, *, is_volatile: bool = False
    ) -> Rootfs:
        self.ids.add(container_id)
        return self.rootfs(container_id)

    async def store_as(self, container_id: str, mappings: object) -> None:
        """Nothing is stored, so no owner is to be changed."""

    def forget(self, container_id: str) -> None:
        self.ids.discard(container_id)

    def rootfs(self, container_id: str, *, is_kept: bool = False) -> Rootfs:
        if container_id not in self.ids:
            raise NotFound(f"no layer {container_id}")
        return Rootfs("overlay", ("/lower",), "/upper", "/work")

    async def size_rw(self, container_id: str) -> int:
        return 42


class FakeTrash:
    """Deletes at once."""

    def discard(self, path: Path) -> bool:
        import shutil

        found = path.exists()
        shutil.rmtree(path, ignore_errors=True)
        return found

    def empty_soon(self) -> None: ...


class FakeMonitor:
    """A container's process and its monitor."""

    def __init__(self, request: StartRequest, pid: int) -> None:
        loop = asyncio.get_running_loop()
        self.request, self.pid, self.started_ns = request, pid, time.time_ns()
        self.started: asyncio.Future[Started] = loop.create_future()
        self.started.set_result(Started(pid, self.started_ns))
        self.exited: asyncio.Future[Exited] = loop.create_future()
        self.on_exec_exit: Any = None
        self.on_oom: Any = None
        self.ignores: set[int] = set()
        self.signals: list[int] = []
        self.attached: list[Streams] = []
        self.execs: list[Exec] = []
        self.closed = False

    def exit(self, code: int, oom_killed: bool = False, lived: float = 0.0) -> None:
        """The process ends, after having lived for so many seconds."""
        if not self.exited.done():
            at_ns = self.started_ns + int(lived * 1e9)
            self.exited.set_result(Exited(code, at_ns, "", oom_killed))

    async def signal(self, number: int, exec_id: str = "") -> None:
        self.signals.append(number)
        if number not in self.ignores:
            self.exit(128 + number)

    async def attach(self, sock: Any, streams: Streams, exec_id: str = "") -> None:
        self.attached.append(streams)

    async def exec(self, request: Exec, sockets: Any) -> int:
        self.execs.append(request)
        return 4711

    async def resize(self, height: int, width: int, exec_id: str = "") -> None: ...

    def take_all(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class FakeLauncher:
    """Starts FakeMonitors; ``failures`` are raised by the next starts, in order."""

    def __init__(self) -> None:
        self.monitors: list[FakeMonitor] = []
        self.failures: list[PortsideError] = []
        self.ignores: set[int] = set()

    def refill(self) -> None: ...

    async def start(self, request: StartRequest, **_: Any) -> MonitorClient:
        if self.failures:
            raise self.failures.pop(0)
        monitor = FakeMonitor(request, 1000 + len(self.monitors))
        monitor.ignores = set(self.ignores)
        self.monitors.append(monitor)
        return cast(MonitorClient, monitor)

    def close(self) -> None: ...


@dataclass
class Kit:
    """The containers and what is behind them."""

    core: Core
    images: FakeImages
    networks: FakeNetworks
    volumes: FakeVolumes
    launcher: FakeLauncher
    writables: FakeWritables
    events: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def monitor(self) -> FakeMonitor:
        """The last one started."""
        return self.launcher.monitors[-1]

    def actions(self) -> list[str]:
        return [action for action, _ in self.events]

    async def create(self, name: str = "box", config: dict[str, Any] | None = None,
                     **host: Any) -> str:  # fmt: skip
        request = CreateRequest(
            **({"image": "image"} | (config or {})), host_config=HostConfig(**host)
        )
        return (await create_container(self.core, CreateOptions(name, request))).id

    async def run(self, name: str = "box", config: dict[str, Any] | None = None,
                  **host: Any) -> str:  # fmt: skip
        identifier = await self.create(name, config, **host)
        await start_container(self.core, self.core.find(identifier))
        return identifier

    async def until(self, condition: Any) -> None:
        """Let the loop turn until something is true."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        with suppress(Exception):
            await self.core.close()


_OPEN: dict[Path, Database] = {}


def kit(tmp_path: Path, options: ContainerOptions | None = None) -> Kit:
    """A service on the metadata in ``tmp_path``, which a second kit may continue with."""
    writables = FakeWritables(tmp_path)
    layers = SimpleNamespace(driver="overlay", snapshotter="overlayfs")
    path = tmp_path / "metadata.db"
    if path not in _OPEN:  # one process has it at a time: a second kit continues with the first's
        _OPEN[path] = Database(path)
    database = _OPEN[path]
    store = SimpleNamespace(db=database, layers=layers, writables=writables, trash=FakeTrash())
    images, networks, volumes = FakeImages(), FakeNetworks(), FakeVolumes(database.refs)
    launcher = FakeLauncher()
    events: list[tuple[str, dict[str, str]]] = []

    def publish(type: str, action: str, id: str, attributes: Any = None) -> None:
        events.append((action, dict(attributes or {})))

    core = Core(
        store=cast(Store, store),
        instance=Instance.of(tmp_path, tmp_path / "x"),
        launcher=cast(Launcher, launcher),
        images=images,
        networks=networks,
        volumes=volumes,
        options=options or ContainerOptions(),
        publish=publish,
    )
    return Kit(core, images, networks, volumes, launcher, writables, events)


def config(**fields: Any) -> ContainerConfig:
    return ContainerConfig(**({"image": "image", "cmd": ("true",)} | fields))


TERM, KILL = int(signal.SIGTERM), int(signal.SIGKILL)
