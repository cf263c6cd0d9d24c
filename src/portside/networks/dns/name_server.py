"""The engine's name server for containers on user networks.

Each container with names has two sockets of its own, made inside its network namespace and
served by the engine's event loop, so that an answer depends on who asks. They listen on a
port of their own; a few stateless rules in the container's namespace lead 127.0.0.11:53
there, which leaves port 53 free for name servers that run in containers.

Names that no container has are passed on to the host's servers (or the container's ``--dns``), from
the container's own network: what its firewall rules and routes forbid stays forbidden, and the
server sees the address that the container's other packets have. Only servers that the host alone
can reach, such as one on its loopback, are asked from the host's network (``Upstream.on_host``).
The server that answered last is asked first; the others are asked as well when it takes
longer than HEDGE, and the first good answer wins.

Each container has a share of its own of the queries under way (``QUERIES``) and of the TCP
connections (``CONNECTIONS``): one that asks without end is refused, the others are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from portside.kernel import netns
from portside.kernel.nftables import Chain, Nft, Table
from portside.model.network import IPAddress
from portside.networks.dns import dnswire
from portside.networks.dns.resolver import Upstream
from portside.networks.etc_files import EMBEDDED_SERVER
from portside.networks.shares import Shares

PORT = 53
HEDGE = 0.03
"""Seconds the first server is given before the others are asked too."""
RESEND = 1.0
"""Seconds after which a datagram may count as lost and is sent again."""
TIMEOUT = 4.0
"""Seconds until a forwarded query is given up; resolvers ask again after five."""
MAX_FORWARDED = 256
"""Queries of one container under way at once; more are refused."""
MAX_CONNECTIONS = 32
"""TCP connections of one container; more wait in the socket's queue."""
MAX_MESSAGE = 65535
TCP_IDLE = 10.0
BATCH = 64
"""Queries read at a time before other work gets its turn."""

TABLE = "portside_names"


class Names(Protocol):
    """Names that one container can resolve; answers change as containers come and go."""

    def addresses(self, name: str) -> list[IPAddress] | None:
        """Addresses of a name (lower case); None when no container has it."""

    def name_of(self, address: IPAddress) -> str | None:
        """The name of an address on the container's networks."""

    def servers(self) -> Sequence[Upstream]:
        """Upstream servers for other names; empty on internal networks."""


class DnsSockets:
    """The two sockets in a container's namespace."""

    def __init__(self, udp: socket.socket, tcp: socket.socket) -> None:
        self.udp, self.tcp = udp, tcp

    @classmethod
    def open(cls) -> DnsSockets:
        """Make them in the calling thread's namespace and lead 127.0.0.11:53 to them.

        Also after an engine restart: the rules of a former engine are replaced.
        """
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            udp.bind((EMBEDDED_SERVER, 0))
            port = udp.getsockname()[1]
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((EMBEDDED_SERVER, port))
            tcp.listen(64)
            redirect(port)
        except BaseException:
            udp.close()
            tcp.close()
            raise
        return cls(udp, tcp)

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def redirect(port: int) -> None:
    """Lead 127.0.0.11:53 to ``port`` in the calling thread's namespace."""
    rules = [
        rule
        for protocol in ("udp", "tcp")
        for rule in (
            f"ip daddr {EMBEDDED_SERVER} {protocol} dport 53 {protocol} dport set {port}",
            f"ip saddr {EMBEDDED_SERVER} {protocol} sport {port} {protocol} sport set 53",
        )
    ]
    table = Table("ip", TABLE, chains=[Chain("output", rules, "output", priority=-300)])
    nft = Nft()
    try:
        nft.commit(table.replace())
    finally:
        nft.close()


