"""The build service: what the engine sees of this folder. Made at the first build.

::

    context (tar, directory) ──► a BuildRequest ──► Plan (frontend) ──► Build (solver) ──► image
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from portside.builder import llb
from portside.builder.build_history import BuildHistory
from portside.builder.cache.cache_export import CacheExporter, parse_target
from portside.builder.cache.cache_import import RemoteCaches
from portside.builder.cache.pruning import SHARE, Policy, PruneRule, parse_policy
from portside.builder.client_directories import ClientDirectories
from portside.builder.dockerfile import syntax
from portside.builder.dockerfile.convert import convert
from portside.builder.dockerfile.frontend_values import (
    FrontendOptions,
    ImageResolver,
    Plan,
    ResolvedImage,
)
from portside.builder.exporters.delivery import Delivery
from portside.builder.exporters.export_options import ExportOptions
from portside.builder.exporters.plan_results import plan_result
from portside.builder.layers.layer_blobs import Compression, LayerBlobs, LayerForm, forget_lost
from portside.builder.results import BuildResult, CacheRequest, ExportRequest, PlatformResult
from portside.builder.solver.build_events import Report, silent
from portside.builder.solver.build_jobs import OpenContext, ReceiveContext
from portside.builder.solver.cache_records import CACHE_MOUNT, KIND, LOCAL, CacheRecord, CacheStore
from portside.builder.solver.entitlements import grantable
from portside.builder.solver.git_source import GitSource
from portside.builder.solver.http_source import HttpSource
from portside.builder.solver.job_values import Received
from portside.builder.solver.layer_commit import LayerCommitter
from portside.builder.solver.operations import BuildInputs, OperationSet
from portside.builder.solver.solver import Build, Solver
from portside.builder.solver.step_mounts import NoSecrets, Secrets, cache_directory
from portside.builder.solver.step_runner import StepRunner, StepSettings
from portside.builder.solver.tree import Tree
from portside.containers.core import Core
from portside.images.service import ImageService
from portside.images.stream_feed import run_fed
from portside.model.digest import Digest, chain_id
from portside.model.dockerignore import Ignore, read_patterns
from portside.model.errors import NotFound, SystemFailure
from portside.model.git_urls import parse_git_url
from portside.model.ids import new_id
from portside.model.platform import Platform
from portside.model.progress import Report as PullReport
from portside.model.progress import quiet
from portside.model.quiet_teardown import teardown
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig
from portside.store import gc
from portside.store.store_jobs import Measure
from portside.store.trees import spread

if TYPE_CHECKING:
    from portside.builder.attestations.provenance import Capture
    from portside.model.image import Descriptor, Image
    from portside.store.db import Lease, Ref

log = logging.getLogger(__name__)

STALE = 600.0
"""Seconds after which a size that was measured is measured again after a build."""
_SHORT = re.compile(r"[0-9a-f]{1,11}")
"""Fewer digits of an ID than commands print."""

CONTEXT = "context"
"""Name of the main context's ``local://`` source."""


@dataclass(kw_only=True)
class BuildRequest:
    """One build, independent of the client's protocol."""

    dockerfile: bytes
    file: str = "Dockerfile"
    frontend: FrontendOptions = field(default_factory=FrontendOptions)
    inputs: BuildInputs = field(default_factory=BuildInputs)
    pull: bool = False
    """Look for newer base images."""
    auths: dict[str, AuthConfig] = field(default_factory=dict)
    """Credentials by registry."""
    credentials: Callable[[str], Awaitable[AuthConfig | None]] | None = None
    """Asks the client for the credentials of a registry that ``auths`` does not have."""
    resolving: Callable[[str], AbstractContextManager[object]] = nullcontext
    """Entered while a base image is looked for."""


@dataclass(kw_only=True)
class Context:
    """A client's context on this host."""

    tree: Tree
    dockerfile: bytes | None
    ignore: Ignore | None


@dataclass(kw_only=True)
class Workspace:
    """A solver for one request, and what owns the things it makes."""

    build: Build
    lease: Lease
    runner: StepRunner
    digests: Mapping[str, str] = field(default_factory=dict)
    """Commits and content digests of the sources, by the vertex's digest."""
    started: float = field(default_factory=time.time)


@dataclass(kw_only=True)
class Session(Workspace):
    """A build under way: its plan, and its solver."""

    plan: Plan
    request: BuildRequest


