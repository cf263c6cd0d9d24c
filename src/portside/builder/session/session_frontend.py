"""Frontends that are images (``# syntax=IMAGE``) for ``portside build``.

The request becomes a :class:`BuildJob`, as that of BuildKit's clients does; what the job wants of
its client goes over the connection of ``portside build``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portside.builder.dockerfile.diagnostics import placed
from portside.builder.llb import Vertex
from portside.builder.results import BuildResult
from portside.builder.service import BuildRequest, BuildService
from portside.builder.session.session_progress import SessionProgress
from portside.builder.solver.build_jobs import SnapshotContext
from portside.builder.solver.operations import BuildInputs
from portside.builder.solver.tree import Tree
from portside.builder.wire.attested_results import attested, for_history
from portside.builder.wire.bridge_caller import Caller
from portside.builder.wire.build_job import BuildJob, Result
from portside.builder.wire.dockerfile_frontend import DOCKERFILE, Forwarded
from portside.builder.wire.exports import platform_result
from portside.builder.wire.progress_log import ProgressLog
from portside.builder.wire.proto import control_pb2 as pb
from portside.builder.wire.subrequests import LINT, OUTLINE, TARGETS
from portside.builder.wire.wire_errors import ClientError, SolveFailed, SourceFile, span_of
from portside.model.errors import NotFound, PortsideError
from portside.model.ids import new_id
from portside.model.rootfs import Rootfs

if TYPE_CHECKING:
    from portside.builder.wire.frontends import Frontends
    from portside.model.registryauth import AuthConfig

Directories = Callable[[str], Awaitable[Tree | None]]
"""The client's directory of that name as it is, ignored files too; None when there is none."""
Credentials = Callable[[str], "Awaitable[AuthConfig | None]"]
REQUESTS = {"check": LINT, "outline": OUTLINE, "targets": TARGETS}
"""``--call`` as frontends know it."""
SUBREQUESTS = "moby.buildkit.frontend.subrequests"


@dataclass(kw_only=True, frozen=True)
class FrontendRequest:
    """What a frontend is asked for."""

    ref: str
    frontend: Forwarded
    attrs: Mapping[str, str]
    entitlements: tuple[str, ...]
    source: SourceFile
    call: str = "build"


class SessionJob(BuildJob):
    """A build whose client is ``portside build``."""

    def __init__(
        self, service: BuildService, request: FrontendRequest, inputs: BuildInputs,
        directories: Directories, credentials: Credentials, progress: SessionProgress,
    ) -> None:  # fmt: skip
        message = pb.SolveRequest(
            Ref=request.ref, Session=new_id()[:25], Frontend=DOCKERFILE,
            FrontendAttrs=request.attrs, Entitlements=request.entitlements,
        )  # fmt: skip
        super().__init__(service, message, None)
        self.progress: ProgressLog = progress
        self.source = request.source
        self.inputs = replace(inputs, local={}, fetch=self._fetch, importing=self._importing)
        self._directories, self._credentials = directories, credentials

    def image_request(self, **changes: Any) -> BuildRequest:
        return super().image_request(**{"credentials": self._credentials, **changes})

    async def _receive(
        self, name: str, include: tuple[str, ...], exclude: tuple[str, ...],
        follow: tuple[str, ...], progress: Any, hint: str,
    ) -> Tree:  # fmt: skip
        found = await self._directories(name)
        if found is None:
            raise NotFound(f"the client has no directory named {name[:80]!r}")
        self.directories_read.add(name)
        if not (include or exclude or follow):
            return found
        path = self.stack.enter_context(self.service.directories.use(""))
        job = SnapshotContext(
            source=Rootfs("bind", upper=found.directory), ignore=exclude, target=str(path),
            include=include, follow=follow,
        )  # fmt: skip
        await self.service.store.workers.run(job)
        return Tree(directory=str(path))

    async def run(self, frontends: Frontends, request: FrontendRequest) -> Result:
        """The frontend's result, made. What the frontend raises."""
        caller = Caller(job=self, returned=self.returned, inputs={})
        attrs = dict(request.attrs)
        if request.call != "build":
            attrs["requestid"] = REQUESTS[request.call]
            attrs["frontend.caps"] = SUBREQUESTS
        self.stack.push_async_callback(caller.containers.close)
        result = await frontends.forward(caller, request.frontend, attrs, {})
        await asyncio.gather(*(self.tree(reference) for reference in result.refs.values()))
        return result

    async def results(self, result: Result) -> BuildResult:
        """A frontend's result as what exporters take, with the attestations asked for."""
        self.provenance = for_history(self, result)
        found = [
            await attested(self, reference, await platform_result(self, result, key))
            for key, reference in result.refs.items()
        ]
        return BuildResult(platforms=tuple(found), is_multi=result.is_multi)


def unwrapped(err: PortsideError, failed: Vertex | None) -> tuple[PortsideError, Vertex | None]:
    """An error as it was raised, with the vertex that it is about and the lines that a frontend
    names."""
    if isinstance(err, SolveFailed):
        return err.cause, err.vertex or failed
    if isinstance(err, ClientError) and (span := span_of(err.status)) is not None:
        return placed(err, span), failed
    return err, failed


def answer_of(result: Result, frontend: str) -> Any:
    """The answer to ``--call``. NotFound when the frontend gave none."""
    try:
        return json.loads(result.metadata["result.json"])
    except (KeyError, ValueError):
        raise NotFound(f"the frontend {frontend} gave no answer") from None


def with_dockerfile(place: Path, name: str, dockerfile: bytes, ignore: str) -> Tree:
    """A new directory with a Dockerfile that is nowhere in the context, and its ignore file."""
    place.mkdir(mode=0o755)
    (place / name).write_bytes(dockerfile)
    if ignore:
        (place / f"{name}.dockerignore").write_text(ignore, "utf-8", "surrogateescape")
    return Tree(directory=str(place))
