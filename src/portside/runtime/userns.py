"""A container with a user namespace of its own (user_namespaces(7)), or another's.

The other namespaces must belong to it, so it comes first, and what needs the host's rights
is done before it::

    starter ──fork──► between: opens the root and bind sources, joins the control group …
       │                 │ unshare(user) ── "u" ──► starter writes the mappings ── go
       │                 │ becomes root in it, unshares the rest
       └─────────────────└─clone(CLONE_PARENT)──► the container's init, a child of the starter
"""

from __future__ import annotations

import os
import resource
import socket

import msgspec

from portside.kernel import mount, process
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import IDMapping, Linux, Spec


class Prepared(msgspec.Struct):
    """Descriptors that were opened with the host's rights."""

    root: int = -1
    sources: dict[int, int] = {}
    """Detached copies of bind mounts' sources, by the mount's identity (``id``)."""


def wanted(spec: Spec) -> bool:
    """Whether the container lives in a user namespace that is not the host's."""
    return spec.namespace("user") is not None


def check(spec: Spec) -> None:
    """Raise InvalidParameter for what cannot be had with a user namespace."""
    found, linux = spec.namespace("user"), spec.linux
    if found is None or linux is None:
        return
    if not found.path and not (linux.uid_mappings and linux.gid_mappings):
        raise InvalidParameter("a new user namespace needs uidMappings and gidMappings")


def become_root(tell: socket.socket, path: str) -> None:
    """Enter the user namespace, new or the one of ``path``, as its root.

    For a new one the other side of ``tell`` is asked to write the mappings.
    """
    if path:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        process.setns(fd, process.CLONE_NEWUSER, path)
        os.close(fd)
    else:
        process.unshare(process.CLONE_NEWUSER)
        tell.send(b"u")
        if tell.recv(1) != b"m":
            os._exit(1)
    take_root()


def take_root() -> None:
    """Root of the namespace we are in; only what it maps is left of us."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def write_mappings(pid: int, linux: Linux) -> None:
    """The mappings of a process's new user namespace. Raises SystemFailure."""
    for name, mappings in (("uid_map", linux.uid_mappings), ("gid_map", linux.gid_mappings)):
        try:
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(lines(mappings))
        except OSError as err:
            raise SystemFailure(f"cannot write {name}: {err.strerror}") from err


def lines(mappings: tuple[IDMapping, ...]) -> str:
    return "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)


def raise_limits(spec: Spec) -> None:
    """Hard limits that are to be higher than ours, while we may (getrlimit(2))."""
    assert spec.process is not None
    for limit in spec.process.rlimits:
        number = getattr(resource, limit.type, None)
        if number is None:
            continue  # refused later, with its name
        hard = resource.RLIM_INFINITY if limit.hard < 0 or limit.hard >= 1 << 63 else limit.hard
        soft, ours = resource.getrlimit(number)
        if ours != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > ours):
            try:
                resource.setrlimit(number, (soft, hard))
            except (ValueError, OSError):
                continue  # said when it is set


def offset_clocks(spec: Spec) -> None:
    """Offsets of the time namespace that our children will be in (time_namespaces(7))."""
    assert spec.linux is not None
    if not spec.linux.time_offsets:
        return
    text = "".join(
        f"{clock} {offset.secs} {offset.nanosecs}\n"
        for clock, offset in spec.linux.time_offsets.items()
    )
    try:
        with open("/proc/self/timens_offsets", "w") as file:
            file.write(text)
    except OSError as err:
        raise SystemFailure(f"cannot set the time namespace's offsets: {err.strerror}") from err


# Idmapped mounts: files keep their owners on disk and show others inside. mount_setattr(2),
# MOUNT_ATTR_IDMAP (Linux 5.12) takes the mapping from a user namespace, which a short-lived child
# is made to hold.


def map_owners(tree: int, uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> None:
    """Map the owners of a detached mount; SystemFailure where the file system cannot."""
    namespace = user_namespace(uids, gids)
    try:
        map_owners_as(tree, namespace)
    finally:
        os.close(namespace)


def map_owners_as(tree: int, namespace: int) -> None:
    """As :func:`map_owners`, with the mapping of a user namespace's descriptor."""
    try:
        mount.mount_setattr(tree, set=mount.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=True)
    except OSError as err:
        raise SystemFailure(
            f"idmapped mount: {err.strerror}: the file system or the kernel does not support it"
        ) from err


def user_namespace(uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> int:
    """A descriptor of a user namespace with these mappings (user_namespaces(7)).

    The child hands over its directory in /proc: its number would be wrong for us when we
    are in a PID namespace that /proc does not show.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            process.unshare(process.CLONE_NEWUSER)
            directory = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
            socket.send_fds(theirs, [b"r"], [directory])
            theirs.recv(1)
        finally:
            os._exit(0)
    theirs.close()
    try:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if not fds:
            raise SystemFailure("idmapped mount: cannot make a user namespace")
        try:
            _write_mapping(fds[0], "uid_map", uids)
            _write_mapping(fds[0], "gid_map", gids)
            return os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fds[0])
        finally:
            os.close(fds[0])
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _write_mapping(directory: int, name: str, mappings: tuple[IDMapping, ...]) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, lines(mappings).encode())
    except OSError as err:
        raise SystemFailure(f"idmapped mount: cannot write {name}: {err.strerror}") from err
    finally:
        os.close(fd)
