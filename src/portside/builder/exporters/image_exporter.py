"""A plan whose outputs are solved becomes an image of the local store.

Each instruction that changed files is one layer and one line of history; one that did not is a
line without a layer. Times are those at which the layers were made, so that an image whose steps
all came from the cache is the same image again; ``SOURCE_DATE_EPOCH`` replaces them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portside.builder.dockerfile.frontend import Plan, Step
from portside.builder.dockerfile.transfers import CONTENT
from portside.builder.solver.solver import Build
from portside.builder.solver.tree import Tree
from portside.images.image_store import Catalogue, provides_nothing
from portside.images.manifest_builder import make_image
from portside.model.digest import Digest
from portside.model.golang.timestamps import format_rfc3339, now_rfc3339
from portside.model.image import (
    OCI_LAYER_GZIP,
    Descriptor,
    History,
    ImageConfig,
    RootFS,
    RunConfig,
)
from portside.model.reference import Reference

if TYPE_CHECKING:
    from portside.store.db import Lease


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    names: tuple[Reference, ...] = ()
    comment: str = ""
    """Of each line of history."""
    epoch: int | None = None
    """SOURCE_DATE_EPOCH, seconds."""
    squash: bool = False
    """One layer of all that the build added."""


class ImageExporter:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def export(self, plan: Plan, build: Build, lease: Lease, options: ImageOptions) -> str:
        """Record the image of ``plan`` under the options' names; its ID."""
        base, layers = self._base(plan)
        stack = _Stack(self._catalogue, layers, list(base.rootfs.diff_ids or ()))
        moment = base.created or ""
        lines = list(base.history or ())
        tree = Tree.of_chain(str(self._chain(base)))
        for step in plan.history:
            changed = False
            sources = ""
            if step.output is not None:
                after = await build.solve(step.output)
                record = build.record_of(step.output.vertex)
                if record is not None:
                    moment = format_rfc3339(int(record.created * 10**9))
                    sources = record.sources
                changed = stack.extend(tree, after)
                tree = after
            lines.append(self._line(step, options, moment, sources, changed))
        if options.epoch is not None:
            moment = format_rfc3339(options.epoch * 10**9)
        config = self._config(plan, base, lines, stack.diff_ids, moment)
        parent = self._catalogue.locate(plan.base.id)[0] if plan.base is not None else ""
        return await make_image(
            self._catalogue, lease, config, stack.layers, names=options.names,
            parent=parent,
        )  # fmt: skip

    def _base(self, plan: Plan) -> tuple[ImageConfig, list[Descriptor]]:
        if plan.base is None:
            return ImageConfig(), []
        identifier, asked = self._catalogue.locate(plan.base.id)
        record = self._catalogue.record(identifier)
        variant = record.with_digest(asked or identifier) or record.variant()
        if variant is None:
            raise provides_nothing(plan.base.id)
        return plan.base.config, list(self._catalogue.manifest(variant.manifest).layers)

    def _chain(self, base: ImageConfig) -> Digest | str:
        from portside.model.digest import chain_id

        return chain_id(base.diff_ids) if base.diff_ids else ""

    def _line(
        self, step: Step, options: ImageOptions, moment: str, sources: str, changed: bool
    ) -> History:
        if options.epoch is not None:
            moment = format_rfc3339(options.epoch * 10**9)
        return History(
            created=moment or now_rfc3339(),
            created_by=step.created_by.replace(CONTENT, sources),
            author=step.author,
            comment=options.comment,
            empty_layer=not changed,
        )

    def _config(
        self, plan: Plan, base: ImageConfig, lines: Sequence[History], diff_ids: Sequence[str],
        moment: str,
    ) -> ImageConfig:  # fmt: skip
        platform = plan.platform
        return ImageConfig(
            architecture=base.architecture or platform.architecture,
            author=plan.author,
            config=_sorted_config(plan.config),
            created=moment or now_rfc3339(),
            history=tuple(lines),
            os=base.os or platform.os,
            os_features=base.os_features or (),
            os_version=base.os_version,
            rootfs=RootFS("layers", tuple(diff_ids)),
            variant=base.variant or platform.variant,
        )


class _Stack:
    """The image's layers so far, with their blobs."""

    def __init__(self, catalogue: Catalogue, layers: list[Descriptor], diff_ids: list[str]) -> None:
        self._store = catalogue.store
        self.layers, self.diff_ids = layers, diff_ids

    def extend(self, before: Tree, after: Tree) -> bool:
        """Add the layers that ``after`` has beyond ``before``; whether there are any."""
        if after.chain == before.chain or not after.chain:
            return False
        added = []
        for layer in self._store.layers.stack(Digest(after.chain)):
            if layer.chain == before.chain:
                break
            added.append(layer)
        for layer in reversed(added):
            self.diff_ids.append(str(layer.diff_id))
            size = self._store.blobs.size(Digest(layer.blob))
            self.layers.append(Descriptor(media_type=OCI_LAYER_GZIP, digest=layer.blob, size=size))
        return bool(added)


def _sorted_config(config: RunConfig) -> RunConfig:
    """Maps in the order of their keys, as Go writes them."""
    import msgspec

    return msgspec.structs.replace(
        config,
        labels=dict(sorted(config.labels.items())) if config.labels else None,
        exposed_ports=dict(sorted(config.exposed_ports.items())) if config.exposed_ports else None,
        volumes=dict(sorted(config.volumes.items())) if config.volumes else None,
    )
