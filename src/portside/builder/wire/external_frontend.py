"""A frontend that is an image: ``# syntax=IMAGE``, ``BUILDKIT_SYNTAX``, ``gateway.v0``.

Its container is a build step's, as isolated as one and without the client's secrets. It is a client
of ``LLBBridge`` over its standard input and output, and hands its result back with ``Return``. What
it writes to standard error is shown with its step.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from portside.builder import llb
from portside.builder.solver.build_events import Log
from portside.builder.solver.log_clip import LogClip, LogLimits
from portside.builder.solver.step_container import ProcessIO, StepProcess, frames_of
from portside.builder.solver.step_runner import StepSettings
from portside.builder.wire.bridge_caller import Caller
from portside.builder.wire.build_job import BuildJob, Result
from portside.builder.wire.grpc_transport import GrpcServer, paired_transport
from portside.builder.wire.progress_log import InternalStep
from portside.model.errors import InvalidParameter, NotImplementedHere, PortsideError, SystemFailure
from portside.model.image import ImageConfig, RunConfig
from portside.model.platform import Platform

PRODUCT = "docker"
"""The product that frontends name in their advice to update."""
NO_NETWORK = "moby.buildkit.frontend.network.none"
CAPS = "moby.buildkit.frontend.caps"
"""Labels of a frontend's image."""
INPUTS = "moby.buildkit.frontend.inputs"
MAX_DEPTH = 8
"""Frontends one inside the other."""
MAX_FRONTENDS = 64
"""Calls of frontends in one build."""
_GRACE = 5.0
"""Seconds that a frontend may take to end after its result, or after it closed its output."""
_PIECE = 64 << 10
_SHOWN_OUTPUT = 2 << 10
"""Bytes of its last output that an error shows."""


