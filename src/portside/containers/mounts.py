"""Where a container's mounts come from: ``-v``, ``--mount``, ``--volumes-from``, ``VOLUME``.

``PointParser`` (``mount_parser.py``) reads all of them into ``Point`` values, which are kept in the
record; ``Points.acquire`` makes and claims the volumes at creation, and ``runtime_mounts`` turns
points into mounts at each start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from portside.containers import bind_idmaps, image_mounts, user_mapping
from portside.containers.record import Point, Record
from portside.kernel.directories import make_public
from portside.kernel.mountinfo import mount_of
from portside.model import ociruntime as oci
from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.model.idmap import IDMappings, composed
from portside.model.volume import ANONYMOUS, VolumeCreate
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.containers.core import Core


class Points:
    """The mounts of a container that is being made."""

    def __init__(self, core: Core, points: list[Point], requests: dict[str, VolumeCreate]) -> None:
        self._core, self._points, self._requests = core, points, requests

    def __bool__(self) -> bool:
        return bool(self._points)

    async def acquire(
        self, container_id: str, mappings: IDMappings | None = None
    ) -> tuple[Point, ...]:
        """Make the volumes, claim them and copy the image's content up; all or nothing."""
        volumes, images = self._core.volumes, self._core.images
        found: list[Point] = []
        async with AsyncExitStack() as undo:
            for point in self._points:
                if point.type == "volume":
                    point = await self._acquire_volume(container_id, point)
                    undo.push_async_callback(_give_back, self._core, point, container_id)
                elif point.type == "image":
                    image = images.get(point.source)
                    if not image.is_unpacked:
                        image = await images.unpack(image)
                    images.acquire(image, container_id)
                elif point.type == "bind" and point.create_source:
                    _make_source(point.source, mappings)
                found.append(point)
            rootfs = self._core.store.layers.rootfs(container_id)
            for point in found:
                if point.type == "volume" and not point.no_copy:
                    await volumes.copy_up(point.name, rootfs, point.destination, point.subpath)
            undo.pop_all()
        return tuple(found)

    async def _acquire_volume(self, container_id: str, point: Point) -> Point:
        request = self._requests[point.destination]
        volume = await self._core.volumes.create(request)
        self._core.volumes.acquire(volume.name, container_id)
        return msgspec.structs.replace(
            point, name=volume.name, source=volume.mountpoint, driver=volume.driver
        )


async def _give_back(core: Core, point: Point, container_id: str) -> None:
    """Undo what :meth:`Points.acquire` did for one volume."""
    core.volumes.release(point.name, container_id)
    if point.anonymous:
        with suppress(PortsideError):
            await core.volumes.remove(point.name, force=True)


def _make_source(path: str, mappings: IDMappings | None) -> None:
    """``-v`` makes a missing source directory, which is the container's root's, as in Docker."""
    try:
        if mappings is not None and not os.path.lexists(path):
            make_public(Path(path))
            os.chown(path, *mappings.root, follow_symlinks=False)
            return
        make_public(Path(path))
    except FileExistsError:
        pass  # a file, a socket or a device
    except OSError as err:
        raise SystemFailure(
            f"error while creating mount source path '{path}': mkdir {path}: "
            f"{(err.strerror or '').lower()}"
        ) from err


# -- at the start ----------------------------------------------------------------------------


async def runtime_mounts(core: Core, record: Record) -> tuple[oci.Mount, ...]:
    """Every point as a mount; volumes are mounted for this container. Pair with release."""
    found: list[oci.Mount] = []
    mappings = user_mapping.of(core, record) if record.mounts else None
    for point in record.mounts:
        if point.type == "tmpfs":
            found.append(oci.Mount(point.destination, "tmpfs", "tmpfs", point.tmpfs))
        elif point.type == "volume":
            ready = await core.volumes.mount(point.name, record.id, point.subpath)
            _tell_mount(core, record, point)
            options = ("rbind", "rprivate", *(() if point.rw else ("ro",)), *ready.options)
            found.append(oci.Mount(point.destination, "bind", ready.source, options))
            _map_owners(found[-1], point, record, mappings)
        elif point.type == "bind":
            found.append(_bind_mount(point, str(core.instance.data_root), mappings))
            _map_owners(found[-1], point, record, mappings)
        else:
            found.append(await image_mounts.mount(core, record, point, mappings))
    return tuple(found)


