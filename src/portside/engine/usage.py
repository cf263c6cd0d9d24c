"""``system df``: what the disk holds, by kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from portside.containers.inspect import list_containers

if TYPE_CHECKING:
    from portside.engine.engine import Engine
    from portside.model.imageapi import ImageSummary


_ACTIVE = ("running", "paused", "restarting")


async def measure_disk(
    engine: Engine, kinds: frozenset[str], version: tuple[int, int]
) -> dict[str, Any]:
    """``GET /system/df``; what was not asked for is null, as in Docker."""
    found: dict[str, Any] = {
        "LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None,
    }  # fmt: skip
    if not kinds or "image" in kinds:
        images = await engine.images.list(all=False, shared_size=True)
        found["Images"] = [
            {**image.wire(version), "Containers": image.containers} for image in images
        ]
        layers = engine.store.layers
        found["LayersSize"] = sum(layer.size for layer in layers.all()) + layers.copied_size()
        found["ImagesUsage"] = _images(images, found["Images"], found["LayersSize"])
    if not kinds or "container" in kinds:
        containers = await list_containers(engine.containers, {}, all=True, size=True)
        found["Containers"] = [container.wire() for container in containers]
        sizes = [(c.size_rw or 0, c.state in _ACTIVE) for c in containers]
        found["ContainersUsage"] = _usage(sizes, found["Containers"])
    if not kinds or "volume" in kinds:
        volumes = await engine.volumes.usage()
        found["Volumes"] = [msgspec.to_builtins(volume) for volume in volumes]
        uses = [v.usage_data for v in volumes if not isinstance(v.usage_data, msgspec.UnsetType)]
        sizes = [(max(0, use.size), use.ref_count > 0) for use in uses]
        found["VolumesUsage"] = _usage(sizes, found["Volumes"])
    if not kinds or "build-cache" in kinds:
        found["BuildCache"] = await _build_cache(engine) if engine.has_build_cache() else []
        records = [(record["Size"], record["InUse"]) for record in found["BuildCache"]]
        found["BuildCacheUsage"] = _usage(records, found["BuildCache"])
    if warnings := engine.space.warnings():
        found["Warnings"] = list(warnings)
    return found


async def _build_cache(engine: Engine) -> list[dict[str, Any]]:
    """The build cache's records, most recently used last."""
    from portside.model.golang.timestamps import format_rfc3339

    builder = engine.builder()
    return [
        {
            "ID": record.id,
            "Parents": list(record.parents),
            "Type": record.type,
            "Description": record.description,
            "InUse": builder.cache.is_busy(record.id),
            "Shared": builder.cache.is_shared(record),
            "Size": record.size,
            "CreatedAt": format_rfc3339(int(record.created * 10**9)),
            "LastUsedAt": format_rfc3339(int(record.used * 10**9)),
            "UsageCount": record.count,
        }
        for record in sorted(await builder.usage(), key=lambda record: record.used)
    ]


def _usage(sizes: Sequence[tuple[int, bool]], items: list[Any]) -> dict[str, Any]:
    """The sums over objects of which each has a size and is in use or not."""
    return {
        "ActiveCount": sum(active for _, active in sizes),
        "TotalCount": len(sizes),
        "Reclaimable": sum(size for size, active in sizes if not active),
        "TotalSize": sum(size for size, _ in sizes),
        "Items": items,
    }


def _images(images: Sequence[ImageSummary], items: list[Any], total: int) -> dict[str, Any]:
    """Layers that images share count once; those of used images stay."""
    used = sum(image.size - max(0, image.shared_size) for image in images if image.containers > 0)
    return {
        "ActiveCount": sum(image.containers > 0 for image in images),
        "TotalCount": len(images),
        "Reclaimable": max(0, total - used),
        "TotalSize": total,
        "Items": items,
    }
