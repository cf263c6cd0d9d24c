"""Attestations of a local image: manifests of its index whose layers are in-toto statements about
another manifest of it (BuildKit, attestation-storage)."""

from __future__ import annotations

import msgspec

from portside.images.image_content import DEEPEST
from portside.images.image_store import Catalogue, ImageRecord, lacks_platform, provides_nothing
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.model.image import ATTESTATION_FOR, MAX_MANIFEST, Index, decode, is_index
from portside.model.imageapi import AttestationStatement
from portside.model.platform import Platform

_PREDICATE = "in-toto.io/predicate-type"
_MAX_STATEMENT = 64 << 20
"""Bytes; the inventory of a large image has about ten million."""


def attested(catalogue: Catalogue, identifier: str, record: ImageRecord) -> dict[str, str]:
    """The attestation manifests that are here, each with the manifest it is about."""
    found: dict[str, str] = {}
    if record.attestations:
        _collect(catalogue, identifier, record, found, 0)
    return found


def _collect(
    catalogue: Catalogue, digest: str, record: ImageRecord, found: dict[str, str], depth: int
) -> None:
    if depth > DEEPEST or not catalogue.store.blobs.has(digest):
        return
    data = catalogue.store.blobs.read(Digest(digest), MAX_MANIFEST)
    if not is_index("", data):
        return
    for entry in decode(data, Index, f"index {digest}").manifests:
        if entry.digest in record.attestations:
            found[entry.digest] = entry.annotations.get(ATTESTATION_FOR, "")
        elif not entry.is_attestation and record.with_digest(entry.digest) is None:
            _collect(catalogue, entry.digest, record, found, depth + 1)


def find_statements(
    catalogue: Catalogue,
    identifier: str,
    name: str,
    platform: Platform | None,
    types: frozenset[str],
    whole: bool,
) -> list[AttestationStatement]:
    """Statements about the image of one platform; with ``whole`` their text. Raises NotFound when
    the image is not here for ``platform``."""
    record = catalogue.record(identifier)
    variant = record.variant(platform)
    if variant is None:
        raise lacks_platform(name, platform) if platform else provides_nothing(identifier)
    found = []
    for digest, about in attested(catalogue, identifier, record).items():
        if about != variant.manifest:
            continue
        for layer in catalogue.manifest(digest).layers:
            kind = layer.annotations.get(_PREDICATE, "")
            if not kind or (types and kind not in types):
                continue
            text = _text(catalogue, layer.digest) if whole else None
            found.append(AttestationStatement(layer, kind, text))
    return found


def _text(catalogue: Catalogue, digest: str) -> msgspec.Raw:
    """A statement as it is stored, which has to be JSON to be part of an answer."""
    data = catalogue.store.blobs.read(Digest(digest), _MAX_STATEMENT)
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidParameter(f"attestation statement {digest} is not JSON: {err}") from err
    return msgspec.Raw(data)
