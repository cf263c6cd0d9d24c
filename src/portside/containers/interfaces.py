"""Protocols of the image, network and volume services that containers use: no imports of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from portside.model.idmap import IDMappings
from portside.model.image import Image, RunConfig
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
from portside.model.volume import Volume, VolumeCreate, VolumeMount


class Images(Protocol):
    """See ``portside.images.service.ImageService``."""

    def get(self, name_or_id: str, platform: Platform | None = None) -> Image: ...

    async def unpack(self, image: Image) -> Image: ...

    def acquire(self, image: Image, container_id: str) -> None: ...

    async def commit(
        self,
        container_id: str,
        parent_image: str,
        *,
        ref: str = "",
        author: str = "",
        comment: str = "",
        config: RunConfig | None = None,
        changes: Sequence[str] = (),
    ) -> str: ...


class Networks(Protocol):
    """See ``portside.networks.service.NetworkService``."""

    async def restore(self, running: Sequence[RunningContainer]) -> None: ...

    def validate(self, request: NetworkRequest) -> list[str]: ...

    def expect(self, mappings: IDMappings) -> None: ...

    async def attach(self, request: NetworkRequest) -> NetworkAttachment: ...

    def announce(self, container_id: str) -> None: ...

    async def detach(self, container_id: str, *, announce: bool = True) -> None: ...

    def settings(self, container_id: str) -> NetworkSettings | None: ...

    def rename(self, container_id: str, name: str) -> None: ...

    async def republish(self, request: NetworkRequest) -> None: ...

    def inspect(self, name: str) -> NetworkResource: ...

    def kept(
        self, network: str, request: NetworkRequest, settings: EndpointSettings
    ) -> EndpointSettings: ...

    async def connect(
        self, network: str, container_id: str, config: EndpointSettings | None
    ) -> EndpointSettings: ...

    async def disconnect(self, network: str, container_id: str, force: bool = False) -> str: ...


class Volumes(Protocol):
    """See ``portside.volumes.service.VolumeService``."""

    async def restore(self, running: Iterable[str]) -> None: ...

    async def create(self, request: VolumeCreate) -> Volume: ...

    def get(self, name: str) -> Volume: ...

    async def remove(self, name: str, force: bool = False) -> None: ...

    def acquire(self, name: str, container_id: str) -> Volume: ...

    def release(self, name: str, container_id: str) -> None: ...

    async def mount(self, name: str, container_id: str, subpath: str = "") -> VolumeMount: ...

    async def unmount(self, name: str, container_id: str) -> None: ...

    async def copy_up(self, name: str, rootfs: Rootfs, path: str, subpath: str = "") -> bool: ...
