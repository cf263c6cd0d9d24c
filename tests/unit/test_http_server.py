"""The server's bound on connections: idle ones make room, busy ones make others wait."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from portside.serving.http.messages import Request, Response
from portside.serving.http.server import Server

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ASK = b"GET / HTTP/1.1\r\nHost: d\r\n\r\n"
MOST = 4


@asynccontextmanager
async def serving(
    path: Path, handler: Callable[[Request], Awaitable[Response]]
) -> AsyncIterator[None]:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    server = Server(handler, most=MOST)
    await server.listen(sock)
    try:
        yield
    finally:
        await server.close()


async def connect(path: Path) -> Streams:
    return await asyncio.open_unix_connection(str(path))


async def ask(streams: Streams) -> bytes:
    streams[1].write(ASK)
    return (await streams[0].readuntil(b"\r\n\r\n")).strip()


async def hello(request: Request) -> Response:
    return Response(204)


async def test_the_connection_idle_for_longest_makes_room(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", hello):
        held = [await connect(tmp_path / "s") for _ in range(MOST)]
        for streams in held:
            assert await ask(streams) == b"HTTP/1.1 204 No Content"
        assert await ask(held[0]) == b"HTTP/1.1 204 No Content"  # no longer the idlest
        more = await connect(tmp_path / "s")
        assert await ask(more) == b"HTTP/1.1 204 No Content"
        assert await held[1][0].read() == b""
        assert await ask(held[0]) == b"HTTP/1.1 204 No Content"
        for _, writer in [*held, more]:
            writer.close()


async def test_busy_connections_make_the_next_one_wait(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    begun: asyncio.Queue[None] = asyncio.Queue()

    async def slow(request: Request) -> Response:
        begun.put_nowait(None)
        await go_on.wait()
        return Response(204)

    async with serving(tmp_path / "s", slow):
        held = [await connect(tmp_path / "s") for _ in range(MOST)]
        answers = [asyncio.create_task(ask(streams)) for streams in held]
        for _ in held:
            await begun.get()
        next_one = await connect(tmp_path / "s")  # the kernel's queue takes it
        waiting = asyncio.create_task(ask(next_one))
        for _ in range(100):
            await asyncio.sleep(0)
        assert begun.empty()
        go_on.set()
        assert await asyncio.gather(*answers) == [b"HTTP/1.1 204 No Content"] * MOST
        held[2][1].close()
        assert await waiting == b"HTTP/1.1 204 No Content"
        for _, writer in [*held, next_one]:
            writer.close()
