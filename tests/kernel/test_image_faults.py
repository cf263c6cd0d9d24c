"""A network that cuts connections at random bytes, before a real registry: pulls and pushes end
well, or leave nothing and the next try finishes the work."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from imagekit import build_image, docker_registry, layer_tar
from peerkit import publish

from portside.images.service import ImageService
from portside.model.errors import NotFound, PortsideError
from portside.registry.client.options import RegistryOptions
from portside.store.store import Store
from portside.store.store_check import check

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers"),
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry"),
]


class Wire:
    """A TCP relay that breaks connections after a number of bytes, either way."""

    def __init__(self, target: str, seed: int) -> None:
        self._host, _, port = target.partition(":")
        self._port = int(port)
        self._random = random.Random(seed)
        self.cuts = 0
        """How many connections may still be cut."""
        self.done = 0
        self.longest = 400_000
        """Bytes after which a connection is cut at the latest."""

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = [self._random.randrange(1, self.longest) if self.cuts > 0 else 1 << 60]
        out_reader, out_writer = await asyncio.open_connection(self._host, self._port)
        ways = [
            asyncio.create_task(self._relay(reader, out_writer, left)),
            asyncio.create_task(self._relay(out_reader, writer, left)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, out_writer):
            end.transport.abort()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]
    ) -> None:
        try:
            while data := await reader.read(1 << 14):
                if len(data) > left[0]:
                    self.cuts -= 1
                    self.done += 1
                    writer.write(data[: left[0]])
                    await writer.drain()
                    return
                left[0] -= len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            return


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ImageService]:
    store = Store.open(tmp_path / "root")
    images = ImageService(store, RegistryOptions(retry_delay=0.01, max_download_attempts=8))
    await images.start()
    yield images
    await images.close()
    await store.close()


async def until_done(service: ImageService, wire: Wire, action: str, name: str) -> int:
    """Try as a user would until it works; how many tries it took."""
    for tries in range(1, 30):
        try:
            if action == "pull":
                await service.pull(name)
            else:
                await service.push(name)
            return tries
        except PortsideError:
            if action == "pull":
                with pytest.raises(NotFound):
                    service.get(name)
            problems = (await check(service.store)).problems
            assert [p for p in problems if p.kind not in ("orphan", "leftover")] == []
    raise AssertionError(f"{action} never worked; {wire.done} connections were cut")


@pytest.mark.parametrize("seed", range(3))
async def test_pull_through_a_bad_wire(service: ImageService, registry: str, seed: int) -> None:
    image = build_image(
        [{"a": os.urandom(900_000)}, {"b": os.urandom(700_000)}, {"c": b"small"}], compression=""
    )
    publish(registry, f"wire/pull{seed}", "1", image)
    wire = Wire(registry, seed)
    name = f"{await wire.start()}/wire/pull{seed}:1"
    wire.cuts = 12
    await until_done(service, wire, "pull", name)
    assert wire.done > 2
    assert service.get(name).id == image.id
    assert [p for p in (await check(service.store)).problems if p.kind == "blob"] == []
    await wire.close()


@pytest.mark.parametrize("seed", range(3))
async def test_push_through_a_bad_wire(service: ImageService, registry: str, seed: int) -> None:
    async def archive() -> AsyncIterator[bytes]:
        yield layer_tar({"content": os.urandom(1_500_000)})

    wire = Wire(registry, seed + 100)
    host = await wire.start()
    name = f"{host}/wire/push{seed}:1"
    identifier = await service.import_(archive(), name)
    wire.cuts = 8
    await until_done(service, wire, "push", name)
    assert wire.done > 1
    wire.cuts = 0
    await service.remove(name)
    pulled = await service.pull(f"{registry}/wire/push{seed}:1")
    assert pulled is not None and pulled.id == identifier
    await wire.close()
