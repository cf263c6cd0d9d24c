"""A client's session: the services that it offers to its builds over its connection.

A client posts ``/session`` (or opens ``Control/Session``) and is from then on the gRPC server:
of its directories, secrets, agents and credentials. A build names its session by ID.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from urllib.parse import quote_plus

from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import H2Error

from portside.builder.wire.grpc_transport import TransportChannel
from portside.builder.wire.proto import session_pb2 as pb
from portside.model.errors import Cancelled, NotFound, PortsideError, Unavailable
from portside.model.registryauth import AuthConfig, LentAuth

ARRIVAL = 10.0
"""Seconds in which the session of a build must have come."""
CLIENT_ID = "buildkit-client"
_SALT = os.urandom(32)
MAX_PIECE = 1 << 20
"""Bytes of one message; clients refuse messages above 4 MiB."""
CALL = 60.0
"""Seconds that a client may take to answer (a person may be asked for a passphrase)."""


class ClientSession:
    """One client's session; ``shared_key`` names its directory, so that the next build finds
    what was sent already."""

    def __init__(self, channel: TransportChannel, identifier: str, shared_key: str) -> None:
        self.channel, self.id, self.shared_key = channel, identifier, shared_key

    async def call(self, method: str, request: Any, reply: Any) -> Any:
        """One unary call; None when the client does not serve it. NotFound, Unavailable."""
        stream = self.channel.request(
            method, Cardinality.UNARY_UNARY, type(request), reply, timeout=CALL
        )
        try:
            async with stream:
                await stream.send_message(request, end=True)
                return await stream.recv_message()
        except (GRPCError, StreamTerminatedError, OSError, TimeoutError) as err:
            if isinstance(err, GRPCError) and err.status is Status.UNIMPLEMENTED:
                return None
            raise client_failure(err) from err

    # -- credentials and secrets ---------------------------------------------------------

    async def credentials(self, domain: str) -> AuthConfig | None:
        """What the client knows for a registry; None for nothing. A client that has a token
        authority keeps the credentials and fetches tokens itself."""
        host = "registry-1.docker.io" if domain == "docker.io" else domain
        if not await self._fetches_tokens(host):
            return await self._revealed(host)
        return LentAuth(
            fetch_token=partial(self._token, host), reveal=partial(self._revealed, host)
        )

    async def _fetches_tokens(self, host: str) -> bool:
        """The authority's key would show whether two sessions may share a token: none is shared
        here, so it is enough that there is one."""
        request = pb.GetTokenAuthorityRequest(Host=host, Salt=_SALT)
        try:
            found = await self.call(
                "/moby.filesync.v1.Auth/GetTokenAuthority", request, pb.GetTokenAuthorityResponse
            )
        except (NotFound, Unavailable):
            return False  # it says so when its user has turned that off
        return found is not None and bool(found.PublicKey)

    async def _token(
        self, host: str, realm: str, service: str, scopes: Sequence[str]
    ) -> tuple[str, float]:
        request = pb.FetchTokenRequest(
            ClientID=CLIENT_ID, Host=host, Realm=realm, Service=service, Scopes=scopes
        )
        found = await self.call("/moby.filesync.v1.Auth/FetchToken", request, pb.FetchTokenResponse)
        if found is None:
            raise Unavailable("the client does not fetch tokens")
        return found.Token, float(found.ExpiresIn)

    async def _revealed(self, host: str) -> AuthConfig | None:
        request = pb.CredentialsRequest(Host=host)
        found = await self.call(
            "/moby.filesync.v1.Auth/Credentials", request, pb.CredentialsResponse
        )
        if found is None or not (found.Secret or found.Username):
            return None
        if not found.Username:
            return AuthConfig(identitytoken=found.Secret)
        return AuthConfig(username=found.Username, password=found.Secret)

    async def secret(self, identifier: str) -> bytes | None:
        request = pb.GetSecretRequest(ID=identifier)
        try:
            found = await self.call(
                "/moby.buildkit.secrets.v1.Secrets/GetSecret", request, pb.GetSecretResponse
            )
        except NotFound:
            return None
        return None if found is None else found.data

    async def has_agent(self, identifier: str) -> bool:
        request = pb.CheckAgentRequest(ID=identifier)
        try:
            found = await self.call(
                "/moby.sshforward.v1.SSH/CheckAgent", request, pb.CheckAgentResponse
            )
        except PortsideError:
            return False
        return found is not None

    async def forward_agent(self, identifier: str, sock: socket.socket) -> None:
        """Copy between ``sock`` and the client's agent until one of them ends."""
        stream = self.channel.request(
            "/moby.sshforward.v1.SSH/ForwardAgent", Cardinality.STREAM_STREAM,
            pb.BytesMessage, pb.BytesMessage, metadata={"buildkit.ssh.id": identifier},
        )  # fmt: skip
        async with stream:
            await stream.send_request()
            await relay(sock, stream)


