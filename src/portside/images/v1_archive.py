"""Archives of Docker before 1.10: ``repositories`` names images, and each layer is one::

    repositories       {"NAME": {"TAG": "ID"}}
    ID/json            the image: its parent, configuration and history's line
    ID/layer.tar       what it adds to the parent

Of each image that has a name, a configuration is made as image-spec has it (moby,
image/spec/v1.md). What Docker 1.8.3 or later wrote has the digest that dockerd gives it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from portside.images.image_jobs import Member
from portside.model.errors import InvalidParameter
from portside.model.image import MAX_CONFIG, MAX_MANIFEST
from portside.model.reference import Reference

_ID = re.compile(r"[0-9a-f]{64}")
_MOST_LAYERS = 1000
_NOT_KEPT = frozenset(
    ("id", "parent", "Size", "parent_id", "layer_id", "throwaway", "rootfs", "history")
)
"""Keys of the old document that are dropped; the last two are made anew."""


class Archive(Protocol):
    """Members of an archive by name. Raises InvalidParameter for what is missing or too large."""

    def __contains__(self, name: str, /) -> bool: ...

    def member(self, name: str, /) -> Member: ...

    def read(self, name: str, limit: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class OldImage:
    """An image of a v1 archive (before Docker 1.10), with a configuration made for it."""

    config: bytes
    """The new configuration."""
    layers: list[str]
    """Members of the archive, the lowest first."""
    names: list[Reference]


def read_old_images(archive: Archive) -> Iterator[OldImage]:
    """The images with a name. Raises InvalidParameter for malformed documents."""
    data = archive.read("repositories", MAX_MANIFEST)
    named: dict[str, list[Reference]] = {}
    try:
        repositories = msgspec.json.decode(data, type=dict[str, dict[str, str]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidParameter(f"invalid archive: repositories is malformed: {err}") from err
    for name, tags in repositories.items():
        for tag, identifier in tags.items():
            named.setdefault(identifier, []).append(Reference.parse(f"{name}:{tag}"))
    for identifier, names in named.items():
        chain = list(_chain(archive, identifier))
        layers = [f"{each}/layer.tar" for each, _ in chain]
        yield OldImage(_config(archive, [document for _, document in chain], layers), layers, names)


def _chain(archive: Archive, identifier: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """An image and its parents, the oldest first."""
    found: list[tuple[str, dict[str, Any]]] = []
    while identifier:
        if not _ID.fullmatch(identifier):
            raise InvalidParameter(f"invalid archive: {identifier!r} is not an image ID")
        if len(found) >= _MOST_LAYERS:
            raise InvalidParameter(
                f"invalid archive: an image has more than {_MOST_LAYERS} parents, or a circle"
            )
        name = f"{identifier}/json"
        try:
            document = json.loads(archive.read(name, MAX_CONFIG))
        except (ValueError, RecursionError) as err:
            raise InvalidParameter(f"invalid archive: {name} is malformed: {err}") from err
        if not isinstance(document, dict):
            raise InvalidParameter(f"invalid archive: {name} is malformed: an object is expected")
        found.append((identifier, document))
        identifier = str(document.get("parent") or "")
    yield from reversed(found)


def _config(archive: Archive, chain: list[dict[str, Any]], layers: list[str]) -> bytes:
    """The configuration of the last image of a chain."""
    kept = {key: value for key, value in chain[-1].items() if key not in _NOT_KEPT}
    diff_ids = [_diff_id(archive, name) for name in layers]
    kept["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    kept["history"] = [_history(document) for document in chain]
    # Go escapes these three, so that JSON can stand in HTML (encoding/json, Marshal)
    text = json.dumps(dict(sorted(kept.items())), separators=(",", ":"), ensure_ascii=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


def _diff_id(archive: Archive, name: str) -> str:
    member = archive.member(name)
    if member.compression:
        raise InvalidParameter(
            f"invalid archive: layer {name} is compressed with {member.compression}: version 1 "
            "archives have plain tar files"
        )
    return member.digest


def _history(document: dict[str, Any]) -> dict[str, Any]:
    container = document.get("container_config")
    command = container.get("Cmd") if isinstance(container, dict) else None
    words = [command] if isinstance(command, str) else command or []
    line = {
        "created": document.get("created"),
        "created_by": " ".join(map(str, words)),
        "author": document.get("author"),
        "comment": document.get("comment"),
    }
    return {key: value for key, value in line.items() if value}
