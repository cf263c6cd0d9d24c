"""Frontends by name: the built-in one for Dockerfiles, and images (``gateway.v0``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portside.builder.cache.pruning import Policy
from portside.builder.dockerfile.diagnostics import placed
from portside.builder.dockerfile.syntax_line import is_built_in
from portside.builder.wire.bridge_caller import Caller
from portside.builder.wire.bridge_service import BridgeService
from portside.builder.wire.build_job import Result
from portside.builder.wire.dockerfile_frontend import DOCKERFILE, DockerfileFrontend, Forwarded
from portside.builder.wire.external_frontend import ExternalFrontend, workers_json
from portside.builder.wire.grpc_transport import GrpcServer
from portside.builder.wire.wire_errors import ClientError
from portside.builder.wire.worker_record import worker_record
from portside.model.errors import InvalidParameter, PortsideError, reworded

GATEWAY = "gateway.v0"


class Frontends:
    def __init__(self, labels: Mapping[str, str]) -> None:
        """``labels`` of the worker."""
        self._labels = labels

    async def solve(
        self, caller: Caller, name: str, attrs: Mapping[str, str], inputs: Mapping[str, Any]
    ) -> Result:
        """Run a frontend. InvalidParameter for an unknown one, and what it raises."""
        if name == GATEWAY:
            return await self._gateway(caller, attrs, inputs)
        if name != DOCKERFILE:
            raise InvalidParameter(f"failed to find {name[:80]}: use {DOCKERFILE} or {GATEWAY}")
        found = await DockerfileFrontend(caller.job, attrs, inputs).run()
        if isinstance(found, Result):
            return found
        return await self.forward(caller, found, attrs, inputs)

    async def _gateway(
        self, caller: Caller, attrs: Mapping[str, str], inputs: Mapping[str, Any]
    ) -> Result:
        source = attrs.get("source", "")
        if not source:
            raise InvalidParameter(f"no source specified for gateway: {GATEWAY} needs an image")
        if is_built_in(source):
            attrs = {"cmdline": source, **attrs}
            found = await DockerfileFrontend(caller.job, attrs, inputs).run()
            assert isinstance(found, Result)
            return found
        frontend = ExternalFrontend(caller, source, attrs, inputs, self._serve, self._workers)
        return await frontend.run()

    async def forward(
        self, caller: Caller, to: Forwarded, attrs: Mapping[str, str], inputs: Mapping[str, Any]
    ) -> Result:
        """Run the frontend that a file or an argument names."""
        attrs = {**attrs, "cmdline": to.line.cmdline, "source": to.line.image}
        try:
            return await self._gateway(caller, attrs, inputs)
        except ClientError:
            raise
        except PortsideError as err:
            if to.is_argument:
                text = f"failed with BUILDKIT_SYNTAX = {to.line.cmdline}: {err}"
                raise reworded(err, text) from err
            raise placed(err, to.line.span) from err

    def _serve(self, caller: Caller) -> GrpcServer:
        async def known(_: Any) -> Caller:
            return caller

        return GrpcServer([BridgeService(known, self._labels, self.solve).service()])

    def _workers(self) -> str:
        return workers_json(worker_record(self._labels, Policy()))
