"""The classic builder's ``--cache-from``: images whose history has the same steps.

An image has a step's result when its history and its layers begin with those of the base image, and
continue with the lines of the steps before it and its own. What a step's line does not show (the
content of a mount) is never taken from there. The images are trusted: a line of history is what
whoever made the image says of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from portside.builder import llb
from portside.builder.dockerfile.frontend_values import Plan, ResolvedImage, Step
from portside.builder.dockerfile.transfers import CONTENT
from portside.builder.solver.solver import Build
from portside.builder.solver.tree import Tree
from portside.images.service import ImageService
from portside.model.digest import chain_id
from portside.model.errors import PortsideError
from portside.model.golang.timestamps import rfc3339_or_zero
from portside.model.image import History, Image, ImageConfig

log = logging.getLogger(__name__)


class _Trail(NamedTuple):
    """How many lines and layers of an image's history a stage shares."""

    config: ImageConfig
    lines: int = 0
    """Lines of the history that were matched."""
    layers: int = 0

    def after(self, created_by: str, *, changes: bool) -> _Trail | None:
        """The trail one line further; None when the image's next line is another one."""
        history = self.config.history or ()
        if self.lines >= len(history):
            return None
        line = history[self.lines]
        if line.created_by != created_by or not (changes or line.empty_layer):
            return None
        layers = self.layers + (not line.empty_layer)
        if layers > len(self.config.diff_ids):
            return None
        return _Trail(self.config, self.lines + 1, layers)

    @property
    def line(self) -> History:
        return (self.config.history or ())[self.lines - 1]

    @property
    def chain(self) -> str:
        diff_ids = self.config.diff_ids[: self.layers]
        return str(chain_id(diff_ids)) if diff_ids else ""


class ImageHistories:
    """The images of one build's ``--cache-from``."""

    def __init__(self, images: ImageService, names: Sequence[str]) -> None:
        """The images of ``names`` that are in the store; others are left out, as dockerd does."""
        self._images, self._found = images, []
        self._layers = images.store.layers
        for name in names:
            try:
                self._found.append(images.get(name))
            except PortsideError as err:
                log.info("no build cache from %s: %s", name, err)
        self._known: set[int] = set()

    async def give(self, plan: Plan, build: Build) -> frozenset[int]:
        """Let the build have the results of all steps that the images know; the ``id`` of each
        such step. The sources of a COPY are digested by making the copy."""
        if self._found:
            for number, group in groupby(plan.steps, lambda step: step.stage):
                if number >= 0:
                    await self._stage(list(group), build)
        return frozenset(self._known)

    async def _stage(self, steps: list[Step], build: Build) -> None:
        first, *rest = steps
        trails = [trail for image in self._found
                  if (trail := await self._on_base(image, first.base)) is not None]  # fmt: skip
        for step in (*first.below, *rest):
            trails = await self._follow(step, trails, build)
            if not trails:
                return

    async def _on_base(self, image: Image, base: ResolvedImage | None) -> _Trail | None:
        config = base.config if base is not None else ImageConfig()
        trail: _Trail | None = _Trail(image.config)
        for line in config.history or ():
            trail = trail and trail.after(line.created_by, changes=not line.empty_layer)
        if trail is None or image.config.diff_ids[: len(config.diff_ids)] != config.diff_ids:
            return None
        if not image.is_unpacked:
            await self._images.unpack(image)
        return trail._replace(layers=len(config.diff_ids))

    async def _follow(self, step: Step, trails: list[_Trail], build: Build) -> list[_Trail]:
        created_by, sources = step.created_by, ""
        if step.output is not None and not _is_shown_whole(step.output.vertex):
            return []
        if CONTENT in created_by:
            sources = await _sources(step, build)
            if not sources:
                return []
            created_by = created_by.replace(CONTENT, sources)
        changes = step.output is not None
        further = (trail.after(created_by, changes=changes) for trail in trails)
        found = [trail for trail in further if trail is not None]
        if found and id(step) not in self._known:
            if step.output is not None and not await self._give(
                step.output, found[0], sources, build
            ):
                return []
            self._known.add(id(step))
        return found

    async def _give(self, output: llb.Output, trail: _Trail, sources: str, build: Build) -> bool:
        """Whether the layers are here."""
        chain = trail.chain
        if chain and not self._layers.has(chain):
            return False
        tree = build.tree_of(output.vertex)
        if tree is None or tree.chain != chain or not build.was_cached(output.vertex):
            size = self._layers.info(chain).size if chain and not trail.line.empty_layer else 0
            await build.adopt(
                output, Tree.of_chain(chain), size=size, sources=sources,
                created=rfc3339_or_zero(trail.line.created) / 10**9,
            )  # fmt: skip
        return True


def _is_shown_whole(vertex: llb.Vertex) -> bool:
    """Whether a line of history can show all that the vertex reads."""
    if llb.output_count(vertex.op) != 1:
        return False
    return not isinstance(vertex.op, llb.ExecOp) or len(vertex.inputs) < 2


async def _sources(step: Step, build: Build) -> str:
    """The digest of what a copy takes; empty when it fails: the step itself reports the failure."""
    assert step.output is not None
    try:
        await build.solve(step.output)
    except PortsideError:
        return ""
    record = build.record_of(step.output.vertex)
    return record.sources if record is not None else ""