class ExternalFrontend:
    """One call of such a frontend."""

    def __init__(
        self, caller: Caller, source: str, attrs: Mapping[str, str], inputs: Mapping[str, Any],
        serve: Callable[[Caller], GrpcServer], workers: Callable[[], str],
    ) -> None:  # fmt: skip
        """``serve`` makes the services for a caller; ``workers`` is ``BUILDKIT_WORKERS``."""
        self._caller, self._source, self._attrs = caller, source, attrs
        self._inputs, self._serve, self._workers = inputs, serve, workers
        self._job: BuildJob = caller.job
        self._last_output = b""

    async def run(self) -> Result:
        """SystemFailure for a frontend that ends without a result; what the frontend returned as
        its error; what pulling raises."""
        job = self._job
        if self._caller.depth >= MAX_DEPTH:
            raise InvalidParameter(
                f"the frontend {self._source} is called by frontends {MAX_DEPTH} deep: they call "
                "each other without end"
            )
        job.frontends += 1
        if job.frontends > MAX_FRONTENDS:
            raise InvalidParameter(f"a build has at most {MAX_FRONTENDS} frontends")
        output, config = await self._image()
        self._check_caps(config)
        op = self._operation(config)
        tree = await job.solved(output)
        assert job.work is not None
        title = f"[internal] frontend {self._source}"
        returned: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        mine = Caller(job=job, returned=returned, inputs=self._inputs, depth=self._caller.depth + 1)
        try:
            with job.progress.step(title) as step:
                async with (
                    job.work.runner.container(op, [tree], StepSettings()) as container,
                    container.running(op, ProcessIO(stdin=True, marks_end=True)) as process,
                ):
                    await self._converse(process, mine, step)
            return await returned
        finally:
            returned.cancel()
            if returned.done() and not returned.cancelled():
                returned.exception()  # read by nobody when the build was cancelled meanwhile
            await mine.containers.close()

    async def _image(self) -> tuple[llb.Output, ImageConfig]:
        from dataclasses import replace

        job = self._job
        platform = Platform.host()
        with job.progress.step(f"resolve image config for docker-image://{self._source}") as step:
            request = replace(job.image_request(), resolving=lambda _: nullcontext())
            found = await job.service.resolver(request, step.pulling).resolve(
                self._source, platform
            )
        name = f"docker-image://{found.ref}"
        return llb.image(found.ref, platform, name=name), found.config

    def _check_caps(self, config: ImageConfig) -> None:
        labels = (config.config or RunConfig()).labels or {}
        known = _caps(labels.get(CAPS, ""))
        wanted = _caps(self._attrs.get("frontend.caps", ""))
        if self._inputs:
            wanted.add(INPUTS)
        for name in sorted(wanted - known):
            raise NotImplementedHere(
                f"the frontend {self._source} does not have the capability {name}, which the "
                "request needs"
            )

    def _operation(self, config: ImageConfig) -> llb.ExecOp:
        own = config.config or RunConfig()
        args = (*(own.entrypoint or ()), *(own.cmd or ()))
        if not args:
            raise InvalidParameter(
                f"{self._source} is not a frontend: its image has neither ENTRYPOINT nor CMD"
            )
        options = [f"{key}={value}" for key, value in sorted(self._attrs.items())]
        for text in options:
            if "\0" in text:
                raise InvalidParameter("an attribute of the build has a null byte in it")
        env = (
            *(own.env or ()),
            *(f"BUILDKIT_FRONTEND_OPT_{n}={text}" for n, text in enumerate(options)),
            f"BUILDKIT_SESSION_ID={self._job.request.Session}",
            f"BUILDKIT_WORKERS={self._workers()}",
            f"BUILDKIT_EXPORTEDPRODUCT={PRODUCT}",
        )
        offline = (own.labels or {}).get(NO_NETWORK, "").lower() in ("1", "t", "true")
        return llb.ExecOp(
            meta=llb.Meta(args=args, env=env, cwd=own.working_dir or "/"),
            mounts=(llb.Mount(dest="/", input=0),),
            network="none" if offline else "sandbox",
        )

    # -- the conversation ----------------------------------------------------------------

    async def _converse(self, process: StepProcess, mine: Caller, step: InternalStep) -> None:
        """Serve the frontend until it has ended; at most :data:`_GRACE` longer than its result or
        its connection. SystemFailure when there is no result then."""
        loop = asyncio.get_running_loop()
        transport, peer = await paired_transport()
        peer.setblocking(False)
        process.sock.setblocking(False)
        server = self._serve(mine)
        server.serve(transport)

        async def requests() -> None:
            while data := await loop.sock_recv(peer, _PIECE):
                await loop.sock_sendall(process.sock, data)

        async def gone() -> int:
            return (await process.wait()).code

        answers = loop.create_task(_quietly(requests()))
        closed = asyncio.Event()
        output = loop.create_task(_quietly(self._output(process, peer, step, closed)))
        requests_ended = loop.create_task(closed.wait())
        ended = loop.create_task(gone())
        try:
            first: set[asyncio.Future[Any]] = {
                ended, answers, output, requests_ended, mine.returned,
            }  # fmt: skip
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({ended}, timeout=_GRACE)
            if ended.done():
                await asyncio.wait({output}, timeout=_GRACE)
            if not mine.returned.done():
                self._fail(ended.result() if ended.done() else None)
        finally:
            tasks = (answers, output, requests_ended, ended)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.close()
            transport.close()
            peer.close()

    async def _output(
        self, process: StepProcess, peer: Any, step: InternalStep, closed: asyncio.Event
    ) -> None:
        """Frames of its output: requests to the server, errors to the build's progress. ``closed``
        is set when standard output has ended; standard error is read to its end."""
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_unix_connection(sock=process.sock.dup())
        clip = LogClip(LogLimits.of_environment())
        try:
            async for stream, data in frames_of(reader, _PIECE):
                if stream == 1 and not data:
                    closed.set()
                elif stream == 1:
                    await loop.sock_sendall(peer, data)
                else:
                    self._last_output = (self._last_output + data)[-_SHOWN_OUTPUT:]
                    if shown := clip(data):
                        self._job.progress.on_event(Log(step.vertex, 2, shown))
        finally:
            writer.close()

    def _fail(self, code: int | None) -> None:
        why = "closed its connection" if code is None else f"ended with exit code {code}"
        text = f"the frontend {self._source} {why} before it returned a result"
        output = self._last_output.decode("utf-8", "replace").strip()
        raise SystemFailure(f"{text}: {output}" if output else text)


async def _quietly(work: Any) -> None:
    """The other side may go at any time."""
    try:
        await work
    except (OSError, PortsideError):
        return


def _caps(text: str) -> set[str]:
    return {word.partition("+")[0].strip() for word in text.split(",") if word.strip()}


def workers_json(record: Any) -> str:
    """A worker as ``BUILDKIT_WORKERS`` has it."""
    platforms = []
    for each in record.platforms:
        variant = {"variant": each.Variant} if each.Variant else {}
        platforms.append({"architecture": each.Architecture, "os": each.OS, **variant})
    version = record.BuildkitVersion
    known = {"package": version.package, "version": version.version, "revision": version.revision}
    found = {
        "id": record.ID, "labels": dict(record.Labels), "platforms": platforms, "gcPolicy": None,
        "buildkitVersion": known,
    }  # fmt: skip
    return json.dumps([found], separators=(",", ":"))
