"""Legacy links (``--link TARGET[:ALIAS]``) on the default bridge.

A link is kept as it was asked for, with its target's ID beside it (``Record.link_targets``), so
that it follows a renaming and, as in dockerd, outlives its target. On a user's network a link is
a name there: the endpoint has it, and its target need not exist.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from portside.containers.core import Core
from portside.containers.ended import held
from portside.containers.network_request import network_request
from portside.containers.record import Record
from portside.model.container import HostConfig
from portside.model.errors import Conflict, InvalidParameter, NotFound
from portside.model.network import EndpointSettings


def parse(text: str) -> tuple[str, str]:
    """Target and alias of ``TARGET[:ALIAS]``. Raises InvalidParameter in Docker's words."""
    target, _, alias = text.partition(":")
    if not text:
        raise InvalidParameter("empty string specified for links")
    if ":" in alias:
        raise InvalidParameter(f"bad format for links: {text}")
    target = target.removeprefix("/")
    return target, alias or target


def on_user_network(
    host: HostConfig, endpoints: dict[str, EndpointSettings]
) -> tuple[HostConfig, dict[str, EndpointSettings]]:
    """Links of a container on a user's network become the endpoint's."""
    mode = host.network_mode
    if not host.links or mode in ("bridge", "host", "none") or mode.startswith("container:"):
        return host, endpoints
    for text in host.links:
        parse(text)
    if mode in endpoints:
        settings = endpoints[mode]
        links = tuple(dict.fromkeys((*(settings.links or ()), *host.links)))
        endpoints = {**endpoints, mode: msgspec.structs.replace(settings, links=links)}
    return msgspec.structs.replace(host, links=None), endpoints


def targets(core: Core, host: HostConfig) -> dict[str, str]:
    """The IDs of the containers that are linked to, by the links' text.

    What shares another's network is reached through that one. Raises InvalidParameter.
    """
    found: dict[str, str] = {}
    for text in host.links or ():
        name, _ = parse(text)
        try:
            target = core.find(name)
            while target.record.host.network_mode.startswith("container:"):
                target = core.find(target.record.host.network_mode.partition(":")[2])
        except NotFound as err:
            raise InvalidParameter(f"could not get container for {name}: {err}") from None
        found[text] = target.id
    return found


def of(core: Core, record: Record) -> Iterator[tuple[str, str, str]]:
    """Each link as it was asked for, its alias, and its target's present or last name."""
    for text in record.host.links or ():
        name, alias = parse(text)
        target = core.containers.get(record.link_targets.get(text, ""))
        yield text, alias.rpartition("/")[2], target.name if target is not None else name


def shown(core: Core, record: Record) -> tuple[str, ...] | None:
    """As ``inspect`` tells them: ``/target:/name/alias``."""
    if not record.host.links:
        return None
    return tuple(f"/{target}:/{record.name}/{alias}" for _, alias, target in of(core, record))


def names(core: Core) -> dict[str, list[str]]:
    """Further names that links give to containers, by ID of the target (``ps --no-trunc``)."""
    found: dict[str, list[str]] = {}
    for container in core.containers.values():
        record = container.record
        for text, alias, _ in of(core, record) if record.host.links else ():
            target = record.link_targets.get(text, "")
            if target in core.containers:
                found.setdefault(target, []).append(f"/{container.name}/{alias}")
    return found


def check_running(core: Core, record: Record) -> None:
    """What is linked to must run at the start. Raises Conflict in Docker's words."""
    for text, alias, name in of(core, record):
        target = core.containers.get(record.link_targets.get(text, ""))
        if target is None or not target.record.running:
            raise Conflict(
                f"Cannot link to a non running container: /{name} AS /{record.name}/{alias}"
            )


def environment(core: Core, record: Record) -> tuple[str, ...]:
    """``ALIAS_ENV_NAME=value``: the variables of the targets, but HOME and PATH."""
    found = []
    for text, alias, _ in of(core, record):
        target = core.containers.get(record.link_targets.get(text, ""))
        prefix = alias.upper().replace("-", "_")
        for entry in (target.record.config.env or ()) if target is not None else ():
            name, equals, value = entry.partition("=")
            if equals and name not in ("HOME", "PATH"):
                found.append(f"{prefix}_ENV_{name}={value}")
    return tuple(found)


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
        record.link_targets = {key: id for key, id in record.link_targets.items() if key != gone}
        core.save(container)
        if record.running:
            await core.networks.republish(network_request(core, record))
