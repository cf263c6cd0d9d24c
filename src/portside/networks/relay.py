"""Clients that the firewall cannot lead to a container: IPv6 clients of containers that have IPv4
only, and all clients of an engine without root, whose network is not the host's.

The kernel cannot translate between the two, so the engine accepts these TCP connections and SCTP
associations on the socket that keeps the port and passes the bytes on (SCTP's messages one by one,
as docker-proxy does), and datagrams likewise: each client of a UDP port gets a socket of its own
towards the container, which identifies the client that an answer is for. The socket is closed when
nothing passed for as long as the kernel would remember a stream (nf_conntrack_udp_timeout_stream).

Everything else published goes through the firewall, without a copy; what passes here shows the
engine's address to the container (but see ``client_addresses.py``), and is cut off when the engine
stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import NamedTuple

from portside.networks.client_addresses import ClientAddresses
from portside.networks.portmapper import Publication
from portside.networks.shares import Shares

log = logging.getLogger(__name__)
CHUNK = 1 << 18
"""Bytes passed on at a time."""
MAX_CONNECTIONS = 1024
"""Open at once at one port; more wait in the socket's queue."""
IDLE = 120.0
"""Seconds after which a client is forgotten."""
MAX_CLIENTS = 512
"""Clients of one port; the client that was silent the longest makes room."""
MAX_DATAGRAM = 1 << 16
BURST = 64
"""Datagrams taken in one go, before others get their turn."""
IPV6_PKTINFO, IPV6_RECVPKTINFO = 50, 49
"""<linux/in6.h>; ipv6(7)."""
PKTINFO = struct.Struct("16sI")
IP_PKTINFO = 8
IPPROTO_SCTP, SCTP_NODELAY = 132, 3
"""<linux/in.h>, <linux/sctp.h>; sctp(7)."""
PKTINFO4 = struct.Struct("=i4s4s")
"""struct in_pktinfo: interface, local address, address in the header."""


Address = tuple[str, int, int, int] | tuple[str, int]


class Client(NamedTuple):
    """The client, and the host's address it sent to: the answer comes from that address."""

    address: Address
    asked: bytes


class Datagrams:
    """One published UDP port; ``listener`` stays the caller's."""

    def __init__(self, publication: Publication, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = (publication.container_ip, publication.container_port)
        self._listener = listener
        self._clients: dict[Client, tuple[socket.socket, float]] = {}
        """In the order of their last datagrams."""
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self._loop.add_reader(listener, self._from_clients)
        self._timer = self._loop.call_later(IDLE, self._expire)

    def close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._listener)
        while self._clients:
            self._forget(next(iter(self._clients)))

    def _from_clients(self) -> None:
        for _ in range(BURST):
            try:
                data, about, _, peer = self._listener.recvmsg(MAX_DATAGRAM, 128)
            except BlockingIOError:
                return
            except OSError:  # an answer of ours could not be delivered
                continue
            asked = next((item[2] for item in about if item[1] in (IPV6_PKTINFO, IP_PKTINFO)), b"")
            # what could not be sent is lost, as datagrams may be
            with contextlib.suppress(OSError):
                self._socket(Client(peer, asked)).send(data)

    def _socket(self, client: Client) -> socket.socket:
        found = self._clients.pop(client, None)
        if found is None:
            while len(self._clients) >= MAX_CLIENTS:
                self._forget(next(iter(self._clients)))
            family = family_of(self._target[0])
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                sock.connect(self._target)
            except OSError:
                sock.close()
                raise
            self._loop.add_reader(sock, self._from_container, client, sock)
        else:
            sock = found[0]
        self._clients[client] = (sock, self._loop.time())
        return sock

    def _from_container(self, client: Client, sock: socket.socket) -> None:
        for _ in range(BURST):
            try:
                data = sock.recv(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError:  # no process listens inside (ICMP port unreachable)
                self._forget(client)
                return
            about = _answer_from(client) if client.asked else []
            with contextlib.suppress(OSError):
                self._listener.sendmsg([data], about, 0, client.address)
        if client in self._clients:
            self._clients[client] = (self._clients.pop(client)[0], self._loop.time())

    def _forget(self, client: Client) -> None:
        sock, _ = self._clients.pop(client)
        self._loop.remove_reader(sock)
        sock.close()

    def _expire(self) -> None:
        now = self._loop.time()
        for client, (_, last) in list(self._clients.items()):
            if now - last < IDLE:
                break
            self._forget(client)
        self._timer = self._loop.call_later(IDLE / 4, self._expire)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _answer_from(client: Client) -> list[tuple[int, int, bytes]]:
    """Send from the address that was asked (ipv6(7), IPV6_PKTINFO; ip(7), IP_PKTINFO)."""
    if len(client.asked) == PKTINFO4.size:
        _, local, _ = PKTINFO4.unpack(client.asked)
        return [(socket.IPPROTO_IP, IP_PKTINFO, PKTINFO4.pack(0, local, bytes(4)))]
    address, _ = PKTINFO.unpack(client.asked)
    scope = client.address[3] if len(client.address) > 2 else 0
    return [(socket.IPPROTO_IPV6, IPV6_PKTINFO, PKTINFO.pack(address, scope))]


class Relays:
    """The relayed ports of all containers.

    The listening sockets stay their owner's, who may close one as soon as :meth:`close` has
    returned: by then the loop watches it no more. (It would continue to watch that number for
    whatever opens next.)
    """

    def __init__(self, clients: ClientAddresses | None = None) -> None:
        """``clients``: TCP connections are to come from the clients' own addresses."""
        self._loop = asyncio.get_running_loop()
        self._clients = clients
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
            if self._clients and publication.protocol == "tcp":
                self._clients.open(publication)
            self._watch(publication)

    def close(self, publication: Publication) -> None:
        """Accept no more; connections under way continue until their ends close them."""
        listener = self._listening.pop(publication, None)
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
            if self._clients and publication.protocol == "tcp":
                self._clients.close(publication)
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
            connection, peer = listener.accept()
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
        task = self._loop.create_task(self._serve(connection, publication, peer[0]))
        self._connections.add(task)
        task.add_done_callback(lambda task: self._ended(task, publication))
        for other in self._stopped(publication):
            self._loop.remove_reader(self._listening[other].fileno())

    def _stopped(self, publication: Publication) -> list[Publication]:
        """Ports that accept no client now; only ``publication`` can be one while there is room."""
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

    async def _serve(self, client: socket.socket, publication: Publication, address: str) -> None:
        family = family_of(publication.container_ip)
        sctp = publication.protocol == "sctp"
        protocol = IPPROTO_SCTP if sctp else socket.IPPROTO_TCP
        server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, protocol)
        with client, server:
            for sock in (client, server):
                sock.setsockopt(protocol, SCTP_NODELAY if sctp else socket.TCP_NODELAY, 1)
            if self._clients and not sctp:
                self._clients.take(server, address, publication)
            await self._loop.sock_connect(
                server, (publication.container_ip, publication.container_port)
            )
            # A group, since no task may be left waiting for a socket that is closed here.
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
