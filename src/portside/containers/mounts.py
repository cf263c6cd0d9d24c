"""Sources of a container's mounts: ``-v``, ``--mount``, ``--volumes-from``, ``VOLUME``.

``MountParser`` reads all of them into ``MountPoint`` values, which are kept
in the record; ``MountPoints.acquire`` makes and claims the volumes at creation, and
``runtime_mounts`` turns mount points into mounts at each start. Below: ``idmap`` of bind mounts
(whose files of the source are whose in the container: ``auto`` exchanges the source's owner with
the container's user, ``uids=DISK-SHOWN-COUNT#…;gids=…`` says it in full), and images mounted as a
whole (an overlay) or one path of them (a bind mount at ``image-<n>`` in the container's directory
while it runs).
"""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from portside.containers import user_mapping
from portside.containers.container import MountPoint, Record
from portside.containers.container_jobs import BindImagePath
from portside.containers.spec.oci_mounts import tmpfs_options
from portside.kernel import idmapped
from portside.kernel.directories import make_public
from portside.kernel.mount import (
    MNT_DETACH,
    UMOUNT_NOFOLLOW,
    umount2,
)
from portside.kernel.mountinfo import mount_of
from portside.model import ociruntime as oci
from portside.model.container import ContainerConfig, HostConfig, MountRequest
from portside.model.digest import Digest, chain_id
from portside.model.errors import InvalidParameter, NotFound, SystemFailure
from portside.model.idmap import IDMappings, composed
from portside.model.ociruntime import IDMapping
from portside.model.quiet_teardown import teardown
from portside.model.volume import ANONYMOUS, VolumeCreate
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.containers.core import Core

log = logging.getLogger(__name__)


# -- reading the request -------------------------------------------------------------------------


_PROPAGATIONS = frozenset(("private", "rprivate", "slave", "rslave", "shared", "rshared"))
_SUBJECTS = {
    **dict.fromkeys(("ro", "rw", "rro"), "access"),
    **dict.fromkeys(_PROPAGATIONS, "propagation"),
    **dict.fromkeys(("z", "Z"), "label"),
    **dict.fromkeys(("consistent", "cached", "delegated", "default"), "consistency"),
    "nocopy": "copy",
    "idmap": "owners",
}
"""Subject of a word in ``-v``'s third part; each subject is allowed once."""

_FOREIGN = {
    "bind": ("volume_options", "image_options"),
    "volume": ("bind_options", "image_options"),
    "tmpfs": ("bind_options", "image_options"),
    "image": ("bind_options", "volume_options"),
}
"""Options of other kinds of mounts, which a kind refuses."""


