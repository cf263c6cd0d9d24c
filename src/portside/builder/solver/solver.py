"""The graph solver: only what is wanted, independent vertices together, equal ones once.

For each vertex, in this order:

1. its **definition key**, made of its operation and the definition keys of its inputs; if a
   record has it, nothing below is looked at;
2. its inputs are solved, all at the same time;
3. its **content key**, made of its operation and what it reads of its inputs: the whole tree of
   one that it writes to, the copied files of one that it copies from; if a record has it, the
   definition key leads there from now on;
4. it is carried out, and recorded under both keys.

Two builds that come to the same key share one task; it ends when the last of them leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec

from portside.builder import llb
from portside.builder.llb import Output, Vertex
from portside.builder.solver.build_events import Completed, Event, Report, Started, silent
from portside.builder.solver.cache_records import CacheRecord, CacheStore
from portside.builder.solver.tree import Tree, digest_of
from portside.model.errors import PortsideError


class Made(NamedTuple):
    """The result of executing a vertex."""

    outputs: tuple[Tree, ...]
    blobs: tuple[str, ...] = ()
    size: int = 0
    sources: str = ""


class Solved(NamedTuple):
    """A vertex's result."""

    outputs: tuple[Tree, ...]
    record: CacheRecord | None = None
    cached: bool = False


class Operations(msgspec.Struct):
    """How vertices are identified and executed; see :mod:`.operations`."""

    definition: Callable[[Vertex], Awaitable[str | None]]
    """What identifies a source's content; None when that is known only after fetching it."""
    content: Callable[[Vertex, Sequence[Tree]], Awaitable[str]]
    """What a vertex reads of its inputs, as one digest."""
    run: Callable[[Vertex, Sequence[Tree], Report], Awaitable[Made]]


@dataclass(eq=False)
class _Flight:
    """A vertex under way, for all who wait for it."""

    task: asyncio.Task[Solved]
    begun_by: str
    """ID of the build whose inputs it reads."""
    reports: list[Report] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    waiting: int = 0


class Solver:
    """The engine's solver; each build has its own :class:`Build`."""

    def __init__(self, cache: CacheStore) -> None:
        self.cache = cache
        self._flights: dict[str, _Flight] = {}

    async def landed(self, build: str) -> None:
        """Wait for what a build has begun and others still wait for: it reads that build's
        inputs."""
        tasks = [flight.task for flight in self._flights.values() if flight.begun_by == build]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def shared(
        self, key: str, report: Report, work: Callable[[Report], Awaitable[Solved]],
        begun_by: str = "",
    ) -> Solved:  # fmt: skip
        """Run ``work``, or wait for who runs it; its events reach everybody who waits."""
        while True:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._begin(key, work, begun_by)
            else:
                for event in flight.events:
                    report(event)
            flight.reports.append(report)
            flight.waiting += 1
            try:
                return await asyncio.shield(flight.task)
            except asyncio.CancelledError:
                mine = asyncio.current_task()
                if not flight.task.cancelled() or (mine is not None and mine.cancelling()):
                    raise
                # the build that ran it was cancelled: this one runs it now
            finally:
                flight.reports.remove(report)
                flight.waiting -= 1
                if flight.waiting == 0 and not flight.task.done():
                    flight.task.cancel()
                    await asyncio.gather(flight.task, return_exceptions=True)

    def _begin(
        self, key: str, work: Callable[[Report], Awaitable[Solved]], begun_by: str
    ) -> _Flight:
        def publish(event: Event) -> None:
            flight.events.append(event)
            for report in list(flight.reports):
                report(event)

        async def run() -> Solved:
            try:
                return await work(publish)
            finally:
                if self._flights.get(key) is flight:
                    del self._flights[key]

        flight = _Flight(asyncio.get_running_loop().create_task(run()), begun_by)
        self._flights[key] = flight
        return flight


class RemoteRecords(Protocol):
    """Caches of other engines that a build may use."""

    async def find(self, key: str) -> CacheRecord | None:
        """The record behind a key, with its layers here from now on."""
        ...


