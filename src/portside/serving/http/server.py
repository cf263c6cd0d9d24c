"""Listening sockets and the connections made to them, within what the process may have open.

A process that has used up its descriptors can neither accept nor start a container, so
clients have a quarter of them at most: a request may need another one or two, such as the file of
a log that it follows. When that many are connected, the one that has been idle
for longest makes room for the next; when all are busy, the next waits in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from portside.serving.http.connection import Connection, Handler
from portside.serving.http.tls import TlsTransport

if TYPE_CHECKING:
    from ssl import SSLContext

    from portside.serving.http.http2 import TakeGrpc

log = logging.getLogger(__name__)

_BACKLOG = 1024
_MOST = 1 << 16
"""Connections at most, however many descriptors there are."""
_AT_ONCE = 64
"""Connections accepted before others get their turn."""
_SHORTAGE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_PAUSE = 1.0
"""Seconds without accepting when the system has nothing left."""


def most_connections() -> int:
    """A quarter of the descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(max(soft // 4, 16), _MOST) if soft != resource.RLIM_INFINITY else _MOST


_date = (0, "")


def date_line() -> str:
    """The header ``Date``, made anew once a second."""
    global _date
    now = int(time.time())
    if now != _date[0]:
        _date = now, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now))
    return _date[1]


def _peer(sock: socket.socket) -> str:
    """The client: a process, or an address."""
    try:
        if sock.family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return f"process {struct.unpack('iII', credentials)[0]}"
        return str(sock.getpeername()[0])
    except OSError:  # it has ended already
        return ""


class Server:
    """The connections of one application, on any number of listening sockets."""

    def __init__(
        self,
        handler: Handler,
        *,
        common_headers: Callable[[], str] = lambda: "",
        error_body: Callable[[str], bytes] = str.encode,
        take_grpc: TakeGrpc | None = None,
        most: int = 0,
    ) -> None:
        """``take_grpc`` gets connections in HTTP/2 whose first request is gRPC; ``most``
        connections at a time, by default as many as the system's limits allow.
        """
        self.loop = asyncio.get_running_loop()
        self.is_closing = False
        self.common_headers, self.error_body = common_headers, error_body
        self.take_grpc = take_grpc
        self._handler = handler
        self._connections: dict[Connection, None] = {}
        """Idle connections; the one idle for longest is first."""
        self._most = most or most_connections()
        self._listeners: dict[socket.socket, SSLContext | None] = {}
        self._accepting = True
        self._tasks: set[asyncio.Task[None]] = set()

    # -- accepting -------------------------------------------------------------------------

    async def listen(self, sock: socket.socket, tls: SSLContext | None = None) -> None:
        """Serve a listening socket, with TLS if a context is given."""
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        self._listeners[sock] = tls
        self.loop.add_reader(sock, self._accept, sock)

    def _accept(self, listener: socket.socket) -> None:
        for turn in range(_AT_ONCE):
            if len(self._connections) >= self._most:
                if turn:  # the next call shows whether another waits
                    return
                if not self._make_room():
                    self._pause()
                    return
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as err:
                if err.errno not in _SHORTAGE:
                    raise
                log.error("cannot accept connections for a moment: %s", err.strerror)
                self._pause()
                self.loop.call_later(_PAUSE, self._resume)
                return
            connection = Connection(self._handler, self, _peer(sock))
            self.opened(connection)
            task = self.loop.create_task(self._connect(connection, sock, self._listeners[listener]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(
        self, connection: Connection, sock: socket.socket, tls: SSLContext | None
    ) -> None:
        sock.setblocking(False)
        protocol = connection if tls is None else TlsTransport(connection, tls)
        try:
            await self.loop.connect_accepted_socket(lambda: protocol, sock)
        except OSError:
            sock.close()
            self.gone(connection)

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest, else the oldest of those that
        only listen (events, logs, stats, waits) of the client that has most of them; False when
        there is neither."""
        victim = next((each for each in self._connections if each.is_idle), None)
        if victim is None:
            listening = [each for each in self._connections if each.cancellable]
            shares = Counter(each.peer for each in listening)
            most = max(shares.values(), default=0)
            victim = next((each for each in listening if shares[each.peer] == most), None)
            if victim is None:
                return False
            log.warning("a client with %d streams loses one: all connections are in use", most)
        victim.abort()
        self.gone(victim)
        return True

    def _pause(self) -> None:
        self._accepting = False
        for listener in self._listeners:
            self.loop.remove_reader(listener)

    def _resume(self) -> None:
        if self._accepting or self.is_closing:
            return
        self._accepting = True
        for listener in self._listeners:
            self.loop.add_reader(listener, self._accept, listener)

    # -- called by connections -------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """The connection was accepted, or has become idle."""
        self._connections.pop(connection, None)
        self._connections[connection] = None
        if not self._accepting:
            self._resume()

    def can_yield(self) -> None:
        """One of the connections may be closed for a new one from now on."""
        if not self._accepting:
            self._resume()

    def gone(self, connection: Connection) -> None:
        """The connection is closed, or was given away."""
        self._connections.pop(connection, None)
        if not self._accepting:
            self._resume()

    # -- ending ----------------------------------------------------------------------------

    async def close(self, grace: float = 5.0) -> None:
        """Accept no connections, and finish requests in progress for up to ``grace`` seconds."""
        self.is_closing = True
        for listener in self._listeners:
            self.loop.remove_reader(listener)
            listener.close()
        for connection in list(self._connections):
            connection.close_when_idle()
            connection.cancel()
        deadline = self.loop.time() + grace
        while self._connections and self.loop.time() < deadline:
            tasks = [c.task for c in self._connections if c.task is not None]
            if not tasks:
                break
            await asyncio.wait(tasks, timeout=deadline - self.loop.time())
        for connection in list(self._connections):
            connection.abort()
