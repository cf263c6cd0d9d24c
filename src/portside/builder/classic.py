"""Docker's builder API before BuildKit: one request with a tar, one stream of messages.

The work is the solver's like any other build's; its messages follow the file, step by
step, in the words of that builder. Independent stages still run at the same time: what a later
step says is kept until its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from portside.builder import llb
from portside.builder.dockerfile.frontend_values import Plan, Step
from portside.builder.exporters.export_options import ExportOptions
from portside.builder.service import BuildRequest, BuildService, Session
from portside.builder.solver.build_events import Event, Log
from portside.builder.solver.step_runner import StepFailed
from portside.builder.solver.tree import digest_of
from portside.model.errors import NotFound, PortsideError
from portside.model.ids import new_id, short
from portside.model.progress import Progress
from portside.model.reference import Reference

Emit = Callable[[dict[str, Any]], None]


class BuildFailed(PortsideError):
    """A failure in the middle of the stream, with the exit status of the step's command."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


@dataclass(kw_only=True)
class ClassicOptions:
    names: tuple[Reference, ...] = ()
    quiet: bool = False
    remove: bool = True
    """Only shown in messages: intermediate containers are removed."""
    epoch: int | None = None
    squash: bool = False
    cache_from: tuple[str, ...] = ()
    """Images whose steps need not be done again."""


@dataclass
class _Voice:
    """Messages of steps, sent in the order of the file."""

    emit: Emit
    current: int = 0
    """``id`` of the vertex whose turn it is."""
    kept: dict[int, list[str]] = field(default_factory=dict)

    def on_event(self, event: Event) -> None:
        if isinstance(event, Log):
            text = event.data.decode("utf-8", "replace")
            if id(event.vertex) == self.current:
                self.emit({"stream": text})
            else:
                self.kept.setdefault(id(event.vertex), []).append(text)

    def turn(self, vertex: llb.Vertex) -> None:
        self.current = id(vertex)
        for text in self.kept.pop(self.current, []):
            self.emit({"stream": text})


