"""The Dockerfile frontend as BuildKit's clients call it: ``dockerfile.v0`` with attributes.

It asks the client for the Dockerfile and its ignore file, plans the build for each platform, and
reports which files of the context the plan reads, so that no others are sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from portside.builder import llb
from portside.builder.attestations.provenance import redacted
from portside.builder.dockerfile import syntax
from portside.builder.dockerfile.diagnostics import DockerfileError, findings_of
from portside.builder.dockerfile.frontend_values import FrontendOptions, Plan
from portside.builder.dockerfile.lint import Warned
from portside.builder.dockerfile.syntax_line import SyntaxLine, is_built_in, named, syntax_line
from portside.builder.frontend_attrs import FrontendAttrs, context_for, parse_attrs
from portside.builder.llb import Output
from portside.builder.service import Context
from portside.builder.wire import definition_decoder, subrequests
from portside.builder.wire.build_job import BuildJob, Reference, Result
from portside.builder.wire.gateway_files import ReadPart, root_of
from portside.builder.wire.named_contexts import NamedContexts
from portside.builder.wire.progress_log import InternalStep, internal_vertex
from portside.builder.wire.wire_errors import SourceFile
from portside.model.dockerignore import Ignore, read_patterns
from portside.model.errors import InvalidParameter, NotFound, PortsideError
from portside.model.git_urls import is_git_url
from portside.model.image import History, ImageConfig, encode
from portside.model.platform import Platform
from portside.store.roots import missing, open_beneath

DOCKERFILE = "dockerfile.v0"
_MAIN = "context"
MAX_FILE = 4 << 20
"""Bytes of a Dockerfile or an ignore file."""


class Forwarded(NamedTuple):
    """A file that names another frontend, which is to be run in place of this one."""

    line: SyntaxLine
    is_argument: bool = False
    """The frontend was named by ``--build-arg BUILDKIT_SYNTAX``."""


class DockerfileFrontend:
    """One call of the frontend."""

    def __init__(self, job: BuildJob, attrs: Mapping[str, str], inputs: Mapping[str, Any]) -> None:
        self._job, self._raw, self._inputs = job, attrs, inputs
        self._attrs: FrontendAttrs = parse_attrs(attrs)
        self._context: Context | None = None
        """A main context that is not a directory of the client."""
        self._built: Output | None = None
        """A main context that is the result of the client's graph."""
        self._ignore = ""
        self._step: InternalStep | None = None

    async def run(self) -> Result | Forwarded:
        """The result, or which frontend is to be asked instead; DockerfileError, and what resolving
        images raises. A request that comes by another frontend (``cmdline``) is not sent on."""
        is_final = "cmdline" in self._raw
        asked = self._attrs.build_args.get("BUILDKIT_SYNTAX")
        if asked and not is_final:
            argument = named(asked)
            if not is_built_in(argument.image):
                return Forwarded(argument, is_argument=True)
            is_final = True
        data = await self._dockerfile()
        name = posixpath.basename(self._attrs.file) or "Dockerfile"
        if not data.strip():
            raise InvalidParameter("the Dockerfile cannot be empty")
        job = self._job
        job.source = SourceFile(name, data)
        line = None if is_final else syntax_line(data)
        if line is not None and not is_built_in(line.image):
            return Forwarded(line)
        try:
            parsed = syntax.parse(data, name)
        except DockerfileError as err:
            raise err.within(name, data.decode("utf-8", "surrogateescape")) from None
        if self._attrs.request:
            assert job.source is not None
            return await subrequests.answer(
                self._attrs.request, job.source, parsed, self._plan_for_checks
            )
        platforms = self._attrs.platforms or (Platform.host(),)
        plans = [await self._plan(data, name, platform) for platform in platforms]
        return job.remember(self._result(plans))

    async def _plan_for_checks(self) -> Plan:
        """The plan for the first platform, for questions about it."""
        assert self._job.source is not None
        platform = (self._attrs.platforms or (Platform.host(),))[0]
        return await self._plan(self._job.source.data, self._job.source.name, platform, warn=False)

    @property
    def job(self) -> BuildJob:
        return self._job

    # -- files of the client -------------------------------------------------------------

    async def _dockerfile(self) -> bytes:
        attrs = self._attrs
        if _MAIN in self._inputs:
            return await self._from_inputs()
        if attrs.context and not attrs.context.startswith("local:"):
            if is_git_url(attrs.context):
                return await self._repository(attrs.context)
            return await self._remote()
        name = attrs.file
        own_ignore = f"{name}.dockerignore"
        title = f"[internal] load build definition from {posixpath.basename(name)}"
        wanted = (name, own_ignore, name.lower())
        found = await self._read(attrs.dockerfile_name, wanted, title, "transferring dockerfile:")
        data = found.get(name)
        if data is None:
            data = found.get(name.lower()) if name == "Dockerfile" else None
        if data is None:
            raise NotFound(f"failed to read dockerfile: open {name}: no such file or directory")
        ignore = found.get(own_ignore)
        if ignore is None:
            title = "[internal] load .dockerignore"
            names = [".dockerignore"]
            files = await self._read(attrs.context_name, names, title, "transferring context:")
            ignore = files.get(".dockerignore")
        self._ignore = (ignore or b"").decode("utf-8", "surrogateescape")
        return data

    async def _read(
        self, directory: str, paths: Sequence[str], title: str, action: str
    ) -> dict[str, bytes]:
        """Files of a directory of the client; missing files are left out."""
        with self._job.progress.step(title) as step:
            size = 0

            def progress(received: int) -> None:
                nonlocal size
                size = received
                step.at(action, size)

            tree = await self._job.directory(
                directory, follow=tuple(paths), progress=progress, hint=title
            )
            read = {path: file_beneath(tree.directory, path) for path in paths}
            found = {path: data for path, data in read.items() if data is not None}
            step.at(action, sum(map(len, found.values())) or 2, done=True)
        return found

    async def _remote(self) -> bytes:
        """A context that is fetched, or that the client uploads; the Dockerfile is in it."""
        from portside.builder.remote_context import fetch
        from portside.builder.wire.session_uploads import PREFIX, pull

        url = self._attrs.context
        job = self._job
        if url.startswith(PREFIX):
            stream = pull(job.client(), url.removeprefix(PREFIX))
        elif url.startswith(("http://", "https://")):
            stream = fetch(url)
        else:
            raise InvalidParameter(f"the build context {url} is neither a URL nor a repository")
        with job.progress.step("[internal] load remote build context"):
            context = await job.stack.enter_async_context(
                job.service.receive(stream, self._attrs.file)
            )
        return self._has(context)

    async def _repository(self, url: str) -> bytes:
        """A context that is a folder of a git repository."""
        job = self._job
        with job.progress.step(f"[internal] load git source {redacted(url)}"):
            context = await job.stack.enter_async_context(
                job.service.check_out(url, self._attrs.file, job.inputs.settings.secrets)
            )
        return self._has(context)

    async def _from_inputs(self) -> bytes:
        """The context and the Dockerfile are results of the client's graph, as of a remote bake
        file whose context is a folder beside it."""
        self._built = await self._input(_MAIN)
        place = await self._input("dockerfile") if "dockerfile" in self._inputs else self._built
        name = self._attrs.file
        with self._job.progress.step(f"[internal] load build definition from {name}"):
            found = await self._files(place, name, f"{name}.dockerignore")
        if name not in found:
            raise NotFound(f"failed to read dockerfile: open {name}: no such file or directory")
        ignore = found.get(f"{name}.dockerignore")
        if ignore is None:
            ignore = (await self._files(self._built, ".dockerignore")).get(".dockerignore")
        self._ignore = (ignore or b"").decode("utf-8", "surrogateescape")
        return found[name]

    async def _input(self, name: str) -> Output:
        output = definition_decoder.decode(self._inputs[name])
        if output is None:
            raise InvalidParameter(f"the input {name} is empty")
        return await self._job.with_images(output)

    async def _files(self, output: Output, *paths: str) -> dict[str, bytes]:
        """Those files of a result that are there."""
        root = root_of(self._job, await self._job.solved(output))
        found = {}
        for path in paths:
            with contextlib.suppress(NotFound):
                part = ReadPart(source=root, path=path)
                found[path] = await self._job.service.store.workers.run(part)
        return found

    def _has(self, context: Context) -> bytes:
        """Use a context, and take the Dockerfile from it."""
        job = self._job
        self._context = context
        job.inputs.local[self._attrs.context_name] = context.tree
        if context.dockerfile is None:
            raise NotFound(
                f"failed to read dockerfile: open {self._attrs.file}: no such file or directory"
            )
        return context.dockerfile

    # -- planning ------------------------------------------------------------------------

    async def _plan(self, data: bytes, name: str, platform: Platform, *, warn: bool = True) -> Plan:
        job = self._job
        options = await self._options(platform)
        request = job.image_request(
            dockerfile=data, file=name, frontend=options, pull=self._attrs.pull
        )
        try:
            plan = await job.service.plan(request, job.pulling)
        except PortsideError as err:
            if warn:
                self._warn(findings_of(err))
            raise
        if warn:
            self._warn(plan.warnings)
        if plan.output is not None:
            self._note_paths(plan.output)
        return plan

    async def _options(self, platform: Platform) -> FrontendOptions:
        label = "[internal] load build context"
        ignore: Ignore | None
        if self._context is not None:
            ignore = self._context.ignore
        else:
            patterns = read_patterns(self._ignore)
            ignore = Ignore(patterns) if patterns else None
            if self._built is None:
                self._job.excludes[self._attrs.context_name] = tuple(patterns)
        contexts = NamedContexts(self._job, self._attrs.contexts, self._raw, self._inputs)
        return replace(
            self._attrs.options,
            context=self._built or llb.local(self._attrs.context_name, label=label),
            ignore=ignore,
            platform=platform,
            contexts=context_for(await contexts.of(platform), platform),
        )

    def _note_paths(self, output: llb.Output) -> None:
        """Ask only for what is copied; all of a directory that a step mounts."""
        wanted: dict[str, set[str] | None] = {}
        for vertex in llb.walk([output]):
            for number, item in enumerate(vertex.inputs):
                op = item.vertex.op
                if not isinstance(op, llb.SourceOp) or op.scheme != llb.LOCAL:
                    continue
                paths = _copied(vertex.op, number)
                known = wanted.setdefault(op.name, set())
                if paths is None or known is None:
                    wanted[op.name] = None
                else:
                    known |= paths
        for name, found in wanted.items():
            before = self._job.follow.get(name)
            if found is None or before == ():
                self._job.follow[name] = ()
            else:
                self._job.follow[name] = tuple(sorted({*found, *(before or ())}))

    def _warn(self, findings: Sequence[Warned]) -> None:
        source = self._job.source
        if findings and source is not None:
            vertex = internal_vertex("build checks")
            for warned in findings:
                self._job.progress.warn(vertex, warned, source)

    # -- the result ----------------------------------------------------------------------

    def _result(self, plans: Sequence[Plan]) -> Result:
        result = Result(is_multi=self._attrs.is_multi)
        named = []
        for plan in plans:
            identifier = str(plan.platform)
            config = encode(_config_of(plan))
            reference = Reference(
                output=plan.output, plan=plan, config=config, frontend=DOCKERFILE, attrs=self._raw
            )
            suffix = f"/{identifier}" if self._attrs.is_multi else ""
            result.refs[identifier if self._attrs.is_multi else ""] = reference
            result.platforms[identifier] = plan.platform
            result.metadata[f"containerimage.config{suffix}"] = config
            named.append({"ID": identifier, "Platform": _platform(plan.platform)})
        result.metadata["refs.platforms"] = json.dumps({"Platforms": named}).encode()
        return result


