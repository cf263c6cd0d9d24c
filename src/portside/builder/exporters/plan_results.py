"""A plan whose outputs are solved becomes a tree and an image configuration.

Each instruction that changed files is one layer and one line of history; one that did not is a
line without a layer. Times are those at which the layers were made, so that an image whose steps
all came from the cache is the same image again.
"""

from __future__ import annotations

from portside.builder.dockerfile.frontend_values import Plan, Step
from portside.builder.dockerfile.transfers import CONTENT
from portside.builder.results import PlatformResult
from portside.builder.solver.solver import Build
from portside.builder.solver.tree import Tree
from portside.images.image_store import Catalogue
from portside.model.digest import chain_id
from portside.model.golang.timestamps import format_rfc3339, now_rfc3339
from portside.model.image import History, ImageConfig, RunConfig


async def plan_result(
    plan: Plan, build: Build, catalogue: Catalogue, comment: str = ""
) -> PlatformResult:
    """Solve everything that the plan needs; what the steps raise is raised. ``comment`` is that
    of each line of history."""
    base = plan.base.config if plan.base is not None else ImageConfig()
    chain = str(chain_id(base.diff_ids)) if base.diff_ids else ""
    tree = Tree.of_chain(chain)
    moment = base.created or ""
    lines = list(base.history or ())
    for step in plan.history:
        changed, sources = False, ""
        if step.output is not None:
            after = await build.solve(step.output)
            record = build.record_of(step.output.vertex)
            if record is not None:
                moment = format_rfc3339(int(record.created * 10**9))
                sources = record.sources
            changed = after.chain != tree.chain and bool(after.chain)
            tree = after
        lines.append(_line(step, moment, sources, changed, comment))
    if plan.output is not None:
        tree = await build.solve(plan.output)
    parent = catalogue.locate(plan.base.id)[0] if plan.base is not None else ""
    platform = plan.platform
    # BuildKit labels an image with the requested platform, whatever the base's is
    offered = base.platform if not comment and base.architecture else platform
    return PlatformResult(
        platform=platform,
        tree=tree,
        config=ImageConfig(
            architecture=offered.architecture,
            author=plan.author,
            config=_sorted_config(plan.config),
            created=moment or now_rfc3339(),
            history=tuple(lines),
            os=offered.os,
            os_features=base.os_features or (),
            os_version=base.os_version,
            variant=offered.variant,
        ),
        base_layers=len(base.diff_ids),
        parent=parent,
        records=tuple(build.records()),
    )


def _line(step: Step, moment: str, sources: str, changed: bool, comment: str) -> History:
    return History(
        created=moment or now_rfc3339(),
        created_by=step.created_by.replace(CONTENT, sources),
        author=step.author,
        comment=comment,
        empty_layer=not changed,
    )


def _sorted_config(config: RunConfig) -> RunConfig:
    """Maps in the order of their keys, as Go writes them."""
    import msgspec

    return msgspec.structs.replace(
        config,
        labels=dict(sorted(config.labels.items())) if config.labels else None,
        exposed_ports=dict(sorted(config.exposed_ports.items())) if config.exposed_ports else None,
        volumes=dict(sorted(config.volumes.items())) if config.volumes else None,
    )