class BuildService:
    """Builds, and the cache that they share."""

    def __init__(
        self, core: Core, images: ImageService, settings: Mapping[str, Any] | None = None
    ) -> None:
        """``settings``: ``builder`` of daemon.json, for the bounds of the cache. InvalidParameter
        when they are malformed."""
        self._core, self._images = core, images
        self.store = core.store
        self.exec_root = core.instance.exec_root
        """For sockets and secrets while a build runs."""
        core.store.workers.warm("portside.builder.solver.job_imports")
        self.cache = CacheStore(core.store)
        self.history = BuildHistory(core.store, images.catalogue.built)
        self._solver = Solver(self.cache)
        self._memo: dict[tuple[str, bytes], str] = {}
        share = shutil.disk_usage(core.store.root).total * SHARE // 100
        self._policy = parse_policy(settings or {}, share)
        self.grantable = grantable(settings or {})
        """Entitlements that requests may have."""
        self._running: dict[str, asyncio.Task[object]] = {}
        self._measuring: asyncio.Task[None] | None = None
        self._measured: dict[str, float] = {}
        """When each cache mount was measured last, in seconds since the epoch."""
        for left in self.exec_root.glob("build-*"):
            shutil.rmtree(left, ignore_errors=True)
        self._contexts = core.store.root / "contexts"
        shutil.rmtree(self._contexts, ignore_errors=True)  # of a killed engine's builds
        self._contexts.mkdir(mode=0o700)
        spread(self._contexts)
        self.directories = ClientDirectories(self._contexts, core.store.trash)

    @property
    def cdi_spec_dirs(self) -> tuple[str, ...]:
        """Directories of the files that describe devices."""
        return self._core.options.cdi_spec_dirs

    # -- contexts ------------------------------------------------------------------------

    @asynccontextmanager
    async def receive(
        self, stream: AsyncIterable[bytes], dockerfile: str = "Dockerfile"
    ) -> AsyncIterator[Context]:
        """A context that comes as a tar, until the build is over."""
        target = self._contexts / new_id()
        job = ReceiveContext(
            target=str(target), limits=self.store.layers.limits, dockerfile=dockerfile
        )
        try:
            yield _context(target, await run_fed(self.store.workers, job, stream))
        finally:
            self.directories.discard(target)

    @asynccontextmanager
    async def check_out(
        self, url: str, dockerfile: str = "Dockerfile", secrets: Secrets | None = None
    ) -> AsyncIterator[Context]:
        """A context that is a folder of a git repository, until the build is over. NotFound for a
        missing ref or folder, Unavailable."""
        target = self._contexts / new_id()
        try:
            target.mkdir(mode=0o755)
            source = GitSource(self.store, secrets or NoSecrets())
            await source.check_out(parse_git_url(url), target)
            job = OpenContext(target=str(target), dockerfile=dockerfile)
            yield _context(target, await self.store.workers.run(job))
        finally:
            self.directories.discard(target)

    # -- building ------------------------------------------------------------------------

    @asynccontextmanager
    async def session(
        self, request: BuildRequest, report: Report = silent, pulls: PullReport = quiet
    ) -> AsyncIterator[Session]:
        """Read the Dockerfile and plan the build; nothing is solved yet.

        DockerfileError, NotFound and what pulling raises. What is made is owned by a lease that
        ends with the session; cache records own it then.
        """
        plan = await self.plan(request, pulls)
        async with self.workspace(request.inputs, report) as work:
            yield Session(
                plan=plan, build=work.build, lease=work.lease, runner=work.runner, request=request,
                digests=work.digests, started=work.started,
            )  # fmt: skip

    async def plan(self, request: BuildRequest, pulls: PullReport = quiet) -> Plan:
        """The plan of a Dockerfile; see :meth:`session` for what it raises."""
        dockerfile = syntax.parse(request.dockerfile, request.file)
        return await convert(dockerfile, request.frontend, self.resolver(request, pulls))

    def resolver(self, request: BuildRequest, pulls: PullReport = quiet) -> ImageResolver:
        return _Resolver(self._images, request, pulls)

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Keeps what a build makes; blobs that nobody has taken over go with it."""
        blobs: list[Ref] = []
        try:
            with self.store.lease("build") as lease:
                try:
                    yield lease
                finally:
                    blobs = self.store.db.refs.targets(lease.ref, "blob")
        finally:
            try:
                if gc.release(self.store, blobs):
                    forget_lost(self.store)
            except SystemFailure as err:  # a full disk; the next collection takes them
                log.warning("%s", err)

    @asynccontextmanager
    async def workspace(
        self, inputs: BuildInputs, report: Report = silent
    ) -> AsyncIterator[Workspace]:
        """A solver whose results last as long as this, or are kept by the cache."""
        with self.lease() as lease:
            committer = LayerCommitter(self.store, lease.ref)
            runner = StepRunner(self._core, self.cache, committer)
            operations = OperationSet(
                self.store, _Chains(self._images), runner, committer, inputs,
                HttpSource(self.store), self._memo, self.directories,
            )  # fmt: skip
            build = Build(self._solver, operations.operations(), new_id(), report)
            if inputs.cache_from:
                build.remote = RemoteCaches(
                    self._images, self.cache, lease, inputs.cache_from, inputs.auths,
                    inputs.importing,
                )  # fmt: skip
            try:
                yield Workspace(build=build, lease=lease, runner=runner, digests=operations.digests)
            finally:
                await build.close()
                await build.landed()
                await operations.close()
        await self.tidy()

    async def result(self, session: Session) -> PlatformResult:
        """Execute a session's plan; returns its result."""
        comment = session.request.frontend.phrases.comment
        return await self.plan_result(session.plan, session, comment)

    async def plan_result(self, plan: Plan, work: Workspace, comment: str = "") -> PlatformResult:
        """Execute a plan; returns its result."""
        if plan.output is not None:
            await work.build.solve(plan.output)
        return await plan_result(plan, work.build, self._images.catalogue, comment)

    async def attested(
        self, work: Workspace, result: PlatformResult, attests: Mapping[str, str],
        capture: Capture,
    ) -> PlatformResult:  # fmt: skip
        """A result with the attestations asked for. ``attests`` are the frontend's attributes
        ``attest:provenance`` and ``attest:sbom`` without their prefix. InvalidParameter."""
        from portside.builder.attestations.attest_options import check_attests, has_sbom
        from portside.builder.attestations.provenance import ProvenanceOptions, provenance
        from portside.builder.attestations.sbom import sbom

        check_attests(attests)
        found = list(result.attestations)
        if has_sbom(attests):
            found.append(await sbom(self.store, result.tree, time.time()))
        if "provenance" in attests:
            options = ProvenanceOptions.parse(attests["provenance"])
            if options is not None:
                layers = await self._layers(work, result, capture) if options.is_max else {}
                done = replace(capture, finished=time.time(), layers=layers)
                found.append(provenance(done, options))
        return replace(result, attestations=tuple(found))

    async def _layers(
        self, work: Workspace, result: PlatformResult, capture: Capture
    ) -> dict[str, list[Descriptor]]:
        """By a vertex's digest: its layers in the image, for vertices that the image is made of."""
        if capture.output is None or not result.tree.chain:
            return {}
        blobs = await LayerBlobs(self.store, work.lease.ref).of_chain(
            result.tree.chain, LayerForm(compression=Compression()), result.base_layers
        )
        parts = [blob.descriptor for blob in blobs]
        stack = reversed(self.store.layers.stack(Digest(result.tree.chain)))
        heights = {str(layer.chain): number + 1 for number, layer in enumerate(stack)}
        found = {}
        for vertex in llb.walk([capture.output]):
            tree = work.build.tree_of(vertex)
            if tree is not None and tree.chain in heights:
                found[vertex.digest] = parts[: heights[tree.chain]]
        return found

    async def deliver(
        self,
        result: BuildResult,
        requests: Sequence[ExportRequest],
        lease: Lease,
        *,
        auths: Mapping[str, AuthConfig] | None = None,
        epoch: int | None = None,
        cache_to: Sequence[CacheRequest] = (),
        report: PullReport = quiet,
    ) -> list[dict[str, str]]:
        """Give a result to every exporter and cache exporter asked for; each exporter's answer in
        BuildKit's keys, and last what the cache exporters answered.

        ``epoch`` is the build's SOURCE_DATE_EPOCH, ``auths`` credentials by registry. Raises
        InvalidParameter for a bad request before anything is exported.
        """
        targets = [parse_target(target) for target in cache_to]
        exporter = CacheExporter(self._images, self.cache, lease, auths or {})
        if any(target.request.type == "inline" for target in targets):
            platforms = tuple(_with_inline(item, exporter) for item in result.platforms)
            result = BuildResult(platforms=platforms, is_multi=result.is_multi)
        delivery = Delivery(self._images, lease, auths or {}, report)
        answers = await delivery.deliver(result, requests, epoch)
        if targets:
            records = [record for item in result.platforms for record in item.records]
            chains = [item.tree.chain for item in result.platforms]
            answers.append(await exporter.export(targets, records, chains))
        await self.store.settle()
        return answers

    async def export(self, session: Session, options: ExportOptions) -> str:
        """The image of a session's plan; its ID."""
        result = BuildResult(platforms=(await self.result(session),))
        delivery = Delivery(self._images, session.lease, session.request.auths)
        answer = await delivery.one(result, options)
        return answer["containerimage.digest"]

    async def take_from_images(self, session: Session, names: Sequence[str]) -> frozenset[int]:
        """Let a session have the results of the steps that images here were made by; the ``id``
        of each such step."""
        from portside.builder.cache.image_history import ImageHistories

        return await ImageHistories(self._images, names).give(session.plan, session.build)

    def register(self, identifier: str, task: asyncio.Task[object]) -> Callable[[], None]:
        """Let ``/build/cancel`` find a build; what is returned ends that."""
        self._running[identifier] = task

        def forget() -> None:
            self._running.pop(identifier, None)

        return forget

    def cancel(self, identifier: str) -> bool:
        task = self._running.get(identifier)
        if task is not None:
            task.cancel()
        return task is not None

    # -- the cache -----------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The rules that keep the cache within its bounds."""
        return self._policy

    async def usage(self) -> list[CacheRecord]:
        """All records, and the kept directories of clients, with their sizes now."""
        await self._measure()
        return self._records()

    async def _measure(self, patience: float | None = None) -> bool:
        """Measure cache mounts, which steps may be writing to, and clients' directories that have
        changed. With ``patience``: only what was used more than so many seconds after it was
        measured last. Whether there was anything."""
        found = False
        for record in self.cache.all():
            before = 0 if patience is None else self._measured.get(record.id, 0)
            if record.type == CACHE_MOUNT and _is_due(before, record.used, patience):
                directory = cache_directory(self.store.root, record.id)
                self._measured[record.id] = time.time()
                size: int = await self.store.workers.run(Measure(path=str(directory)))
                self.cache.resize(record.id, size)
                found = True
        for kept in self.directories.idle():
            if _is_due(kept.measured, kept.used, patience):
                kept.measured = time.time()
                kept.size = await self.store.workers.run(Measure(path=str(kept.path)))
                found = True
        return found

    def _records(self) -> list[CacheRecord]:
        """All records, with sizes as they were measured last."""
        locals_ = [
            CacheRecord(
                id=found.id, description=f"local source for {found.name}", type=LOCAL,
                size=found.size, created=found.created, used=found.used, count=found.count,
            )
            for found in self.directories.idle()
        ]  # fmt: skip
        return [*self.cache.all(), *locals_]

    async def tidy(self) -> None:
        """Keep the cache within its bounds; what running builds use stays. What was not measured
        for long is measured meanwhile: nobody waits for it."""
        if not self._policy.rules:
            return
        await self._apply_rules()
        if self._measuring is None:
            self._measuring = asyncio.create_task(self._tidy_measured())

    async def _apply_rules(self) -> None:
        records = self._records()
        for rule in self._policy.rules:
            if gone := self._chosen(rule, records):
                await self._drop(gone)
                records = self._records()

    async def _tidy_measured(self) -> None:
        try:
            with teardown(log, "measure the build cache"):
                if await self._measure(STALE):
                    await self._apply_rules()
        finally:
            self._measuring = None

    async def prune(
        self,
        *,
        all: bool = False,
        keep: int = 0,
        until: float = 0,
        ids: tuple[str, ...] = (),
    ) -> tuple[list[str], int]:
        """:meth:`prune_by` for records with these IDs, down to ``keep`` bytes."""
        filters = {"id": ids} if ids else {}
        return await self.prune_by(PruneRule(all=all, max_used=keep, until=until, filters=filters))

    async def prune_by(self, rule: PruneRule) -> tuple[list[str], int]:
        """Delete what a rule names and no build uses: IDs, and bytes freed."""
        await self.usage()
        if rule.all:
            self.directories.forget_open()
        gone = self._chosen(rule, self._records())
        await self._drop(gone)
        return [record.id for record in gone], sum(record.size for record in gone)

    def _chosen(self, rule: PruneRule, records: Sequence[CacheRecord]) -> list[CacheRecord]:
        """Forget the records that go for a rule, of all that there are; their layers are still
        there."""
        now = time.time()
        total = sum(record.size for record in records)
        free = shutil.disk_usage(self.store.root).free

        def wanted(record: CacheRecord) -> bool:
            return rule.names(
                record, now, is_shared=self.cache.is_shared, is_busy=self.cache.is_busy
            )

        return self.cache.evict(records, rule.keep(total, free) or -1, wanted=wanted)

    async def _drop(self, gone: list[CacheRecord]) -> None:
        for record in gone:
            if record.type == CACHE_MOUNT:
                self.store.trash.discard(cache_directory(self.store.root, record.id))
            elif record.type == LOCAL:
                self.directories.remove(record.id)
        if gone:
            await self.store.collect()
            forget_lost(self.store)

    async def close(self) -> None:
        """Stop what runs; contexts go."""
        tasks: list[asyncio.Task[Any]] = list(self._running.values())
        if self._measuring is not None:
            tasks.append(self._measuring)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.directories.clear()
        with teardown(log, f"remove {self._contexts}"):
            self._contexts.rmdir()


