"""A build's result goes where the client wants it: into the store, to a registry, or back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from portside.builder.exporters.export_options import (
    ARCHIVE_TYPES,
    IMAGE_TYPES,
    TREE_TYPES,
    ExportOptions,
    parse_export,
)
from portside.builder.exporters.image_writer import ImageWriter, Written, response
from portside.builder.layers.layer_blobs import difference
from portside.builder.layers.layer_jobs import PackTrees
from portside.builder.layers.layer_values import Named
from portside.builder.results import BuildResult, ExportRequest, OutputSink, PlatformResult
from portside.builder.solver.tree import Tree
from portside.images.save import layout_stream
from portside.images.service import ImageService
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.model.golang.timestamps import format_rfc3339, now_rfc3339
from portside.model.image import (
    ANNOTATION_NAME,
    ANNOTATION_REF,
    OCI_INDEX,
    Descriptor,
    History,
    Index,
    encode,
)
from portside.model.progress import Report as PullReport
from portside.model.progress import quiet
from portside.model.registryauth import AuthConfig
from portside.model.rootfs import Rootfs
from portside.store.job_streams import JobStream

if TYPE_CHECKING:
    from portside.store.db import Lease

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
CREATED = "org.opencontainers.image.created"
_FILES = {"slsa.dev/provenance": "provenance.json", "spdx.dev/Document": "sbom.spdx.json"}


class Delivery:
    """Runs the exporters of one build; ``lease`` keeps what they make meanwhile."""

    def __init__(
        self, images: ImageService, lease: Lease, auths: Mapping[str, AuthConfig],
        report: PullReport = quiet,
    ) -> None:  # fmt: skip
        self._images, self._store = images, images.store
        self._lease, self._auths, self._report = lease, auths, report

    async def deliver(
        self, result: BuildResult, requests: Sequence[ExportRequest], epoch: int | None = None
    ) -> list[dict[str, str]]:
        """Every request's answer, in BuildKit's keys. InvalidParameter for a bad request before
        any of them begins; else the first failure."""
        wanted = [(parse_export(request, epoch), request.sink) for request in requests]
        for options, sink in wanted:
            _check(result, options, sink)
        return [await self.one(result, options, sink) for options, sink in wanted]

    async def one(
        self, result: BuildResult, options: ExportOptions, sink: OutputSink | None = None
    ) -> dict[str, str]:
        if options.squash:
            result = await self._squashed(result)
        if options.type in IMAGE_TYPES:
            return await self._image(result, options)
        if options.type in ARCHIVE_TYPES:
            assert sink is not None
            return await self._archive(result, options, sink)
        if options.type in TREE_TYPES:
            assert sink is not None
            await self._tree(result, options, sink)
        return {}

    # -- images --------------------------------------------------------------------------

    async def _image(self, result: BuildResult, options: ExportOptions) -> dict[str, str]:
        written = await ImageWriter(self._store, self._lease.ref).write(result, options)
        parent = result.platforms[0].parent if len(result.platforms) == 1 else ""
        names = [str(name) for name in options.names] if options.store else []
        if options.push_by_digest:
            names = []
        is_new = written.target.digest not in self._images.catalogue.records
        target = msgspec.structs.replace(written.target, annotations={})
        identifier = await self._images.add(target, names, lease=self._lease, parent=parent)
        if options.push:
            for name in options.names:
                await self._images.push_image(
                    identifier, str(name), self._auths.get(name.domain), self._report,
                    by_digest=options.push_by_digest,
                )  # fmt: skip
        if not options.store and is_new and not self._images.catalogue.references(identifier):
            self._images.catalogue.delete(identifier)
        return response(written, options)

    async def _squashed(self, result: BuildResult) -> BuildResult:
        platforms = [await self._squash(item) for item in result.platforms]
        return replace(result, platforms=tuple(platforms))

    async def _squash(self, item: PlatformResult) -> PlatformResult:
        """All layers above the base's as one, and a line of history that says so."""
        layers = self._store.layers
        stack = list(reversed(layers.stack(Digest(item.tree.chain)))) if item.tree.chain else []
        if len(stack) <= item.base_layers + 1:
            return item
        below = stack[item.base_layers - 1].chain if item.base_layers else None
        tree = await difference(self._store, self._lease.ref, below, Digest(item.tree.chain), below)
        history = list(item.config.history or ())
        layers_left = item.base_layers
        for number, line in enumerate(history):
            if not line.empty_layer:
                if layers_left <= 0:
                    history[number] = msgspec.structs.replace(line, empty_layer=True)
                layers_left -= 1
        text = f"merge {item.tree.chain} to {item.parent or 'scratch'}"
        history.append(History(created=item.config.created or "", comment=text))
        config = msgspec.structs.replace(item.config, history=tuple(history))
        return replace(item, tree=tree, config=config)

    # -- archives ------------------------------------------------------------------------

    async def _archive(
        self, result: BuildResult, options: ExportOptions, sink: OutputSink
    ) -> dict[str, str]:
        """A tar in the shape of an OCI layout (docker: of ``docker save``), or its blobs."""
        if options.type == "docker":
            bare = tuple(replace(item, attestations=()) for item in result.platforms)
            result = replace(result, platforms=bare, is_multi=False)
        written = await ImageWriter(self._store, self._lease.ref).write(result, options)
        written = _stamped(written, options)
        found = response(written, options)
        blobs = self._blobs(written)
        if not options.tar:
            content = sink.content()
            for digest in blobs:
                size = self._store.blobs.size(Digest(digest))
                await content.write(digest, size, self._store.layers.read_blob(Digest(digest)))
            return found
        writer = await sink.file(found)
        try:
            documents = self._documents(written, options)
            async for piece in layout_stream(self._store, blobs, documents):
                await writer.write(piece)
        finally:
            await writer.close()
        return found

    def _blobs(self, written: Written) -> list[str]:
        """Everything below the target."""
        catalogue = self._images.catalogue
        found = {written.target.digest}
        manifests = [item.digest for item in written.manifests]
        if written.target.digest not in manifests:
            data = self._store.blobs.read(Digest(written.target.digest), 4 << 20)
            index = msgspec.json.decode(data, type=Index)
            manifests = [item.digest for item in index.manifests]
        for digest in manifests:
            manifest = catalogue.manifest(digest)
            found |= {digest, manifest.config.digest, *(part.digest for part in manifest.layers)}
        return sorted(found)

    def _documents(self, written: Written, options: ExportOptions) -> Iterator[tuple[str, bytes]]:
        entries = []
        for name in options.names:
            named = {ANNOTATION_NAME: str(name), ANNOTATION_REF: name.tag}
            annotations = {**written.target.annotations, **named}
            entries.append(msgspec.structs.replace(written.target, annotations=annotations))
        index = Index(
            schema_version=2, media_type=OCI_INDEX,
            manifests=tuple(entries) or (written.target,),
        )  # fmt: skip
        yield "index.json", encode(index)
        if options.type == "docker":
            manifest = self._images.catalogue.manifest(written.manifests[0].digest)
            item: dict[str, Any] = {
                "Config": _path(manifest.config),
                "RepoTags": [name.familiar for name in options.names] or None,
                "Layers": [_path(layer) for layer in manifest.layers],
            }
            yield "manifest.json", msgspec.json.encode([item])
        yield "oci-layout", LAYOUT

    # -- trees ---------------------------------------------------------------------------

    async def _tree(self, result: BuildResult, options: ExportOptions, sink: OutputSink) -> None:
        splits = options.platform_split
        if splits is None:
            splits = result.is_multi
        trees = []
        for item in result.platforms:
            folder = str(item.platform).replace("/", "_") if splits else ""
            trees.append(Named(folder, self._readable(item.tree), tuple(_attested(item, options))))
        latest = None if options.epoch is None else options.epoch * 10**9
        job = PackTrees(trees=tuple(trees), latest=latest)
        async with await JobStream.start(self._store.workers, job) as stream:
            if options.type == "local":
                await sink.tree(stream)
                return
            writer = await sink.file({})
            try:
                async for piece in stream:
                    await writer.write(piece)
            finally:
                await writer.close()

    def _readable(self, tree: Tree) -> Rootfs:
        if tree.directory:
            return Rootfs("bind", upper=tree.directory)
        if tree.chain:
            return self._store.layers.rootfs(Digest(tree.chain))
        return Rootfs("bind", upper=str(self._store.layers.links_dir / "empty"))


