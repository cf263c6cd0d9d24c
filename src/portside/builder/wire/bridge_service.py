"""``moby.buildkit.v1.frontend.LLBBridge``: what a frontend asks of the engine during a build.

The client of a build is a frontend itself: its calls name the build in their metadata. A frontend
in a container has its own connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from portside.builder import llb
from portside.builder.cache.pruning import Policy
from portside.builder.solver.git_source import GitSource, git_source
from portside.builder.solver.http_source import HttpSource
from portside.builder.wire.bridge_caller import Caller, FrontendSolver
from portside.builder.wire.build_job import BuildJob, Reference, Result
from portside.builder.wire.definition_encoder import encode
from portside.builder.wire.gateway_files import ListDirectory, ReadPart, StatPath, in_tree
from portside.builder.wire.grpc_transport import Service
from portside.builder.wire.proto import caps_pb2, control_pb2, fstypes_pb2, ops_pb2
from portside.builder.wire.proto import gateway_pb2 as pb
from portside.builder.wire.wire_errors import ClientError
from portside.builder.wire.worker_record import worker_record
from portside.model.errors import InvalidParameter, PortsideError
from portside.model.image import encode as encode_image
from portside.model.platform import Platform

ALGORITHMS = ("sha256", "sha384", "sha512")
"""Digests of files of the web that clients can ask for, by number."""
MAX_WARNINGS = 1000
MAX_WARNING = 4 << 20
"""Bytes of one with the file that it is about, as large as one may be."""
FRONTEND_CAPS = """solve.base solve.inlinereturn resolveimage resolveimage.resolvemode readfile
return returnmap readdir statfile importcaches proto.refarray reference.output frontend.inputs
gateway.solve.metadata frontend.caps gateway.solve.evaluate gateway.evaluate gateway.warnings
reference.attestations source.metaresolver gateway.exec gateway.exec.extrahosts
gateway.exec.signals gateway.exec.secretenv""".split()
LLB_CAPS = """source.image source.image.resolvemode source.image.checksum source.local
source.local.unique source.local.sessionid source.local.includepatterns source.local.followpaths
source.local.excludepatterns source.local.sharedkeyhint source.local.differ source.http
source.http.checksum source.http.perm soruce.http.uidgid source.git source.git.keepgitdir
source.git.fullurl source.git.httpauth source.git.checksum source.git.knownsshhosts
source.git.mountsshsock source.buildop.llbfilename exec.meta.base exec.meta.cgroup.parent
exec.meta.network exec.meta.proxyenv exec.meta.security exec.meta.setsdefaultpath exec.meta.ulimit
exec.meta.cdi exec.meta.removemountstubs.recursive exec.mount.bind exec.mount.bind.readwrite-
nooutput exec.mount.cache exec.mount.cache.sharing exec.mount.selector exec.mount.tmpfs
exec.mount.tmpfs.size exec.mount.secret exec.mount.ssh exec.cgroup exec.secretenv exec.validexitcode
file.base file.rm.wildcard file.copy.includeexcludepatterns file.copy.alwaysreplaceexistingdestpaths
file.copy.modestring file.symlink.create constraints platform meta.ignorecache meta.description
meta.exportcache mergeop diffop exporter.image.annotations exporter.image.attestations
exporter.sourcedateepoch exporter.multiple gc.freespacefilter history.filter""".split()


class BridgeService:
    def __init__(
        self, caller: Callable[[Any], Awaitable[Caller]], labels: Mapping[str, str],
        frontends: FrontendSolver,
    ) -> None:  # fmt: skip
        """``caller`` finds by a call's metadata who it is from; ``frontends`` runs what it
        calls."""
        self._caller, self._labels, self._frontends = caller, labels, frontends

    def service(self) -> Service:
        found = Service("moby.buildkit.v1.frontend.LLBBridge")
        for name, work in (
            ("Ping", self.ping), ("Solve", self.solve), ("Return", self.return_),
            ("ReadFile", self.read_file), ("ReadDir", self.read_directory),
            ("StatFile", self.stat_file), ("Evaluate", self.evaluate), ("Inputs", self.inputs),
            ("Warn", self.warn), ("ResolveImageConfig", self.image_config),
            ("ResolveSourceMeta", self.source_meta), ("NewContainer", self.new_container),
            ("ReleaseContainer", self.release_container),
        ):  # fmt: skip
            reply = {"Ping": "Pong"}.get(name, name)
            found.unary(name, work, getattr(pb, f"{name}Request"), getattr(pb, f"{reply}Response"))
        found.stream("ExecProcess", self.execute, pb.ExecMessage, pb.ExecMessage, both=True)
        return found

    async def _job(self, metadata: Any) -> BuildJob:
        return (await self._caller(metadata)).job

    async def ping(self, _: Any, metadata: Any) -> Any:
        await self._job(metadata)

        def caps(names: list[str]) -> list[Message]:
            return [caps_pb2.APICap(ID=name, Enabled=True) for name in names]

        return pb.PongResponse(
            FrontendAPICaps=caps(FRONTEND_CAPS), LLBCaps=caps(LLB_CAPS),
            Workers=[worker_record(self._labels, Policy())],
        )  # fmt: skip

    # -- results -------------------------------------------------------------------------

    async def solve(self, request: Any, metadata: Any) -> Any:
        caller = await self._caller(metadata)
        job = caller.job
        try:
            result = await self._solved(caller, request)
        except PortsideError as err:
            raise job.failure(err) from err
        if request.Evaluate:
            for reference in result.refs.values():
                await job.tree(reference)
        return pb.SolveResponse(result=_encoded(result))

    async def _solved(self, caller: Caller, request: Any) -> Result:
        if request.Frontend:
            attrs, inputs = dict(request.FrontendOpt), dict(request.FrontendInputs)
            return await self._frontends(caller, request.Frontend, attrs, inputs)
        return await caller.job.solved_definition(request.Definition)

    async def return_(self, request: Any, metadata: Any) -> Any:
        caller = await self._caller(metadata)
        if caller.returned.done():
            raise InvalidParameter("the build has its result already")
        if request.HasField("error"):
            caller.returned.set_exception(ClientError(request.error))
        else:
            caller.returned.set_result(_decoded(caller.job, request.result))
        return pb.ReturnResponse()

    async def evaluate(self, request: Any, metadata: Any) -> Any:
        job = await self._job(metadata)
        await job.tree(job.reference(request.Ref))
        return pb.EvaluateResponse()

    async def inputs(self, _: Any, metadata: Any) -> Any:
        caller = await self._caller(metadata)
        return pb.InputsResponse(Definitions=dict(caller.inputs))

    # -- files of results ----------------------------------------------------------------

    async def read_file(self, request: Any, metadata: Any) -> Any:
        job = await self._job(metadata)
        part = ReadPart(
            source=await in_tree(job, request.Ref), path=request.FilePath,
            offset=request.Range.Offset, length=request.Range.Length,
        )  # fmt: skip
        return pb.ReadFileResponse(Data=await job.service.store.workers.run(part))

    async def read_directory(self, request: Any, metadata: Any) -> Any:
        job = await self._job(metadata)
        listing = ListDirectory(
            source=await in_tree(job, request.Ref), path=request.DirPath,
            pattern=request.IncludePattern,
        )  # fmt: skip
        found = await job.service.store.workers.run(listing)
        return pb.ReadDirResponse(entries=[fstypes_pb2.Stat.FromString(item) for item in found])

    async def stat_file(self, request: Any, metadata: Any) -> Any:
        job = await self._job(metadata)
        found = await job.service.store.workers.run(
            StatPath(source=await in_tree(job, request.Ref), path=request.Path)
        )
        return pb.StatFileResponse(stat=fstypes_pb2.Stat.FromString(found))

    # -- sources -------------------------------------------------------------------------

    async def image_config(self, request: Any, metadata: Any) -> Any:
        job = await self._job(metadata)
        ref, digest, config = await self._image(job, request.Ref, request)
        return pb.ResolveImageConfigResponse(Ref=ref, Digest=digest, Config=config)

    async def source_meta(self, request: Any, metadata: Any) -> Any:
        job = await self._job(metadata)
        identifier = request.Source.identifier
        if identifier.startswith(llb.GIT):
            return await _git_metadata(job, request)
        if identifier.startswith((llb.HTTP, llb.HTTPS)):
            return await _http_metadata(job, request)
        if not identifier.startswith(llb.IMAGE):
            return pb.ResolveSourceMetaResponse(Source=request.Source)
        name = identifier.removeprefix(llb.IMAGE)
        ref, digest, config = await self._image(job, name, request)
        source = ops_pb2.SourceOp(identifier=llb.IMAGE + ref, attrs=dict(request.Source.attrs))
        return pb.ResolveSourceMetaResponse(
            Source=source, Image=pb.ResolveSourceImageResponse(Digest=digest, Config=config)
        )

    async def _image(self, job: BuildJob, name: str, request: Any) -> tuple[str, str, bytes]:
        platform = Platform.host()
        if request.HasField("Platform"):
            p = request.Platform
            platform = Platform(os=p.OS, architecture=p.Architecture, variant=p.Variant)
        pull = request.ResolveMode == "pull"
        resolver = job.service.resolver(job.image_request(pull=pull), job.pulling)
        try:
            found = await resolver.resolve(name, platform)
        except PortsideError as err:
            raise job.failure(err) from err
        digest = found.ref.rpartition("@")[2]
        return found.ref, digest, encode_image(found.config)

    # -- others --------------------------------------------------------------------------

    async def warn(self, request: Any, metadata: Any) -> Any:
        job = await self._job(metadata)
        if job.progress.warnings >= MAX_WARNINGS or request.ByteSize() > MAX_WARNING:
            raise InvalidParameter(
                f"a build has at most {MAX_WARNINGS} warnings of {MAX_WARNING} bytes"
            )
        warning = control_pb2.VertexWarning(
            vertex=request.digest, level=request.level, short=request.short,
            detail=request.detail, url=request.url, info=request.info, ranges=request.ranges,
        )  # fmt: skip
        job.progress.warnings += 1
        job.progress.put(control_pb2.StatusResponse(warnings=[warning]))
        return pb.WarnResponse()

    async def new_container(self, request: Any, metadata: Any) -> Any:
        caller = await self._caller(metadata)
        try:
            await caller.containers.new(request)
        except PortsideError as err:
            raise caller.job.failure(err) from err
        return pb.NewContainerResponse()

    async def release_container(self, request: Any, metadata: Any) -> Any:
        caller = await self._caller(metadata)
        await caller.containers.release(request.ContainerID)
        return pb.ReleaseContainerResponse()

    async def execute(self, stream: Any) -> None:
        caller = await self._caller(stream.metadata)
        await caller.containers.execute(stream)


async def _git_metadata(job: BuildJob, request: Any) -> Any:
    """Which commit a repository's ref is now."""
    op = llb.SourceOp(identifier=request.Source.identifier, attrs=dict(request.Source.attrs))
    url, _ = git_source(op)
    source = GitSource(job.service.store, job.inputs.settings.secrets)
    try:
        found = await source.described(url, objects=request.Git.ReturnObject)
    except PortsideError as err:
        raise job.failure(err) from err
    commit, tag = (*found.objects, "", "")[:2]
    answer = pb.ResolveSourceGitResponse(
        Checksum=found.checksum, Ref=found.ref, CommitChecksum=found.commit,
        CommitObject=commit.encode("utf-8", "surrogateescape"),
        TagObject=tag.encode("utf-8", "surrogateescape"),
    )  # fmt: skip
    return pb.ResolveSourceMetaResponse(Source=request.Source, Git=answer)