class MountParser:
    """Reads the mounts that a container is asked to have."""

    def __init__(self, core: Core, config: ContainerConfig, host: HostConfig) -> None:
        self._core, self._config, self._host = core, config, host
        self._points: dict[str, MountPoint] = {}
        self._requests: dict[str, VolumeCreate] = {}

    def parse(self, read_only_non_recursive: bool = False) -> MountPoints:
        """All mounts; raises InvalidParameter, NotFound."""
        own: set[str] = set()
        for inherited in self._host.volumes_from or ():
            self._inherit(inherited)
        for text in self._host.binds or ():
            self._add(self._bind(text), own)
        for request in self._host.mounts or ():
            self._add(self._mount(request), own)
        for point in [self._points[name] for name in own] if read_only_non_recursive else ():
            if point.type == "bind" and not point.rw:
                self._points[point.destination] = msgspec.structs.replace(
                    point, read_only_non_recursive=True
                )
        for target in self._host.tmpfs or {}:
            if clean(target) in own:
                raise InvalidParameter(f"Duplicate mount point: {target}")
            self._points.pop(clean(target), None)
        for target in self._config.volumes or {}:
            self._image_volume(target)
        return MountPoints(self._core, list(self._points.values()), self._requests)

    def _add(self, point: MountPoint, own: set[str]) -> None:
        if point.destination in own:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        own.add(point.destination)
        self._points[point.destination] = point

    def _inherit(self, text: str) -> None:
        """``--volumes-from CONTAINER[:ro|:rw]``."""
        name, _, mode = text.partition(":")
        if not text:
            raise InvalidParameter("volumes-from specification cannot be an empty string")
        if mode and any(word not in ("ro", "rw", "z", "Z") for word in mode.split(",")):
            raise InvalidParameter(f"invalid mode: {mode}")
        read_only = "ro" in mode.split(",")
        try:
            other = self._core.find(name)
        except NotFound as err:  # 404 would mean that the image is missing
            raise InvalidParameter(str(err)) from err
        for point in other.record.mounts:
            if point.type == "tmpfs":
                continue
            copy = msgspec.structs.replace(
                point, rw=point.rw and not read_only, no_copy=True, mode=""
            )
            self._points[point.destination] = copy
            if point.type == "volume":
                self._requests[point.destination] = VolumeCreate(name=point.name)

    def _image_volume(self, target: str) -> None:
        """``VOLUME`` of the image, or ``-v /path``: an anonymous volume."""
        destination = clean(target)  # a relative one is beneath the root
        if destination in self._points or destination in map(clean, self._host.tmpfs or {}):
            return
        _check_destination(destination, target)
        self._points[destination] = self._volume(
            MountPoint(type="volume", destination=destination, anonymous=True),
            VolumeCreate(name="", driver=self._host.volume_driver or "local"),
        )

    # -- -v ------------------------------------------------------------------------------

    def _bind(self, text: str) -> MountPoint:
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
        point = _with_mode(MountPoint(type="bind", destination=destination, mode=mode), mode)
        if source.startswith("/"):
            if point.no_copy:
                raise InvalidParameter(_extra(text, "bind", "VolumeOptions"))
            return msgspec.structs.replace(
                point, source=clean(source), create_source=True,
                propagation=self._propagation(clean(source), point.propagation))  # fmt: skip
        if source.startswith((".", "~")) or "/" in source:
            raise InvalidParameter(
                f'create {source}: "{source}" includes invalid characters for a local volume '
                'name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a '
                "host directory, use absolute path"
            )
        if point.propagation:
            raise InvalidParameter(_extra(text, "volume", "BindOptions"))
        request = VolumeCreate(name=source, driver=self._host.volume_driver or "local")
        if not mode:
            point = msgspec.structs.replace(point, mode="z")
        return self._volume(
            msgspec.structs.replace(point, type="volume", anonymous=not source), request
        )

    def _propagation(self, source: str, wanted: str) -> str:
        """Mount propagation between the host and a bind mount.

        Around the data root it is ``rslave``: a private copy would hold the mounts of other
        containers and volumes after they have ended, as in Docker.
        """
        root = str(self._core.instance.data_root)
        if not is_around(source, root):
            return wanted or "rprivate"
        if wanted not in ("", "rslave", "rshared"):
            raise InvalidParameter(
                'invalid mount config: must use either propagation mode "rslave" or "rshared" '
                f'when mount source is within the daemon root, daemon root: "{root}", '
                f'bind mount source: "{source}", propagation: "{wanted}"'
            )
        return wanted or "rslave"

    def _volume(self, point: MountPoint, request: VolumeCreate) -> MountPoint:
        self._requests[point.destination] = request
        return point

    # -- --mount -------------------------------------------------------------------------

    def _mount(self, request: MountRequest) -> MountPoint:
        prefix = f'invalid mount config for type "{request.type}": '
        if not request.target:
            raise InvalidParameter(f"{prefix}field Target must not be empty")
        if not request.target.startswith("/"):
            raise InvalidParameter(
                f"{prefix}invalid mount path: '{request.target}' mount path must be absolute"
            )
        destination = clean(request.target)
        if destination == "/":
            raise InvalidParameter(f"{prefix}invalid specification: destination can't be '/'")
        if request.type not in _FOREIGN:
            raise InvalidParameter(f"{prefix}mount type unknown")
        for name in _FOREIGN[request.type]:
            if getattr(request, name) is not None:
                field = "".join(word.title() for word in name.split("_"))
                raise InvalidParameter(f"{prefix}field {field} must not be specified")
        point = MountPoint(type=request.type, destination=destination, rw=not request.read_only)
        make = {"bind": self._mount_bind, "volume": self._mount_volume,
                "tmpfs": self._mount_tmpfs, "image": self._mount_image}  # fmt: skip
        return make[request.type](request, point, prefix)

    def _mount_bind(self, request: MountRequest, point: MountPoint, prefix: str) -> MountPoint:
        if not request.source:
            raise InvalidParameter(f"{prefix}field Source must not be empty")
        if not request.source.startswith("/"):
            raise InvalidParameter(
                f"{prefix}invalid mount path: '{request.source}' mount path must be absolute"
            )
        options = request.bind_options
        create = bool(options and options.create_mountpoint)
        if not create and not os.path.lexists(request.source):
            raise InvalidParameter(f"{prefix}bind source path does not exist: {request.source}")
        propagation = options.propagation if options else ""
        if propagation and propagation not in _PROPAGATIONS:
            raise InvalidParameter(f"{prefix}invalid propagation mode: {propagation}")
        return msgspec.structs.replace(
            point,
            source=clean(request.source),
            create_source=create,
            propagation=self._propagation(clean(request.source), propagation),
            non_recursive=bool(options and options.non_recursive),
            read_only_non_recursive=bool(options and options.read_only_non_recursive),
            read_only_force_recursive=bool(options and options.read_only_force_recursive),
            idmap=check_idmap(options.idmap) if options else "",
        )

    def _mount_volume(self, request: MountRequest, point: MountPoint, prefix: str) -> MountPoint:
        options = request.volume_options
        driver = options.driver_config if options else None
        if not request.source and options and options.subpath:
            raise InvalidParameter(f"{prefix}must not set Subpath when using anonymous volumes")
        if not request.source and request.read_only:
            raise InvalidParameter(
                f"{prefix}must not set ReadOnly mode when using anonymous volumes"
            )
        if options:
            _check_subpath(options.subpath, prefix)
        volume = VolumeCreate(
            name=request.source,
            driver=(driver.name if driver else "") or "local",
            driver_opts=driver.options if driver else None,
            labels=options.labels if options else None,
        )
        point = msgspec.structs.replace(
            point, mode="z", anonymous=not request.source,
            no_copy=bool(options and options.no_copy),
            subpath=options.subpath if options else "")  # fmt: skip
        return self._volume(point, volume)

    def _mount_tmpfs(self, request: MountRequest, point: MountPoint, prefix: str) -> MountPoint:
        if request.source:
            raise InvalidParameter(f"{prefix}field Source must not be specified")
        words = []
        if request.tmpfs_options is not None:
            if request.tmpfs_options.size_bytes:
                words.append(f"size={request.tmpfs_options.size_bytes}")
            if request.tmpfs_options.mode:
                words.append(f"mode={request.tmpfs_options.mode:o}")
            for option in request.tmpfs_options.options or ():
                if len(option) not in (1, 2):
                    raise InvalidParameter(f"{prefix}invalid option array length")
                if option[0] not in ("exec", "noexec"):
                    raise InvalidParameter(f"{prefix}invalid option: {option[0]}")
                words.append("=".join(option))
        if not point.rw:
            words.append("ro")
        return msgspec.structs.replace(point, tmpfs=tmpfs_options(",".join(words)))

    def _mount_image(self, request: MountRequest, point: MountPoint, prefix: str) -> MountPoint:
        if not request.source:
            raise InvalidParameter(f"{prefix}field Source must not be empty")
        subpath = request.image_options.subpath if request.image_options else ""
        _check_subpath(subpath, prefix)
        try:
            image = self._core.images.get(request.source)
        except NotFound as err:
            raise InvalidParameter(f"{prefix}{err}") from err
        return msgspec.structs.replace(
            point,
            source=image.id,
            name=request.source,
            rw=False,
            propagation="rprivate",
            subpath=subpath,
            chain=str(image.chain or ""),
        )


