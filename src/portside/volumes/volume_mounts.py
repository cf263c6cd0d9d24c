"""Making a volume ready for a container, and taking it back.

A plain volume is its directory. One with ``o=bind`` is the device's directory itself, bound by
the container. Any other file system is mounted once at the volume's ``_data`` in the engine's
mount namespace while containers use it (they share it), and each use is recorded in the
metadata first: after a crash :meth:`Mounts.restore` unmounts what no running container uses.
A subpath is opened beneath the volume's root with openat2(2), and what was opened is bound by
descriptor at ``sub-<container>-<n>`` beside ``_data`` while the container runs: links that are
swapped meanwhile lead nowhere else, and any runtime can be given the path.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from portside.kernel.mount import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MNT_DETACH,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
    move_mount,
    open_tree,
    umount2,
)
from portside.kernel.openat2 import INSIDE, openat2
from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.model.quiet_teardown import teardown
from portside.model.volume import VolumeMount
from portside.store.db import Ref
from portside.store.store import Store
from portside.volumes import local_driver_options
from portside.volumes.local_driver_options import IN_CONTAINER, MountOptions
from portside.volumes.volume_jobs import MountVolume
from portside.volumes.volume_records import Record, Records

log = logging.getLogger(__name__)
USE = "volume-mount"
"""Kind of the reference from a running container to a volume it has mounted."""


class Mounts:
    """Volumes in use by running containers."""

    def __init__(self, store: Store, records: Records) -> None:
        self._store, self._records = store, records
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def active(self, name: str) -> list[str]:
        """Running containers that have the volume mounted."""
        return [user.id for user in self._store.db.refs.users(Ref.volume(name), USE)]

    async def mount(self, record: Record, container_id: str, subpath: str) -> VolumeMount:
        """See VolumeService.mount."""
        wanted = local_driver_options.parse(record.name, record.options or {})
        use = Ref(USE, container_id)
        async with self._locks[record.name]:
            self._store.db.refs.add(use, Ref.volume(record.name))
            try:
                if wanted is not None and not wanted.is_bind:
                    await self._mount_file_system(record.name, wanted)
                source = self.root(record)
                if wanted is not None and wanted.is_bind and not os.path.exists(source):
                    raise self._failed(record.name, wanted, os.strerror(errno.ENOENT))
                if subpath:
                    source = self._bind_subpath(record.name, container_id, source, subpath)
            except BaseException:
                self._store.db.refs.remove(use, Ref.volume(record.name))
                raise
        inherited = (w for w in (wanted.words if wanted else ()) if w in IN_CONTAINER)
        return VolumeMount(
            record.name,
            record.driver,
            source,
            str(self._records.data(record.name)) + (f"/{subpath}" if subpath else ""),
            tuple(inherited) if wanted is not None and wanted.is_bind else (),
        )

    def root(self, record: Record) -> str:
        """The directory that holds a volume's files (of a file system: while it is mounted)."""
        wanted = local_driver_options.parse(record.name, record.options or {})
        if wanted is not None and wanted.is_bind:
            return wanted.device
        return str(self._records.data(record.name))

    async def unmount(self, name: str, container_id: str) -> None:
        """Forget a use; the last one of a file system unmounts it."""
        self._drop_subpaths(self._records.directory(name).glob(f"sub-{container_id}-*"))
        self._store.db.refs.remove(Ref(USE, container_id), Ref.volume(name))
        async with self._locks[name]:
            if not self.active(name) and mounted(self._records.data(name)):
                await self._unmount(name)

    async def restore(self, running: set[str]) -> None:
        """After an engine's start: drop the uses of containers that no longer run."""
        rows = self._store.db.query("SELECT owner_id FROM refs WHERE owner_kind=?", USE)
        for container_id in {row[0] for row in rows} - running:
            self._store.db.refs.drop(Ref(USE, container_id))
        for record in self._records.all():
            self._drop_subpaths(
                path
                for path in self._records.directory(record.name).glob("sub-*-*")
                if path.name.split("-")[1] not in running
            )
            data = self._records.data(record.name)
            if not self.active(record.name) and mounted(data):
                await self._unmount(record.name)

    async def _mount_file_system(self, name: str, wanted: MountOptions) -> None:
        target = self._records.data(name)
        if mounted(target):
            return
        try:
            job = MountVolume(
                device=wanted.device,
                target=str(target),
                type=wanted.type,
                flags=wanted.flags,
                data=await _resolved(wanted),
            )
        except OSError as err:
            raise self._failed(name, wanted, err.strerror or str(err)) from err
        try:
            await self._store.workers.run(job)
        except PortsideError as err:
            raise self._failed(name, wanted, str(err)) from err

    def _failed(self, name: str, wanted: MountOptions, reason: str) -> SystemFailure:
        flags = f", flags: {wanted.flags:#x}" if wanted.flags else ""
        data = f", data: {wanted.data}" if wanted.data else ""
        target = self._records.data(name)
        return SystemFailure(
            f"error while mounting volume '{target}': failed to mount local volume: mount "
            f"{wanted.device}:{target}{flags}{data}: {reason.lower()}"
        )

    async def _unmount(self, name: str) -> None:
        try:
            # unmounting may wait for the device or a server
            target = str(self._records.data(name))
            await asyncio.to_thread(umount2, target, UMOUNT_NOFOLLOW)
        except OSError as err:
            if err.errno != errno.EINVAL:  # not mounted any more
                log.warning("volume %s cannot be unmounted now: %s", name, err)

    def _bind_subpath(self, name: str, container_id: str, root: str, subpath: str) -> str:
        """Bind a file or directory of a volume at a place of its own; that place."""
        if subpath.startswith("/") or ".." in subpath.split("/"):
            raise InvalidParameter(
                f'invalid volume subpath "{subpath}": it must be a relative path within the volume'
            )
        try:
            root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # a link that leaves the volume is refused, not led back into it
                flags = os.O_PATH | os.O_CLOEXEC
                fd = openat2(root_fd, subpath, flags, resolve=INSIDE)
            finally:
                os.close(root_fd)
        except OSError as err:
            where = f"lstat {_first_missing(root, subpath)}: " if err.errno == errno.ENOENT else ""
            raise InvalidParameter(
                f"cannot access path {root}/{subpath}: {where}{(err.strerror or '').lower()}"
            ) from err
        try:
            return _bind(fd, self._records.directory(name), f"sub-{container_id}")
        finally:
            os.close(fd)

    def _drop_subpaths(self, places: Iterable[Path]) -> None:
        for place in list(places):
            with teardown(log, f"unbind {place}"):  # bound nowhere: the engine was killed
                umount2(str(place), UMOUNT_NOFOLLOW | MNT_DETACH)
            try:
                place.rmdir() if place.is_dir() else place.unlink()
            except OSError as err:
                log.warning("%s cannot be removed now: %s", place, err)


