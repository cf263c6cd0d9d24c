"""UDP from IPv6 clients to containers that have IPv4 only; see ``relay.py``.

Each client gets a socket of its own towards the container, which tells whose answer is whose. It
is closed when nothing came or went for as long as the kernel would remember a stream
(nf_conntrack_udp_timeout_stream).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import NamedTuple

from portside.networks.portmapper import Publication

IDLE = 120.0
"""Seconds after which a client is forgotten."""
MAX_CLIENTS = 512
"""Of one port; the one that was silent the longest makes room."""
MAX_DATAGRAM = 1 << 16
BURST = 64
"""Datagrams taken in one go, before others get their turn."""
IPV6_PKTINFO, IPV6_RECVPKTINFO = 50, 49
"""<linux/in6.h>; ipv6(7)."""
PKTINFO = struct.Struct("16sI")

Address = tuple[str, int, int, int]


class Client(NamedTuple):
    """Who asked, and which of the host's addresses it asked: the answer comes from there."""

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
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
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
            asked = next((item[2] for item in about if item[1] == IPV6_PKTINFO), b"")
            # what could not be sent is lost, as datagrams may be
            with contextlib.suppress(OSError):
                self._socket(Client(peer, asked)).send(data)

    def _socket(self, client: Client) -> socket.socket:
        found = self._clients.pop(client, None)
        if found is None:
            while len(self._clients) >= MAX_CLIENTS:
                self._forget(next(iter(self._clients)))
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
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
            except OSError:  # nobody listens inside (ICMP port unreachable)
                self._forget(client)
                return
            about = []
            if client.asked:
                address, _ = PKTINFO.unpack(client.asked)
                scope = client.address[3]
                about = [(socket.IPPROTO_IPV6, IPV6_PKTINFO, PKTINFO.pack(address, scope))]
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
