"""Volumes: Docker's volume API with the ``local`` driver, and clone, rename, export, import.

A volume is *used* by every container that names it, running or not (``acquire`` and
``release``), and *mounted* by running ones (``mount`` and ``unmount``). Both are references in
the metadata, so they survive a crash; dropping a container's document drops its uses.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterable, Iterable
from pathlib import Path

import msgspec

from portside.model.errors import Conflict, InvalidParameter, InvalidText, NotFound, PortsideError
from portside.model.events import Publisher
from portside.model.filters import Filters, boolean
from portside.model.golang.booleans import parse_bool
from portside.model.ids import new_id
from portside.model.rootfs import Rootfs
from portside.model.volume import (
    ANONYMOUS,
    UsageData,
    Volume,
    VolumeCreate,
    VolumeList,
    VolumeMount,
    VolumePrune,
)
from portside.store import store_jobs
from portside.store.container_archive import feed
from portside.store.db import Ref
from portside.store.job_streams import JobStream
from portside.store.store import Store
from portside.volumes import filters as matching
from portside.volumes import local_driver_options
from portside.volumes.volume_jobs import CopyUp, PackVolume, UnpackVolume
from portside.volumes.volume_mounts import Mounts, mounted
from portside.volumes.volume_records import Record, Records

Names = list[str]
Volumes = list[Volume]


class VolumeService:
    """See the module's docstring. Only the engine's asyncio thread may call it."""

    def __init__(self, store: Store, publish: Publisher) -> None:
        self._store, self._publish = store, publish
        self._records = Records(store)
        self._mounts = Mounts(store, self._records)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def start(self) -> None:
        """Repair what a killed engine left half done; call before anything else."""
        self._records.repair()

    async def restore(self, running: Iterable[str]) -> None:
        """Keep the mounts of containers that run after an engine's start; release all others."""
        await self._mounts.restore(set(running))

    # -- Docker's API --------------------------------------------------------------------

    async def create(self, request: VolumeCreate) -> Volume:
        """Make a volume, or return the one of that name.

        InvalidParameter for a bad name or option, NotFound for an unknown driver.
        """
        labels = dict(request.labels) if request.labels is not None else None
        name = request.name
        if not name:
            name, labels = new_id(), {ANONYMOUS: "", **(labels or {})}
        if request.driver not in ("", "local"):
            raise NotFound(
                f"create {name}: error looking up volume plugin {request.driver}: "
                f'plugin "{request.driver}" not found'
            )
        local_driver_options.check_name(name)
        existing = self._records.find(name)
        if existing is not None:
            return self._records.volume(existing)
        wanted = dict(request.driver_opts) if request.driver_opts is not None else None
        local_driver_options.parse(name, wanted or {})
        size = 0
        if wanted and "size" in wanted and "device" not in wanted:
            size = local_driver_options.parse_size(name, wanted["size"])
        record = self._records.add(name, labels, wanted, size)
        self._publish("volume", "create", name, {"driver": record.driver})
        return self._records.volume(record)

    def get(self, name: str) -> Volume:
        """NotFound with Docker's words."""
        return self._records.volume(self._records.get(name))

    def list(self, filters: Filters | None = None) -> VolumeList:
        """Volumes that pass the filters ``dangling``, ``driver``, ``label`` and ``name``."""
        wanted = filters or {}
        matching.check(wanted, matching.LIST)
        found = [
            volume
            for volume in map(self._records.volume, self._records.all())
            if matching.matches(volume, wanted, used=bool(self.users(volume.name)))
        ]
        return VolumeList(found)

    async def usage(self) -> Volumes:
        """All volumes with their sizes and uses, for ``system df``."""
        return await asyncio.gather(*map(self._with_usage, self._records.all()))

    async def remove(self, name: str, force: bool = False) -> None:
        """Conflict when containers use it; ``force`` forgives that it is not there."""
        async with self._locked(name):
            if self._records.find(name) is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            await self._remove(name)

    async def prune(self, filters: Filters | None = None) -> VolumePrune:
        """Remove volumes without users: anonymous ones, or all with the filter ``all=true``.

        Those with options stay, as in Docker: their files are on a device or a server of the
        user's, and removing them would free no space here.
        """
        wanted = filters or {}
        matching.check(wanted, matching.PRUNE)
        for value in wanted.get("all", ()):
            try:
                parse_bool(value)
            except InvalidText as err:
                raise InvalidParameter(f"invalid filter 'all': {err}") from None
        everything = boolean(wanted, "all") is True
        deleted: list[str] = []
        reclaimed = 0
        for record in self._records.all():
            volume = self._records.volume(record)
            if record.options or not (everything or ANONYMOUS in (volume.labels or {})):
                continue
            if not matching.matches(volume, wanted, used=False):
                continue
            async with self._locked(record.name):
                if self.users(record.name) or self._records.find(record.name) is None:
                    continue
                size = await self._size(record)
                try:
                    await self._remove(record.name)
                except Conflict:  # a container has taken it meanwhile
                    continue
            reclaimed += max(0, size)
            deleted.append(record.name)
        self._publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return VolumePrune(deleted, reclaimed)

    def update(self, name: str, labels: dict[str, str]) -> Volume:
        """Replace a volume's labels."""
        record = msgspec.structs.replace(self._records.get(name), labels=dict(labels))
        self._records.change(record)
        return self._records.volume(record)

    # -- containers ----------------------------------------------------------------------

    def acquire(self, name: str, container_id: str) -> Volume:
        """Note that a container names the volume: it cannot be removed until ``release``."""
        volume = self.get(name)
        self._store.db.refs.add(Ref.container(container_id), Ref.volume(name))
        return volume

    def release(self, name: str, container_id: str) -> None:
        """The container does not name the volume any more; harmless when it did not."""
        self._store.db.refs.remove(Ref.container(container_id), Ref.volume(name))

    def users(self, name: str) -> Names:
        """Containers that name the volume, by their full identifiers."""
        found = self._store.db.refs.users(Ref.volume(name), "container")
        return sorted(user.id for user in found)

    async def mount(self, name: str, container_id: str, subpath: str = "") -> VolumeMount:
        """Make a volume ready for a container that starts; pair with :meth:`unmount`.

        SystemFailure with Docker's words when its file system cannot be mounted,
        InvalidParameter when ``subpath`` (resolved inside the volume) is not there.
        """
        return await self._mounts.mount(self._records.get(name), container_id, subpath)

    async def unmount(self, name: str, container_id: str) -> None:
        """The container has stopped; harmless when it had not mounted the volume."""
        await self._mounts.unmount(name, container_id)

    async def copy_up(self, name: str, rootfs: Rootfs, path: str, subpath: str = "") -> bool:
        """Fill an empty volume, or an empty directory ``subpath`` of it, with what the image has
        at ``path``; whether it did.

        Owner and mode of the directory come along. A volume that holds anything is left as it
        is. Only what is whole becomes visible, unless a running container has the volume mounted
        already, its files are elsewhere (``device``), or it is a part that is filled.
        """
        record = self._records.get(name)
        wanted = local_driver_options.parse(name, record.options or {})
        if wanted is not None:
            return await self._fill_device(record, wanted, rootfs, path, subpath)
        async with self._locked(name):
            data = self._records.data(name)
            if not subpath and os.listdir(data):
                return False
            if subpath or self._mounts.active(name):
                job = CopyUp(rootfs=rootfs, path=path, target=str(data), subpath=subpath)
                return bool(await self._store.workers.run(job))
            fill = self._fill_directory(name)
            try:
                job = CopyUp(rootfs=rootfs, path=path, target=str(fill))
                if not await self._store.workers.run(job):
                    self._store.trash.discard(fill)
                    return False
                fill.rename(data)  # over the empty directory, in one step
            except BaseException:
                self._store.trash.discard(fill)
                raise
            return True

    async def _fill_device(
        self,
        record: Record,
        wanted: local_driver_options.MountOptions,
        rootfs: Rootfs,
        path: str,
        subpath: str,
    ) -> bool:
        """Fill an empty directory or file system of the user's. A tmpfs would lose the files, and
        the start reports a missing directory."""
        missing = wanted.is_bind and not os.path.isdir(wanted.device)
        if missing or wanted.type == "tmpfs" or "ro" in wanted.words:
            return False
        user = new_id()
        async with self._locked(record.name):
            target = (await self._mounts.mount(record, user, "")).source
            try:
                job = CopyUp(rootfs=rootfs, path=path, target=target, subpath=subpath)
                return bool(await self._store.workers.run(job))
            finally:
                await self._mounts.unmount(record.name, user)

    def mountpoint(self, name: str) -> str:
        """Path of a volume's files on the host."""
        return self._mounts.root(self._records.get(name))

    # -- beyond Docker -------------------------------------------------------------------

    async def clone(self, source: str, target: str) -> Volume:
        """A new volume with the options, labels and a copy of the files of another."""
        record = self._records.get(source)
        self._must_be_free(target)
        labels = {k: v for k, v in (record.labels or {}).items() if k != ANONYMOUS}
        request = VolumeCreate(name=target, driver_opts=record.options, labels=labels or None)
        volume = await self.create(request)
        if record.options and "device" in record.options:
            return volume
        try:
            await self._fill(
                target, store_jobs.CopyTree(source=self._mounts.root(record), target="")
            )
        except BaseException:
            await self.remove(target, force=True)
            raise
        return volume

    async def rename(self, name: str, new: str) -> Volume:
        """Give an unused volume another name. Conflict when it is used or ``new`` is taken."""
        async with self._locked(name):
            record = self._records.get(name)
            local_driver_options.check_name(new)
            self._must_be_free(new)
            users = self.users(name)
            if users:
                raise Conflict(f"rename {name}: volume is in use - [{', '.join(users)}]")
            renamed = self._records.rename(record, new)
        self._publish("volume", "rename", new, {"driver": record.driver, "oldName": name})
        return self._records.volume(renamed)

    async def export(self, name: str) -> JobStream:
        """The files as a tar stream. Conflict for a file system that is not mounted now."""
        record = self._records.get(name)
        if self._is_file_system(record) and not mounted(self._records.data(name)):
            raise Conflict(f"export {name}: start a container that uses it: it is not mounted")
        return await JobStream.start(
            self._store.workers, PackVolume(path=self._mounts.root(record))
        )

    async def import_(self, name: str, data: AsyncIterable[bytes]) -> Volume:
        """Unpack a tar into a volume, which is made when it is not there.

        An empty volume gets all or nothing; into one that holds files the archive's are added.
        """
        if self._records.find(name) is None:
            await self.create(VolumeCreate(name=name))
        record = self._records.get(name)
        async with self._locked(name):
            root = self._mounts.root(record)
            plain = not (record.options and "device" in record.options)
            if plain and not os.listdir(root) and not self._mounts.active(name):
                fill = self._fill_directory(name)
                try:
                    await self._unpack(fill, data)
                    fill.rename(self._records.data(name))
                except BaseException:
                    self._store.trash.discard(fill)
                    raise
            else:
                await self._unpack(Path(root), data)
        return self._records.volume(record)

    # -- inside --------------------------------------------------------------------------

    def _locked(self, name: str) -> asyncio.Lock:
        return self._locks[name]

    async def _unpack(self, target: Path, data: AsyncIterable[bytes]) -> None:
        job = UnpackVolume(path=str(target), limits=self._store.layers.limits)
        await feed(self._store.workers, job, data)

    def _fill_directory(self, name: str) -> Path:
        fill = self._records.directory(name) / f"fill-{new_id()}"
        fill.mkdir(mode=0o700)
        os.chmod(fill, 0o755)
        return fill

    async def _fill(self, name: str, job: store_jobs.CopyTree) -> None:
        """Copy a tree into a volume that was just made."""
        fill = self._records.directory(name) / f"fill-{new_id()}"
        try:
            await self._store.workers.run(msgspec.structs.replace(job, target=str(fill)))
            fill.rename(self._records.data(name))
        except BaseException:
            self._store.trash.discard(fill)
            raise

    async def _remove(self, name: str) -> None:
        """Conflict when containers use it. They take a volume without waiting for its lock:
        nothing is awaited between the last look and the end."""
        data = self._records.data(name)
        if not self.users(name) and mounted(data):
            await self._mounts.restore(set(self._all_running(name)))
        users = self.users(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        if mounted(data):
            raise Conflict(f"remove {name}: its file system is busy and cannot be unmounted")
        self._records.remove(name)
        self._locks.pop(name, None)
        self._publish("volume", "destroy", name, {"driver": "local"})

    def _all_running(self, name: str) -> Names:
        rows = self._store.db.query("SELECT owner_id FROM refs WHERE owner_kind='volume-mount'")
        return [row[0] for row in rows]

    def _must_be_free(self, name: str) -> None:
        if self._records.find(name) is not None:
            raise Conflict(f"a volume named {name} exists: choose another name")

    def _is_file_system(self, record: Record) -> bool:
        wanted = local_driver_options.parse(record.name, record.options or {})
        return wanted is not None and not wanted.is_bind

    async def _with_usage(self, record: Record) -> Volume:
        usage = UsageData(await self._size(record), len(self.users(record.name)))
        return msgspec.structs.replace(self._records.volume(record), usage_data=usage)

    async def _size(self, record: Record) -> int:
        if record.options and "device" in record.options:
            return -1
        try:
            path = str(self._records.data(record.name))
            size: int = await self._store.workers.run(store_jobs.Measure(path=path))
            return size
        except PortsideError:
            return -1
