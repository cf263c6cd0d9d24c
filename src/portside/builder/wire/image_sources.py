"""Images that a client's graph names are looked up before anything is solved: the solver knows
them by digest."""

from __future__ import annotations

import dataclasses

import msgspec

from portside.builder import llb
from portside.builder.dockerfile.frontend_values import ImageResolver
from portside.builder.llb import Output, Vertex
from portside.model.platform import Platform


async def with_images(output: Output, images: ImageResolver) -> Output:
    """The same graph with each image named by its digest. Raises what the resolver raises."""
    made: dict[int, Vertex] = {}
    for vertex in llb.walk([output]):
        op = vertex.op
        if isinstance(op, llb.SourceOp) and op.scheme == llb.IMAGE:
            found = await images.resolve(op.name, vertex.platform or Platform.host())
            identifier = llb.IMAGE + found.ref
            if identifier != op.identifier:
                op = msgspec.structs.replace(op, identifier=identifier)
        inputs = tuple(Output(made[id(i.vertex)], i.index) for i in vertex.inputs)
        same = all(a.vertex is b.vertex for a, b in zip(inputs, vertex.inputs, strict=True))
        if op is vertex.op and same:
            made[id(vertex)] = vertex
        else:
            made[id(vertex)] = dataclasses.replace(vertex, op=op, inputs=inputs)
    return Output(made[id(output.vertex)], output.index)
