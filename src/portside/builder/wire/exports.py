"""Exports a build's result for a client: images in the store, files and archives."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from portside.builder.cache.cache_export import parse_target
from portside.builder.dockerfile.history_text import BUILDKIT_COMMENT
from portside.builder.exporters.export_options import flag
from portside.builder.results import (
    BuildResult,
    CacheRequest,
    ContentStore,
    ExportRequest,
    FileWriter,
    PlatformResult,
)
from portside.builder.wire import cache_options
from portside.builder.wire.attested_results import attested
from portside.builder.wire.build_job import BuildJob, Reference, Result
from portside.builder.wire.client_content import OUTPUT, ClientContent
from portside.builder.wire.client_session import FileSendWriter
from portside.builder.wire.file_transfer import send_directory
from portside.builder.wire.progress_log import InternalStep
from portside.builder.wire.transfer_jobs import StageTar
from portside.images.stream_feed import run_fed
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.model.ids import new_id
from portside.model.image import ATTESTATION_TYPE, MAX_MANIFEST, Descriptor, ImageConfig
from portside.model.platform import Platform
from portside.model.rootfs import Rootfs
from portside.store.store import Store

CONFIG = "containerimage.config"
_TITLES = {
    "moby": "exporting to image", "image": "exporting to image", "registry": "exporting to image",
    "docker": "exporting to docker image format", "oci": "exporting to oci image format",
    "local": "exporting to client directory", "tar": "exporting to client tarball",
}  # fmt: skip


@dataclass
class Output:
    """One ``-o``, numbered as the client numbers its outputs."""

    number: int
    type: str
    attrs: Mapping[str, str]


async def export(job: BuildJob, result: Result, outputs: Sequence[Output]) -> dict[str, str]:
    """Write all outputs; returns the exporter response for the client."""
    wanted = [output for output in outputs if output.type != "cacheonly"]
    caches = cache_options.exports(job.request, job.session)
    for cache in caches:
        parse_target(cache)
    if not (wanted or caches) or not result.refs:
        return {}
    epoch = job.epoch
    if epoch and not epoch.isdecimal():
        raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {epoch}")
    made = BuildResult(
        platforms=tuple(
            [
                await attested(job, result.refs[key], await platform_result(job, result, key))
                for key in result.refs
            ]
        ),
        is_multi=result.is_multi,
    )
    inline = [cache for cache in caches if cache.type == "inline"]
    found: dict[str, str] = {}
    for output in wanted:
        with job.progress.step(_TITLES.get(output.type, f"exporting to {output.type}")) as step:
            found |= await _one(job, made, output, int(epoch) if epoch else None, step, inline)
    for cache in caches:
        if cache.type != "inline":
            found |= await _cache(job, made, cache)
    return found


async def _cache(job: BuildJob, made: BuildResult, cache: CacheRequest) -> dict[str, str]:
    assert job.work is not None
    place = "client directory" if cache.type == "local" else cache.type
    with job.progress.step(f"exporting cache to {place}") as step:
        auths = await cache_options.auths([cache], job.session)
        (answer,) = await job.service.deliver(
            made, [], job.work.lease, auths=auths, cache_to=[cache], report=step.pulling
        )
        if manifest := answer.get("cache.manifest"):
            digest = msgspec.json.decode(manifest)["digest"]
            step.did(f"writing cache image manifest {digest}")
    return answer


async def _one(
    job: BuildJob, made: BuildResult, output: Output, epoch: int | None, step: InternalStep,
    inline: Sequence[CacheRequest],
) -> dict[str, str]:  # fmt: skip
    assert job.work is not None
    sink = ClientSink(job, output.number, step) if job.session is not None else None
    request = ExportRequest(type=output.type, attrs=output.attrs, sink=sink)
    auths = await job.auths_for(output.attrs) if _pushes(output) else None
    answer, *_ = await job.service.deliver(
        made, [request], job.work.lease, auths=auths, epoch=epoch, report=step.pulling,
        cache_to=inline,
    )  # fmt: skip
    if inline:
        step.did("preparing layers for inline cache")
    if answer.get("containerimage.digest"):
        step.did("exporting layers")
        described = base64.b64decode(answer["containerimage.descriptor"])
        job.exported.append(msgspec.json.decode(described, type=Descriptor))
        for line in exported(job.service.store, answer):
            step.did(line)
        if flag(output.attrs, "store", True):
            for name in filter(None, answer.get("image.name", "").split(",")):
                step.did(f"naming to {name}")
                step.did(f"unpacking to {name}")
    return answer


def exported(store: Store, answer: Mapping[str, str]) -> Iterator[str]:
    """The documents of an image, as BuildKit's clients name them."""
    digest = answer["containerimage.digest"]
    document = msgspec.json.decode(store.blobs.read(Digest(digest), MAX_MANIFEST))
    entries = document.get("manifests")
    if entries is None:
        yield f"exporting manifest {digest}"
        yield f"exporting config {document['config']['digest']}"
        return
    for entry in entries:
        if (entry.get("annotations") or {}).get(ATTESTATION_TYPE):
            yield f"exporting attestation manifest {entry['digest']}"
            continue
        yield f"exporting manifest {entry['digest']}"
        manifest = msgspec.json.decode(store.blobs.read(Digest(entry["digest"]), MAX_MANIFEST))
        yield f"exporting config {manifest['config']['digest']}"
    yield f"exporting manifest list {digest}"