def clean(path: str) -> str:
    """A normal absolute path."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _check_destination(destination: str, text: str) -> None:
    if destination == "/":
        raise InvalidParameter(
            f"invalid volume specification: '{text}': invalid mount config for type "
            "\"bind\": invalid specification: destination can't be '/'"
        )


def _extra(text: str, kind: str, field: str) -> str:
    return (
        f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
        f"field {field} must not be specified"
    )


def _check_subpath(subpath: str, prefix: str) -> None:
    """Docker's ``filepath.IsLocal``: relative, and never above where it begins."""
    if subpath.startswith("/") or posixpath.normpath(subpath or ".").split("/")[0] == "..":
        raise InvalidParameter(f"{prefix}subpath must be a relative path within the volume")


def _with_mode(point: MountPoint, mode: str) -> MountPoint:
    """The third part of ``-v``: comma-separated words."""
    seen: set[str] = set()
    for word in mode.split(",") if mode else ():
        subject = _SUBJECTS.get(word.partition("=")[0] if word.startswith("idmap=") else word)
        if subject is None or subject in seen:
            raise InvalidParameter(f"invalid mode: {mode}")
        seen.add(subject)
        if subject == "access":
            point = msgspec.structs.replace(point, rw=word == "rw")
        elif subject == "propagation":
            point = msgspec.structs.replace(point, propagation=word)
        elif subject == "copy":
            point = msgspec.structs.replace(point, no_copy=True)
        elif subject == "owners":
            idmap = check_idmap(word.partition("=")[2] or "auto")
            point = msgspec.structs.replace(point, idmap=idmap)
    return point


