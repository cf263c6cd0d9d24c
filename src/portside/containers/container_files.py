"""A container's files: ``cp`` both ways, ``export``, ``diff``, ``commit``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from portside.containers import create, stop, user_mapping
from portside.containers.container import Container
from portside.containers.core import Core, unless_removed
from portside.containers.mounts import clean
from portside.model.container import ContainerConfig
from portside.model.errors import Conflict, InvalidParameter
from portside.model.idmap import IDMappings
from portside.model.reference import Reference
from portside.store.archive_values import Change, PathStat, View, ViewMount
from portside.store.failpoints import reach


def view(core: Core, container: Container, called: str) -> View:
    """The files as the container sees them, running or not; messages name it as ``called``."""
    record = container.record
    mappings = user_mapping.of(core, record)
    # one that was never started stays after a power cut, also if it removes itself at its end
    rootfs = core.store.writables.rootfs(record.id, is_kept=not record.started_ns)
    # a copy is looked at from inside a user namespace, where owners need no mapping
    shown = mappings is not None and not rootfs.stored_uids
    hosts = mappings.inverse() if mappings is not None and shown else IDMappings((), ())
    mounts = [
        ViewMount(
            point.source,
            point.destination,
            read_only=not point.rw,
            uid_mappings=hosts.uids if point.type == "bind" else (),
            gid_mappings=hosts.gids if point.type == "bind" else (),
        )
        for point in record.mounts
        if point.type in ("bind", "volume")
    ]
    directory = core.directory(record.id)
    taken = {mount.destination for mount in mounts}
    for name in ("hosts", "hostname", "resolv.conf"):
        if f"/etc/{name}" not in taken and (directory / name).exists():
            mounts.append(ViewMount(str(directory / name), f"/etc/{name}"))
    return View(
        called,
        pid=record.pid if record.running else 0,
        rootfs=rootfs,
        mounts=tuple(mounts),
        read_only=record.host.readonly_rootfs,
        working_dir="" if record.started_ns else record.config.working_dir.strip("/"),
    )


async def archive_stat(core: Core, called: str, path: str) -> PathStat:
    """What ``path`` is in the container ``called`` so. Raises NotFound."""
    container = core.find(called)
    with unless_removed(container):
        return await core.store.archives.stat(view(core, container, called), _required(path))


async def archive_get(core: Core, called: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
    """Read for ``docker cp``: the path's stat and its tar. Raises NotFound."""
    container = core.find(called)
    with unless_removed(container):
        found = view(core, container, called)
        stat, stream = await core.store.archives.get(found, _required(path))

    async def pieces() -> AsyncIterator[bytes]:
        async with stream:
            async for piece in stream:
                yield piece

    core.event(container, "archive-path")
    return stat, pieces()


async def archive_put(
    core: Core,
    called: str,
    path: str,
    data: AsyncIterable[bytes],
    *,
    keep_kind: bool = False,
    copy_owner: bool = False,
) -> None:
    """Write for ``docker cp``; with ``copy_owner`` the files belong to the container's user.
    Raises NotFound, and InvalidParameter for what the container itself could not write."""
    container = core.find(called)
    refusal = _refusal(container, _required(path))
    if refusal:
        await archive_stat(core, called, path)  # that it is not there comes first
        raise InvalidParameter(refusal)
    chown = None
    if copy_owner:
        chown = await asyncio.to_thread(_owner, core, container)
    with unless_removed(container):
        await core.store.archives.put(
            view(core, container, called),
            _required(path),
            data,
            no_overwrite_dir_non_dir=keep_kind,
            chown=chown,
        )
    core.event(container, "extract-to-dir")


def _refusal(container: Container, path: str) -> str:
    """Why the container itself could not write there, in Docker's words; empty if it could."""
    record = container.record
    place = clean(path)
    holders = [p for p in record.mounts if f"{place}/".startswith(f"{p.destination}/")]
    if holders:
        writable = max(holders, key=lambda point: len(point.destination)).rw
        return "" if writable else "mounted volume is marked read-only"
    return "container rootfs is marked read-only" if record.host.readonly_rootfs else ""


def _required(path: str) -> str:
    if not path:
        raise InvalidParameter("bad parameter: path cannot be empty")
    return path


def _owner(core: Core, container: Container) -> tuple[int, int] | None:
    """The numbers of the container's user, None when it was given none (the archive's owners
    stay); only numeric users are known from outside."""
    user, _, group = container.record.config.user.partition(":")
    if not user:
        return None
    if not user.isdecimal() or (group and not group.isdecimal()):
        if container.record.running:
            from pathlib import Path

            with suppress(FileNotFoundError):  # it has just ended
                found = Path(f"/proc/{container.record.pid}").stat()
                return found.st_uid, found.st_gid
        raise InvalidParameter(
            f"the user {user} is a name that only the running container knows: start it, or copy "
            "without --archive"
        )
    return int(user), int(group or user)


async def export_container(core: Core, container: Container) -> AsyncIterator[bytes]:
    """The whole root as a tar."""
    pid = container.record.pid if container.record.running else 0
    with unless_removed(container):
        async with await core.store.writables.export_tar(container.id, pid) as stream:
            core.event(container, "export")
            async for piece in stream:
                yield piece


async def changes(core: Core, container: Container) -> Sequence[Change]:
    with unless_removed(container):
        return await core.store.writables.changes(container.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOptions:
    """Query and body of ``POST /commit``."""

    ref: str = ""
    author: str = ""
    comment: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: ContainerConfig | None = None


async def commit_container(core: Core, container: Container, options: CommitOptions) -> str:
    """Make an image of it; the new image's ID."""
    record = container.record
    if record.removing or record.dead:
        raise Conflict(f"You cannot commit container {record.id} which is being removed")
    config = record.config if options.config is None else _over(record.config, options.config)
    async with _quiet(core, container, options.pause):
        with unless_removed(container):
            image = await core.images.commit(
                record.id,
                record.image_id,
                ref=options.ref,
                author=options.author,
                comment=options.comment,
                config=create.config_of(config),
                changes=options.changes,
            )
        reach("container.commit:made")
        name = Reference.parse(options.ref).tagged().familiar if options.ref else ""
        about = {"comment": options.comment, "imageID": image, "imageRef": name}
        core.event(container, "commit", about)
    return image


def _over(own: ContainerConfig, over: ContainerConfig) -> ContainerConfig:
    """The container's configuration with the request's fields laid over it."""
    return create.merge_config(over, create.config_of(own))


@asynccontextmanager
async def _quiet(core: Core, container: Container, pause: bool) -> AsyncIterator[None]:
    """Nothing writes meanwhile: a running container is paused, and resumed whatever happens."""
    if not pause or not container.record.running or container.record.paused:
        yield
        return
    with suppress(Conflict):  # the container has just ended or is paused already: nothing writes
        await stop.pause_container(core, container, quiet=True)
    reach("container.commit:quiet")
    try:
        yield
    finally:
        if container.record.quieted:
            with suppress(Conflict):
                await stop.unpause_container(core, container)