class ClassicBuild:
    """One ``POST /build``."""

    def __init__(self, service: BuildService, options: ClassicOptions, emit: Emit) -> None:
        self._service, self._options, self._emit_raw = service, options, emit
        self._taken: frozenset[int] = frozenset()
        """``id()`` of each step whose result came from ``cache_from``."""

    def _emit(self, message: dict[str, Any]) -> None:
        if not self._options.quiet:
            self._emit_raw(message)

    def _say(self, text: str) -> None:
        self._emit({"stream": text})

    def _pulling(self, progress: Progress) -> None:
        self._emit(progress.message())

    async def run(self, request: BuildRequest) -> str:
        """Build; the image's ID. DockerfileError and what a base image raises before anything
        was sent; BuildFailed afterwards."""
        voice = _Voice(self._emit)
        self._no_cache = request.frontend.no_cache
        async with self._service.session(request, voice.on_event, self._pulling) as session:
            try:
                await self._steps(session, voice)
                image = await self._export(session)
            except StepFailed as err:
                raise BuildFailed(
                    f"The command '{' '.join(err.args_)}' returned a non-zero code: {err.code}",
                    err.code,
                ) from err
        return image

    async def _export(self, session: Session) -> str:
        options = ExportOptions(
            type="moby",
            names=self._options.names,
            epoch=self._options.epoch,
            squash=self._options.squash,
        )
        image = await self._service.export(session, options)
        plan = session.plan
        self._say(f" ---> {short(image)}\n")
        self._emit({"aux": {"ID": image}})
        if plan.unused_args:
            names = " ".join(plan.unused_args)
            self._say(f"[Warning] One or more build-args [{names}] were not consumed\n")
        self._say(f"Successfully built {short(image)}\n")
        for name in self._options.names:
            self._say(f"Successfully tagged {name.familiar}\n")
        if self._options.quiet:
            self._emit_raw({"stream": f"{image}\n"})
        return image

    async def _steps(self, session: Session, voice: _Voice) -> None:
        plan = session.plan
        self._key = digest_of("classic")
        if self._options.cache_from and not self._no_cache:
            names = self._options.cache_from
            self._taken = await self._service.take_from_images(session, names)
        everything: asyncio.Task[Any] | None = None
        if plan.output is not None:
            everything = asyncio.create_task(session.build.solve(plan.output))
        try:
            number, total = 0, sum(not step.triggered for step in plan.steps)
            for step, after in zip(plan.steps, [*plan.steps[1:], None], strict=True):
                if not step.triggered:
                    number += 1
                    self._say(f"Step {number}/{total} : {step.text}")
                    self._say("\n")
                await self._step(session, step, voice, last=after is None)
                if after is not None and after.triggered and not step.triggered:
                    self._announce(plan, step)
        finally:
            if everything is not None:
                everything.cancel()
                await asyncio.gather(everything, return_exceptions=True)

    def _announce(self, plan: Plan, step: Step) -> None:
        count = sum(other.triggered and other.stage == step.stage for other in plan.steps)
        self._say(f"# Executing {count} build trigger{'s' if count > 1 else ''}")
        self._say("\n")

    async def _step(self, session: Session, step: Step, voice: _Voice, *, last: bool) -> None:
        if step.stage < 0:  # an ARG before the first FROM
            return
        if not step.created_by:
            image = self._base_id(session.plan, step)
            self._key = digest_of("classic", image)
            self._say(f" ---> {image}\n")
            return
        container = short(new_id())
        if step.output is None:
            if self._is_known(step):
                self._say(" ---> Using cache\n")
            else:
                self._container(container, "")
        else:
            await self._solve(session, step, step.output, voice, container)
        if not last:
            self._say(f" ---> {_intermediate(step)}\n")

    def _is_known(self, step: Step) -> bool:
        """Whether an instruction that changes the configuration alone was met before, after the
        same ones."""
        self._key = digest_of("classic", self._key, step.created_by)
        if not self._no_cache and self._service.cache.find(self._key) is not None:
            return True
        self._service.cache.add([self._key], (), description=step.text)
        return id(step) in self._taken

    async def _solve(
        self, session: Session, step: Step, output: llb.Output, voice: _Voice, container: str
    ) -> None:
        vertex = output.vertex
        runs = isinstance(vertex.op, llb.ExecOp)
        work = asyncio.create_task(session.build.solve(output))
        try:
            announced = False
            while runs and not announced and not work.done():
                announced = id(vertex) in voice.kept
                await asyncio.wait([work], timeout=0.02)
                announced = announced or not work.done()
            if announced:
                self._say(f" ---> Running in {container}\n")
            voice.turn(vertex)
            await work
        except NotFound as err:
            raise BuildFailed(_copy_failure(step, str(err))) from err
        except StepFailed:
            raise
        except PortsideError as err:
            if runs:
                raise BuildFailed(str(err)) from err
            raise BuildFailed(f"{step.text.split()[0].upper()} failed: {err}") from err
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if session.build.was_cached(vertex):
            self._say(" ---> Using cache\n")
        elif runs:
            self._container(container, "" if not announced else None)
        record = session.build.record_of(vertex)
        content = record.id if record is not None else vertex.digest
        self._key = digest_of("classic", self._key, content)

    def _container(self, container: str, begin: str | None) -> None:
        """Report an intermediate container, as the classic builder made one for each step."""
        if begin is not None:
            self._say(f" ---> Running in {container}\n")
        if self._options.remove:
            self._say(f" ---> Removed intermediate container {container}\n")

    def _base_id(self, plan: Plan, step: Step) -> str:
        if step.output is None:
            return ""
        op = step.output.vertex.op
        if isinstance(op, llb.SourceOp):
            return short(op.identifier)
        return _intermediate(step)


def _intermediate(step: Step) -> str:
    """There are no intermediate images; steps are distinguished by their definitions."""
    below = step.output.vertex.digest if step.output is not None else ""
    return short(digest_of(below, step.created_by, str(step.span)))


def _copy_failure(step: Step, text: str) -> str:
    keyword = step.text.split()[0].upper()
    if keyword not in ("COPY", "ADD"):
        return text
    path = text.partition('": not found')[0].lstrip('"/')
    if "not found" not in text:
        return f"{keyword} failed: {text}"
    if "--from=" in step.text:
        return f"{keyword} failed: stat {path}: file does not exist"
    return (
        f"{keyword} failed: file not found in build context or excluded by .dockerignore: "
        f"stat {path}: file does not exist"
    )