# -- creation, start and release -----------------------------------------------------------------


class MountPoints:
    """The mounts of a container that is being made."""

    def __init__(
        self, core: Core, points: list[MountPoint], requests: dict[str, VolumeCreate]
    ) -> None:
        self._core, self._points, self._requests = core, points, requests

    def __bool__(self) -> bool:
        return bool(self._points)

    async def acquire(
        self, container_id: str, mappings: IDMappings | None = None
    ) -> tuple[MountPoint, ...]:
        """Make the volumes, claim them and copy the image's content up; all or nothing."""
        volumes, images = self._core.volumes, self._core.images
        found: list[MountPoint] = []
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
            rootfs = self._core.store.writables.rootfs(container_id)
            for point in found:
                if point.type != "volume":
                    continue
                filled = not point.no_copy and await volumes.copy_up(
                    point.name, rootfs, point.destination, point.subpath
                )
                if mappings is not None:
                    await _own_volume(self._core, point.source, mappings, filled)
            undo.pop_all()
        return tuple(found)

    async def _acquire_volume(self, container_id: str, point: MountPoint) -> MountPoint:
        request = self._requests[point.destination]
        volume = await self._core.volumes.create(request)
        self._core.volumes.acquire(volume.name, container_id)
        return msgspec.structs.replace(
            point, name=volume.name, source=volume.mountpoint, driver=volume.driver
        )


async def _own_volume(core: Core, place: str, mappings: IDMappings, filled: bool) -> None:
    """Without idmapped mounts a new volume belongs to the user namespace that it is made for."""
    directory = Path(place)
    if not directory.is_dir() or idmapped.is_supported(place):
        return
    if filled:
        await core.store.layers.copies.copy_in_place(directory, mappings)
    elif not any(directory.iterdir()):
        os.chown(directory, *mappings.root)


def own_files(directory: str, mappings: IDMappings) -> None:
    """Without idmapped mounts the files that the engine keeps for a container belong to its
    root."""
    if not directory or idmapped.is_supported(directory):
        return
    for name in ("hosts", "hostname", "resolv.conf"):
        with suppress(FileNotFoundError):
            os.chown(f"{directory}/{name}", *mappings.root, follow_symlinks=False)


async def _give_back(core: Core, point: MountPoint, container_id: str) -> None:
    """Undo what :meth:`MountPoints.acquire` did for one volume."""
    core.volumes.release(point.name, container_id)
    if point.anonymous:
        with teardown(log, f"volume {point.name} of a failed creation"):
            await core.volumes.remove(point.name, force=True)


def _make_source(path: str, mappings: IDMappings | None) -> None:
    """``-v`` makes a missing source directory, which is the container's root's, as in Docker."""
    try:
        missing = [one for one in (Path(path), *Path(path).parents) if not os.path.lexists(one)]
        make_public(Path(path))
        if mappings is not None:
            for one in missing:
                os.chown(one, *mappings.root, follow_symlinks=False)
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
            _publish_mount(core, record, point)
            options = ("rbind", "rprivate", *(() if point.rw else ("ro",)), *ready.options)
            found.append(oci.Mount(point.destination, "bind", ready.source, options))
            _map_owners(found[-1], point, record, mappings)
        elif point.type == "bind":
            found.append(_bind_mount(point, str(core.instance.data_root), mappings))
            _map_owners(found[-1], point, record, mappings)
        else:
            found.append(await mount_image(core, record, point, mappings))
    return tuple(found)


