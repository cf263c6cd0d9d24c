"""One build of a BuildKit client: from ``Control/Solve`` to its exporters' answers.

A build's result comes from its definition, from a frontend, or from the client itself, which acts
as the frontend over ``LLBBridge`` and hands the result back with ``Return``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from portside.builder import llb
from portside.builder.dockerfile.frontend_values import Plan
from portside.builder.llb import Output, Vertex
from portside.builder.results import Attestation
from portside.builder.service import BuildRequest, BuildService, Workspace
from portside.builder.solver.build_events import Report, Status
from portside.builder.solver.entitlements import check_granted
from portside.builder.solver.operations import BuildInputs
from portside.builder.solver.step_runner import FailedStep, KeptStep, StepSettings
from portside.builder.solver.tree import Tree
from portside.builder.wire import cache_options, definition_decoder
from portside.builder.wire.client_content import LAYOUT, ClientContent
from portside.builder.wire.client_session import ClientSession
from portside.builder.wire.file_transfer import receive_directory
from portside.builder.wire.image_sources import with_images
from portside.builder.wire.lent_secrets import SessionSecrets
from portside.builder.wire.progress_log import InternalStep, ProgressLog
from portside.builder.wire.wire_errors import ClientError, SolveFailed, SourceFile
from portside.model.errors import InvalidParameter, NotFound, PortsideError, reworded
from portside.model.ids import new_id
from portside.model.image import Descriptor
from portside.model.platform import Platform
from portside.model.progress import Progress
from portside.model.reference import Reference as ImageName
from portside.model.registryauth import AuthConfig

MAX_REFS = 10_000
MAX_GRAPHS = 64 << 20
"""Bytes of all graphs that one build's client and frontends send."""


@dataclass(kw_only=True)
class Reference:
    """A result that a client knows by ID: a tree, and the plan it came from, if any."""

    id: str = field(default_factory=new_id)
    output: Output | None
    config: bytes = b""
    """The image configuration that the client was given."""
    plan: Plan | None = None
    """Set for a Dockerfile: its instructions are the image's history."""
    made: Callable[[], Awaitable[Tree]] | None = None
    """Makes a tree that the graph does not name as an output: that of a failed step."""
    frontend: str = ""
    attrs: Mapping[str, str] = field(default_factory=dict)
    """The frontend that made it, and what it was asked for."""


@dataclass(kw_only=True)
class Result:
    """What a frontend returns: one reference for each platform (or one named ""), and metadata
    by BuildKit's keys."""

    refs: dict[str, Reference] = field(default_factory=dict)
    metadata: dict[str, bytes] = field(default_factory=dict)
    platforms: dict[str, Platform] = field(default_factory=dict)
    is_multi: bool = False


class FailedExec:
    """A step that has failed, and the references by which a client mounts what it left."""

    def __init__(self, vertex: Vertex, kept: KeptStep) -> None:
        self._vertex, self._kept = vertex, kept
        self._details: dict[str, Any] | None = None

    def details(self, refs: dict[str, Reference]) -> dict[str, Any]:
        """BuildKit's ``errdefs.Solve`` as JSON; the references are put into ``refs`` once."""
        if self._details is None:
            from google.protobuf.json_format import MessageToDict

            from portside.builder.wire.definition_encoder import operation

            given, left = zip(*map(self._references, range(self._mounts)), strict=True)
            for reference in (*given, *left):
                if reference is not None:
                    refs[reference.id] = reference
            self._details = {
                "inputIDs": [reference.id if reference is not None else "" for reference in given],
                "mountIDs": [reference.id if reference is not None else "" for reference in left],
                "op": MessageToDict(operation(self._vertex)),
            }
        return self._details

    @property
    def _mounts(self) -> int:
        op = self._vertex.op
        return len(op.mounts) if isinstance(op, llb.ExecOp) else 0

    def _references(self, number: int) -> tuple[Reference | None, Reference | None]:
        """Of one mount, before and after the step; None where it is neither."""
        assert isinstance(self._vertex.op, llb.ExecOp)
        mount = self._vertex.op.mounts[number]
        if mount.type != "bind":
            return None, None
        kept = self._kept

        async def given() -> Tree:
            return kept.given(number)

        before = Reference(output=None, made=given) if mount.input >= 0 else None
        return before, Reference(output=None, made=partial(kept.left, number))


