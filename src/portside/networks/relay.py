"""IPv6 clients of containers that have IPv4 only.

The kernel cannot translate between the two, so the engine accepts these TCP connections on the
socket that keeps the port and passes the bytes on, and datagrams likewise (``udp_relay.py``).
Everything else published goes through the firewall, without a copy; what passes here shows the
engine's address to the container, and is cut off when the engine stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from portside.networks.portmapper import Publication
from portside.networks.shares import Shares
from portside.networks.udp_relay import Datagrams

log = logging.getLogger(__name__)
CHUNK = 1 << 18
"""Bytes passed on at a time."""
MAX_CONNECTIONS = 1024
"""Open at once at one port; more wait in the socket's queue."""


class Relays:
    """The relayed ports of all containers.

    The listening sockets stay their owner's, who may close one as soon as :meth:`close` has
    returned: by then the loop watches it no more. (It would go on to watch that number for
    whatever opens next.)
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening: dict[Publication, socket.socket] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._datagrams: dict[Publication, Datagrams] = {}
        self._shares = Shares(MAX_CONNECTIONS)

    def open(self, publication: Publication, listener: socket.socket) -> None:
        """Serve a port on its listening socket."""
        if publication.protocol == "udp":
            if publication not in self._datagrams:
                self._datagrams[publication] = Datagrams(publication, listener)
        elif publication not in self._listening:
            self._listening[publication] = listener
            self._watch(publication)

    def close(self, publication: Publication) -> None:
        """Accept no more; connections under way go on until their ends close them."""
        listener = self._listening.pop(publication, None)
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
        datagrams = self._datagrams.pop(publication, None)
        if datagrams is not None:
            datagrams.close()

    def close_all(self) -> None:
        for publication in [*self._listening, *self._datagrams]:
            self.close(publication)
        for task in self._connections:
            task.cancel()

    def _watch(self, publication: Publication) -> None:
        listener = self._listening.get(publication)
        if listener is not None and self._shares.available(publication):
            self._loop.add_reader(listener.fileno(), self._accept, publication)

    def _accept(self, publication: Publication) -> None:
        listener = self._listening[publication]
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as err:
            log.debug("cannot accept at %s: %s", publication.host, err)
            self._loop.remove_reader(listener.fileno())
            # out of descriptors: let others end first
            self._loop.call_later(0.1, self._watch, publication)
            return
        connection.setblocking(False)
        self._shares.take(publication)
        task = self._loop.create_task(self._serve(connection, publication))
        self._connections.add(task)
        task.add_done_callback(lambda task: self._ended(task, publication))
        for other in self._stopped(publication):
            self._loop.remove_reader(self._listening[other].fileno())

    def _stopped(self, publication: Publication) -> list[Publication]:
        """Ports that accept nobody now; only ``publication`` can be one while there is room."""
        some = list(self._listening) if self._shares.full else [publication]
        return [
            other
            for other in some
            if other in self._listening and not self._shares.available(other)
        ]

    def _ended(self, task: asyncio.Task[None], publication: Publication) -> None:
        self._connections.discard(task)
        stopped = self._stopped(publication)
        self._shares.give(publication)
        for other in stopped:
            self._watch(other)
        if not task.cancelled() and task.exception() is not None:
            log.debug("a relayed connection failed: %s", task.exception())

    async def _serve(self, client: socket.socket, publication: Publication) -> None:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with client, server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(
                server, (publication.container_ip, publication.container_port)
            )
            # A group, since nobody may be left waiting for a socket that is closed here.
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(client, server))
                both.create_task(_pass_on(server, client))


async def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """All bytes of one direction, and its end."""
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.sock_recv(source, CHUNK):
            await loop.sock_sendall(target, data)
    finally:
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