def _map_owners(
    mount: oci.Mount, point: MountPoint, record: Record, mappings: IDMappings | None
) -> None:
    """The engine's files keep the container's identifiers on disk. Files of a bind mount keep the
    host's, unless a mapping is requested."""
    uids: tuple[oci.IDMapping, ...] = ()
    gids: tuple[oci.IDMapping, ...] = ()
    if point.idmap:
        uids, gids = idmap_of(point.idmap, mount.source, record.config.user)
        if mappings is not None:
            uids, gids = composed(uids, mappings.uids), composed(gids, mappings.gids)
    elif mappings is not None and point.type != "bind" and idmapped.is_supported(mount.source):
        uids, gids = mappings.uids, mappings.gids
    mount.uid_mappings, mount.gid_mappings = uids, gids


def _bind_mount(point: MountPoint, data_root: str, mappings: IDMappings | None) -> oci.Mount:
    if not os.path.lexists(point.source):
        if not point.create_source:
            raise InvalidParameter(
                f'invalid mount config for type "bind": bind source path does not exist: '
                f"{point.source}"
            )
        _make_source(point.source, mappings)
    if point.propagation != "rslave" or not is_around(point.source, data_root):
        _check_propagation(point)  # around the data root it is the engine's choice
    options = ["bind" if point.non_recursive else "rbind", point.propagation or "rprivate"]
    if not point.rw:
        plain = point.non_recursive or point.read_only_non_recursive
        options.append("ro" if plain else "rro")
    return oci.Mount(point.destination, "bind", point.source, tuple(options))


def is_around(source: str, root: str) -> bool:
    """Whether a bind mount's source holds the data root, or is in it."""
    above, below = source.rstrip("/") + "/", root.rstrip("/") + "/"
    return below.startswith(above) or above.startswith(below)


def _check_propagation(point: MountPoint) -> None:
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
    unmount_images(core, record)
    for name in volume_names(record.mounts):
        await core.volumes.unmount(name, record.id)
        driver = next(point.driver for point in record.mounts if point.name == name)
        core.publish("volume", "unmount", name, {"container": record.id, "driver": driver})


def _publish_mount(core: Core, record: Record, point: MountPoint) -> None:
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
            with teardown(log, f"volume {point.name}"):  # another container inherited it
                await core.volumes.remove(point.name, force=True)


async def release_unfinished(core: Core, record: Record) -> None:
    """Release the volumes of a creation that was interrupted: only its references name them."""
    refs = core.store.db.refs
    for ref in refs.targets(Ref.container(record.id), "volume"):
        core.volumes.release(ref.id, record.id)
        if ANONYMOUS in (core.volumes.get(ref.id).labels or {}):
            with teardown(log, f"volume {ref.id} of an unfinished creation"):
                await core.volumes.remove(ref.id, force=True)


def volume_names(points: Iterable[MountPoint]) -> list[str]:
    """Each volume once, in order."""
    return list(dict.fromkeys(point.name for point in points if point.type == "volume"))


# -- idmap of bind mounts ------------------------------------------------------------------


_ALL_IDS = 0xFFFFFFFF
"""Identifiers are 0 to 2^32 - 2."""

BindMappings = tuple[tuple[IDMapping, ...], tuple[IDMapping, ...]]


def check_idmap(text: str) -> str:
    """The same text; raises InvalidParameter for a mapping that makes no sense."""
    if text in ("auto", "true"):
        return "auto"
    if text:
        _parse_idmap(text)
    return text