def _attested(item: PlatformResult, options: ExportOptions) -> Iterator[tuple[str, bytes]]:
    for attestation in item.attestations:
        if attestation.inline_only:
            continue
        kind = attestation.predicate_type
        name = next((file for part, file in _FILES.items() if part in kind), "attestation.json")
        statement = {"_type": "https://in-toto.io/Statement/v0.1", "predicateType": kind,
                     "subject": [], "predicate": attestation.predicate}  # fmt: skip
        yield options.attestation_prefix + name, msgspec.json.encode(statement)


def _stamped(written: Written, options: ExportOptions) -> Written:
    """An archive says of its image when it was made."""
    moment = now_rfc3339() if options.epoch is None else format_rfc3339(options.epoch * 10**9)
    annotations = {**written.target.annotations, CREATED: f"{moment[:19]}Z"}
    return replace(written, target=msgspec.structs.replace(written.target, annotations=annotations))


def _check(result: BuildResult, options: ExportOptions, sink: OutputSink | None) -> None:
    if options.type in ARCHIVE_TYPES | TREE_TYPES and sink is None:
        raise InvalidParameter(f"output type {options.type} needs a destination: give dest=PATH")
    if options.type == "docker" and len(result.platforms) > 1:
        raise InvalidParameter(
            "docker exporter does not currently support exporting manifest lists: "
            "use type=oci, or build for one platform"
        )


def _path(part: Descriptor) -> str:
    return "blobs/" + part.digest.replace(":", "/")
