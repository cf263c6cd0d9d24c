"""``docker commit``: a container's changes become the top layer of a new image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portside.images.compress import Packer
from portside.images.config_changes import apply_changes
from portside.images.image_jobs import Packed
from portside.images.image_store import Catalogue, ImageRecord, Variant
from portside.images.manifest_builder import make_image
from portside.model.digest import Digest
from portside.model.errors import NotFound
from portside.model.events import Publisher
from portside.model.golang.timestamps import now_rfc3339
from portside.model.image import (
    OCI_LAYER_GZIP,
    Descriptor,
    History,
    ImageConfig,
    RootFS,
    RunConfig,
)
from portside.model.platform import Platform
from portside.model.reference import Reference
from portside.store.db import Ref
from portside.store.store_jobs import PackChanges


@dataclass(frozen=True, slots=True)
class Commit:
    """The options of a commit."""

    container_id: str
    parent: str
    """ID of the image the container was made from; empty for none."""
    name: Reference | None
    author: str
    comment: str
    config: RunConfig | None
    changes: Sequence[str]


async def commit_container(catalogue: Catalogue, request: Commit, publish: Publisher) -> str:
    """Make the image; its ID. The writable layer must be quiet meanwhile."""
    store = catalogue.store
    base, layers = _base(catalogue, request)
    config = apply_changes(request.config or base.run, request.changes)
    with store.lease(f"commit {request.container_id}") as lease:
        async with store.writables.plain(request.container_id) as (rootfs, layer_base):
            job = PackChanges(rootfs=rootfs, base=layer_base)
            packed = await Packer(store, lease.ref).from_job(job)
        made = _config(base, request, config, packed)
        if len(made.rootfs.diff_ids) > len(base.rootfs.diff_ids):
            layers.append(
                Descriptor(media_type=OCI_LAYER_GZIP, digest=packed.digest, size=packed.size)
            )
        names = [request.name] if request.name else []
        identifier = await make_image(
            catalogue, lease, made, layers, names=names, parent=_parent(catalogue, request)
        )
    await store.settle()
    publish("image", "create", identifier, {"name": identifier})
    if request.name:
        publish("image", "tag", identifier, {"name": request.name.familiar})
    return identifier


def _parent(catalogue: Catalogue, request: Commit) -> str:
    return request.parent if request.parent in catalogue.records else ""


def _base(catalogue: Catalogue, request: Commit) -> tuple[ImageConfig, list[Descriptor]]:
    """The parent's configuration and layers; when it was removed by force meanwhile, its
    layers are still there but nobody knows their blobs: NotFound."""
    if not request.parent:
        host = Platform.host()
        empty = ImageConfig(architecture=host.architecture, os=host.os, variant=host.variant)
        return empty, []
    try:
        record = catalogue.record(request.parent)
    except NotFound as err:
        raise NotFound(
            f"the image {request.parent} that container {request.container_id} was made from "
            "is gone: pull or load it again, then commit"
        ) from err
    variant = _used(catalogue, request.container_id, record)
    return catalogue.config(variant.config), list(catalogue.manifest(variant.manifest).layers)


def _used(catalogue: Catalogue, container_id: str, record: ImageRecord) -> Variant:
    """The platform of the image that the container was made from."""
    held = catalogue.store.db.refs.targets(Ref.container(container_id), "blob")
    for blob in held:
        found = record.with_digest(blob.id)
        if found is not None:
            return found
    main = record.variant()
    if main is None:
        raise NotFound("the image of the container does not provide any platform")
    return main


def _config(base: ImageConfig, request: Commit, config: RunConfig, packed: Packed) -> ImageConfig:
    moment = now_rfc3339()
    is_empty = packed.diff_id in EMPTY_TARS
    diff_ids = base.rootfs.diff_ids if is_empty else (*base.rootfs.diff_ids, packed.diff_id)
    created_by = " ".join(request.config.cmd or ()) if request.config else ""
    line = History(
        created=moment,
        created_by=created_by,
        author=request.author,
        comment=request.comment,
        empty_layer=is_empty,
    )
    return ImageConfig(
        architecture=base.architecture,
        author=request.author,
        comment=request.comment,
        config=config,
        container=request.container_id,
        created=moment,
        history=(*(base.history or ()), line),
        os=base.os or "linux",
        os_features=base.os_features or (),
        os_version=base.os_version,
        rootfs=RootFS("layers", diff_ids),
        variant=base.variant,
    )


EMPTY_TARS = frozenset(str(Digest.of(bytes(size))) for size in (0, 512, 1024, 10240))
"""Digests of archives without an entry: such a commit adds no layer."""