class FileSendWriter:
    """A file that is written to the client's output."""

    def __init__(self, stream: Any, progress: Callable[[int], None]) -> None:
        self._stream, self._progress = stream, progress
        self._size = 0
        self._context = AsyncExitStack()

    @classmethod
    async def open(
        cls, session: ClientSession, number: int, about: Mapping[str, str],
        progress: Callable[[int], None],
    ) -> FileSendWriter:  # fmt: skip
        """``number``: which of the client's outputs; ``about``: the exporter's answer."""
        metadata = [("buildkit-attachable-exporter-id", str(number))]
        for key, value in about.items():
            metadata += header_values(f"exporter-md-{key}", [value])
        stream = session.channel.request(
            "/moby.filesync.v1.FileSend/DiffCopy", Cardinality.STREAM_STREAM,
            pb.BytesMessage, pb.BytesMessage, metadata=metadata,
        )  # fmt: skip
        writer = cls(stream, progress)
        await writer._context.enter_async_context(stream)
        await stream.send_request()
        return writer

    async def write(self, data: bytes) -> None:
        try:
            for at in range(0, len(data), MAX_PIECE):
                await self._stream.send_message(pb.BytesMessage(data=data[at : at + MAX_PIECE]))
        except (GRPCError, StreamTerminatedError, OSError, H2Error) as err:
            raise client_failure(err) from err
        self._size += len(data)
        self._progress(self._size)

    async def close(self) -> None:
        """Wait until the client has it all."""
        try:
            async with self._context:
                await self._stream.end()
                while await self._stream.recv_message() is not None:
                    pass
        except (GRPCError, StreamTerminatedError, OSError, H2Error) as err:
            raise client_failure(err) from err


class Sessions:
    """All sessions that are open."""

    def __init__(self) -> None:
        self._sessions: dict[str, ClientSession] = {}
        self._arrived = asyncio.Event()

    async def serve(
        self, transport: asyncio.Transport, headers: Mapping[str, str], early: bytes = b""
    ) -> None:
        """Take a connection over and keep the session until it ends."""
        identifier = headers.get("x-docker-expose-session-uuid", "")
        key = headers.get("x-docker-expose-session-sharedkey", "")
        channel = TransportChannel(transport, early)
        session = ClientSession(channel, identifier, key)
        try:
            self._sessions[identifier] = session
            self._wake()
            await channel.lost
        finally:
            if self._sessions.get(identifier) is session:
                del self._sessions[identifier]
            channel.close()

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()

    async def get(self, identifier: str, wait: float = ARRIVAL) -> ClientSession:
        """The session, which may come after the build that names it. NotFound."""
        try:
            async with asyncio.timeout(wait):
                while identifier not in self._sessions:
                    await self._arrived.wait()
        except TimeoutError:
            raise NotFound(f"no active session for {identifier}: the client has left") from None
        return self._sessions[identifier]

    def close(self) -> None:
        for session in list(self._sessions.values()):
            session.channel.close()


def client_failure(err: BaseException) -> PortsideError:
    """The error for a client's refusal or absence."""
    if isinstance(err, GRPCError):
        if err.status is Status.NOT_FOUND:
            return NotFound(err.message or "not found")
        if err.status is Status.CANCELLED:
            return Cancelled("the client cancelled the build")
        return Unavailable(err.message or str(err.status))
    if isinstance(err, TimeoutError):
        return Unavailable("the client does not answer")
    return Cancelled("the client went away")


def header_values(name: str, values: Sequence[str]) -> list[tuple[str, str]]:
    """Values as metadata; what is not ASCII is quoted, and a second key says so."""
    if all(value.isascii() for value in values):
        return [(name, value) for value in values]
    return [
        *((name, quote_plus(value, errors="surrogateescape")) for value in values),
        (f"{name}-encoded", "1"),
    ]


async def relay(sock: socket.socket, stream: Any) -> None:
    """Copy between a socket and a stream of BytesMessage, both ways, until both directions or
    one of the ends have ended."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()

    async def out() -> None:
        while data := await loop.sock_recv(sock, 32 << 10):
            await stream.send_message(pb.BytesMessage(data=data))
        if hasattr(stream, "end"):
            await stream.end()

    async def back() -> None:
        while (message := await stream.recv_message()) is not None:
            await loop.sock_sendall(sock, message.data)
        sock.shutdown(socket.SHUT_WR)

    tasks = [loop.create_task(out()), loop.create_task(back())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
