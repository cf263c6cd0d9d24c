"""Images at the engine's start: older data roots are migrated, damage is logged."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from portside.images.image_content import survey
from portside.images.image_store import Catalogue, ImageRecord, Variant, parse_stored
from portside.model.digest import chain_id
from portside.model.errors import PortsideError
from portside.store.db import Ref

log = logging.getLogger(__name__)

IDENTITY = "image-identity"
"""Key in the database that says what image IDs are."""
TARGET = "target"
"""IDs are digests of indexes and manifests; before this key they were of configurations."""


class _OldRecord(msgspec.Struct, kw_only=True):
    """A record whose image was known by the digest of its configuration."""

    manifest: str
    manifest_type: str
    index: str = ""
    index_type: str = ""
    parent: str = ""
    size: int = 0
    stored_at: str = ""
    last_tagged: str = ""


def drop_broken(catalogue: Catalogue) -> list[str]:
    """Forget images of which nothing can be used any more; their IDs.

    Only a power cut between a write and its way to the disk does that: the store has then
    dropped the damaged blob, and the image can be pulled again. Images that containers use
    are kept, since their layers are what counts.
    """
    dropped = []
    for identifier, record in catalogue.records.items():
        lost = _lost(catalogue, identifier, record)
        if not lost:
            continue
        if catalogue.store.db.refs.users(Ref.image(identifier), "container"):
            log.error("image %s is damaged (%s is missing): pull it again", identifier, lost)
            continue
        log.warning(
            "image %s is damaged (%s is missing) and was dropped: pull it again", identifier, lost
        )
        catalogue.delete(identifier)
        dropped.append(identifier)
    return dropped


def _lost(catalogue: Catalogue, identifier: str, record: ImageRecord) -> str:
    """The first document that is missing, or an empty string."""
    wanted = [identifier]
    for variant in record.variants:
        wanted += [variant.manifest, variant.config]
    return next((digest for digest in wanted if not catalogue.store.blobs.has(digest)), "")


def migrate(catalogue: Catalogue) -> int:
    """Give images of an older data root their new IDs; how many.

    One transaction for images, names, ownership and the containers that use them: a crash leaves
    the old state whole, and the next start tries again. Call it before containers are read.
    """
    db = catalogue.store.db
    if db.get_meta(IDENTITY) == TARGET:
        return 0
    with db.transaction() as sql:
        rows = sql.execute("SELECT id, body FROM documents WHERE kind='image'").fetchall()
        old = {row[0]: msgspec.json.decode(row[1], type=_OldRecord) for row in rows}
        ids = {key: record.index or record.manifest for key, record in old.items()}
        for key, record in old.items():
            if not catalogue.store.blobs.has(ids[key]):
                ids[key] = record.manifest  # the index was lost; the image itself was not
        for key in old:
            sql.execute("DELETE FROM documents WHERE kind='image' AND id=?", (key,))
        for key, record in old.items():
            _migrate_one(catalogue, key, ids[key], record, ids)
        _migrate_names(catalogue, ids)
        _migrate_containers(catalogue, ids, old)
        db.set_meta(IDENTITY, TARGET)
    if old:
        log.info("%d images are now known by the digest of their index or manifest", len(old))
    return len(old)


def _migrate_one(
    catalogue: Catalogue, old_id: str, new_id: str, record: _OldRecord, ids: dict[str, str]
) -> None:
    db = catalogue.store.db
    with db.transaction() as sql:
        for side in ("owner", "target"):
            sql.execute(
                f"UPDATE OR IGNORE refs SET {side}_id=? WHERE {side}_kind='image' AND {side}_id=?",
                (new_id, old_id),
            )
            sql.execute(f"DELETE FROM refs WHERE {side}_kind='image' AND {side}_id=?", (old_id,))
    media_type = record.index_type if new_id == record.index else record.manifest_type
    try:
        content = survey(catalogue, new_id, media_type)
    except PortsideError as err:
        log.error("image %s is damaged: %s: pull it again", new_id, err)
        variants: list[Variant] = []
        attestations, blobs = dict[str, int](), set[str]()
    else:
        variants = [_with_layers(catalogue, variant) for variant in content.variants]
        media_type, attestations, blobs = content.media_type, content.attestations, content.blobs
    catalogue.add(
        new_id,
        ImageRecord(
            media_type=media_type,
            variants=tuple(variants),
            attestations=attestations,
            parent=ids.get(record.parent, ""),
            stored_at=record.stored_at,
            last_tagged=record.last_tagged,
        ),
        blobs,
    )


def _with_layers(catalogue: Catalogue, variant: Variant) -> Variant:
    """What is unpacked already counts as such."""
    diff_ids = catalogue.config(variant.config).diff_ids
    chains = [chain_id(diff_ids[: n + 1]) for n in range(len(diff_ids))]
    layers = catalogue.store.layers
    if not all(layers.has(chain) for chain in chains):
        return variant
    size = sum(layers.info(chain).size for chain in chains)
    return msgspec.structs.replace(variant, unpacked=True, size=size)


def _migrate_names(catalogue: Catalogue, ids: dict[str, str]) -> None:
    """Tags move along. A name by digest stays where the digest is the image's ID and no tag of
    the repository names the same image; repositories are remembered as sources."""
    names = catalogue.records.all_names()
    tagged = {
        (parse_stored(name).name, ids.get(holder, holder))
        for name, holder in names.items()
        if parse_stored(name).digest is None
    }
    for name, holder in names.items():
        if holder not in ids:
            continue
        reference, new_id = parse_stored(name), ids[holder]
        if reference.digest is not None:
            catalogue.at_registry(new_id, reference)
            if reference.digest != new_id or (reference.name, new_id) in tagged:
                catalogue.records.release(name)
                continue
        catalogue.records.assign(name, new_id)


def _migrate_containers(
    catalogue: Catalogue, ids: dict[str, str], old: dict[str, _OldRecord]
) -> None:
    """Containers name their image, and images they mount, by the new IDs."""
    db = catalogue.store.db
    with db.transaction() as sql:
        rows = sql.execute("SELECT id, body FROM documents WHERE kind='container'").fetchall()
        for key, body in rows:
            document: dict[str, Any] = msgspec.json.decode(body)
            former = document.get("image_id", "")
            changed = former in ids
            if changed:
                document["image_id"] = ids[former]
                variant = catalogue.record(ids[former]).with_digest(former)
                if variant is not None:
                    descriptor = catalogue.manifest_descriptor(variant)
                    document["image_manifest"] = msgspec.to_builtins(descriptor)
                    db.refs.add(Ref.container(key), Ref.blob(variant.manifest))
            for point in document.get("mounts") or ():
                if point.get("type") == "image" and point.get("source") in ids:
                    point["source"] = ids[point["source"]]
                    changed = True
            if changed:
                sql.execute(
                    "UPDATE documents SET body=? WHERE kind='container' AND id=?",
                    (msgspec.json.encode(document), key),
                )
