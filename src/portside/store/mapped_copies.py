"""Copies of layers that belong to a user namespace, where idmapped mounts are missing.

Before Linux 5.19, and on file systems that do not support them, the owners that a mapped
container sees have to be the ones on the disk. Beneath the data root::

    mapped/<key>/mappings.json          the mapping: container's identifiers to the host's
    mapped/<key>/empty                  as ``l/empty``
    mapped/<key>/<32 digits of chain>   a layer's files with the host's identifiers
    mapped/tmp-<id>                     being copied; dropped at a start
    containers/<id>/own-<n>-<key>/      the writable layer with the host's identifiers (upper and
                                        work, or root on vfs); the greatest n counts, and
                                        ``own-<n>-plain`` has the container's identifiers again

A copy is shared by all containers with the mapping. It is whole and on the disk before it gets
its name. It goes with its layer, or with the last container that has the mapping, unless the
mapping is the engine's own. Nothing of this is read or made where idmapped mounts work.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from portside.kernel import idmapped
from portside.kernel.directories import exchange
from portside.model.digest import Digest
from portside.model.errors import Conflict, SystemFailure
from portside.model.idmap import IDMappings, composed
from portside.model.ids import new_id
from portside.model.rootfs import Rootfs
from portside.store import store_jobs
from portside.store.failpoints import reach
from portside.store.trash import Trash
from portside.store.worker_pool import Workers

MISSING = "idmapped mounts are not supported by the kernel or by the file system of the data root"
_PLAIN = "plain"
_DIGITS = 32
_EMPTY = "empty"
_OWN = "own-"

log = logging.getLogger(__name__)


def key_of(mappings: IDMappings) -> str:
    """A name for a mapping: its root's identifiers, and a digest of the whole."""
    digest = hashlib.sha256(msgspec.json.encode(mappings)).hexdigest()[:12]
    return ".".join((*map(str, mappings.root), digest))


