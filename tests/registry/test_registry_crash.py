"""What a kill, a cut connection, a full queue of pushers leave behind: whole things only."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError
from imagekit import free_port

from portside.model.digest import Digest
from portside.registry.server.content import Content
from portside.registry.server.gc import Collector
from portside.registry.server.guard import Guard
from portside.registry.server.storage import FilesystemStorage
from registry.conftest import Client, Serve

Start = Callable[[], Awaitable[tuple[Client, "subprocess.Popen[bytes]"]]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """``await start()`` runs the server as a process of its own, always on the same data."""
    running: list[tuple[Client, subprocess.Popen[bytes]]] = []

    async def run() -> tuple[Client, subprocess.Popen[bytes]]:
        address = f"127.0.0.1:{free_port()}"
        environment = {
            **os.environ,
            "REGISTRY_HTTP_ADDR": address,
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(tmp_path / "data"),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "portside.registry.server", "serve"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        client = Client(f"http://{address}")
        running.append((client, process))
        async with asyncio.timeout(60):
            while True:
                try:
                    await client.ask("GET", "/v2/")
                    return client, process
                except ClientConnectionError:
                    await asyncio.sleep(0.05)

    yield run
    for client, process in running:
        await client.session.close()
        process.kill()
        process.wait()


def send_part(base: str, path: str, part: bytes, whole: int) -> socket.socket:
    """A PATCH of which only a part is sent; the connection stays open."""
    host, _, port = base.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    head = f"PATCH {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {whole}\r\n\r\n"
    connection.sendall(head.encode() + part)
    return connection


async def offset(registry: Client, where: str) -> int:
    _, headers, _ = await registry.ask("GET", where)
    return int(headers["Range"].partition("-")[2]) + 1


@pytest.mark.parametrize("what", ["the server is killed", "the connection is cut"])
async def test_an_upload_goes_on_where_it_broke_off(start: Start, what: str) -> None:
    registry, process = await start()
    data = os.urandom(5 << 20)
    _, headers, _ = await registry.ask("POST", "/v2/a/blobs/uploads/")
    where = headers["Location"].removeprefix(registry.base)
    half = data[: 3 << 20]
    connection = await asyncio.to_thread(send_part, registry.base, where, half, len(data))
    async with asyncio.timeout(30):
        while await offset(registry, where) < 1 << 20:
            await asyncio.sleep(0.05)
    if what == "the server is killed":
        process.send_signal(signal.SIGKILL)
        process.wait()
        registry, _ = await start()
    connection.close()
    async with asyncio.timeout(30):
        while True:
            got = await offset(registry, where)
            span = {"Content-Range": f"{got}-{len(data) - 1}"}
            status, _, _ = await registry.ask("PATCH", where, data=data[got:], headers=span)
            if status == 202:
                break  # else what the cut connection still held was written meanwhile
            assert status == 416
    digest = Digest.of(data)
    status, _, body = await registry.ask("PUT", f"{where}?digest={digest}")
    assert status == 201, body
    assert (await registry.ask("GET", f"/v2/a/blobs/{digest}"))[2] == data


async def test_many_pushers_of_one_tag_beside_collection(serve: Serve, tmp_path: Path) -> None:
    """The tag means one of the images in the end, and that one is whole."""
    registry = await serve()
    content = Content(FilesystemStorage(tmp_path / "data"))
    stop = asyncio.Event()

    async def collect() -> None:
        while not stop.is_set():
            await Collector(content, grace=3600).run(untagged=True)

    async def push(number: int) -> list[str]:
        return [
            await registry.push_image("app", "latest", f"{number} {turn}".encode())
            for turn in range(5)
        ]

    collecting = asyncio.create_task(collect())
    pushed = await asyncio.gather(*(push(number) for number in range(8)))
    stop.set()
    await collecting
    status, headers, body = await registry.ask("GET", "/v2/app/manifests/latest")
    digest = headers["Docker-Content-Digest"]
    assert status == 200 and digest == Digest.of(body)
    assert digest in {pushes[-1] for pushes in pushed}
    manifest = json.loads(body)
    for part in (manifest["config"], *manifest["layers"]):
        _, _, data = await registry.ask("GET", f"/v2/app/blobs/{part['digest']}")
        assert Digest.of(data) == part["digest"]
    assert not list((tmp_path / "data").rglob(".tmp-*"))


async def test_an_upload_ended_by_somebody_else(serve: Serve) -> None:
    registry = await serve()
    _, headers, _ = await registry.ask("POST", "/v2/a/blobs/uploads/")
    where = headers["Location"]
    sent, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        sent.set()
        await go_on.wait()
        yield b"second"

    patching = asyncio.create_task(registry.ask("PATCH", where, data=body()))
    await sent.wait()
    assert (await registry.ask("DELETE", where))[0] == 204
    go_on.set()
    assert (await patching)[0] == 404
    assert (await registry.ask("GET", where))[0] == 404


async def test_guard_keeps_the_one_from_the_many() -> None:
    guard, events = Guard(), list[str]()

    async def together(name: str) -> None:
        async with guard.together():
            events.append(f"{name} in")
            await asyncio.sleep(0)
            events.append(f"{name} out")

    async def alone() -> None:
        async with guard.alone():
            events.append("alone in")
            await asyncio.sleep(0)
            events.append("alone out")

    await asyncio.gather(together("a"), together("b"), alone(), together("c"))
    assert events.index("b in") < events.index("a out")
    assert events[4:] == ["alone in", "alone out", "c in", "c out"]