class BuildJob:
    """See the module's docstring. Lives as long as the call of Solve."""

    def __init__(self, service: BuildService, request: Any, session: ClientSession | None) -> None:
        self.service, self.request, self.session = service, request, session
        self.ref: str = request.Ref
        self.progress = ProgressLog()
        self.returned: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        """The result that the client returns."""
        self.source: SourceFile | None = None
        """The Dockerfile, for errors."""
        self.follow: dict[str, tuple[str, ...]] = {}
        self.excludes: dict[str, tuple[str, ...]] = {}
        """A frontend's follow paths and exclude patterns, by the client's directory's name."""
        self.refs: dict[str, Reference] = {}
        self.frontends = 0
        """Frontends in containers that the build has run."""
        self._graph_bytes = 0
        self.exported: list[Descriptor] = []
        self.provenance: dict[str, Attestation] = {}
        """For the build's record: what was exported, and how each result was made."""
        self.directories_read: set[str] = set()
        """Names of the client's directories."""
        self._looking_up: list[InternalStep] = []
        """Images, the one asked for last at the end."""
        self._fetched: dict[str, asyncio.Task[Tree]] = {}
        self._failed: dict[str, FailedExec] = {}
        """By the vertex's digest."""
        self._secrets = SessionSecrets(session, service.exec_root) if session is not None else None
        self.inputs = BuildInputs(
            fetch=self._fetch, settings=self._settings(), importing=self._importing,
            content=self._layout,
            cache_from=cache_options.imports(request, session),
        )  # fmt: skip
        self.work: Workspace | None = None
        self.stack = AsyncExitStack()

    def _settings(self) -> StepSettings:
        allowed = frozenset(self.request.Entitlements)
        if self._secrets is None:
            return StepSettings(entitlements=allowed, on_failure=self._keep)
        return StepSettings(entitlements=allowed, secrets=self._secrets, on_failure=self._keep)

    async def _keep(self, step: FailedStep) -> None:
        """A client that debugs its build runs containers in what a failed step has left."""
        kept = await step.keep()
        self.stack.push_async_callback(kept.close)
        self._failed[step.vertex.digest] = FailedExec(step.vertex, kept)

    async def __aenter__(self) -> Self:
        """Forbidden for an entitlement that the engine gives to no request."""
        check_granted(self.request.Entitlements, self.service.grantable)
        if self._secrets is not None:
            self.stack.push_async_callback(self._secrets.close)
        self.stack.push_async_callback(self._stop_fetching)
        self.inputs.auths = await cache_options.auths(self.inputs.cache_from, self.session)
        self.work = await self.stack.enter_async_context(
            self.service.workspace(self.inputs, self.progress.on_event)
        )
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.stack.__aexit__(*exc)
        self.returned.cancel()

    # -- the client's directories --------------------------------------------------------

    async def _fetch(self, vertex: Vertex, report: Report) -> Tree:
        """The directory of a ``local://`` source."""
        op = vertex.op
        assert isinstance(op, llb.SourceOp)
        action = "transferring context:"

        def progress(size: int) -> None:
            report(Status(vertex, action, size))

        include = _patterns(op.attrs, "local.includepattern")
        exclude = _patterns(op.attrs, "local.excludepatterns") or self.excludes.get(op.name, ())
        follow = _patterns(op.attrs, "local.followpaths") or self.follow.get(op.name, ())
        hint = op.attrs.get("local.sharedkeyhint", "")
        return await self.directory(op.name, include, exclude, follow, progress, hint)

    async def directory(
        self,
        name: str,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        follow: tuple[str, ...] = (),
        progress: Any = None,
        hint: str = "",
    ) -> Tree:
        """A directory of the client, as far as it is asked for; each once in a build."""
        self.directories_read.add(name)
        key = json.dumps([name, include, exclude, follow, hint])
        task = self._fetched.get(key)
        if task is None:
            work = self._receive(name, include, exclude, follow, progress, hint)
            task = self._fetched[key] = asyncio.create_task(work)
        return await asyncio.shield(task)

    async def _receive(
        self, name: str, include: tuple[str, ...], exclude: tuple[str, ...],
        follow: tuple[str, ...], progress: Any, hint: str,
    ) -> Tree:  # fmt: skip
        session = self.client()
        shared = session.shared_key
        kept = f"{shared}/{name}/{hint}" if shared else ""
        path = self.stack.enter_context(self.service.directories.use(kept, name))
        await receive_directory(
            session, self.service.store.workers, name, str(path),
            include=include, exclude=exclude, follow=follow, progress=progress,
        )  # fmt: skip
        return Tree(directory=str(path))

    async def _stop_fetching(self) -> None:
        for task in self._fetched.values():
            task.cancel()
        await asyncio.gather(*self._fetched.values(), return_exceptions=True)

    def client(self) -> ClientSession:
        if self.session is None:
            raise NotFound("the build has no session: the client's files cannot be read")
        return self.session

    def _layout(self, name: str) -> ClientContent | None:
        """An OCI layout that the client offers."""
        return ClientContent(self.session, LAYOUT + name) if self.session is not None else None

    # -- references ----------------------------------------------------------------------

    def remember(self, result: Result) -> Result:
        if len(self.refs) + len(result.refs) > MAX_REFS:
            raise InvalidParameter(f"a build has at most {MAX_REFS} results")
        for ref in result.refs.values():
            self.refs[ref.id] = ref
        return result

    def reference(self, identifier: str) -> Reference:
        found = self.refs.get(identifier)
        if found is None:
            raise NotFound(f"no such result of this build: {identifier[:80]!r}")
        return found

    async def tree(self, reference: Reference) -> Tree:
        """A result's files, made now. SolveFailed."""
        if reference.made is not None:
            return await reference.made()
        if reference.output is None:
            return Tree()
        return await self.solved(reference.output)

    async def solved(self, output: Output) -> Tree:
        """The files of an output, made now. SolveFailed."""
        assert self.work is not None
        self.progress.announce([output])
        try:
            return await self.work.build.solve(output)
        except PortsideError as err:
            raise self.failure(err) from err

    def failure(self, err: PortsideError) -> PortsideError:
        """An error with the step that it is about."""
        if isinstance(err, SolveFailed | ClientError):
            return err
        vertex = getattr(err, "vertex", None)
        if not isinstance(vertex, Vertex):
            vertex = self.progress.failed
        failed = self._failed.get(vertex.digest) if vertex is not None else None
        details = failed.details(self.refs) if failed is not None else None
        return SolveFailed(err, vertex, self.source, details)

    # -- results -------------------------------------------------------------------------

    async def solved_definition(self, definition: Any) -> Result:
        """The result of a client's graph. InvalidParameter; also when all of a build's graphs are
        too large together."""
        self._graph_bytes += definition.ByteSize()
        if self._graph_bytes > MAX_GRAPHS:
            raise InvalidParameter(f"the graphs of a build have at most {MAX_GRAPHS} bytes")
        output = definition_decoder.decode(definition)
        if output is not None:
            output = await self.with_images(output)
        return self.remember(Result(refs={"": Reference(output=output)}))

    async def with_images(self, output: Output) -> Output:
        return await with_images(output, self.service.resolver(self.image_request(), self.pulling))

    def image_request(self, **changes: Any) -> BuildRequest:
        """How this build's base images are looked up."""
        found = BuildRequest(
            dockerfile=b"", inputs=self.inputs, resolving=self._resolving,
            credentials=self.session.credentials if self.session is not None else None,
        )  # fmt: skip
        return replace(found, **changes)

    async def auths_for(self, attrs: Mapping[str, str]) -> dict[str, AuthConfig]:
        """The client's credentials for the registries that images are pushed to."""
        found = {}
        for name in filter(None, attrs.get("name", "").split(",")):
            domain = ImageName.parse(name).domain
            if domain not in found and self.session is not None:
                auth = await self.session.credentials(domain)
                if auth is not None:
                    found[domain] = auth
        return found

    def pulling(self, progress: Progress) -> None:
        """A pull's progress, shown with the step that needs the image."""
        if self._looking_up:
            self._looking_up[-1].pulling(progress)

    @contextmanager
    def _importing(self, name: str) -> Iterator[None]:
        with self.progress.step(f"importing cache manifest from {name}"):
            yield

    @contextmanager
    def _resolving(self, ref: str) -> Iterator[None]:
        name = ref
        try:
            name = str(ImageName.parse(ref).tagged())
        except PortsideError:
            pass  # the look-up itself says what is wrong with it
        with self.progress.step(f"[internal] load metadata for {name}") as step:
            self._looking_up.append(step)
            try:
                yield
            except InvalidParameter:
                raise
            except PortsideError as err:
                text = f"{ref}: failed to resolve source metadata for {name}: {err}"
                raise reworded(err, text) from err
            finally:
                self._looking_up.remove(step)

    @property
    def epoch(self) -> str:
        """SOURCE_DATE_EPOCH of the request, or nothing."""
        found: str = self.request.FrontendAttrs.get("build-arg:SOURCE_DATE_EPOCH", "")
        return found

    @property
    def frontend_inputs(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.request.FrontendInputs
        return found


def _patterns(attrs: Mapping[str, str], key: str) -> tuple[str, ...]:
    """A JSON list of an attribute."""
    text = attrs.get(key, "")
    if not text:
        return ()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidParameter(f"{key} is not a list of texts: {text[:80]!r}")
    return tuple(found)


__all__ = ["BuildJob", "InternalStep", "Reference", "Result"]
