"""Where a container's mounts come from: ``-v``, ``--mount``, ``--volumes-from``, ``VOLUME``.

``PointParser`` reads all of them into ``Point`` values (Docker's rules and texts), which are
kept in the record; ``Points.acquire`` makes and claims the volumes at creation, and
``runtime_mounts`` turns points into mounts at each start.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from portside.containers import idmaps
from portside.containers.record import Point, Record
from portside.containers.spec_mounts import tmpfs_options
from portside.kernel.mountinfo import mount_of
from portside.model import ociruntime as oci
from portside.model.container import ContainerConfig, HostConfig, MountRequest
from portside.model.errors import (
    InvalidParameter,
    NotFound,
    NotImplementedHere,
    PortsideError,
    SystemFailure,
)
from portside.model.volume import ANONYMOUS, VolumeCreate
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.containers.core import Core

_PROPAGATIONS = frozenset(("private", "rprivate", "slave", "rslave", "shared", "rshared"))
_FOREIGN = {
    "bind": {"volume_options": "VolumeOptions", "image_options": "ImageOptions"},
    "volume": {"bind_options": "BindOptions", "image_options": "ImageOptions"},
    "tmpfs": {"bind_options": "BindOptions", "image_options": "ImageOptions"},
    "image": {"bind_options": "BindOptions", "volume_options": "VolumeOptions"},
}
"""The kinds of ``--mount``, and the options that belong to others."""
_IGNORED = frozenset(("z", "Z", "consistent", "cached", "delegated", "default", ""))


class Points:
    """The mounts of a container that is being made."""

    def __init__(self, core: Core, points: list[Point], requests: dict[str, VolumeCreate]) -> None:
        self._core, self._points, self._requests = core, points, requests

    def __bool__(self) -> bool:
        return bool(self._points)

    async def acquire(self, container_id: str) -> tuple[Point, ...]:
        """Make the volumes, claim them and copy the image's content up; all or nothing."""
        volumes, images = self._core.volumes, self._core.images
        found: list[Point] = []
        async with AsyncExitStack() as undo:
            for point in self._points:
                if point.type == "volume":
                    point = await self._acquire_volume(container_id, point)
                    undo.push_async_callback(_give_back, self._core, point, container_id)
                elif point.type == "image":
                    images.acquire(point.source, container_id)
                elif point.type == "bind" and point.create_source:
                    _make_source(point.source)
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


def _make_source(path: str) -> None:
    """``-v`` makes a missing source directory, as Docker does."""
    try:
        Path(path).mkdir(0o755, parents=True, exist_ok=True)
    except FileExistsError:
        pass  # a file, a socket or a device
    except OSError as err:
        raise SystemFailure(
            f"error while creating mount source path '{path}': mkdir {path}: "
            f"{(err.strerror or '').lower()}"
        ) from err