async def _http_metadata(job: BuildJob, request: Any) -> Any:
    """What a file of the web is now."""
    op = llb.SourceOp(identifier=request.Source.identifier, attrs=dict(request.Source.attrs))
    wanted = request.HTTP.ChecksumRequest
    algorithm = "" if not request.HTTP.HasField("ChecksumRequest") else ALGORITHMS[wanted.Algo]
    try:
        found = await HttpSource(job.service.store).described(op, algorithm, wanted.Suffix)
    except PortsideError as err:
        raise job.failure(err) from err
    answer = pb.ResolveSourceHTTPResponse(Checksum=found.checksum, Filename=found.filename)
    if found.modified:
        answer.LastModified.FromSeconds(int(found.modified))
    if algorithm:
        answer.ChecksumResponse.Digest = found.other
        answer.ChecksumResponse.Suffix = wanted.Suffix
    return pb.ResolveSourceMetaResponse(Source=request.Source, HTTP=answer)


def _encoded(result: Result) -> Any:
    found = pb.Result(metadata=result.metadata)
    for key, reference in result.refs.items():
        message = pb.Ref(id=reference.id)
        getattr(message, "def").CopyFrom(encode(reference.output))
        if result.is_multi:
            found.refs.refs[key].CopyFrom(message)
        else:
            found.ref.CopyFrom(message)
    return found


def _decoded(job: BuildJob, message: Any) -> Result:
    """A result that comes back from the client."""
    result = Result(metadata=dict(message.metadata))
    kind = message.WhichOneof("result")
    if kind == "ref" and message.ref.id:
        result.refs[""] = job.reference(message.ref.id)
    elif kind == "refDeprecated" and message.refDeprecated:
        result.refs[""] = job.reference(message.refDeprecated)
    elif kind == "refs":
        result.is_multi = True
        for key, ref in message.refs.refs.items():
            result.refs[key] = job.reference(ref.id) if ref.id else Reference(output=None)
    elif kind == "refsDeprecated":
        result.is_multi = True
        for key, identifier in message.refsDeprecated.refs.items():
            result.refs[key] = job.reference(identifier)
    return result
