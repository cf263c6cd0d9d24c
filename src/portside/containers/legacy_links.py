"""Legacy links (``--link TARGET[:ALIAS]``): how they are shown, and ``rm --link``."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from portside.containers.container import Container
from portside.containers.core import Core
from portside.containers.ended import held
from portside.containers.network_request import network_request
from portside.containers.record import Record
from portside.model.errors import Conflict, NotFound


def of(core: Core, record: Record) -> Iterator[tuple[str, str, Container]]:
    """Each link as it was asked for, its alias and its target; gone targets are left out."""
    for text in record.host.links or ():
        target, _, alias = text.partition(":")
        try:
            found = core.find(target)
        except NotFound:
            continue
        yield text, alias or target.removeprefix("/"), found


def shown(core: Core, record: Record) -> tuple[str, ...] | None:
    """As ``inspect`` tells them: ``/target:/name/alias``."""
    if not record.host.links:
        return None
    return tuple(f"/{target.name}:/{record.name}/{alias}" for _, alias, target in of(core, record))


def names(core: Core) -> dict[str, list[str]]:
    """Further names that links give to containers, by ID of the target (``ps --no-trunc``)."""
    found: dict[str, list[str]] = {}
    for container in core.containers.values():
        if container.record.host.links:
            for _, alias, target in of(core, container.record):
                found.setdefault(target.id, []).append(f"/{container.name}/{alias}")
    return found


async def remove(core: Core, name: str) -> None:
    """``rm --link PARENT/ALIAS``: the containers stay. Raises NotFound."""
    parent, _, alias = name.strip("/").partition("/")
    container = core.find(parent)
    if not alias:
        raise Conflict("conflict, cannot remove the default link name of the container")
    async with held(core, container):
        record = container.record
        gone = next((text for text, known, _ in of(core, record) if known == alias), None)
        if gone is None:
            raise NotFound(f"No such container: {name}")
        kept = tuple(each for each in record.host.links or () if each != gone)
        record.host = msgspec.structs.replace(record.host, links=kept or None)
        core.save(container)
        if record.running:
            await core.networks.republish(network_request(core, record))