class PointParser:
    """Reads a container's wishes for mounts."""

    def __init__(self, core: Core, config: ContainerConfig, host: HostConfig) -> None:
        self._core, self._config, self._host = core, config, host
        self._points: dict[str, Point] = {}
        self._requests: dict[str, VolumeCreate] = {}

    def parse(self) -> Points:
        """All mounts; raises InvalidParameter, NotFound."""
        own: set[str] = set()
        for inherited in self._host.volumes_from or ():
            self._inherit(inherited)
        for text in self._host.binds or ():
            self._add(self._bind(text), own)
        for request in self._host.mounts or ():
            self._add(self._mount(request), own)
        for target in self._host.tmpfs or {}:
            if clean(target) in own:
                raise InvalidParameter(f"Duplicate mount point: {target}")
            self._points.pop(clean(target), None)
        for target in self._config.volumes or {}:
            self._image_volume(target)
        return Points(self._core, list(self._points.values()), self._requests)

    def _add(self, point: Point, own: set[str]) -> None:
        if point.destination in own:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        own.add(point.destination)
        self._points[point.destination] = point

    def _inherit(self, text: str) -> None:
        """``--volumes-from CONTAINER[:ro|:rw]``."""
        name, colon, mode = text.partition(":")
        if not text:
            raise InvalidParameter("volumes-from specification cannot be an empty string")
        if colon and any(word not in ("ro", "rw", "z", "Z") for word in mode.split(",")):
            raise InvalidParameter(f"invalid mode: {mode}")
        read_only = "ro" in mode.split(",")
        try:
            other = self._core.find(name)
        except NotFound as err:  # 404 would tell the client that the image is missing
            raise InvalidParameter(str(err)) from err
        for point in other.record.mounts:
            if point.type == "tmpfs":
                continue
            copy = msgspec.structs.replace(point, rw=point.rw and not read_only, no_copy=True)
            self._points[point.destination] = copy
            if point.type == "volume":
                self._requests[point.destination] = VolumeCreate(name=point.name)

    def _image_volume(self, target: str) -> None:
        """``VOLUME`` of the image, or ``-v /path``: an anonymous volume."""
        destination = clean(target)
        if not target.startswith("/"):
            raise InvalidParameter(f"invalid volume specification: '{target}'")
        if destination in self._points or destination in map(clean, self._host.tmpfs or {}):
            return
        _check_destination(destination, target)
        self._points[destination] = self._volume(
            Point(type="volume", destination=destination, anonymous=True),
            VolumeCreate(name="", driver=self._host.volume_driver or "local"),
        )

    # -- -v ------------------------------------------------------------------------------

    def _bind(self, text: str) -> Point:
        parts = text.split(":")
        if len(parts) > 3 or not all(parts[:2]):
            raise InvalidParameter(f"invalid volume specification: '{text}'")
        if len(parts) == 1:
            parts = ["", *parts]
        source, destination, mode = (*parts, "")[:3]
        if not destination.startswith("/"):
            raise InvalidParameter(
                f"invalid volume specification: '{text}': invalid mount config for type "
                f'"{"bind" if source.startswith("/") else "volume"}": invalid mount path: '
                f"'{destination}' mount path must be absolute"
            )
        destination = clean(destination)
        _check_destination(destination, text)
        point = _with_mode(Point(type="bind", destination=destination, mode=mode), mode)
        if source.startswith("/"):
            if point.no_copy:
                raise InvalidParameter(
                    f"invalid volume specification: '{text}': invalid mount config for type "
                    '"bind": field VolumeOptions must not be specified'
                )
            return msgspec.structs.replace(
                point, source=clean(source), create_source=True,
                propagation=point.propagation or "rprivate")  # fmt: skip
        if source.startswith((".", "~")) or "/" in source:
            raise InvalidParameter(
                f'create {source}: "{source}" includes invalid characters for a local volume '
                'name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a '
                "host directory, use absolute path"
            )
        if point.propagation:
            raise InvalidParameter(
                f"invalid volume specification: '{text}': invalid mount config for type "
                '"volume": field BindOptions must not be specified'
            )
        request = VolumeCreate(name=source, driver=self._host.volume_driver or "local")
        if not mode:
            point = msgspec.structs.replace(point, mode="z")
        return self._volume(
            msgspec.structs.replace(point, type="volume", anonymous=not source), request
        )

    def _volume(self, point: Point, request: VolumeCreate) -> Point:
        self._requests[point.destination] = request
        return point

    # -- --mount -------------------------------------------------------------------------

    def _mount(self, wish: MountRequest) -> Point:
        prefix = f'invalid mount config for type "{wish.type}": '
        if not wish.target:
            raise InvalidParameter(f"{prefix}field Target must not be empty")
        if not wish.target.startswith("/"):
            raise InvalidParameter(
                f"{prefix}invalid mount path: '{wish.target}' mount path must be absolute"
            )
        destination = clean(wish.target)
        if destination == "/":
            raise InvalidParameter(f"{prefix}invalid specification: destination can't be '/'")
        if wish.type not in _FOREIGN:
            raise InvalidParameter(f"{prefix}mount type unknown")
        for field, name in _FOREIGN[wish.type].items():
            if getattr(wish, field) is not None:
                raise InvalidParameter(f"{prefix}field {name} must not be specified")
        point = Point(type=wish.type, destination=destination, rw=not wish.read_only)
        make = {"bind": self._mount_bind, "volume": self._mount_volume,
                "tmpfs": self._mount_tmpfs, "image": self._mount_image}  # fmt: skip
        return make[wish.type](wish, point, prefix)

    def _mount_bind(self, wish: MountRequest, point: Point, prefix: str) -> Point:
        if not wish.source:
            raise InvalidParameter(f"{prefix}field Source must not be empty")
        if not wish.source.startswith("/"):
            raise InvalidParameter(
                f"{prefix}invalid mount path: '{wish.source}' mount path must be absolute"
            )
        options = wish.bind_options
        create = bool(options and options.create_mountpoint)
        if not create and not os.path.lexists(wish.source):
            raise InvalidParameter(f"{prefix}bind source path does not exist: {wish.source}")
        propagation = options.propagation if options else ""
        if propagation and propagation not in _PROPAGATIONS:
            raise InvalidParameter(f"{prefix}invalid propagation mode: {propagation}")
        return msgspec.structs.replace(
            point,
            source=clean(wish.source),
            create_source=create,
            propagation=propagation or "rprivate",
            non_recursive=bool(options and options.non_recursive),
            read_only_non_recursive=bool(options and options.read_only_non_recursive),
            read_only_force_recursive=bool(options and options.read_only_force_recursive),
            idmap=idmaps.checked(options.idmap) if options else "",
        )

    def _mount_volume(self, wish: MountRequest, point: Point, prefix: str) -> Point:
        options = wish.volume_options
        driver = options.driver_config if options else None
        if not wish.source and options and options.subpath:
            raise InvalidParameter(f"{prefix}must not set Subpath when using anonymous volumes")
        request = VolumeCreate(
            name=wish.source,
            driver=(driver.name if driver else "") or "local",
            driver_opts=driver.options if driver else None,
            labels=options.labels if options else None,
        )
        point = msgspec.structs.replace(
            point, mode="z", anonymous=not wish.source,
            no_copy=bool(options and options.no_copy),
            subpath=options.subpath if options else "")  # fmt: skip
        return self._volume(point, request)

    def _mount_tmpfs(self, wish: MountRequest, point: Point, prefix: str) -> Point:
        if wish.source:
            raise InvalidParameter(f"{prefix}field Source must not be specified")
        words = []
        if wish.tmpfs_options is not None:
            if wish.tmpfs_options.size_bytes:
                words.append(f"size={wish.tmpfs_options.size_bytes}")
            if wish.tmpfs_options.mode:
                words.append(f"mode={wish.tmpfs_options.mode:o}")
            words += ["=".join(pair) for pair in wish.tmpfs_options.options or ()]
        if not point.rw:
            words.append("ro")
        return msgspec.structs.replace(point, tmpfs=tmpfs_options(",".join(words)))

    def _mount_image(self, wish: MountRequest, point: Point, prefix: str) -> Point:
        if not wish.source:
            raise InvalidParameter(f"{prefix}field Source must not be empty")
        if wish.image_options and wish.image_options.subpath:
            raise NotImplementedHere("a subpath of an image mount is not built: mount the whole")
        try:
            image = self._core.images.get(wish.source)
        except NotFound as err:
            raise InvalidParameter(f"{prefix}{err}") from err
        return msgspec.structs.replace(point, source=image.id, name=wish.source, rw=False)


