"""Idmapped mounts: files keep their owners on disk and show others (mount_setattr(2)).

MOUNT_ATTR_IDMAP (Linux 5.12; overlay's layers 5.19) takes the mapping from a user namespace
(user_namespaces(7)), which a short-lived child is made to hold. ``container_id`` of a mapping
is the owner on disk, ``host_id`` the one shown.
"""

from __future__ import annotations

import os

from portside.kernel import c_socket as socket
from portside.kernel import mount, process
from portside.model.errors import SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portside.model.ociruntime import IDMapping

    Mappings = Sequence[IDMapping]


def lines(mappings: Mappings) -> str:
    """The content of ``uid_map`` and ``gid_map``."""
    return "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)


def map_owners(tree: int, uids: Mappings, gids: Mappings, *, recursive: bool = True) -> None:
    """Map the owners of a detached mount and, if ``recursive``, of those below it; SystemFailure
    where a file system cannot."""
    namespace = user_namespace(uids, gids)
    try:
        map_owners_as(tree, namespace, recursive=recursive)
    finally:
        os.close(namespace)


def map_owners_as(tree: int, namespace: int, *, recursive: bool = True) -> None:
    """As :func:`map_owners`, with the mapping of a user namespace's descriptor."""
    try:
        mount.mount_setattr(
            tree, set=mount.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=recursive
        )
    except OSError as err:
        raise SystemFailure(
            f"idmapped mount: {err.strerror}: the file system or the kernel does not support it"
        ) from err


_supported: dict[int, bool] = {}


def is_supported(path: str) -> bool:
    """Whether mounts of the file system at ``path`` can be idmapped; asked once for each."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return True  # the mount reports what is wrong
    if device not in _supported:
        _supported[device] = _supports(path)
    return _supported[device]


def _supports(path: str) -> bool:
    """Kernels before 5.19 count as without: an overlay's layers cannot be idmapped there."""
    from portside.model.ociruntime import IDMapping

    if process.kernel_version() < (5, 19):
        return False
    one = (IDMapping(0, 65534, 1),)
    try:
        namespace = user_namespace(one, one)
        try:
            os.close(mapped_copy(path, namespace))
        finally:
            os.close(namespace)
    except (OSError, SystemFailure):
        return False
    return True


def mapped_copy(path: str, namespace: int) -> int:
    """A detached copy of one mount at ``path`` with its owners mapped; SystemFailure."""
    tree = mount.open_tree(mount.AT_FDCWD, path, mount.OPEN_TREE_CLONE)
    try:
        map_owners_as(tree, namespace)
    except BaseException:
        os.close(tree)
        raise
    return tree


def user_namespace(uids: Mappings, gids: Mappings) -> int:
    """A descriptor of a new user namespace with these mappings. Raises SystemFailure."""
    return _namespaces(uids, gids, network=False)[0]


def user_and_network_namespace(uids: Mappings, gids: Mappings) -> tuple[int, int]:
    """The same, and a descriptor of a new network namespace that belongs to it: root there may
    configure it, root of another user namespace may not."""
    user, network = _namespaces(uids, gids, network=True)
    return user, network


def network_namespace_of(user: int) -> int:
    """A descriptor of a new network namespace that belongs to the user namespace ``user``."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            process.setns(user, process.CLONE_NEWUSER, "user namespace")
            process.unshare(process.CLONE_NEWNET)
            socket.send_fds(theirs, [b"n"], [os.open("/proc/self/ns/net", os.O_RDONLY)])
        finally:
            os._exit(0)
    theirs.close()
    try:
        _, fds = socket.recv_fds(ours, 1, 1)
        if not fds:
            raise SystemFailure("cannot make a network namespace in a user namespace")
        return fds[0]
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _namespaces(uids: Mappings, gids: Mappings, *, network: bool) -> tuple[int, ...]:
    """The child hands over its directory in /proc: its number would be wrong for us when we
    are in a PID namespace that /proc does not show."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _hold(theirs, network)
        finally:
            os._exit(0)
    theirs.close()
    try:
        _, fds = socket.recv_fds(ours, 1, 1)
        if not fds:
            raise SystemFailure("cannot make a user namespace (is user.max_user_namespaces 0?)")
        try:
            _write_mapping(fds[0], "uid_map", uids)
            _write_mapping(fds[0], "gid_map", gids)
            if not network:
                return (_open(fds[0], "user"),)
            ours.send(b"n")
            if not ours.recv(1):
                raise SystemFailure("cannot make a network namespace in a user namespace")
            user = _open(fds[0], "user")
            return user, _open(fds[0], "net")
        finally:
            os.close(fds[0])
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _hold(parent: socket.socket, network: bool) -> None:
    """The child: it lives until the parent has opened what it needs. The network namespace
    comes once the mapping is there, since it notes who its root is."""
    process.unshare(process.CLONE_NEWUSER)
    directory = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    socket.send_fds(parent, [b"r"], [directory])
    if network and parent.recv(1):
        process.unshare(process.CLONE_NEWNET)
        parent.send(b"n")
    parent.recv(1)


def _open(directory: int, name: str) -> int:
    return os.open(f"ns/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)


def _write_mapping(directory: int, name: str, mappings: Mappings) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, lines(mappings).encode())
    except OSError as err:
        raise SystemFailure(f"cannot write {name}: {err.strerror}") from err
    finally:
        os.close(fd)
