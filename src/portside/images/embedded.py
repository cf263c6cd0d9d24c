"""Images that are made on this machine when they are first asked for, without a network.

``portside/base`` is the machine's static busybox; ``portside/registry`` is this package's
own registry server on top of it, ``portside/monitor`` its monitor. The same machine makes the
same digests.
"""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from portside.images.compress import Packer
from portside.images.image_store import Catalogue
from portside.images.manifest_builder import make_image
from portside.model import embedded_names
from portside.model.ids import new_id
from portside.model.image import (
    OCI_LAYER_GZIP,
    Descriptor,
    History,
    ImageConfig,
    RootFS,
    RunConfig,
)
from portside.model.progress import Progress, Report
from portside.model.reference import DEFAULT_DOMAIN, DEFAULT_TAG, Reference
from portside.store.db import Lease

if TYPE_CHECKING:
    from portside.images.package_image import Program

BASE = Reference(DEFAULT_DOMAIN, embedded_names.BASE, DEFAULT_TAG)
REGISTRY = Reference(DEFAULT_DOMAIN, embedded_names.REGISTRY, DEFAULT_TAG)
MONITOR = Reference(DEFAULT_DOMAIN, embedded_names.MONITOR, DEFAULT_TAG)
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIECE = 1 << 20
_making: dict[tuple[int, Reference], asyncio.Lock] = {}


def is_embedded(reference: Reference) -> bool:
    return reference.tagged() in (BASE, REGISTRY, MONITOR)


async def register(catalogue: Catalogue, reference: Reference, report: Report) -> str:
    """The image's ID; it is made if it is not here. Unavailable when busybox is missing."""
    wanted = reference.tagged()
    lock = _making.setdefault((id(catalogue), wanted), asyncio.Lock())
    async with lock:
        found = catalogue.by_reference(wanted)
        is_new = found is None
        if found is None:
            parts = "busybox" if wanted == BASE else "busybox and Portside's own files"
            report(Progress(status=f"Making {wanted.path} from this machine's {parts}"))
            make = {BASE: _base, REGISTRY: _registry, MONITOR: _monitor}[wanted]
            with catalogue.store.lease(f"make {wanted.familiar}") as lease:
                found = await make(catalogue, lease)
    _making.pop((id(catalogue), wanted), None)
    word = "Made locally:" if is_new else "Image is up to date for"
    report(Progress(status=f"Status: {word} {wanted.familiar}"))
    return found


async def _base(catalogue: Catalogue, lease: Lease) -> str:
    config, layers = await _base_parts(catalogue, lease)
    return await make_image(catalogue, lease, config, layers, names=[BASE])


async def _base_parts(catalogue: Catalogue, lease: Lease) -> tuple[ImageConfig, list[Descriptor]]:
    """Configuration and layers of the base image, whose blobs the lease owns."""
    from portside.store.busybox_image import base_image

    base = await asyncio.to_thread(base_image)
    return base.config, [await _put_layer(catalogue, lease, base.layer)]


async def _put_layer(catalogue: Catalogue, lease: Lease, tar: bytes) -> Descriptor:
    """A layer small enough to be compressed in memory."""
    from isal import isal_zlib

    def compress() -> bytes:
        state = isal_zlib.compressobj(level=1, wbits=31)
        return state.compress(tar) + state.flush()

    packed = await asyncio.to_thread(compress)
    digest = catalogue.store.blobs.put(packed, owner=lease.ref)
    return Descriptor(media_type=OCI_LAYER_GZIP, digest=str(digest), size=len(packed))


async def _registry(catalogue: Catalogue, lease: Lease) -> str:
    from portside.images.package_image import CONFIG
    from portside.images.package_image import REGISTRY as PROGRAM

    run = RunConfig(
        entrypoint=("portside-registry",),
        cmd=(str(CONFIG),),
        exposed_ports={"5000/tcp": {}},
        volumes={"/var/lib/registry": {}},
    )
    return await _program(catalogue, lease, PROGRAM, run, REGISTRY)


async def _monitor(catalogue: Catalogue, lease: Lease) -> str:
    """The monitor's image. It listens on the container's address: a published port opens it."""
    from portside.images.package_image import MONITOR as PROGRAM

    entrypoint = ("portside-monitor", "--listen", ":8080", "--insecure")
    run = RunConfig(entrypoint=entrypoint, exposed_ports={"8080/tcp": {}})
    return await _program(catalogue, lease, PROGRAM, run, MONITOR)


async def _program(
    catalogue: Catalogue, lease: Lease, program: Program, run: RunConfig, name: Reference
) -> str:
    """An image of the base and a program of this package above it."""
    base, base_layers = await _base_parts(catalogue, lease)
    path = catalogue.store.blobs.ingest_dir / f"tmp-{new_id()}"
    try:
        libraries = await asyncio.to_thread(_write_root, path, program)
        packed = await Packer(catalogue.store, lease.ref).from_stream(_read(path))
    finally:
        path.unlink(missing_ok=True)
    environment = (PATH, f"LD_LIBRARY_PATH={libraries}") if libraries else (PATH,)
    config = _program_config(base, run, environment, packed.diff_id, program.name)
    layers = [
        *base_layers,
        Descriptor(media_type=OCI_LAYER_GZIP, digest=packed.digest, size=packed.size),
    ]
    return await make_image(catalogue, lease, config, layers, names=[name])


def _write_root(path: Path, program: Program) -> str:
    """Write the layer's tar; the directories its libraries must be looked for in."""
    from portside.images.package_image import library_path, write_layer

    with path.open("xb") as out:
        write_layer(out, program)
    with tarfile.open(path) as archive:
        return library_path(archive.getnames())


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def _program_config(
    base: ImageConfig, run: RunConfig, environment: tuple[str, ...], diff_id: str, name: str
) -> ImageConfig:
    import msgspec

    settings = msgspec.structs.replace(
        base.run,
        entrypoint=run.entrypoint,
        cmd=run.cmd,
        env=environment,
        exposed_ports=run.exposed_ports,
        volumes=run.volumes,
    )
    line = History(created=base.created or "", created_by=name.replace("/", ": "))
    return msgspec.structs.replace(
        base,
        config=settings,
        history=(*(base.history or ()), line),
        rootfs=RootFS("layers", (*base.rootfs.diff_ids, diff_id)),
    )
