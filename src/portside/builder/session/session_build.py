"""One build of ``portside build``, from its request to its result."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from portside.builder import llb
from portside.builder.build_history import STATUS_JSON, BuildRecord
from portside.builder.cache.cache_export import parse_target
from portside.builder.dockerfile.diagnostics import Span, findings_of, place_of, snippet
from portside.builder.dockerfile.frontend_values import NamedContext, Plan
from portside.builder.dockerfile.lint import Warned
from portside.builder.dockerfile.syntax_line import SyntaxLine, is_built_in, named, syntax_line
from portside.builder.exporters.export_options import (
    ARCHIVE_TYPES,
    IMAGE_TYPES,
    parse_export,
)
from portside.builder.remote_context import fetch
from portside.builder.results import (
    Attestation,
    BuildResult,
    CacheRequest,
    ExportRequest,
    PlatformResult,
)
from portside.builder.service import BuildRequest, BuildService, Context, Session
from portside.builder.session import session_request
from portside.builder.session.session_calls import called
from portside.builder.session.session_channel import SessionConnection
from portside.builder.session.session_content import ClientContent
from portside.builder.session.session_request import ContextSource, Output, SessionRequest
from portside.builder.session.session_secrets import ClientSecrets
from portside.builder.session.session_shell import FailureShell
from portside.builder.session.session_sink import ClientSink
from portside.builder.session.status_json import InternalStep, SessionLog, StatusWriter
from portside.builder.solver.entitlements import check_granted
from portside.builder.solver.layout_source import LayoutSource
from portside.builder.solver.operations import BuildInputs
from portside.builder.solver.step_runner import StepFailed
from portside.builder.solver.tree import Tree
from portside.model import build_frames as wire
from portside.model.dockerignore import read_patterns
from portside.model.errors import Cancelled, InvalidParameter, NotFound, PortsideError
from portside.model.ids import new_id
from portside.model.image import Descriptor
from portside.model.platform import Platform
from portside.model.progress import Progress
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig

if TYPE_CHECKING:
    from portside.builder.attestations.provenance import Capture
    from portside.builder.session.session_progress import SessionProgress
    from portside.builder.wire.dockerfile_frontend import Forwarded
    from portside.builder.wire.frontends import Frontends
    from portside.store.db import Lease

MAIN = "context"
DOCKERFILE = "dockerfile"
"""The directory of the Dockerfile, for frontends."""
T = TypeVar("T")


class SessionBuild:
    """See the module's docstring. :meth:`run` owns the connection."""

    def __init__(
        self, service: BuildService, request: SessionRequest, sock: socket.socket,
        exec_root: Path, frontends: Callable[[], Frontends],
    ) -> None:  # fmt: skip
        """``frontends`` runs frontends that are images; asked for by builds that name one."""
        self._service, self._request, self._frontends = service, request, frontends
        self._connection = SessionConnection(sock)
        self._secrets = ClientSecrets(self._connection, request.secrets, request.ssh, exec_root)
        self._log = SessionLog(self._connection.send_event)
        self._status = StatusWriter(self._log)
        self._inputs = BuildInputs(
            settings=replace(
                session_request.step_settings(request), secrets=self._secrets,
                on_failure=FailureShell(self._connection, request.tty) if request.shell else None,
            ),
            cache_from=self._caches(request.cache_from), importing=self._importing,
            content=self._layout,
        )  # fmt: skip
        self._cache_to = self._caches(request.cache_to)
        self._dockerfile = request.source_text()
        self._metadata: InternalStep | None = None
        self._provenance: dict[str, Attestation] = {}
        """For the build's record, by platform."""
        self._cache_answers: dict[str, str] = {}
        """The manifests of exported caches, by number."""
        self._ref = new_id()[:25]
        self._receiving = asyncio.Lock()
        self._frontend_progress: SessionProgress | None = None
        """Of a frontend that is an image."""

    async def run(self) -> None:
        """Build, send the result, close the connection. When the client leaves, the build ends."""
        try:
            await self._connection.begin()
        except (PortsideError, TimeoutError, ConnectionError, wire.BadFrame):
            return
        else:
            await self._serve()
        finally:
            # first: a client that does not read may hold up the end of the connection
            self._connection.close_directories()
            await self._connection.close()

    async def _serve(self) -> None:
        reading = asyncio.create_task(self._connection.run())
        work = asyncio.create_task(self._answered())
        forget = self._service.register(self._ref, work)
        try:
            await asyncio.wait((reading, work), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, reading):
                task.cancel()
            await asyncio.gather(work, reading, return_exceptions=True)
            forget()
            await self._secrets.close()

    async def _answered(self) -> None:
        record = self._began()
        result: dict[str, Any] = {"error": "Canceled: context canceled"}
        try:
            result = await self._build()
        except Cancelled:
            return
        except PortsideError as err:
            result = self._failure(err)
        finally:
            if record is not None:
                self._ended(record, result)
        await self._connection.send(wire.RESULT, 0, msgspec.json.encode(result))

    # -- history -------------------------------------------------------------------------

    def _began(self) -> BuildRecord | None:
        if self._request.call != "build":
            return None
        outputs = [(output.type, output.attrs) for output in self._request.outputs]
        return self._service.history.begin(
            self._ref, "dockerfile.v0", self._request.attrs(), outputs
        )

    def _ended(self, record: BuildRecord, result: dict[str, Any]) -> None:
        metadata: dict[str, str] = result.get("metadata") or {}
        described = metadata.get("containerimage.descriptor", "")
        exported: tuple[Descriptor, ...] = ()
        if described:
            exported = (msgspec.json.decode(base64.b64decode(described), type=Descriptor),)
        text = result.get("error", "")
        record = msgspec.structs.replace(
            record, response=metadata,
            steps=(self._frontend_progress or self._status).steps(),
            results={"": exported} if exported else {}, error=text,
            error_code=1 if text.startswith("Canceled") else 2 if text else 0,
        )  # fmt: skip
        self._service.history.end(
            record, log=self._log.data, log_type=STATUS_JSON, provenance=self._provenance
        )

    def _failure(self, err: PortsideError) -> dict[str, Any]:
        """The text, and the lines of the Dockerfile that it is about."""
        found: dict[str, Any] = {"error": str(err)}
        failed = self._status.failed
        if self._frontend_progress is not None:
            from portside.builder.session.session_frontend import unwrapped

            err, failed = unwrapped(err, self._frontend_progress.failed)
        place = _place_of(err, failed)
        if place is not None:
            source = (self._dockerfile or b"").decode("utf-8", "replace")
            found["snippet"] = snippet(self._request.file, source, place)
        if isinstance(err, StepFailed):
            found["step"] = {"digest": err.vertex.digest, "code": err.code}
        return found

    # -- caches --------------------------------------------------------------------------

    def _caches(self, outputs: list[Output]) -> tuple[CacheRequest, ...]:
        return tuple(
            CacheRequest(type=item.type, attrs=item.attrs, content=self._store(item.store))
            for item in outputs
        )

    def _store(self, number: int | None) -> ClientContent | None:
        return ClientContent(self._connection, number) if number is not None else None

    def _layout(self, name: str) -> ClientContent | None:
        """The client's OCI layout that is a context."""
        found = self._request.contexts.get(name)
        return self._store(found.store) if found is not None else None

    @contextmanager
    def _importing(self, name: str) -> Iterator[None]:
        with self._status.internal(f"importing cache manifest from {name}"):
            yield

    async def _cache_auths(self, requests: Sequence[CacheRequest]) -> dict[str, AuthConfig]:
        """The client's credentials for the registries of caches."""
        found: dict[str, AuthConfig] = {}
        for request in requests:
            if domain := request.domain:
                auth = found.get(domain) or await self._secrets.credentials(domain)
                if auth is not None:
                    found[domain] = auth
        return found

    # -- contexts ------------------------------------------------------------------------

    async def _contexts(self, stack: AsyncExitStack) -> dict[str, NamedContext]:
        """Trees of the directories that are here; streams are asked for when the plan is known."""
        found = {}
        for name, source in self._request.contexts.items():
            if source.image:
                found[name] = NamedContext(image=source.image)
                continue
            if source.layout:
                found[name] = await self._layout_context(stack, name, source)
                continue
            label = "load build context" if name == MAIN else f"context {name}"
            found[name] = NamedContext(llb.local(name, label=f"[internal] {label}"))
            if source.url:
                await self._received(stack, name, source, fetch(source.url))
            elif source.directory is not None:
                self._inputs.local[name] = self._opened(source)
            elif name == MAIN and self._dockerfile is None:
                await self._received(stack, name, source, self._asked(name, None))
        return found

    async def _layout_context(
        self, stack: AsyncExitStack, name: str, source: ContextSource
    ) -> NamedContext:
        """An image of the client's OCI layout."""
        lease = stack.enter_context(self._service.lease())
        (platform, *_) = self._request.each_platform()
        op = llb.SourceOp(identifier=f"{llb.OCI_LAYOUT}{name}@{source.layout}")
        layouts = LayoutSource(self._service.store, self._layout)
        _, config = await layouts.config(op, platform, lease.ref)
        meta = llb.VertexMeta(name=f"[context {name}] OCI load from client")
        vertex = llb.Vertex(op, platform=platform, meta=meta)
        return NamedContext(output=vertex.output(), config=config)

    def _opened(self, source: ContextSource) -> Tree:
        directories = self._connection.directories
        if source.directory is None or not 0 <= source.directory < len(directories):
            raise InvalidParameter(f"there is no open directory {source.directory}")
        fd = directories[source.directory]
        return Tree(directory=f"/proc/{os.getpid()}/fd/{fd}",
                    ignore=tuple(read_patterns(source.ignore)))  # fmt: skip

    async def _received(
        self, stack: AsyncExitStack, name: str, source: ContextSource, data: AsyncIterator[bytes]
    ) -> None:
        """A context as a tar; the main one may bring the Dockerfile along."""
        with self._status.internal(f"[internal] load {'build ' if name == MAIN else ''}context"
                                   + ("" if name == MAIN else f" {name}")) as step:  # fmt: skip
            context: Context = await stack.enter_async_context(
                self._service.receive(_counted(data, step), self._request.file)
            )
        self._inputs.local[name] = context.tree
        if name != MAIN or self._dockerfile is not None:
            return
        if context.dockerfile is None:
            raise NotFound(
                f"failed to read dockerfile: open {self._request.file}: no such file or directory"
            )
        self._dockerfile = context.dockerfile

    async def _asked(self, name: str, paths: list[str] | None) -> AsyncIterator[bytes]:
        """A tar of a context from the client: of ``paths``, or all of it."""
        channel = await self._connection.ask(context=name, paths=paths)
        try:
            async for piece in channel.pieces():
                yield piece
        finally:
            channel.close()

    async def _missing(self, stack: AsyncExitStack, plans: list[Plan]) -> None:
        """Ask for the contexts that the plans read and that are not here."""
        wanted = _wanted_paths([plan.output for plan in plans if plan.output is not None])
        for name, paths in wanted.items():
            source = self._request.contexts.get(name)
            if name in self._inputs.local or source is None or not source.stream:
                continue
            await self._received(stack, name, source, self._asked(name, paths))

    # -- building ------------------------------------------------------------------------

    async def _build(self) -> dict[str, Any]:
        check_granted(self._request.allow, self._service.grantable)
        for wanted in self._cache_to:
            parse_target(wanted)
        self._inputs.auths = await self._cache_auths(self._inputs.cache_from)
        async with AsyncExitStack() as stack:
            contexts = await self._contexts(stack)
            if self._dockerfile is None:
                raise NotFound("failed to read dockerfile: the build has no context")
            if not self._dockerfile.strip():
                raise InvalidParameter("the Dockerfile cannot be empty")
            with self._status.internal(
                f"[internal] load build definition from {os.path.basename(self._request.file)}"
            ) as step:
                step.at("transferring dockerfile:", len(self._dockerfile), len(self._dockerfile))
            if (asked := self._named_frontend()) is not None:
                return await self._by_frontend(stack, asked, self._dockerfile)
            sessions = []
            for platform in self._request.each_platform():
                request = self._build_request(dict(contexts), platform)
                opened = self._service.session(request, self._status.on_event, self._pulling)
                try:
                    sessions.append(await stack.enter_async_context(opened))
                except PortsideError as err:
                    self._warn(findings_of(err))
                    raise
            plan = sessions[0].plan
            self._warn(plan.warnings)
            if self._request.call != "build":
                return {"call": called(self._request.call, plan, self._dockerfile,
                                       self._request.file)}  # fmt: skip
            await self._missing(stack, [session.plan for session in sessions])
            return await self._results(sessions)

    def _warn(self, findings: Sequence[Warned]) -> None:
        for warned in findings:
            self._status.warn(warned, self._request.file, self._dockerfile or b"")

    # -- frontends that are images -------------------------------------------------------

    def _named_frontend(self) -> Forwarded | None:
        """The image that reads the file in place of the built-in frontend."""
        if asked := self._request.args.get("BUILDKIT_SYNTAX"):
            line: SyntaxLine | None = named(asked)
        else:
            line = syntax_line(self._dockerfile or b"")
        if line is None or is_built_in(line.image):
            return None
        from portside.builder.wire.dockerfile_frontend import Forwarded

        return Forwarded(line, is_argument=bool(asked))

    async def _by_frontend(
        self, stack: AsyncExitStack, asked: Forwarded, dockerfile: bytes
    ) -> dict[str, Any]:
        from portside.builder.session import session_frontend
        from portside.builder.session.session_progress import SessionProgress
        from portside.builder.wire.wire_errors import SourceFile

        call = self._request.call
        request = session_frontend.FrontendRequest(
            ref=self._ref, frontend=asked, attrs=self._request.attrs(),
            entitlements=tuple(self._request.allow), call=call,
            source=SourceFile(self._request.file, dockerfile),
        )  # fmt: skip
        progress = self._frontend_progress = SessionProgress(self._log)
        job = await stack.enter_async_context(
            session_frontend.SessionJob(
                self._service, request, self._inputs, partial(self._directory, stack),
                self._secrets.credentials, progress,
            )
        )  # fmt: skip
        found = await job.run(self._frontends(), request)
        if call != "build":
            return {"call": {call: session_frontend.answer_of(found, asked.line.image)}}
        result = await job.results(found)
        self._provenance = job.provenance
        assert job.work is not None
        return await self._delivered(result, job.work.lease)

    async def _directory(self, stack: AsyncExitStack, name: str) -> Tree | None:
        """A directory of the client by the name that frontends have for it, ignored files too."""
        if name == DOCKERFILE:
            return await self._dockerfile_directory(stack)
        source = self._request.contexts.get(name)
        if source is None:
            return None
        if source.directory is not None:
            return Tree(directory=self._opened(source).directory)
        async with self._receiving:
            if name not in self._inputs.local and source.stream:
                await self._received(stack, name, source, self._asked(name, None))
        found = self._inputs.local.get(name)
        return None if found is None else Tree(directory=found.directory)

    async def _dockerfile_directory(self, stack: AsyncExitStack) -> Tree:
        """The context, if the Dockerfile is a file of it; else a directory with nothing but it."""
        from portside.builder.session.session_frontend import with_dockerfile
        from portside.builder.wire.dockerfile_frontend import file_beneath

        data, name = self._dockerfile or b"", self._request.file
        context = await self._directory(stack, MAIN)
        if context is not None and file_beneath(context.directory, name) == data:
            return context
        place = stack.enter_context(self._service.directories.use(""))
        main = self._request.contexts.get(MAIN)
        ignore = main.ignore if main is not None else ""
        return with_dockerfile(place, os.path.basename(name), data, ignore)

    # -- results -------------------------------------------------------------------------

    def _build_request(self, contexts: dict[str, NamedContext], platform: Platform) -> BuildRequest:
        return BuildRequest(
            dockerfile=self._dockerfile or b"",
            file=self._request.file,
            frontend=session_request.frontend_options(self._request, contexts, platform),
            inputs=self._inputs,
            pull=self._request.pull,
            resolving=self._resolving,
            credentials=self._secrets.credentials,
        )

    @contextmanager
    def _resolving(self, ref: str) -> Iterator[None]:
        with self._status.internal(f"[internal] load metadata for {_full(ref)}") as step:
            self._metadata = step
            yield

    def _pulling(self, progress: Progress) -> None:
        if progress.id and progress.is_item and self._metadata is not None:
            self._metadata.at(f"{progress.status} {progress.id}", progress.current, progress.total)

    async def _results(self, sessions: list[Session]) -> dict[str, Any]:
        results = await gathered([self._result(session) for session in sessions])
        is_multi = len(self._request.platforms) > 1
        result = BuildResult(platforms=tuple(results), is_multi=is_multi)
        return await self._delivered(result, sessions[0].lease)

    async def _delivered(self, result: BuildResult, lease: Lease) -> dict[str, Any]:
        """Give a result to all outputs; the answer for the client."""
        outputs = self._request.outputs or [Output("image")]
        sinks = [
            ClientSink(self._connection, number, output.store)
            for number, output in enumerate(outputs)
        ]
        requests = [
            ExportRequest(type=output.type, attrs=self._attrs(output), sink=sink)
            for output, sink in zip(outputs, sinks, strict=True)
        ]
        label = "client directory" if outputs[0].type == "local" else "image" if (
            outputs[0].type in IMAGE_TYPES) else f"{outputs[0].type} image format"  # fmt: skip
        with self._status.internal(f"exporting to {label}") as step:
            answers = await self._service.deliver(
                result, requests, lease, auths=await self._push_auths(requests),
                epoch=self._epoch(), report=lambda progress: _relayed(step, progress),
                cache_to=[cache for cache in self._cache_to if cache.type == "inline"],
            )  # fmt: skip
            found: dict[str, str] = {}
            for answer in answers:
                found |= answer
            if image := found.get("containerimage.digest"):
                step.did("exporting layers")
                step.did(f"writing image {image}")
            for name in filter(None, found.get("image.name", "").split(",")):
                step.did(f"naming to {name}")
        await self._export_caches(result, lease)
        return {"metadata": found, "ref": self._ref, "caches": self._cache_answers}

    async def _export_caches(self, result: BuildResult, lease: Lease) -> None:
        """``--cache-to`` beside the image; folders of the client get their index by the answer."""
        for number, cache in enumerate(self._cache_to):
            if cache.type == "inline":
                continue
            place = "client directory" if cache.type == "local" else cache.type
            with self._status.internal(f"exporting cache to {place}") as step:
                (answer,) = await self._service.deliver(
                    result, [], lease, auths=await self._cache_auths([cache]), cache_to=[cache],
                    report=partial(_relayed, step),
                )  # fmt: skip
            if manifest := answer.get("cache.manifest"):
                self._cache_answers[str(number)] = manifest

    async def _result(self, session: Session) -> PlatformResult:
        from portside.builder.attestations.provenance import ProvenanceOptions, provenance

        made = await self._service.result(session)
        attests, capture = self._request.attests, self._capture(session)
        platform = str(session.plan.platform) if len(self._request.platforms) > 1 else ""
        self._provenance[platform] = provenance(capture, ProvenanceOptions())
        if not attests:
            return made
        return await self._service.attested(session, made, attests, capture)

    def _capture(self, session: Session) -> Capture:
        """How a result was made, for its provenance."""
        from portside.builder.attestations.provenance import Capture

        main = self._request.contexts.get(MAIN)
        is_local = main is not None and not (main.url or main.image)
        return Capture(
            output=session.plan.output, digests=session.digests, started=session.started,
            finished=time.time(), invocation=new_id()[:25], attrs=self._request.attrs(),
            file=self._request.file, dockerfile=session.request.dockerfile,
            directories=frozenset((MAIN, DOCKERFILE) if is_local else ()),
        )  # fmt: skip

    def _attrs(self, output: Output) -> dict[str, str]:
        attrs = dict(output.attrs)
        if output.type in IMAGE_TYPES | ARCHIVE_TYPES and self._request.tags:
            attrs.setdefault("name", ",".join(str(name) for name in self._request.names()))
        return attrs

    def _epoch(self) -> int | None:
        epoch = self._request.args.get("SOURCE_DATE_EPOCH")
        if epoch is not None and not epoch.isdecimal():
            raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {epoch}")
        return int(epoch) if epoch else None

    async def _push_auths(self, requests: list[ExportRequest]) -> dict[str, AuthConfig]:
        """Credentials for the registries that something is pushed to."""
        found = {}
        for request in requests:
            options = parse_export(request)
            for name in options.names if options.push else ():
                auth = await self._secrets.credentials(name.domain)
                if auth is not None:
                    found[name.domain] = auth
        return found


