"""A build's own bookkeeping, with a cache that knows everything."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from portside.builder import llb
from portside.builder.solver.build_events import Completed
from portside.builder.solver.solver import Build, Operations, Solver
from portside.builder.solver.tree import Tree


async def test_every_vertex_is_looked_at_as_often_in_a_long_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image's history asks for the output of each step: together that is linear."""
    record = SimpleNamespace(id="r", outputs=(Tree.of_chain("sha256:0"),))
    cache: Any = SimpleNamespace(
        find=lambda _: record, hold=lambda _: None, let_go=lambda _: None
    )  # fmt: skip
    visits = 0
    walk = llb.walk

    def counted(*args: Any, **named: Any) -> Iterator[llb.Vertex]:
        nonlocal visits
        for vertex in walk(*args, **named):
            visits += 1
            yield vertex

    monkeypatch.setattr(llb, "walk", counted)

    async def definition(vertex: llb.Vertex) -> str:
        return vertex.digest

    async def never(*_: Any) -> Any:
        raise AssertionError("everything is known")

    chain = [llb.image("base@sha256:0")]
    for number in range(40):
        action = llb.MakeFile(path=f"/{number}", data=b"")
        chain.append(llb.file_op(chain[-1], [(action, None)], llb.VertexMeta(name=str(number))))
    done: list[Any] = []
    build = Build(Solver(cache), Operations(definition, never, never), "id", done.append)
    for output in (chain[-1], *chain[1:]):
        assert await build.solve(output) == record.outputs[0]
    await build.close()
    completed = {event.vertex.label for event in done if isinstance(event, Completed)}
    assert len(completed) == len(chain)
    assert visits <= 4 * len(chain)
