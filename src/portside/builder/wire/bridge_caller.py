"""Callers of ``LLBBridge``: a build's client, or a frontend in its container."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from portside.builder.wire.build_job import BuildJob, Result
from portside.builder.wire.gateway_containers import GatewayContainers


@dataclass(kw_only=True)
class Caller:
    """A caller of ``LLBBridge``. Result, inputs and containers are the caller's own; the build's
    references are shared."""

    job: BuildJob
    returned: asyncio.Future[Result]
    """The result that the caller returns."""
    inputs: Mapping[str, Any]
    """Definitions by name (``Inputs``)."""
    depth: int = 0
    """How many frontends asked for it, one inside the other."""
    containers: GatewayContainers = field(init=False)

    def __post_init__(self) -> None:
        self.containers = GatewayContainers(self.job)


FrontendSolver: TypeAlias = Callable[
    [Caller, str, Mapping[str, str], Mapping[str, Any]], Awaitable[Result]
]
"""Runs a frontend by name with its attributes and inputs."""
