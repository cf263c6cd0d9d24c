"""What a client gets of a build's result: images in the store, files and archives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from portside.builder.dockerfile.history_text import BUILDKIT_COMMENT
from portside.builder.results import (
    BuildResult,
    ContentStore,
    ExportRequest,
    FileWriter,
    PlatformResult,
)
from portside.builder.wire.build_job import BuildJob, Reference, Result
from portside.builder.wire.client_session import FileSendWriter
from portside.builder.wire.file_transfer import send_directory
from portside.builder.wire.progress_log import InternalStep
from portside.builder.wire.transfer_jobs import StageTar
from portside.images.stream_feed import run_fed
from portside.model.errors import InvalidParameter, NotImplementedHere
from portside.model.ids import new_id
from portside.model.image import ImageConfig
from portside.model.platform import Platform
from portside.model.rootfs import Rootfs

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
    """Carry all outputs out; what the client is told of them."""
    wanted = [output for output in outputs if output.type != "cacheonly"]
    if not wanted or not result.refs:
        return {}
    epoch = job.epoch
    if epoch and not epoch.isdigit():
        raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {epoch}")
    made = BuildResult(
        platforms=tuple([await _platform(job, result, key) for key in result.refs]),
        is_multi=result.is_multi,
    )
    found: dict[str, str] = {}
    for output in wanted:
        with job.progress.step(_TITLES.get(output.type, f"exporting to {output.type}")) as step:
            found |= await _one(job, made, output, int(epoch) if epoch else None, step)
    return found


async def _one(
    job: BuildJob, made: BuildResult, output: Output, epoch: int | None, step: InternalStep
) -> dict[str, str]:
    assert job.work is not None
    sink = ClientSink(job, output.number, step) if job.session is not None else None
    request = ExportRequest(type=output.type, attrs=output.attrs, sink=sink)
    auths = await job.auths_for(output.attrs) if _pushes(output) else None
    (answer,) = await job.service.deliver(
        made, [request], job.work.lease, auths=auths, epoch=epoch, report=step.pulling
    )
    if digest := answer.get("containerimage.digest"):
        step.did("exporting layers")
        step.did(f"exporting manifest {digest}")
        for name in filter(None, answer.get("image.name", "").split(",")):
            step.did(f"naming to {name}")
    return answer


def _pushes(output: Output) -> bool:
    return output.type == "registry" or output.attrs.get("push", "false") in ("", "1", "true")


async def _platform(job: BuildJob, result: Result, key: str) -> PlatformResult:
    reference = result.refs[key]
    assert job.work is not None
    if reference.plan is not None and not _is_changed(result, key, reference):
        return await job.service.plan_result(reference.plan, job.work, BUILDKIT_COMMENT)
    config = _config(result, key)
    platform = result.platforms.get(key) or config.platform
    if not platform.architecture:
        platform = Platform.host()
    return PlatformResult(platform=platform, tree=await job.tree(reference), config=config)


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
        told = "copying files"
        await send_directory(
            self._job.client(), self._job.service.store.workers,
            Rootfs("bind", upper=str(place)), self._number,
            lambda size: self._step.at(told, size),
        )  # fmt: skip
        self._step.did(told)

    def content(self) -> ContentStore:
        raise NotImplementedHere("outputs with tar=false are not supported yet: use tar=true")
