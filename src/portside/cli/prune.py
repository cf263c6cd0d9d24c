"""container, image, network, volume, builder and system prune."""

from __future__ import annotations

import os
import sys

from portside.cli import table
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.client import filters_text
from portside.client.errors import Refused
from portside.model.errors import InvalidParameter
from portside.model.golang import sizes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

_FORCE = """
  -f, --force           Do not ask
      --filter filter   Only objects that match, such as until=24h
"""
_ALL = """
  -a, --all             Also unused objects that have a name
"""


def confirm(session: Session, options: Options, text: str) -> bool:
    """Ask, unless ``--force`` is given. Raises Failed, of status 0, when the answer is not yes."""
    if options.flag("force"):
        return True
    sys.stdout.write(f"{text}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    if os.isatty(0):
        answer = sys.stdin.readline()
    else:
        answer = os.read(0, 256).decode(errors="replace").partition("\n")[0]
    if answer.strip().lower() not in ("y", "yes"):
        raise Failed(0)
    return True


def wanted(session: Session, options: Options) -> dict[str, list[str]]:
    """``--filter``, and ``pruneFilters`` of the client's configuration."""
    found = table.filters(options)
    for text in session.config.values.get("pruneFilters") or ():
        name, _, value = text.partition("=")
        if value not in found.get({"label": "label!", "label!": "label"}.get(name, ""), ()):
            found.setdefault(name, []).append(value)
    return found


def reclaimed(session: Session, size: int) -> None:
    session.out(f"Total reclaimed space: {sizes.human_size(size)}")


def print_section(session: Session, title: str, lines: Iterable[str]) -> None:
    """A heading, the lines and an empty one; nothing when there are no lines."""
    lines = list(lines)
    if lines:
        session.out("\n".join([f"{title}:", *lines, ""]))


def _prune(session: Session, kind: str, filters: dict[str, list[str]]) -> dict[str, Any]:
    found = session.client.post(f"/{kind}/prune", {"filters": filters_text(filters)})
    return found if isinstance(found, dict) else {}


def containers(session: Session, filters: dict[str, list[str]]) -> int:
    found = _prune(session, "containers", filters)
    print_section(session, "Deleted Containers", found.get("ContainersDeleted") or ())
    return int(found.get("SpaceReclaimed") or 0)


def networks(session: Session, filters: dict[str, list[str]]) -> None:
    print_section(session, "Deleted Networks", _prune(session, "networks", filters).get(
        "NetworksDeleted") or ())  # fmt: skip


def volumes(session: Session, filters: dict[str, list[str]]) -> int:
    found = _prune(session, "volumes", filters)
    print_section(session, "Deleted Volumes", found.get("VolumesDeleted") or ())
    return int(found.get("SpaceReclaimed") or 0)


def images(session: Session, filters: dict[str, list[str]], every: bool) -> int:
    found = _prune(session, "images", {**filters, "dangling": ["false" if every else "true"]})
    steps = found.get("ImagesDeleted") or ()
    lines = (
        f"untagged: {step['Untagged']}" if step.get("Untagged") else f"deleted: {step['Deleted']}"
        for step in steps
    )
    print_section(session, "Deleted Images", lines)
    return int(found.get("SpaceReclaimed") or 0)


@verb("container prune", usage="[OPTIONS]", about="Remove all containers that do not run",
      flags=_FORCE)  # fmt: skip
def container_prune(session: Session, options: Options, arguments: list[str]) -> None:
    confirm(session, options, "WARNING! This will remove all stopped containers.")
    reclaimed(session, containers(session, wanted(session, options)))


@verb("image prune", usage="[OPTIONS]", about="Remove unnamed images", flags=_ALL + _FORCE)
def image_prune(session: Session, options: Options, arguments: list[str]) -> None:
    every = options.flag("all")
    what = "all images without at least one container associated to them" if every else (
        "all dangling images")  # fmt: skip
    confirm(session, options, f"WARNING! This will remove {what}.")
    reclaimed(session, images(session, wanted(session, options), every))


@verb("network prune", usage="[OPTIONS]", about="Remove all networks that no container uses",
      flags=_FORCE)  # fmt: skip
def network_prune(session: Session, options: Options, arguments: list[str]) -> None:
    confirm(
        session, options,
        "WARNING! This will remove all custom networks not used by at least one container.",
    )  # fmt: skip
    networks(session, wanted(session, options))


@verb("volume prune", usage="[OPTIONS]", about="Remove anonymous volumes that no container uses",
      flags=_ALL + _FORCE)  # fmt: skip
def volume_prune(session: Session, options: Options, arguments: list[str]) -> None:
    every = options.flag("all")
    filters = wanted(session, options)
    if every:
        filters["all"] = ["true"]
    what = "all local volumes" if every else "anonymous local volumes"
    confirm(
        session, options, f"WARNING! This will remove {what} not used by at least one container."
    )
    reclaimed(session, volumes(session, filters))


@verb("builder prune", usage="[OPTIONS]", about="Remove the build cache", flags=_ALL + _FORCE
      + """
      --keep-storage bytes   Bytes to keep
""")  # fmt: skip
def builder_prune(session: Session, options: Options, arguments: list[str]) -> None:
    kind = "all" if options.flag("all") else "all dangling"
    confirm(session, options, f"WARNING! This will remove {kind} build cache.")
    query = {
        "all": options.flag("all") or None,
        "filters": filters_text(wanted(session, options)),
        "keep-storage": options.number("keep-storage"),
    }
    found = session.client.post("/build/prune", query) or {}
    print_section(session, "Deleted build cache objects", found.get("CachesDeleted") or ())
    reclaimed(session, int(found.get("SpaceReclaimed") or 0))


@verb("system prune", usage="[OPTIONS]", about="Remove everything that is not used", flags=_ALL
      + _FORCE + """
      --volumes         Also remove anonymous volumes
""")  # fmt: skip
def system_prune(session: Session, options: Options, arguments: list[str]) -> None:
    every = options.flag("all")
    filters = wanted(session, options)
    if options.flag("volumes") and "until" in filters:
        raise InvalidParameter('ERROR: The "until" filter is not supported with "--volumes"')
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if options.flag("volumes"):
        lines.append("all anonymous volumes not used by at least one container")
    lines.append(
        "all images without at least one container associated to them" if every
        else "all dangling images"
    )  # fmt: skip
    lines.append("all build cache" if every else "unused build cache")
    text = "WARNING! This will remove:\n" + "\n".join(f"  - {line}" for line in lines) + "\n"
    if filters:
        shown = [f"{name}={value}" for name, values in filters.items() for value in values]
        text += "\n  Items to be pruned will be filtered with:\n" + "\n".join(
            f"  - {line}" for line in sorted(shown)) + "\n"  # fmt: skip
    confirm(session, options, text)
    size = containers(session, filters)
    networks(session, filters)
    if options.flag("volumes"):
        size += volumes(session, filters)
    size += images(session, filters, every)
    size += _build_cache(session, filters, every)
    reclaimed(session, size)


def _build_cache(session: Session, filters: dict[str, list[str]], every: bool) -> int:
    """An engine without a builder has no cache to prune."""
    kept = {key: value for key, value in filters.items() if key == "until"}
    query = {"all": every or None, "filters": filters_text(kept)}
    try:
        found = session.client.post("/build/prune", query) or {}
    except Refused as err:
        if err.status in (404, 501):
            return 0
        raise
    print_section(session, "Deleted build cache objects", found.get("CachesDeleted") or ())
    return int(found.get("SpaceReclaimed") or 0)
