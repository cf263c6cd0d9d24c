"""Layers of an image, each fetched and then unpacked while the others are still arriving."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from portside.images.progress_meter import Meter
from portside.model.digest import Digest, chain_id
from portside.model.image import Descriptor
from portside.model.progress import Report
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.store.store import Store

Fetch = Callable[[Descriptor, Meter], Awaitable[None]]
"""Brings a blob into the store, owned; nothing to do when it is there."""


async def unpack_layers(
    store: Store,
    layers: Sequence[Descriptor],
    diff_ids: Sequence[Digest],
    fetch: Fetch,
    owner: Ref,
    report: Report,
) -> int:
    """Fetch and unpack every missing layer, owned by ``owner``.

    Returns the bytes of all trees. The first failure cancels the other layers and is
    raised.
    """
    chains = [chain_id(list(diff_ids[: n + 1])) for n in range(len(diff_ids))]
    meters = [Meter(report, layer.digest, layer.size) for layer in layers]

    async def bring(number: int) -> None:
        layer, chain, meter = layers[number], chains[number], meters[number]
        here = store.layers.claim(chain, owner)
        if here and store.blobs.claim(Digest(layer.digest), owner):
            if number not in known:
                meter.say("Already exists")
            return
        await fetch(layer, meter)
        if not here:
            await store.layers.ensure(
                chains[number - 1] if number else None,
                diff_ids[number],
                Digest(layer.digest),
                layer.media_type,
                owner=owner,
                progress=lambda done: meter.count("Extracting", done),
            )
        meter.say("Pull complete")

    known = set[int]()
    for number, meter in enumerate(meters):  # in their order, as Docker lists them
        if store.layers.has(chains[number]) and store.blobs.has(Digest(layers[number].digest)):
            known.add(number)
        meter.say("Already exists" if number in known else "Pulling fs layer")
    await all_or_first_error([bring(number) for number in range(len(layers))])
    return sum(store.layers.info(chain).size for chain in chains)


async def all_or_first_error(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run together; the first error cancels the rest, waits for their end and is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        for finished in asyncio.as_completed(tasks):
            await finished
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