async def gathered(work: list[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; when one fails the others are stopped, and its error is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _relayed(step: InternalStep, progress: Progress) -> None:
    if progress.id and progress.is_item:
        step.at(f"{progress.status} {progress.id}", progress.current, progress.total)


def _full(ref: str) -> str:
    try:
        return str(Reference.parse(ref).tagged())
    except PortsideError:
        return ref


def _place_of(err: BaseException, failed: llb.Vertex | None) -> Span | None:
    """Where in the Dockerfile an error is from: its own place, else that of the failed step."""
    if (known := place_of(err)) is not None:
        return known
    vertex = getattr(err, "vertex", failed)
    if isinstance(vertex, llb.Vertex) and vertex.meta.location:
        return Span(*vertex.meta.location)
    return None


async def _counted(data: AsyncIterator[bytes], step: InternalStep) -> AsyncIterator[bytes]:
    total, reported = 0, time.monotonic()
    async for piece in data:
        total += len(piece)
        yield piece
        if time.monotonic() - reported > 0.2:
            reported = time.monotonic()
            step.at("transferring context:", total)
    step.at("transferring context:", total, total)


def _wanted_paths(outputs: list[llb.Output]) -> dict[str, list[str] | None]:
    """By the name of a ``local://`` source: the paths that are read; None for all."""
    found: dict[str, set[str] | None] = {}
    for vertex in llb.walk(outputs):
        for number, item in enumerate(vertex.inputs):
            op = item.vertex.op
            if isinstance(op, llb.SourceOp) and op.scheme == llb.LOCAL:
                paths = _read_by(vertex.op, number)
                known = found.setdefault(op.name, set())
                if paths is None or known is None:
                    found[op.name] = None
                else:
                    known |= paths
    return {name: None if paths is None else sorted(paths) for name, paths in found.items()}


def _read_by(op: llb.Op, number: int) -> set[str] | None:
    if not isinstance(op, llb.FileOp):
        return None
    paths = set()
    for item in op.actions:
        if item.secondary == number and isinstance(item.action, llb.CopyAction):
            path = item.action.src
            if path == "/" or item.action.parents:
                return None
            paths.add(path)
    return paths