def _pushes(output: Output) -> bool:
    return output.type == "registry" or flag(output.attrs, "push", False)


async def platform_result(job: BuildJob, result: Result, key: str) -> PlatformResult:
    """One platform of a result as what exporters take."""
    reference = result.refs[key]
    assert job.work is not None
    if reference.plan is not None and not _is_changed(result, key, reference):
        return await job.service.plan_result(reference.plan, job.work, BUILDKIT_COMMENT)
    config = _config(result, key)
    platform = result.platforms.get(key) or config.platform
    if not platform.architecture:
        platform = Platform.host()
    return PlatformResult(
        platform=platform, tree=await job.tree(reference), config=config,
        records=tuple(job.work.build.records()),
    )  # fmt: skip


def _is_changed(result: Result, key: str, reference: Reference) -> bool:
    """Whether the client returned another configuration than it was given."""
    given = result.metadata.get(f"{CONFIG}/{key}" if result.is_multi else CONFIG)
    return given is not None and bool(reference.config) and given != reference.config


def _config(result: Result, key: str) -> ImageConfig:
    data = result.metadata.get(f"{CONFIG}/{key}" if result.is_multi else CONFIG)
    if not data:
        return ImageConfig()
    try:
        return msgspec.json.decode(data, type=ImageConfig)
    except msgspec.MsgspecError as err:
        raise InvalidParameter(f"the image configuration is malformed: {err}") from None


class ClientSink:
    """:class:`OutputSink` over the client's session."""

    def __init__(self, job: BuildJob, number: int, step: InternalStep) -> None:
        self._job, self._number, self._step = job, number, step

    async def file(self, metadata: Mapping[str, str]) -> FileWriter:
        return await FileSendWriter.open(
            self._job.client(), self._number, metadata,
            lambda size: self._step.at("sending tarball", size),
        )  # fmt: skip

    async def tree(self, tar: AsyncIterator[bytes]) -> None:
        """fsutil wants all entries before the first file: the tree is unpacked for it."""
        service = self._job.service
        place = service.store.root / "contexts" / new_id()
        try:
            job = StageTar(target=str(place), limits=service.store.layers.limits)
            await run_fed(service.store.workers, job, tar)
            await self._send(place)
        finally:
            service.store.trash.discard(place)

    async def _send(self, place: Path) -> None:
        text = "copying files"
        await send_directory(
            self._job.client(), self._job.service.store.workers,
            Rootfs("bind", upper=str(place)), self._number,
            lambda size: self._step.at(text, size),
        )  # fmt: skip
        self._step.did(text)

    def content(self) -> ContentStore:
        return ClientContent(self._job.client(), OUTPUT)
