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
        images = await engine.images.list(all=False, shared_size=True, containers=True)
        found["Images"] = [image.wire(version) for image in images]
        found["LayersSize"] = sum(layer.size for layer in engine.store.layers.all())
    if not kinds or "container" in kinds:
        containers = await engine.containers.list({}, all=True, size=True)
        found["Containers"] = [container.wire() for container in containers]
    if not kinds or "volume" in kinds:
        found["Volumes"] = [msgspec.to_builtins(v) for v in await engine.volumes.usage()]
    if not kinds or "build-cache" in kinds:
        found["BuildCache"] = []
    if warnings := engine.space.warnings():
        found["Warnings"] = list(warnings)
    return found