def _map_owners(
    mount: oci.Mount, point: Point, record: Record, mappings: IDMappings | None
) -> None:
    """What is the engine's keeps the container's identifiers on disk; what a bind mount shows is
    the host's, unless it is to be mapped."""
    uids: tuple[oci.IDMapping, ...] = ()
    gids: tuple[oci.IDMapping, ...] = ()
    if point.idmap:
        uids, gids = bind_idmaps.mappings(point.idmap, mount.source, record.config.user)
        if mappings is not None:
            uids, gids = composed(uids, mappings.uids), composed(gids, mappings.gids)
    elif mappings is not None and point.type != "bind":
        uids, gids = mappings.uids, mappings.gids
    mount.uid_mappings, mount.gid_mappings = uids, gids


def _bind_mount(point: Point, data_root: str, mappings: IDMappings | None) -> oci.Mount:
    if not os.path.lexists(point.source):
        if not point.create_source:
            raise InvalidParameter(
                f'invalid mount config for type "bind": bind source path does not exist: '
                f"{point.source}"
            )
        _make_source(point.source, mappings)
    if point.propagation != "rslave" or not is_around(point.source, data_root):
        _check_propagation(point)  # around the data root nobody asked for it
    options = ["bind" if point.non_recursive else "rbind", point.propagation or "rprivate"]
    if not point.rw:
        plain = point.non_recursive or point.read_only_non_recursive
        options.append("ro" if plain else "rro")
    return oci.Mount(point.destination, "bind", point.source, tuple(options))


def is_around(source: str, root: str) -> bool:
    """Whether a bind mount's source holds the data root, or is in it."""
    above, below = source.rstrip("/") + "/", root.rstrip("/") + "/"
    return below.startswith(above) or above.startswith(below)


def _check_propagation(point: Point) -> None:
    """Mounts pass between host and container only where the source's own mount is shared."""
    mode = point.propagation.removeprefix("r")
    if mode not in ("shared", "slave"):
        return
    at = mount_of(point.source)
    if not (at.shared or (mode == "slave" and at.slave)):
        kind = "shared" if mode == "shared" else "shared or slave"
        raise InvalidParameter(
            f"path {point.source} is mounted on {at.path} but it is not a {kind} mount"
        )


async def unmount(core: Core, record: Record) -> None:
    """After the exit: this container does not use its volumes' mounts any more."""
    image_mounts.unmount(core, record)
    for name in volume_names(record.mounts):
        await core.volumes.unmount(name, record.id)
        driver = next(point.driver for point in record.mounts if point.name == name)
        core.publish("volume", "unmount", name, {"container": record.id, "driver": driver})


def _tell_mount(core: Core, record: Record, point: Point) -> None:
    about = {
        "container": record.id,
        "destination": point.destination,
        "driver": point.driver,
        "propagation": point.propagation,
        "read/write": "true" if point.rw else "false",
    }
    core.publish("volume", "mount", point.name, about)


async def release(core: Core, record: Record, *, remove_anonymous: bool) -> None:
    """At removal: give the volumes back; unnamed ones go with ``rm -v`` when nobody uses them."""
    for point in record.mounts:
        if point.type == "volume":
            core.volumes.release(point.name, record.id)
        if point.type == "volume" and remove_anonymous and point.anonymous:
            with suppress(PortsideError):  # another container inherited it
                await core.volumes.remove(point.name, force=True)


async def release_unfinished(core: Core, record: Record) -> None:
    """For a creation that was cut short: what it claimed is told by the references only."""
    refs = core.store.db.refs
    for ref in refs.targets(Ref.container(record.id), "volume"):
        core.volumes.release(ref.id, record.id)
        if ANONYMOUS in (core.volumes.get(ref.id).labels or {}):
            with suppress(PortsideError):
                await core.volumes.remove(ref.id, force=True)


def volume_names(points: Iterable[Point]) -> list[str]:
    """Each volume once, in order."""
    return list(dict.fromkeys(point.name for point in points if point.type == "volume"))
