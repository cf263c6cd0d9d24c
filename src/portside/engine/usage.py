"""``system df``: what the disk holds, by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from portside.engine.engine import Engine


async def disk_usage(
    engine: Engine, kinds: frozenset[str], version: tuple[int, int]
) -> dict[str, Any]:
    """``GET /system/df``; what was not asked for is null, as in Docker."""
    found: dict[str, Any] = {
        "LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None,
    }  # fmt: skip
    if not kinds or "image" in kinds:
        images = await engine.images.list(all=False, shared_size=True)
        found["Images"] = [image.wire(version) for image in images]
        found["LayersSize"] = sum(layer.size for layer in engine.store.layers.all())
    if not kinds or "container" in kinds:
        containers = await engine.containers.list({}, all=True, size=True)
        found["Containers"] = [container.wire() for container in containers]
    if not kinds or "volume" in kinds:
        found["Volumes"] = [msgspec.to_builtins(v) for v in await engine.volumes.usage()]
    if not kinds or "build-cache" in kinds:
        found["BuildCache"] = await _build_cache(engine) if engine.has_build_cache() else []
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