def _with_inline(item: PlatformResult, exporter: CacheExporter) -> PlatformResult:
    text = exporter.inline(item.records, item.tree.chain)
    return replace(item, config=msgspec.structs.replace(item.config, inline_cache=text))


def _context(target: Path, found: Received) -> Context:
    ignore = Ignore(read_patterns(found.ignore)) if found.ignore else None
    return Context(tree=Tree(directory=str(target)), dockerfile=found.dockerfile, ignore=ignore)


class _Chains:
    def __init__(self, images: ImageService) -> None:
        self._images = images

    def chain(self, image_id: str) -> str:
        diff_ids = self._images.get(image_id).config.diff_ids
        return str(chain_id(diff_ids)) if diff_ids else ""


class _Resolver:
    """Finds base images here, or pulls them."""

    def __init__(self, images: ImageService, request: BuildRequest, pulls: PullReport) -> None:
        self._images, self._request, self._pulls = images, request, pulls

    async def resolve(self, ref: str, platform: Platform) -> ResolvedImage:
        with self._request.resolving(ref):
            return await self._resolved(ref, platform)

    async def _resolved(self, ref: str, platform: Platform) -> ResolvedImage:
        image = None if self._request.pull else self._local(ref, platform)
        if image is None:
            image = await self._pulled(ref, platform)
        if not image.is_unpacked:
            image = await self._images.unpack(image)
        # by the manifest: an index does not say which of its platforms is meant
        identifier = image.manifest.digest if image.manifest else image.id
        return ResolvedImage(f"{ref.partition('@')[0]}@{image.id}", image.config, identifier)

    def _local(self, ref: str, platform: Platform) -> Image | None:
        if _SHORT.fullmatch(ref):  # a name, not the beginning of whatever image's ID
            ref = str(Reference.parse(ref).tagged())
        try:
            return self._images.get(ref, platform)
        except NotFound:
            pass
        try:
            image = self._images.get(ref)
        except NotFound:
            return None
        if platform.matches(image.platform) or not self._request.frontend.show_platform:
            return image
        return None

    async def _pulled(self, ref: str, platform: Platform) -> Image:
        reference = Reference.parse(ref)
        auth = self._request.auths.get(reference.domain)
        if auth is None and self._request.credentials is not None:
            auth = await self._request.credentials(reference.domain)
        image = await self._images.pull(str(reference), platform, auth, self._pulls)
        if image is None:
            raise NotFound(f"No such image: {ref}")
        return image


def _is_due(measured: float, used: float, patience: float | None) -> bool:
    return not measured or used > measured + (patience or 0)


def until_of(seconds: float) -> float:
    """The moment that many seconds ago."""
    return time.time() - seconds


__all__ = ["CONTEXT", "KIND", "BuildRequest", "BuildService", "Context", "StepSettings", "llb"]
