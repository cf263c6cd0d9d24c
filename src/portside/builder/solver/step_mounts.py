"""A step's mounts on this host: made before the step, released after it."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from portside.builder import llb
from portside.builder.solver.agent_sockets import SocketAccess
from portside.builder.solver.build_jobs import InitCache
from portside.builder.solver.cache_records import CacheStore
from portside.builder.solver.tree import Tree, digest_of
from portside.containers.container_jobs import BindImagePath
from portside.containers.core import Core
from portside.containers.mounts import unbind
from portside.kernel import idmapped
from portside.model import ociruntime as oci
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.idmap import IDMappings
from portside.model.ids import new_id
from portside.model.rootfs import Rootfs
from portside.store.mapped_copies import key_of
from portside.store.store_jobs import CopyTree, CopyWithOwners

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SECRET = 500 << 10
"""Bytes of a secret, as BuildKit bounds them."""


class Secrets(Protocol):
    """Secrets and SSH agents that a client offers to steps."""

    async def secret(self, identifier: str) -> bytes | None:
        """None when the client has no such secret."""
        ...

    async def ssh_socket(self, identifier: str, access: SocketAccess) -> str | None:
        """Path of a socket on which the client's agent answers whom ``access`` admits."""
        ...


class NoSecrets:
    async def secret(self, identifier: str) -> bytes | None:
        return None

    async def ssh_socket(self, identifier: str, access: SocketAccess) -> str | None:
        return None


class Writable(NamedTuple):
    """A writable layer of the step."""

    id: str
    mount: int
    """Its mount's number in the operation."""
    output: int
    """Which output it becomes; negative for none."""
    below: Tree


