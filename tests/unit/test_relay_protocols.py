"""IPv6 clients of a container's IPv4 address, by each protocol that has connections."""

from __future__ import annotations

import asyncio
import socket

import pytest

from portside.networks.portmapper import Publication
from portside.networks.relay import Relays

SCTP = 132
"""IPPROTO_SCTP (protocols(5)); the module has the name only where the library does."""


def _server(family: int, address: str, protocol: int) -> socket.socket:
    try:
        found = socket.socket(family, socket.SOCK_STREAM, protocol)
    except OSError:
        pytest.skip("this kernel has no SCTP")
    found.bind((address, 0))
    found.listen(5)
    found.setblocking(False)
    return found


@pytest.mark.parametrize(("name", "protocol"), [("tcp", socket.IPPROTO_TCP), ("sctp", SCTP)])
async def test_ipv6_clients_reach_ipv4(name: str, protocol: int) -> None:
    loop = asyncio.get_running_loop()
    container = _server(socket.AF_INET, "127.0.0.1", protocol)
    listener = _server(socket.AF_INET6, "::1", protocol)
    port = listener.getsockname()[1]
    publication = Publication(name, "::1", port, "127.0.0.1", container.getsockname()[1])
    relays = Relays()
    relays.open(publication, listener)

    async def answer() -> bytes:
        connection, _ = await loop.sock_accept(container)
        with connection:
            asked = await loop.sock_recv(connection, 100)
            await loop.sock_sendall(connection, asked.upper())
            return await loop.sock_recv(connection, 100)

    served = asyncio.create_task(answer())
    client = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, protocol)
    client.setblocking(False)
    async with asyncio.timeout(20):
        await loop.sock_connect(client, ("::1", port))
        await loop.sock_sendall(client, b"a message")
        assert await loop.sock_recv(client, 100) == b"A MESSAGE"
        client.close()
        assert await served == b"", "the end is passed on as well"
    relays.close_all()
    listener.close()
    container.close()