class MappedCopies:
    """See the module's docstring. Only the engine's asyncio thread may call it."""

    def __init__(self, root: Path, driver: str, workers: Workers, trash: Trash) -> None:
        self._root, self._driver = root, driver
        self._directory = root / "mapped"
        self._workers, self._trash = workers, trash
        self._mappings: dict[str, IDMappings] = {}
        self._layers: dict[str, set[str]] = {}
        """For each key: names of the layers that are there."""
        self._own: dict[str, Path] = {}
        """By container: its writable layer's directory, if it is not the usual one."""
        self._copying: dict[Path, asyncio.Task[None]] = {}
        self._default: set[str] = set()
        """The key of the engine's own mapping, whose copies stay."""
        self._supported: bool | None = None
        if self._directory.is_dir():
            self._read()

    def _read(self) -> None:
        for directory in self._directory.iterdir():
            try:
                text = (directory / "mappings.json").read_bytes()
                self._mappings[directory.name] = msgspec.json.decode(text, type=IDMappings)
            except (OSError, msgspec.MsgspecError):  # a killed engine's tmp-…, or damaged
                self._trash.discard(directory)
                continue
            names = {path.name for path in directory.iterdir()}
            self._layers[directory.name] = names - {"mappings.json", _EMPTY}
        for found in sorted((self._root / "containers").glob(f"*/{_OWN}*-*")):
            identifier, number = found.parent.name, _number(found)
            before = self._own.get(identifier)
            if before is not None and _number(before) > number:
                self._trash.discard(found)
                continue
            if before is not None:
                self._trash.discard(before)
            self._own[identifier] = found

    def needed(self) -> bool:
        """Whether a mapped container needs copies; asks the kernel once."""
        if self._supported is None:
            self._supported = idmapped.is_supported(str(self._root))
            if not self._supported:
                log.warning("%s: layers are copied for each mapping", MISSING)
        return not self._supported

    # -- the layers ------------------------------------------------------------------------

    async def layers(self, chains: Iterable[Digest], mappings: IDMappings) -> tuple[str, ...]:
        """The directories of these layers' copies, which are made when they are missing."""
        key = self._key(mappings)
        wanted = list(chains)
        await asyncio.gather(*(self._layer(key, chain, mappings) for chain in wanted))
        return self.paths(wanted, key)

    def paths(self, chains: Iterable[Digest], key: str) -> tuple[str, ...]:
        return tuple(str(self._directory / key / chain.hex[:_DIGITS]) for chain in chains)

    def _key(self, mappings: IDMappings) -> str:
        key = key_of(mappings)
        if key not in self._mappings:
            temporary = self._directory / f"tmp-{new_id()}"
            self._directory.mkdir(mode=0o711, exist_ok=True)
            temporary.mkdir(mode=0o711)
            (temporary / _EMPTY).mkdir(mode=0o755)
            (temporary / "mappings.json").write_bytes(msgspec.json.encode(mappings))
            temporary.rename(self._directory / key)
            self._mappings[key], self._layers[key] = mappings, set()
        return key

    async def _layer(self, key: str, chain: Digest, mappings: IDMappings) -> None:
        name = chain.hex[:_DIGITS]
        if name in self._layers[key]:
            return
        target = self._directory / key / name
        task = self._copying.get(target)
        if task is None:
            source = self._root / "layers" / chain.hex / "diff"
            task = asyncio.create_task(self._copy(source, target, mappings))
            self._copying[target] = task
            task.add_done_callback(lambda _: self._copying.pop(target))
        await asyncio.shield(task)
        self._layers.setdefault(key, set()).add(name)

    async def _copy(self, source: Path, target: Path, mappings: IDMappings) -> None:
        temporary = self._directory / f"tmp-{new_id()}"
        log.info("Copying %s for the mapping %s", source, target.parent.name)
        try:
            await self._run(source, temporary, mappings)
            reach("mapped.layer:before-rename")
            temporary.rename(target)
        except BaseException:
            self._trash.discard(temporary)
            raise

    async def _run(self, source: Path, target: Path, mappings: IDMappings) -> None:
        job = store_jobs.CopyWithOwners(
            source=str(source), target=str(target), uids=mappings.uids, gids=mappings.gids
        )
        await self._workers.run(job)

    async def copy_in_place(self, directory: Path, mappings: IDMappings) -> None:
        """Give the files of a directory that nobody uses yet the host's identifiers: a copy takes
        its place in one step."""
        temporary = directory.with_name(f"tmp-{new_id()}")
        try:
            await self._run(directory, temporary, mappings)
            exchange(temporary, directory)
            self._trash.discard(temporary)
        except BaseException:
            self._trash.discard(temporary)
            raise

    def drop_layer(self, chain: Digest) -> None:
        """The layer has gone."""
        name = chain.hex[:_DIGITS]
        for key, names in self._layers.items():
            if name in names:
                names.discard(name)
                self._trash.discard(self._directory / key / name)

    def size(self, sizes: dict[str, int]) -> int:
        """Bytes of all copies of layers; ``sizes`` has the layers' own by their chain's digits."""
        short = {name[:_DIGITS]: size for name, size in sizes.items()}
        return sum(short.get(name, 0) for names in self._layers.values() for name in names)

    def sweep(self, default: IDMappings | None, chains: Iterable[Digest]) -> None:
        """At a start: forget mappings that neither a container nor the engine has, and copies of
        layers that are gone."""
        kept = {key_of(default)} if default is not None else set()
        for key in [key for key in self._mappings if key not in kept | self._used()]:
            self._forget(key)
        names = {chain.hex[:_DIGITS] for chain in chains}
        for key, present in self._layers.items():
            for name in present - names:
                self._trash.discard(self._directory / key / name)
            present &= names
        self._default = kept

    def _used(self) -> set[str]:
        return {_key_in(path) for path in self._own.values()}

    def _forget(self, key: str) -> None:
        del self._mappings[key], self._layers[key]
        self._trash.discard(self._directory / key)

    # -- writable layers -------------------------------------------------------------------

    def mappings_of(self, container_id: str) -> IDMappings | None:
        """The mapping with whose host's identifiers the writable layer is stored; None for the
        container's own identifiers."""
        own = self._own.get(container_id)
        if own is None or (key := _key_in(own)) == _PLAIN:
            return None
        try:
            return self._mappings[key]
        except KeyError:
            raise SystemFailure(f"{self._directory / key}: the mapping is missing") from None

    def own(self, container_id: str) -> Path | None:
        """The directory that holds the writable layer; None for the container's own one."""
        return self._own.get(container_id)

    async def convert(
        self, container_id: str, chains: Iterable[Digest], mappings: IDMappings | None
    ) -> None:
        """Store the writable layer of a container that does not run with the identifiers of
        ``mappings`` (None: with its own), beside copies of its image's layers."""
        if mappings is not None:
            await self.layers(chains, mappings)
        before, own = self.mappings_of(container_id), self._own.get(container_id)
        if before == mappings:
            return
        directory = self._root / "containers" / container_id
        number = _number(own) + 1 if own is not None else 1
        key = _PLAIN if mappings is None else self._key(mappings)
        target = directory / f"{_OWN}{number}-{key}"
        temporary = self._directory / f"tmp-{new_id()}"
        temporary.mkdir(mode=0o700)
        names = ("root",) if self._driver == "vfs" else ("upper", "work")
        source = own or directory
        try:
            await self._run(source / names[0], temporary / names[0], _between(before, mappings))
            if names[1:]:
                (temporary / "work").mkdir(mode=0o700)
            reach("mapped.writable:before-rename")
            temporary.rename(target)
        except BaseException:
            self._trash.discard(temporary)
            raise
        self._own[container_id] = target
        reach("mapped.writable:renamed")
        for path in (own,) if own is not None else [directory / name for name in names]:
            self._trash.discard(path)
        self._unused(own)

    def forget(self, container_id: str) -> None:
        """The container is being removed; with the last one of a mapping its copies go."""
        self._unused(self._own.pop(container_id, None))

    def _unused(self, own: Path | None) -> None:
        """A container has left this directory: its mapping may be nobody's any more."""
        key = _key_in(own) if own is not None else _PLAIN
        if key in self._mappings and key not in self._default | self._used():
            self._forget(key)

    @asynccontextmanager
    async def plain(self, container_id: str, lower: Rootfs) -> AsyncIterator[Rootfs]:
        """A copy of the writable layer with the container's own identifiers, to pack it.
        ``lower`` is the root with the usual paths."""
        own, mappings = self._own[container_id], self.mappings_of(container_id)
        if mappings is None:
            raise Conflict(f"container {container_id} is stored with its own identifiers")
        temporary = self._directory / f"tmp-{new_id()}"
        name = "root" if self._driver == "vfs" else "upper"
        try:
            await self._run(own / name, temporary, mappings.inverse())
            yield msgspec.structs.replace(lower, upper=str(temporary))
        finally:
            self._trash.discard(temporary)


def _between(before: IDMappings | None, after: IDMappings | None) -> IDMappings:
    """What leads from one form of storage to another."""
    if before is None:
        assert after is not None
        return after
    back = before.inverse()
    if after is None:
        return back
    return IDMappings(composed(back.uids, after.uids), composed(back.gids, after.gids))


def _number(own: Path) -> int:
    return int(own.name.split("-")[1])


def _key_in(own: Path) -> str:
    return own.name.split("-", 2)[2]
