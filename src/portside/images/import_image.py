"""``docker import``: the tar of a root file system becomes an image of one layer."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence

from portside.images.compress import Packer
from portside.images.config_changes import apply_changes
from portside.images.image_store import Catalogue
from portside.images.manifest_builder import make_image
from portside.model.errors import InvalidParameter
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
from portside.model.progress import Progress, Report
from portside.model.reference import Reference
from portside.registry.client.client import RegistryClient
from portside.registry.client.endpoints import Endpoint
from portside.registry.client.errors import RegistryError
from portside.registry.client.transport import paced_chunks


async def import_image(
    catalogue: Catalogue,
    registries: RegistryClient,
    archive: AsyncIterable[bytes] | str,
    *,
    name: Reference | None,
    message: str,
    changes: Sequence[str],
    platform: Platform | None,
    report: Report,
    publish: Publisher,
) -> str:
    """Make the image; its ID. ``archive`` is a stream or an http(s) URL."""
    config = apply_changes(RunConfig(), changes)
    target = (platform or Platform.host()).normalized()
    variant = target.variant
    if target.architecture == "arm64" and platform and platform.variant:
        variant = variant or "v8"  # recorded where the request named it, as in Docker
    if target.architecture == "arm" and platform:
        variant = platform.variant
    if target.os != "linux":
        raise InvalidParameter("operating system is not supported")
    if isinstance(archive, str):
        archive = _download(registries, archive, report)
    with catalogue.store.lease("import") as lease:
        packed = await Packer(catalogue.store, lease.ref).from_stream(archive)
        moment = now_rfc3339()
        made = ImageConfig(
            architecture=target.architecture,
            comment=message,
            config=config,
            created=moment,
            history=(History(created=moment, comment=message),),
            os=target.os,
            os_version=target.os_version,
            rootfs=RootFS("layers", (packed.diff_id,)),
            variant=variant,
        )
        layer = Descriptor(media_type=OCI_LAYER_GZIP, digest=packed.digest, size=packed.size)
        names = [name] if name else []
        identifier = await make_image(catalogue, lease, made, [layer], names=names)
    await catalogue.store.settle()
    if name:
        publish("image", "tag", identifier, {"name": name.familiar})
    publish("image", "import", identifier, {"name": identifier})
    return identifier


async def _download(registries: RegistryClient, url: str, report: Report) -> AsyncIterator[bytes]:
    if "://" not in url:
        url = f"http://{url}"
    if not url.startswith(("http://", "https://")):
        raise InvalidParameter(f"unsupported scheme in {url!r}: use http:// or https://")
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    async with registries.transport.send("GET", url, Endpoint(url, host)) as response:
        if response.status >= 400:
            raise RegistryError(
                response.status, "UNKNOWN", f"{url} answered {response.status} {response.reason}"
            )
        report(Progress(status=f"Downloading from {url}"))
        total = response.content_length or 0
        done = 0
        async for chunk in paced_chunks(response):
            yield chunk
            done += len(chunk)
            if done // (4 << 20) != (done - len(chunk)) // (4 << 20):
                report(Progress(status="Importing", is_item=True, current=done, total=total))
