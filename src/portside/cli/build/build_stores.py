"""Folders with the blobs of an OCI layout: local caches, layouts as contexts and as outputs."""

from __future__ import annotations

import os
import re

from portside.cli.build import csv_options
from portside.cli.build.build_connection import RefusedAnswer
from portside.cli.session import Failed
from portside.model import jsontext
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.build.build_connection import Channel

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PIECE = 1 << 20
_REF = "org.opencontainers.image.ref.name"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


class Stores:
    """All folders of one build, by number."""

    def __init__(self) -> None:
        self._places: list[str] = []

    def add(self, place: str) -> int:
        self._places.append(place)
        return len(self._places) - 1

    def answer(self, channel: Channel, wanted: dict[str, Any]) -> None:
        """The engine's requests to a folder: a blob's size, read a blob, write a blob."""
        number = wanted["store"]
        if not isinstance(number, int) or not 0 <= number < len(self._places):
            raise RefusedAnswer(f"there is no folder {number}")
        place = self._places[number]
        if "size" in wanted:
            path = _blob(place, wanted["size"])
            channel.send([str(os.stat(path).st_size).encode()] if os.path.isfile(path) else [])
        elif "read" in wanted:
            _send(channel, _blob(place, wanted["read"]))
        else:
            _receive(channel, place, wanted["write"])
        channel.end()


def _blob(place: str, digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise RefusedAnswer(f"{digest!r} is not a digest")
    return os.path.join(place, "blobs", "sha256", digest[7:])


def _send(channel: Channel, path: str) -> None:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            channel.send([piece])


def _receive(channel: Channel, place: str, digest: str) -> None:
    """Whole and checked, or not at all."""
    import hashlib

    path = _blob(place, digest)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    found = hashlib.sha256()
    try:
        with open(temporary, "wb") as file:
            for piece in channel.pieces():
                found.update(piece)
                file.write(piece)
        if found.hexdigest() != digest[7:]:
            raise RefusedAnswer(f"the received content is not {digest}")
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_index(place: str, entry: dict[str, Any], name: str) -> None:
    """Name a manifest in the layout's index, in place of what had the name. Raises Failed."""
    path = os.path.join(place, "index.json")
    index = _index(place) or {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    kept = [
        item for item in index.get("manifests") or ()
        if (item.get("annotations") or {}).get(_REF) != name
    ]  # fmt: skip
    notes = {**(entry.get("annotations") or {}), _REF: name}
    index["manifests"] = [*kept, {**entry, "annotations": notes}]
    try:
        os.makedirs(place, exist_ok=True)
        for file, text in (
            (path, jsontext.dumps(index)),
            (os.path.join(place, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}'),
        ):
            with open(f"{file}.{os.getpid()}", "w", encoding="utf-8") as out:
                out.write(text)
            os.replace(f"{file}.{os.getpid()}", file)
    except OSError as err:
        raise Failed(1, f"ERROR: failed to build: {path}: {err.strerror}") from None


def _index(place: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(place, "index.json"), encoding="utf-8") as file:
            found: dict[str, Any] = jsontext.loads(file.read())
    except (OSError, ValueError, PortsideError):
        return None
    return found if isinstance(found, dict) else None


def find(place: str, name: str) -> str:
    """The digest that a layout has under a name (or of its one image); empty for none."""
    entries = (_index(place) or {}).get("manifests") or []
    for entry in entries:
        if (entry.get("annotations") or {}).get(_REF) == name:
            return str(entry.get("digest", ""))
    return str(entries[0].get("digest", "")) if len(entries) == 1 and name == "latest" else ""


# -- flags ---------------------------------------------------------------------------------


class Caches:
    """``--cache-from`` and ``--cache-to``."""

    def __init__(self, stores: Stores, sources: list[str], targets: list[str]) -> None:
        """Raises Failed."""
        self.warnings: list[str] = []
        self._local: list[tuple[str, str] | None] = []
        self.sources = [item for text in sources if (item := self._source(stores, text))]
        self.targets = [self._target(stores, text) for text in targets]

    def _source(self, stores: Stores, text: str) -> dict[str, Any] | None:
        kind, attrs = _parsed(text)
        if kind == "registry" and not attrs.get("ref"):
            raise Failed(1, "ERROR: failed to build: registry cache importer requires ref")
        if kind != "local":
            return {"type": kind, "attrs": attrs}
        place = attrs.get("src", "")
        if not place:
            raise Failed(1, "ERROR: failed to build: local cache importer requires src")
        attrs.setdefault("digest", find(place, attrs.get("tag", "latest")))
        if not attrs["digest"]:
            self.warnings.append(f"WARNING: local cache import at {place} not found")
            return None
        return {"type": kind, "attrs": attrs, "store": stores.add(place)}

    def _target(self, stores: Stores, text: str) -> dict[str, Any]:
        kind, attrs = _parsed(text)
        place = attrs.get("dest", "")
        self._local.append((place, attrs.get("tag", "latest")) if kind == "local" else None)
        if kind == "registry" and not attrs.get("ref"):
            raise Failed(1, "ERROR: failed to build: registry cache exporter requires ref")
        if kind != "local":
            return {"type": kind, "attrs": attrs}
        if not place:
            raise Failed(1, "ERROR: failed to build: local cache exporter requires dest")
        return {"type": kind, "attrs": attrs, "store": stores.add(place)}

    def exported(self, manifests: dict[str, str]) -> None:
        """Write the indexes of folders. ``manifests``: descriptors by the target's number."""
        for number, place in enumerate(self._local):
            if place is not None and (text := manifests.get(str(number))):
                write_index(place[0], jsontext.loads(text), place[1])


def _parsed(text: str) -> tuple[str, dict[str, str]]:
    parts = csv_options.fields(text)
    if len(parts) == 1 and "=" not in parts[0]:
        return "registry", {"ref": parts[0]}
    attrs = csv_options.pairs(parts)
    kind = attrs.pop("type", "")
    if not kind:
        raise Failed(1, f'ERROR: type required form> "{text}"')
    return kind, attrs
