"""A build's result as the documents of an image: configurations, manifests, an index.

Several platforms, attestations, or annotations of an index make an index; else the image is its
one manifest. An attestation is a manifest of its own beside the one it is about, as BuildKit
attaches it (``docs/attestations/attestation-storage.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from portside.builder.exporters.export_options import (
    INDEX,
    INDEX_DESCRIPTOR,
    MANIFEST,
    MANIFEST_DESCRIPTOR,
    ExportOptions,
)
from portside.builder.layers.layer_blobs import LayerBlob, LayerBlobs
from portside.builder.results import BuildResult, PlatformResult
from portside.model.errors import InvalidParameter
from portside.model.golang.timestamps import format_rfc3339, now_rfc3339
from portside.model.image import (
    ATTESTATION_FOR,
    ATTESTATION_TYPE,
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    History,
    ImageConfig,
    Index,
    Manifest,
    RootFS,
    encode,
)
from portside.model.platform import Platform

if TYPE_CHECKING:
    from portside.store.db import Ref
    from portside.store.store import Store

IN_TOTO = "application/vnd.in-toto+json"
ATTESTATION_ARTIFACT = "application/vnd.docker.attestation.manifest.v1+json"
PREDICATE = "in-toto.io/predicate-type"
STATEMENT = "https://in-toto.io/Statement/v0.1"


@dataclass(frozen=True)
class Written:
    """The documents that were written to the store's blobs."""

    target: Descriptor
    """The index or manifest."""
    manifests: tuple[Descriptor, ...]
    """The platforms' manifests."""
    configs: tuple[str, ...]
    """Digests of their configurations."""


class ImageWriter:
    """Writes documents that ``owner`` (a lease) keeps."""

    def __init__(self, store: Store, owner: Ref) -> None:
        self._store, self._owner = store, owner
        self._layers = LayerBlobs(store, owner)

    async def write(self, result: BuildResult, options: ExportOptions) -> Written:
        manifests, attested, configs = [], [], []
        attests = options.oci_types and (
            options.attestation_inline
            or result.is_multi
            or any(not each.inline_only for item in result.platforms for each in item.attestations)
        )
        for item in result.platforms:
            manifest, config = await self._platform(item, options)
            manifests.append(manifest)
            configs.append(config)
            if item.attestations and attests:
                attested.append(self._attest(item, manifest, options))
        if not (result.is_multi or len(manifests) != 1 or attested):
            if options.annotated(INDEX) or options.annotated(INDEX_DESCRIPTOR):
                raise InvalidParameter(
                    "index annotations not supported for single platform export: use manifest: "
                    "and manifest-descriptor:"
                )
            return Written(manifests[0], tuple(manifests), tuple(configs))
        index = Index(
            schema_version=2,
            media_type=OCI_INDEX if options.oci_types else DOCKER_LIST,
            manifests=(*manifests, *attested),
            annotations=options.annotated(INDEX),
        )
        target = self._put(encode(index), index.media_type)
        extra = options.annotated(INDEX_DESCRIPTOR)
        target = msgspec.structs.replace(target, annotations=extra)
        return Written(target, tuple(manifests), tuple(configs))

    def _put(self, data: bytes, media_type: str) -> Descriptor:
        digest = str(self._store.blobs.put(data, owner=self._owner))
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    async def _platform(
        self, item: PlatformResult, options: ExportOptions
    ) -> tuple[Descriptor, str]:
        layers = await self._layers.of_chain(item.tree.chain, options.form, item.base_layers)
        config = finished_config(item, layers, options)
        kind = OCI_CONFIG if options.oci_types else DOCKER_CONFIG
        described = self._put(encode(config), kind)
        manifest = Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST if options.oci_types else DOCKER_MANIFEST,
            config=described,
            layers=tuple(layer.descriptor for layer in layers),
            annotations=options.annotated(MANIFEST, item.platform),
        )
        found = self._put(encode(manifest), manifest.media_type)
        extra = options.annotated(MANIFEST_DESCRIPTOR, item.platform)
        platform = config.platform.normalized()
        return (
            msgspec.structs.replace(found, annotations=extra, platform=platform),
            described.digest,
        )

    def _attest(
        self, item: PlatformResult, manifest: Descriptor, options: ExportOptions
    ) -> Descriptor:
        layers, digests = [], []
        for attestation in item.attestations:
            kind = attestation.predicate_type
            subject = [
                {"name": _purl(name.familiar, item.platform), "digest": _digest_map(manifest)}
                for name in options.names
            ]
            statement = {
                "_type": STATEMENT,
                "predicateType": kind,
                "subject": subject or [{"name": "_", "digest": _digest_map(manifest)}],
                "predicate": attestation.predicate,
            }
            found = self._put(msgspec.json.encode(statement), IN_TOTO)
            layers.append(msgspec.structs.replace(found, annotations={PREDICATE: kind}))
            digests.append(found.digest)
        if options.oci_artifact:
            document = Manifest(
                schema_version=2,
                media_type=OCI_MANIFEST,
                artifact_type=ATTESTATION_ARTIFACT,
                config=msgspec.structs.replace(self._put(b"{}", OCI_EMPTY), data="e30="),
                layers=tuple(layers),
                subject=msgspec.structs.replace(manifest, annotations={}, platform=None),
            )
        else:
            config = {
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": digests},
            }
            document = Manifest(
                schema_version=2,
                media_type=OCI_MANIFEST,
                config=self._put(msgspec.json.encode(config), OCI_CONFIG),
                layers=tuple(layers),
            )
        found = self._put(encode(document), OCI_MANIFEST)
        return msgspec.structs.replace(
            found,
            annotations={
                ATTESTATION_FOR: manifest.digest,
                ATTESTATION_TYPE: "attestation-manifest",
            },
            platform=Platform(architecture="unknown", os="unknown"),
        )