def _copied(op: llb.Op, number: int) -> set[str] | None:
    """Paths that an operation copies from its input; None for all."""
    if not isinstance(op, llb.FileOp):
        return None
    found: set[str] = set()
    for item in op.actions:
        if item.input == number:
            return None
        if item.secondary == number and isinstance(item.action, llb.CopyAction):
            path = posixpath.normpath(item.action.src).strip("/")
            if path in ("", "."):
                return None
            found.add(path)
    return found


def file_beneath(directory: str, path: str) -> bytes | None:
    """A small file of a client's directory, links followed beneath it; None when missing."""
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_beneath(root, "/" + path.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK)
    except OSError as err:
        if missing(err):
            return None
        raise
    finally:
        os.close(root)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise InvalidParameter(f"{path} is larger than {MAX_FILE} bytes")
    return data


def _config_of(plan: Plan) -> ImageConfig:
    """The image's configuration as far as it is known before its layers are made."""
    base = plan.base.config if plan.base is not None else ImageConfig()
    lines = [
        History(created_by=step.created_by, author=step.author, comment="buildkit.dockerfile.v0",
                empty_layer=step.output is None)
        for step in plan.history
    ]  # fmt: skip
    return ImageConfig(
        architecture=plan.platform.architecture,
        os=plan.platform.os,
        variant=plan.platform.variant,
        author=plan.author,
        config=plan.config,
        history=(*(base.history or ()), *lines),
        rootfs=base.rootfs,
    )


def _platform(platform: Platform) -> dict[str, str]:
    found = {"architecture": platform.architecture, "os": platform.os}
    return {**found, "variant": platform.variant} if platform.variant else found