def _bind(fd: int, directory: Path, prefix: str) -> str:
    """Bind what ``fd`` is open at in ``directory``; the path."""
    number = 0
    is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    while True:
        place = directory / f"{prefix}-{number}"
        try:
            place.mkdir(mode=0o700) if is_directory else place.touch(0o600, exist_ok=False)
            break
        except FileExistsError:
            number += 1
    tree = open_tree(fd, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
    target = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        move_mount(tree, target, str(place))
    finally:
        os.close(tree)
        os.close(target)
    return str(place)


async def _resolved(wanted: MountOptions) -> str:
    """The file system's data with the server's name resolved: the kernel's NFS and CIFS want
    an address in ``addr=`` (nfs(5)), which mount(8)'s helpers would look up."""
    if not wanted.type.startswith(("nfs", "cifs", "smb3")):
        return wanted.data
    words = []
    for word in wanted.data.split(","):
        if word.startswith("addr="):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(word.removeprefix("addr="), None)
            word = f"addr={found[0][4][0]}"
        words.append(word)
    return ",".join(words)


def mounted(path: Path) -> bool:
    """Whether a file system is mounted at ``path`` (also one of the same device)."""
    try:
        return os.path.ismount(path) or _listed(path)
    except OSError:
        return True  # a mount whose server is gone cannot be looked at


def _listed(path: Path) -> bool:
    wanted = str(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return any(line.split(" ", 5)[4] == wanted for line in lines)


def _first_missing(root: str, subpath: str) -> str:
    """Where a path beneath ``root`` ends to exist; for a message only, nothing is opened."""
    path = root
    for name in filter(None, subpath.split("/")):
        path = f"{path}/{name}"
        if os.path.islink(path) or not os.path.lexists(path):
            break
    return path