def finished_config(
    item: PlatformResult, layers: Sequence[LayerBlob], options: ExportOptions
) -> ImageConfig:
    """The configuration with its layers, and history that fits them."""
    config, platform = item.config, item.platform
    history = _history(list(config.history or ()), len(layers), config.created or "")
    created = config.created or now_rfc3339()
    if options.epoch is not None:
        created = format_rfc3339(options.epoch * 10**9)
        history = [
            msgspec.structs.replace(line, created=created)
            if line.created[:19] > created[:19]
            else line
            for line in history
        ]
    return msgspec.structs.replace(
        config,
        architecture=config.architecture or platform.architecture,
        os=config.os or platform.os,
        variant=config.variant or platform.variant,
        created=created,
        history=tuple(history),
        rootfs=RootFS("layers", tuple(layer.diff_id for layer in layers)),
    )


def _history(history: list[History], layers: int, created: str) -> list[History]:
    """As many lines with layers as there are layers: a client's frontend may have miscounted."""
    count = sum(not line.empty_layer for line in history)
    for number, line in enumerate(history):
        if count <= layers:
            break
        if not line.empty_layer:
            history[number] = msgspec.structs.replace(line, empty_layer=True)
            count -= 1
    moment = created or now_rfc3339()
    history += [
        History(created=moment, comment="buildkit.exporter.image.v0") for _ in range(layers - count)
    ]
    return history


def _digest_map(descriptor: Descriptor) -> dict[str, str]:
    algorithm, _, value = descriptor.digest.partition(":")
    return {algorithm: value}


def _purl(name: str, platform: Platform) -> str:
    """A package URL of an image's name (purl-spec, type docker)."""
    from urllib.parse import quote

    path, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    return (
        f"pkg:docker/{quote(path, safe='/')}@{quote(tag)}?platform={quote(str(platform), safe='')}"
    )


def response(written: Written, options: ExportOptions) -> dict[str, str]:
    """An image's exporter response to Solve, with BuildKit's keys."""
    import base64

    found: dict[str, Any] = {"containerimage.digest": written.target.digest}
    if written.target.digest == written.manifests[0].digest:
        found["containerimage.config.digest"] = written.configs[0]
    found["containerimage.descriptor"] = base64.b64encode(encode(written.target)).decode()
    if options.names:
        found["image.name"] = ",".join(str(name) for name in options.names)
    elif options.dangling:
        found["image.name"] = f"{options.dangling}@{written.target.digest}"
    return found
