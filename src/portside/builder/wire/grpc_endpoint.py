"""All gRPC services of the engine, and the connections that speak to them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from portside.builder.service import BuildService
from portside.builder.wire.bridge_service import BridgeService
from portside.builder.wire.client_session import Sessions
from portside.builder.wire.content_service import ContentService
from portside.builder.wire.control_service import ControlService, Jobs
from portside.builder.wire.frontends import Frontends
from portside.builder.wire.grpc_transport import GrpcServer, Service
from portside.builder.wire.proto import session_pb2 as pb


class GrpcEndpoint:
    """Made when the first such connection comes."""

    def __init__(self, builds: BuildService, labels: dict[str, str]) -> None:
        """``labels`` of the worker; ``id`` is its ID."""
        builds.store.workers.warm("portside.builder.wire.transfer_jobs")
        self._sessions = Sessions()
        jobs = Jobs()
        self.frontends = Frontends(labels)
        """Also for ``portside build``."""
        frontends = self.frontends.solve
        control = ControlService(builds, self._sessions, jobs, labels, frontends)
        self._server = GrpcServer(
            [
                control.service(),
                BridgeService(jobs.caller, labels, frontends).service(),
                ContentService(builds.store).service(),
                _health(),
            ]
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, transport: asyncio.Transport, early: bytes) -> None:
        """Serve a connection; ``early``: what the client has sent already."""
        self._server.serve(transport, early)

    def take_session(
        self, transport: asyncio.Transport, early: bytes, headers: Mapping[str, str]
    ) -> None:
        """A client's session: we are the client on this connection."""
        work = self._sessions.serve(transport, headers, early)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self._server.close()
        self._sessions.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _health() -> Service:
    found = Service("grpc.health.v1.Health")

    async def check(_: object, __: object) -> object:
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)

    found.unary("Check", check, pb.HealthCheckRequest, pb.HealthCheckResponse)
    return found
