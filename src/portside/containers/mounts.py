"""Sources of a container's mounts: ``-v``, ``--mount``, ``--volumes-from``, ``VOLUME``.

``MountParser`` (``mount_parser.py``) reads all of them into ``MountPoint`` values, which are kept
in the record; ``MountPoints.acquire`` makes and claims the volumes at creation, and
``runtime_mounts`` turns mount points into mounts at each start. Below: ``idmap`` of bind mounts
(whose files of the source are whose in the container: ``auto`` exchanges the source's owner with
the container's user, ``uids=DISK-SHOWN-COUNT#…;gids=…`` says it in full), and images mounted as a
whole (an overlay) or one path of them (a bind mount at ``image-<n>`` in the container's directory
while it runs).
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from portside.containers import user_mapping
from portside.containers.record import MountPoint, Record
from portside.kernel.directories import make_public
from portside.kernel.mount import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    MNT_DETACH,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
    move_mount,
    open_tree,
    umount2,
)
from portside.kernel.mountinfo import mount_of
from portside.model import ociruntime as oci
from portside.model.digest import Digest, chain_id
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.idmap import IDMappings, composed
from portside.model.ociruntime import IDMapping
from portside.model.quiet_teardown import teardown
from portside.model.rootfs import Rootfs
from portside.model.volume import ANONYMOUS, VolumeCreate
from portside.store.db import Ref
from portside.store.worker_pool import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.containers.core import Core

log = logging.getLogger(__name__)


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
            rootfs = self._core.store.layers.rootfs(container_id)
            for point in found:
                if point.type == "volume" and not point.no_copy:
                    await volumes.copy_up(point.name, rootfs, point.destination, point.subpath)
            undo.pop_all()
        return tuple(found)

    async def _acquire_volume(self, container_id: str, point: MountPoint) -> MountPoint:
        request = self._requests[point.destination]
        volume = await self._core.volumes.create(request)
        self._core.volumes.acquire(volume.name, container_id)
        return msgspec.structs.replace(
            point, name=volume.name, source=volume.mountpoint, driver=volume.driver
        )


async def _give_back(core: Core, point: MountPoint, container_id: str) -> None:
    """Undo what :meth:`Points.acquire` did for one volume."""
    core.volumes.release(point.name, container_id)
    if point.anonymous:
        with teardown(log, f"volume {point.name} of a failed creation"):
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
    elif mappings is not None and point.type != "bind":
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


_WHOLE = ".whole"


class BindImagePath(Job, kw_only=True):
    """Bind ``path`` of ``rootfs`` at ``place``, which is made; InvalidParameter without it.

    The whole is attached beside it for a moment: until Linux 6.15 open_tree(2) copies no part of
    a mount that is attached nowhere.
    """

    result: ClassVar[type] = type(None)
    heavy: ClassVar[bool] = False
    rootfs: Rootfs
    path: str
    place: str

    def run(self, fds: list[int], progress: Callable[[int], None]) -> None:
        from portside.runtime.rootfs import open_root as open_mapped_root
        from portside.store.roots import open_beneath, open_root

        whole = self.place + _WHOLE
        Path(whole).mkdir(0o700)
        if self.rootfs.uid_mappings:
            root = open_mapped_root(self.rootfs, private=False)
        elif self.rootfs.driver == "overlay":
            root = open_root(self.rootfs)
        else:
            root = open_tree(AT_FDCWD, self.rootfs.upper, OPEN_TREE_CLONE)
        _attach(root, whole)
        try:
            top = os.open(whole, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = open_beneath(top, self.path, os.O_PATH | os.O_CLOEXEC)
            except OSError as err:
                reason = os.strerror(err.errno or errno.ENOENT).lower()
                raise InvalidParameter(
                    f"cannot access path {self.path} of the image: {reason}"
                ) from err
            place = Path(self.place)
            if stat.S_ISDIR(os.fstat(found).st_mode):
                place.mkdir(mode=0o700)
            else:
                place.touch(0o600, exist_ok=False)
            _attach(open_tree(found, "", OPEN_TREE_CLONE | AT_EMPTY_PATH), self.place)
            os.close(found)
            os.close(top)
        finally:
            umount2(whole, UMOUNT_NOFOLLOW | MNT_DETACH)
            Path(whole).rmdir()


def _attach(tree: int, place: str) -> None:
    target = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        move_mount(tree, target, place)
    finally:
        os.close(target)
        os.close(tree)


async def mount_image(
    core: Core, record: Record, point: MountPoint, mappings: IDMappings | None
) -> oci.Mount:
    """The read-only mount of an image, for the runtime. Raises InvalidParameter when the image
    has no such path."""
    chain = Digest(point.chain) if point.chain else None
    if chain is None:  # made by an engine that did not note it
        chain = chain_id(core.images.get(point.source).config.diff_ids)
    rootfs = core.store.layers.rootfs(chain)
    if mappings is not None:
        rootfs = msgspec.structs.replace(
            rootfs, uid_mappings=mappings.uids, gid_mappings=mappings.gids
        )
    uids, gids = rootfs.uid_mappings, rootfs.gid_mappings
    if point.subpath:
        number = sum(1 for _ in core.directory(record.id).glob("image-*"))
        place = core.directory(record.id) / f"image-{number}"
        job = BindImagePath(rootfs=rootfs, path=point.subpath, place=str(place))
        await core.store.workers.run(job)
        return oci.Mount(point.destination, "bind", str(place), ("bind", "rprivate", "ro"))
    if rootfs.driver != "overlay":
        return oci.Mount(point.destination, "bind", rootfs.upper, ("rbind", "ro"), uids, gids)
    lower = (f"lowerdir+={path}" for path in rootfs.lower)  # one by one: no limit in length
    options = ("ro", *lower, *rootfs.options)
    return oci.Mount(point.destination, "overlay", "overlay", options, uids, gids)


def unmount_images(core: Core, record: Record) -> None:
    """Let go of the paths of images that a container had mounted."""
    if any(point.type == "image" and point.subpath for point in record.mounts):
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