class NameServer:
    """Serves one container until ``close``."""

    def __init__(self, sockets: DnsSockets, names: Names, space: int, queries: Shares) -> None:
        """``space``: descriptor of the container's network namespace, open until ``close``;
        ``queries``: shared by all containers."""
        self._sockets, self._names = sockets, names
        self._forwarder = Forwarder(space, queries)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._loop.add_reader(sockets.udp.fileno(), self._readable)
        self._loop.add_reader(sockets.tcp.fileno(), self._incoming)

    def close(self) -> None:
        self._loop.remove_reader(self._sockets.udp.fileno())
        self._loop.remove_reader(self._sockets.tcp.fileno())
        self._forwarder.close()
        for task in self._tasks:
            task.cancel()
        self._sockets.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _readable(self) -> None:
        for _ in range(BATCH):
            try:
                data, peer = self._sockets.udp.recvfrom(MAX_MESSAGE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # an ICMP error about an earlier answer
            reply, query = self._local(data, udp=True)
            if reply is not None:
                self._send(reply, peer)
            elif query is None:
                continue
            elif self._forwarder.busy():
                self._send(query.answer(code=dnswire.REFUSED), peer)
            else:
                self._spawn(self._forward_udp(data, query, peer))

    async def _forward_udp(self, data: bytes, query: dnswire.Query, peer: tuple[str, int]) -> None:
        self._send(await self._forwarder.ask(data, query, self._names.servers(), tcp=False), peer)

    def _send(self, reply: bytes, peer: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):  # the asker went away, or its buffer is full
            self._sockets.udp.sendto(reply, peer)

    def _incoming(self) -> None:
        try:
            connection, _ = self._sockets.tcp.accept()
        except OSError:
            return
        connection.setblocking(False)
        self._connections += 1
        if self._connections >= MAX_CONNECTIONS:
            self._loop.remove_reader(self._sockets.tcp.fileno())
        self._spawn(self._serve(connection)).add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._connections -= 1
        if self._sockets.tcp.fileno() >= 0:
            self._loop.add_reader(self._sockets.tcp.fileno(), self._incoming)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
        except OSError:
            connection.close()
            return
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await reader.readexactly(length)
                reply, query = self._local(data, udp=False)
                if reply is None and query is not None:
                    reply = await self._forwarder.ask(data, query, self._names.servers(), tcp=True)
                if reply is None:
                    return
                writer.write(struct.pack("!H", len(reply)) + reply)
                async with asyncio.timeout(TCP_IDLE):
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            writer.close()

    def _local(self, data: bytes, udp: bool) -> tuple[bytes | None, dnswire.Query | None]:
        """An answer from what is known here, or the query that must be passed on."""
        try:
            query = dnswire.Query.parse(data)
        except dnswire.BadQuery:
            return dnswire.failure(data, dnswire.FORMERR), None
        limit = query.udp_size if udp else MAX_MESSAGE
        if query.cls != dnswire.IN:
            return None, query
        if query.type == dnswire.PTR:
            address = dnswire.reverse_address(query.name)
            name = self._names.name_of(address) if address is not None else None
            if name is None:
                return None, query
            return query.answer([dnswire.name_record(name)], limit=limit), query
        found = self._names.addresses(query.name)
        if found is None:
            return None, query
        records = [
            record
            for record in map(dnswire.address_record, found)
            if query.type in (record[0], dnswire.ANY)
        ]
        if len(records) > 1:
            random.shuffle(records)
        return query.answer(records, limit=limit), query


class Forwarder:
    """Passes one container's queries on to other servers."""

    def __init__(self, space: int, queries: Shares) -> None:
        self._space, self._queries = space, queries
        self._best: Upstream | None = None
        """The server that answered last."""
        self._closed = False

    def close(self) -> None:
        """Send no more queries: the namespace's descriptor may be closed."""
        self._closed = True

    def busy(self) -> bool:
        """Whether the container's share of queries is used up."""
        return not self._queries.available(self)

    async def ask(
        self, data: bytes, query: dnswire.Query, servers: Sequence[Upstream], *, tcp: bool
    ) -> bytes:
        """The first good answer; SERVFAIL when there is none, REFUSED beyond the share."""
        if not servers:
            return query.answer(code=dnswire.SERVFAIL)
        if not self._queries.take(self):
            return query.answer(code=dnswire.REFUSED)
        try:
            async with asyncio.timeout(TIMEOUT):
                reply = await self._race(data, tuple(servers), tcp)
        except TimeoutError:
            reply = None
        finally:
            self._queries.give(self)
        return reply if reply is not None else query.answer(code=dnswire.SERVFAIL)

    async def _race(self, data: bytes, servers: tuple[Upstream, ...], tcp: bool) -> bytes | None:
        best = self._best if self._best in servers else servers[0]
        order = [best, *(server for server in servers if server != best)]
        ask = self._ask_tcp if tcp else self._ask_udp
        loop = asyncio.get_running_loop()
        pending: dict[asyncio.Task[bytes], Upstream] = {
            loop.create_task(ask(data, order[0])): order[0]
        }
        waiting = order[1:]
        poor: bytes | None = None
        try:
            while pending:
                done, _ = await asyncio.wait(
                    pending,
                    timeout=HEDGE if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    server = pending.pop(task)
                    if task.exception() is not None:
                        continue
                    reply = task.result()
                    if reply[3] & 15 in (dnswire.NOERROR, dnswire.NXDOMAIN):
                        self._best = server
                        return reply
                    poor = reply
                for server in waiting:
                    pending[loop.create_task(ask(data, server))] = server
                waiting = []
            return poor
        finally:
            for task in pending:
                task.cancel()

    async def _ask_udp(self, data: bytes, server: Upstream) -> bytes:
        """Over a socket of its own, whose random port guards against forged answers."""
        loop = asyncio.get_running_loop()
        with self._socket(server, socket.SOCK_DGRAM) as sock:
            sock.connect(_target(server.address, socket.SOCK_DGRAM))
            while True:
                await loop.sock_sendall(sock, data)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RESEND):
                        while True:
                            reply = await loop.sock_recv(sock, MAX_MESSAGE)
                            if len(reply) >= 12 and reply[:2] == data[:2] and reply[2] & 0x80:
                                return reply

    async def _ask_tcp(self, data: bytes, server: Upstream) -> bytes:
        sock = self._socket(server, socket.SOCK_STREAM)
        try:
            target = _target(server.address, socket.SOCK_STREAM)
            await asyncio.get_running_loop().sock_connect(sock, target)
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(struct.pack("!H", len(data)) + data)
            await writer.drain()
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = await reader.readexactly(length)
        except asyncio.IncompleteReadError as err:
            raise OSError("the server hung up") from err
        finally:
            writer.close()
        if len(reply) < 12:
            raise OSError("short answer")
        return reply

    def _socket(self, server: Upstream, kind: socket.SocketKind) -> socket.socket:
        """A socket in the network from which the server is asked."""
        if self._closed:
            raise OSError("the container has ended")
        family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
        if server.on_host:
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        return netns.socket_in(self._space, family, kind)


def _target(server: str, kind: socket.SocketKind) -> Any:
    """The socket address of a server, whose IPv6 address may name an interface."""
    if "%" in server:
        return socket.getaddrinfo(server, PORT, type=kind)[0][4]
    return server, PORT