class StepMounts:
    """The mounts of one step, from the root's to secrets; everything goes back with ``stack``."""

    def __init__(
        self, core: Core, cache: CacheStore, locks: CacheLocks, secrets: Secrets,
        stack: AsyncExitStack, identifier: str,
    ) -> None:  # fmt: skip
        self._core, self._cache, self._locks = core, cache, locks
        self._secrets, self._stack, self._id = secrets, stack, identifier
        self._count = 0
        self._locked = AsyncExitStack()
        """Locks of cache mounts."""
        stack.push_async_callback(self._locked.aclose)
        self.mounts: list[oci.Mount] = []
        self.writables: list[Writable] = []
        self.changed: dict[int, Tree] = {}
        """Client's directories with what the step wrote above them, by the mount's number."""

    @property
    def outputs(self) -> list[Writable]:
        return [writable for writable in self.writables if writable.output >= 0]

    async def unlock(self) -> None:
        """Let others have the cache mounts: nothing runs on these mounts any more."""
        await self._locked.aclose()

    async def add_all(self, op: llb.ExecOp, trees: Sequence[Tree]) -> None:
        mappings = self._core.options.id_mappings
        for number, mount in enumerate(op.mounts):
            tree = trees[mount.input] if mount.input >= 0 else Tree()
            if mount.dest == "/":
                await self._root(number, mount, tree)
            else:
                found = await self._one(number, mount, tree)
                if found is not None:
                    if mappings is not None and mount.type in ("cache", "secret", "ssh"):
                        self._own(found, mappings)
                    self.mounts.append(found)

    @staticmethod
    def _own(mount: oci.Mount, mappings: IDMappings) -> None:
        """The engine's files have owners of the step's user namespace; those that are stored
        with the host's identifiers (:meth:`_owner`, cache mounts) have them already."""
        if idmapped.is_supported(mount.source):
            mount.uid_mappings, mount.gid_mappings = mappings.uids, mappings.gids

    def _owner(self, option: llb.SecretOpt, place: Path) -> tuple[int, int]:
        """The owner of a secret's file or an agent's socket beneath ``place``, on the disk.
        InvalidParameter when the step's user namespace has no such user or group."""
        mappings = self._core.options.id_mappings
        if mappings is None:
            return option.uid, option.gid
        mapped = mappings.host_uid(option.uid), mappings.host_gid(option.gid)
        return (option.uid, option.gid) if idmapped.is_supported(str(place)) else mapped

    async def _root(self, number: int, mount: llb.Mount, tree: Tree) -> None:
        if tree.directory:
            raise InvalidParameter("a step cannot run on a client's directory as its root")
        await self._writable(self._id, tree)
        self.writables.append(Writable(self._id, number, mount.output, tree))

    async def _writable(self, identifier: str, tree: Tree) -> Rootfs:
        writables = self._core.store.writables
        chain = Digest(tree.chain) if tree.chain else None
        self._stack.callback(self._drop_writable, identifier)
        return await writables.create_copy(identifier, chain, for_build=True)

    def _drop_writable(self, identifier: str) -> None:
        self._core.store.writables.remove(identifier)
        self._core.store.trash.discard(self._core.directory(identifier))

    async def _one(self, number: int, mount: llb.Mount, tree: Tree) -> oci.Mount | None:
        if mount.type == "tmpfs":
            size = (f"size={mount.tmpfs_size}",) if mount.tmpfs_size else ()
            return oci.Mount(mount.dest, "tmpfs", "tmpfs", ("nosuid", "nodev", *size))
        if mount.type == "cache":
            return await self._cache_mount(mount, tree)
        if mount.type == "secret":
            return await self._secret(mount)
        if mount.type == "ssh":
            return await self._ssh(mount)
        return await self._bind(number, mount, tree)

    # -- trees ---------------------------------------------------------------------------

    async def _bind(self, number: int, mount: llb.Mount, tree: Tree) -> oci.Mount:
        mappings, layers = self._core.options.id_mappings, self._core.store.layers
        if not mount.readonly:
            rootfs = await self._above(number, mount, tree)
            access: tuple[str, ...] = ("rw",)
        elif tree.chain and not tree.directory:
            rootfs = await layers.rootfs_for(Digest(tree.chain), mappings)
            access = ("ro",)
        else:
            rootfs = self._readable(tree)
            access = ("ro",)
            if mappings is not None and layers.copies.needed():
                rootfs = await self._copied(rootfs.upper, mappings)
        if mappings is not None and not layers.copies.needed():
            rootfs = rootfs.mapped(mappings)
        if tree.directory and not mount.readonly and mappings is None:
            # the whole, which a client may ask for when the step has failed
            whole = await self._bound(rootfs, "/")
            self.changed[number] = Tree(directory=whole)
            rootfs = Rootfs("bind", upper=whole)
        place = await self._bound(rootfs, mount.selector or "/")
        return oci.Mount(mount.dest, "bind", place, ("bind", "rprivate", *access))

    async def _copied(self, source: str, mappings: IDMappings | None) -> Rootfs:
        """A copy of a client's directory, with owners of the step's user namespace; it goes with
        the step."""
        target = str(self._core.directory(self._id) / f"context-{self._count}")
        if mappings is None:
            job: CopyTree | CopyWithOwners = CopyTree(source=source, target=target)
        else:
            uids, gids = mappings.uids, mappings.gids
            job = CopyWithOwners(source=source, target=target, uids=uids, gids=gids)
        await self._core.store.workers.run(job)
        return Rootfs("bind", upper=target)

    def _readable(self, tree: Tree) -> Rootfs:
        layers = self._core.store.layers
        if tree.directory:
            return Rootfs("bind", upper=tree.directory)
        if tree.chain:
            return layers.rootfs(Digest(tree.chain))
        return Rootfs("bind", upper=str(layers.links_dir / "empty"))

    async def _above(self, number: int, mount: llb.Mount, tree: Tree) -> Rootfs:
        """A writable root above the tree; what is written is an output, or goes."""
        identifier = new_id()
        if not tree.directory:
            rootfs = await self._writable(identifier, tree)
            self.writables.append(Writable(identifier, number, mount.output, tree))
            writables, copies = self._core.store.writables, self._core.store.layers.copies
            await writables.store_as(identifier, self._core.options.id_mappings)
            return writables.rootfs(identifier) if copies.own(identifier) else rootfs
        if mount.output >= 0:
            raise InvalidParameter("a client's directory cannot be changed into an output")
        mappings, layers = self._core.options.id_mappings, self._core.store.layers
        stored = mappings if mappings is not None and layers.copies.needed() else None
        if layers.driver == "vfs":
            return await self._copied(tree.directory, stored)
        source, rootfs = tree.directory, await self._writable(identifier, Tree())
        if stored is not None:
            await self._core.store.writables.store_as(identifier, stored)
            rootfs = self._core.store.writables.rootfs(identifier)
            source = (await self._copied(source, stored)).upper
        return Rootfs(
            "overlay", lower=(source,), upper=rootfs.upper, work=rootfs.work,
            options=rootfs.options,
        )  # fmt: skip

    async def _bound(self, rootfs: Rootfs, path: str) -> str:
        """A path of a tree, bound in the step's directory while it runs."""
        place = self._core.directory(self._id) / f"mount-{self._count}"
        self._count += 1
        self._stack.callback(unbind, place)
        job = BindImagePath(rootfs=rootfs, path=path, place=str(place))
        await self._core.store.workers.run(job)
        return str(place)

    # -- caches --------------------------------------------------------------------------

    async def _cache_mount(self, mount: llb.Mount, tree: Tree) -> oci.Mount:
        assert mount.cache is not None
        key = digest_of("cache mount", mount.cache.id)
        mappings, copies = self._core.options.id_mappings, self._core.store.layers.copies
        is_copied = mappings is not None and copies.needed()
        if mappings is not None and is_copied:
            key = digest_of(key, key_of(mappings))
        if mount.cache.sharing == "private":
            key = self._locked.enter_context(self._locks.free(key))
        elif mount.cache.sharing == "locked":
            await self._locked.enter_async_context(self._locks.alone(key))
        record = self._cache.mount(key, f"cached mount {mount.dest} from exec")
        self._cache.hold(record.id)
        self._stack.callback(self._cache.let_go, record.id)
        directory = cache_directory(self._core.store.root, record.id)
        if not directory.exists():
            job = InitCache(
                source=self._readable(tree), path=mount.selector or "/", target=str(directory)
            )
            await self._core.store.workers.run(job)
            if mappings is not None and is_copied:
                await copies.copy_in_place(directory, mappings)
        access = "ro" if mount.readonly else "rw"
        return oci.Mount(mount.dest, "bind", str(directory), ("bind", "rprivate", access))

    # -- secrets -------------------------------------------------------------------------

    async def _secret(self, mount: llb.Mount) -> oci.Mount | None:
        option = mount.secret
        assert option is not None
        data = await self.secret(option.id, option.optional)
        if data is None:
            return None
        # not in the container's own directory: the runtime mounts its root there
        directory = self._core.instance.exec_root / f"build-{self._id}"
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
            self._stack.callback(lambda: shutil.rmtree(directory, ignore_errors=True))
        place = directory / f"secret-{self._count}"
        self._count += 1
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            os.fchown(fd, *self._owner(option, place))
            os.fchmod(fd, option.mode)
        finally:
            os.close(fd)
        options = ("bind", "rprivate", "ro", "nosuid", "nodev", "noexec")
        return oci.Mount(mount.dest, "bind", str(place), options)

    async def secret(self, identifier: str, optional: bool) -> bytes | None:
        """Raises NotFound when the step needs it and the client has none."""
        data = await self._secrets.secret(identifier)
        if data is None and not optional:
            raise NotFound(
                f"secret {identifier}: not found: give it with --secret id={identifier},…"
            )
        if data is not None and len(data) > MAX_SECRET:
            raise InvalidParameter(f"secret {identifier} is larger than {MAX_SECRET} bytes")
        return data

    async def _ssh(self, mount: llb.Mount) -> oci.Mount | None:
        option = mount.secret
        assert option is not None
        owner = self._owner(option, self._core.instance.exec_root)
        path = await self._secrets.ssh_socket(option.id, SocketAccess(*owner, option.mode))
        if path is None:
            if option.optional:
                return None
            raise NotFound(
                f"no SSH key {option.id!r} forwarded from the client: give it with --ssh "
                f"{option.id}"
            )
        return oci.Mount(mount.dest, "bind", path, ("bind", "rprivate", "nosuid", "nodev"))


def cache_directory(root: Path, record: str) -> Path:
    """The directory of a cache mount's files."""
    return root / "buildcache" / record


class CacheLocks:
    """Locks of cache mounts: steps wait for a ``locked`` one and never share a ``private`` one."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._taken: set[str] = set()

    def alone(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    def free(self, key: str) -> _Taken:
        return _Taken(self._taken, key)


class _Taken:
    """A context manager: the first instance of a private cache that nobody uses."""

    def __init__(self, taken: set[str], key: str) -> None:
        self._taken, self._key = taken, key

    def __enter__(self) -> str:
        number = 0
        while (name := f"{self._key}#{number}") in self._taken:
            number += 1
        self._taken.add(name)
        self._name = name
        return name

    def __exit__(self, *exc: object) -> None:
        self._taken.discard(self._name)