def clean(path: str) -> str:
    """A normal absolute path."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _check_destination(destination: str, text: str) -> None:
    if destination == "/":
        raise InvalidParameter(
            f"invalid volume specification: '{text}': invalid mount config for type "
            "\"bind\": invalid specification: destination can't be '/'"
        )


def _with_mode(point: Point, mode: str) -> Point:
    """The third part of ``-v``: comma-separated words."""
    seen_access = seen_propagation = False
    for word in mode.split(",") if mode else ():
        if word in ("ro", "rw", "rro") and not seen_access:
            seen_access = True
            point = msgspec.structs.replace(point, rw=word == "rw")
        elif word in _PROPAGATIONS and not seen_propagation:
            seen_propagation = True
            point = msgspec.structs.replace(point, propagation=word)
        elif word == "nocopy":
            point = msgspec.structs.replace(point, no_copy=True)
        elif word in ("idmap",) or word.startswith("idmap="):
            idmap = idmaps.checked(word.partition("=")[2] or "auto")
            point = msgspec.structs.replace(point, idmap=idmap)
        elif word not in _IGNORED or not word:
            raise InvalidParameter(f"invalid mode: {mode}")
    return point


# -- at the start ----------------------------------------------------------------------------


async def runtime_mounts(core: Core, record: Record) -> tuple[oci.Mount, ...]:
    """Every point as a mount; volumes are mounted for this container. Pair with release."""
    found: list[oci.Mount] = []
    for point in record.mounts:
        if point.type == "tmpfs":
            found.append(oci.Mount(point.destination, "tmpfs", "tmpfs", point.tmpfs))
        elif point.type == "volume":
            ready = await core.volumes.mount(point.name, record.id, point.subpath)
            _tell_mount(core, record, point)
            options = ("rbind", "rprivate", *(() if point.rw else ("ro",)), *ready.options)
            found.append(oci.Mount(point.destination, "bind", ready.source, options))
            _map_owners(found[-1], point, record)
        elif point.type == "bind":
            found.append(_bind_mount(point))
            _map_owners(found[-1], point, record)
        else:
            found.append(_image_mount(core, point))
    return tuple(found)


def _map_owners(mount: oci.Mount, point: Point, record: Record) -> None:
    if point.idmap:
        mount.uid_mappings, mount.gid_mappings = idmaps.mappings(
            point.idmap, mount.source, record.config.user
        )


def _bind_mount(point: Point) -> oci.Mount:
    if not os.path.lexists(point.source):
        if not point.create_source:
            raise InvalidParameter(
                f'invalid mount config for type "bind": bind source path does not exist: '
                f"{point.source}"
            )
        _make_source(point.source)
    _check_propagation(point)
    options = ["bind" if point.non_recursive else "rbind", point.propagation or "rprivate"]
    if not point.rw:
        plain = point.non_recursive or point.read_only_non_recursive
        options.append("ro" if plain else "rro")
    return oci.Mount(point.destination, "bind", point.source, tuple(options))


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


def _image_mount(core: Core, point: Point) -> oci.Mount:
    """An image's root file system, read-only, as an overlay of its own."""
    from portside.model.digest import chain_id

    diff_ids = core.images.get(point.source).config.diff_ids
    rootfs = core.store.layers.rootfs(chain_id(diff_ids))
    if rootfs.driver != "overlay":
        return oci.Mount(point.destination, "bind", rootfs.upper, ("rbind", "ro"))
    lower = (f"lowerdir+={path}" for path in rootfs.lower)  # one by one: no limit in length
    return oci.Mount(point.destination, "overlay", "overlay", ("ro", *lower, *rootfs.options))


async def unmount(core: Core, record: Record) -> None:
    """After the exit: this container does not use its volumes' mounts any more."""
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
