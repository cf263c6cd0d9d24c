"""IPv6 clients of containers that have IPv4 only.

The kernel cannot translate between the two, so the engine accepts these TCP connections on the
socket that keeps the port and passes the bytes on, and datagrams likewise (``datagrams.py``).
Everything else published goes through the firewall, without a copy; what passes here shows the
engine's address to the container, and is cut off when the engine stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from portside.networks.datagrams import Datagrams
from portside.networks.ports import Publication

log = logging.getLogger(__name__)
CHUNK = 1 << 18
"""Bytes passed on at a time."""
MAX_CONNECTIONS = 1024
"""Open at once for the whole engine; more wait in the sockets' queues."""


class Relays:
    """The relayed ports of all containers."""

    def __init__(self) -> None:
        self._listening: dict[Publication, asyncio.Task[None]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._datagrams: dict[Publication, Datagrams] = {}
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)

    def open(self, publication: Publication, listener: socket.socket) -> None:
        """Serve a port on its listening socket, which stays the caller's."""
        if publication.protocol == "udp":
            if publication not in self._datagrams:
                self._datagrams[publication] = Datagrams(publication, listener)
        elif publication not in self._listening:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._accept(publication, listener))
            self._listening[publication] = task

    def close(self, publication: Publication) -> None:
        """Accept no more; connections under way go on until their ends close them."""
        task = self._listening.pop(publication, None)
        if task is not None:
            task.cancel()
        datagrams = self._datagrams.pop(publication, None)
        if datagrams is not None:
            datagrams.close()

    def close_all(self) -> None:
        for task in (*self._listening.values(), *self._connections):
            task.cancel()
        self._listening.clear()
        for datagrams in self._datagrams.values():
            datagrams.close()
        self._datagrams.clear()

    async def _accept(self, publication: Publication, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as err:
                self._room.release()
                log.debug("cannot accept at %s: %s", publication.host, err)
                await asyncio.sleep(0.1)  # out of descriptors: let others end first
                continue
            except BaseException:
                self._room.release()
                raise
            task = loop.create_task(self._serve(connection, publication))
            self._connections.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._room.release()
        if not task.cancelled() and task.exception() is not None:
            log.debug("a relayed connection failed: %s", task.exception())

    async def _serve(self, client: socket.socket, publication: Publication) -> None:
        loop = asyncio.get_running_loop()
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with client, server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(server, (publication.container_ip, publication.container_port))
            await asyncio.gather(_pass_on(client, server), _pass_on(server, client))


async def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """All bytes of one direction, and its end."""
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.sock_recv(source, CHUNK):
            await loop.sock_sendall(target, data)
    finally:
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