def idmap_of(text: str, source: str, user: str) -> BindMappings:
    """Mappings of users and groups, from the disk's IDs to the shown IDs; ``user`` is the
    container's."""
    if text != "auto":
        return _parse_idmap(text)
    owner = Path(source).stat()
    uid, _, gid = user.partition(":")
    uid, gid = (uid or "0", gid or "0") if uid != "root" else ("0", gid or "0")
    if not (uid.isdecimal() and gid.isdecimal()):
        raise InvalidParameter(
            f"idmap needs the container's user as numbers, not {user!r}, or the mapping in full: "
            "idmap=uids=DISK-SHOWN-COUNT;gids=DISK-SHOWN-COUNT"
        )
    return _exchange_ids(owner.st_uid, int(uid)), _exchange_ids(owner.st_gid, int(gid))


def _exchange_ids(one: int, other: int) -> tuple[IDMapping, ...]:
    """All identifiers as they are, but these two."""
    if one == other:
        return (IDMapping(0, 0, _ALL_IDS),)
    low, high = sorted((one, other))
    ranges = (
        (0, 0, low),
        (low, high, 1),
        (low + 1, low + 1, high - low - 1),
        (high, low, 1),
        (high + 1, high + 1, _ALL_IDS - high - 1),
    )
    return tuple(IDMapping(*found) for found in ranges if found[2] > 0)


def _parse_idmap(text: str) -> BindMappings:
    found: dict[str, tuple[IDMapping, ...]] = {}
    for part in text.split(";"):
        name, _, ranges = part.partition("=")
        try:
            if name not in ("uids", "gids") or name in found:
                raise ValueError(name)
            numbers = [[int(n) for n in one.split("-")] for one in ranges.split("#")]
            found[name] = tuple(IDMapping(*one) for one in numbers)
            if any(len(one) != 3 or one[2] < 1 or max(one) >= _ALL_IDS for one in numbers):
                raise ValueError(ranges)
        except (ValueError, TypeError):
            raise InvalidParameter(
                f"invalid idmap {text!r}: uids=DISK-SHOWN-COUNT#…;gids=DISK-SHOWN-COUNT#…"
            ) from None
    if len(found) != 2:
        raise InvalidParameter(f"invalid idmap {text!r}: it needs both uids and gids")
    return found["uids"], found["gids"]


# -- mounted images ------------------------------------------------------------------------


async def mount_image(
    core: Core, record: Record, point: MountPoint, mappings: IDMappings | None
) -> oci.Mount:
    """The read-only mount of an image, for the runtime. Raises InvalidParameter when the image
    has no such path."""
    chain = Digest(point.chain) if point.chain else None
    if chain is None:  # made by an engine that did not note it
        chain = chain_id(core.images.get(point.source).config.diff_ids)
    rootfs = await core.store.layers.rootfs_for(chain, mappings)
    uids, gids = rootfs.uid_mappings, rootfs.gid_mappings
    if point.subpath or rootfs.stored_uids:  # the user namespace cannot reach the copies
        number = sum(1 for _ in core.directory(record.id).glob("image-*"))
        place = core.directory(record.id) / f"image-{number}"
        job = BindImagePath(rootfs=rootfs, path=point.subpath or "/", place=str(place))
        await core.store.workers.run(job)
        return oci.Mount(point.destination, "bind", str(place), ("bind", "rprivate", "ro"))
    if rootfs.driver != "overlay":
        return oci.Mount(point.destination, "bind", rootfs.upper, ("rbind", "ro"), uids, gids)
    lower = (f"lowerdir+={path}" for path in rootfs.lower)  # one by one: no limit in length
    options = ("ro", *lower, *rootfs.options)
    return oci.Mount(point.destination, "overlay", "overlay", options, uids, gids)


def unmount_images(core: Core, record: Record) -> None:
    """Let go of the paths of images that a container had mounted."""
    if any(point.type == "image" for point in record.mounts):
        unbind_all(core.directory(record.id))


def unbind_all(directory: Path) -> None:
    """Let go of every path that is bound in a container's directory."""
    for pattern in ("image-*", "mount-*"):
        for place in sorted(directory.glob(pattern)):
            unbind(place)


def unbind(place: Path) -> None:
    with teardown(log, f"unbind {place}"):  # bound nowhere: the engine was killed in between
        umount2(str(place), UMOUNT_NOFOLLOW | MNT_DETACH)
    with teardown(log, f"remove {place}"):
        place.rmdir() if place.is_dir() else place.unlink()