class Build:
    """Solves the outputs of one request."""

    remote: RemoteRecords | None = None

    def __init__(
        self, solver: Solver, operations: Operations, identifier: str, report: Report = silent
    ) -> None:
        self._solver, self._operations, self._id = solver, operations, identifier
        self._report = report
        self._cache = solver.cache
        self._solving: dict[int, asyncio.Task[Solved]] = {}
        self._keys: dict[int, str] = {}
        self._roots: list[Vertex] = []
        """Keeps the vertices whose ``id()`` is known."""
        self._held: list[str] = []
        self._reported: set[int] = set()
        self._above_fresh: set[int] = set()
        """Vertices above one that is always executed: only the content of their inputs shows
        whether they are known."""

    async def solve(self, output: Output) -> Tree:
        """The tree of an output. Raises what its steps raise, the first one's error."""
        if id(output.vertex) not in self._keys:  # else it is part of what was solved before
            llb.check([output])
            await self._definition_keys(output)
            self._roots.append(output.vertex)
        solved = await self._vertex(output.vertex)
        return solved.outputs[output.index]

    def record_of(self, vertex: Vertex) -> CacheRecord | None:
        """The cache's record of a vertex that was solved."""
        task = self._solving.get(id(vertex))
        return task.result().record if task is not None and task.done() else None

    async def adopt(
        self, output: Output, tree: Tree, *, size: int, sources: str, created: float
    ) -> None:
        """Take what is known of an output from elsewhere in place of solving it, and record it;
        for the rest see :meth:`CacheStore.add`. Its inputs are solved."""
        vertex = output.vertex
        await self._definition_keys(output)
        inputs = await self._inputs(vertex)
        trees = [solved.outputs[i.index] for solved, i in zip(inputs, vertex.inputs, strict=True)]
        parents = [solved.record.id for solved in inputs if solved.record is not None]
        record = self._cache.add(
            (self._keys[id(vertex)], await self._content_key(vertex, trees)), (tree,),
            description=vertex.label, parents=parents, size=size, sources=sources, created=created,
        )  # fmt: skip
        replaced = self.record_of(vertex)
        if replaced is not None:
            self._cache.delete(replaced.id)

        async def known() -> Solved:
            return self._keep(Solved((tree,), record, cached=True))

        task = asyncio.get_running_loop().create_task(known())
        self._solving[id(vertex)] = task
        await task
        self._report_cached(vertex)

    def records(self) -> list[CacheRecord]:
        """The cache records of every vertex that was solved."""
        solved = [task.result() for task in self._solving.values()
                  if task.done() and not task.cancelled() and task.exception() is None]  # fmt: skip
        return [one.record for one in solved if one.record is not None]

    def tree_of(self, vertex: Vertex) -> Tree | None:
        """The first output of a vertex, if it was solved."""
        task = self._solving.get(id(vertex))
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result().outputs[0]

    def was_cached(self, vertex: Vertex) -> bool:
        task = self._solving.get(id(vertex))
        return task is not None and task.done() and task.result().cached

    async def close(self) -> None:
        """Cancel running vertices and release the records."""
        for task in self._solving.values():
            task.cancel()
        await asyncio.gather(*self._solving.values(), return_exceptions=True)
        for identifier in self._held:
            self._cache.let_go(identifier)
        self._held.clear()

    async def landed(self) -> None:
        """Wait until nobody reads this build's inputs any more."""
        await self._solver.landed(self._id)

    # -- keys ----------------------------------------------------------------------------

    async def _definition_keys(self, output: Output) -> None:
        """Compute all vertices' keys, leaves first; unidentified content has the build's ID."""
        for vertex in llb.walk([output]):
            if id(vertex) in self._keys:
                continue
            inputs_of = (item.vertex for item in vertex.inputs)
            if any(v.meta.ignore_cache or id(v) in self._above_fresh for v in inputs_of):
                self._above_fresh.add(id(vertex))
            if isinstance(vertex.op, llb.SourceOp):
                found = await self._operations.definition(vertex)
                own = f"{self._id}:{vertex.digest}" if found is None else found
                self._keys[id(vertex)] = digest_of("source", own)
                continue
            inputs = [f"{self._keys[id(i.vertex)]}:{i.index}" for i in vertex.inputs]
            operation = llb.operation_bytes(vertex).decode("utf-8", "surrogateescape")
            self._keys[id(vertex)] = digest_of("definition", operation, *inputs)

    async def _content_key(self, vertex: Vertex, trees: Sequence[Tree]) -> str:
        content = await self._operations.content(vertex, trees)
        operation = llb.operation_bytes(vertex).decode("utf-8", "surrogateescape")
        return digest_of("content", operation, content)

    # -- solving -------------------------------------------------------------------------

    def _vertex(self, vertex: Vertex) -> asyncio.Task[Solved]:
        task = self._solving.get(id(vertex))
        if task is None:
            task = asyncio.get_running_loop().create_task(self._solve(vertex))
            self._solving[id(vertex)] = task
        return task

    async def _solve(self, vertex: Vertex) -> Solved:
        key = self._keys[id(vertex)]
        ignore = vertex.meta.ignore_cache
        is_fresh = ignore or id(vertex) in self._above_fresh
        if not is_fresh and not isinstance(vertex.op, llb.SourceOp):
            record = await self._find(key)
            if record is not None:
                self._report_cached(vertex)
                return self._keep(Solved(record.outputs, record, cached=True))
        inputs = await self._inputs(vertex)
        trees = [solved.outputs[i.index] for solved, i in zip(inputs, vertex.inputs, strict=True)]
        if isinstance(vertex.op, llb.SourceOp):
            return await self._run(vertex, key, trees, (), [])
        second = await self._content_key(vertex, trees)
        if not ignore:
            record = await self._find(second)
            if record is not None:
                self._cache.name(key, record)
                self._report_cached(vertex)
                return self._keep(Solved(record.outputs, record, cached=True))
        parents = [solved.record.id for solved in inputs if solved.record is not None]
        return await self._run(vertex, second, trees, (key, second), parents)

    async def _find(self, key: str) -> CacheRecord | None:
        found = self._cache.find(key)
        if found is None and self.remote is not None:
            found = await self.remote.find(key)
        return found

    async def _inputs(self, vertex: Vertex) -> list[Solved]:
        """All inputs at once; when one fails the others are stopped."""
        tasks = [self._vertex(item.vertex) for item in vertex.inputs]
        try:
            return list(await asyncio.gather(*(asyncio.shield(task) for task in tasks)))
        except PortsideError:
            for task in tasks:
                task.cancel()
            raise

    async def _run(
        self, vertex: Vertex, key: str, trees: list[Tree], keys: tuple[str, ...],
        parents: list[str],
    ) -> Solved:  # fmt: skip
        async def work(report: Report) -> Solved:
            report(Started(vertex))
            try:
                made = await self._operations.run(vertex, trees, report)
            except asyncio.CancelledError:
                report(Completed(vertex, error="cancelled", cancelled=True))
                raise
            except PortsideError as err:
                report(Completed(vertex, error=str(err)))
                raise
            record = None
            if keys:
                record = self._cache.add(
                    keys, made.outputs, description=vertex.label, parents=parents,
                    blobs=made.blobs, size=made.size, sources=made.sources,
                )  # fmt: skip
            report(Completed(vertex))
            return Solved(made.outputs, record)

        key = f"{self._id}:{key}" if vertex.meta.ignore_cache else key
        return self._keep(await self._solver.shared(key, self._report, work, self._id))

    def _keep(self, solved: Solved) -> Solved:
        if solved.record is not None:
            self._cache.hold(solved.record.id)
            self._held.append(solved.record.id)
        return solved

    def _report_cached(self, vertex: Vertex) -> None:
        """Report a cache hit. Its inputs need not be looked at: they are reported as hits, too."""
        self._reported.discard(id(vertex))
        for item in llb.walk([vertex.output()], without=self._reported):
            if id(item) not in self._solving or item is vertex:
                self._reported.add(id(item))
                self._report(Started(item))
                self._report(Completed(item, cached=True))
