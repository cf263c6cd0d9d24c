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
    from collections.abc import Callable, Sequence

    from portside.model.ociruntime import IDMapping

    Mappings = Sequence[IDMapping]
    Helper = Callable[[list[int]], bool]
    """Passes a socket, and perhaps a user namespace, to a small process that sends a byte and runs
    :func:`hold` in a fork of its own: a fork costs by the size of who forks. False when there is
    no such process."""

HELP_TIMEOUT = 10.0
"""Seconds a helper may take; then this process forks itself."""


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
    return _held(uids, gids, _fork(network=False))[0]


def user_and_network_namespace(
    uids: Mappings, gids: Mappings, helper: Helper | None = None
) -> tuple[int, int]:
    """The same, and a descriptor of a new network namespace that belongs to it: root there may
    configure it, root of another user namespace may not."""
    user, network = _held(uids, gids, _helped(helper) or _fork(network=True))
    return user, network


def network_namespace_of(user: int, helper: Helper | None = None) -> int:
    """A descriptor of a new network namespace that belongs to the user namespace ``user``."""
    with _helped(helper, user) or _fork(user, network=True) as holder:
        _, fds = holder.receive(1)
        if not fds:
            raise SystemFailure("cannot make a network namespace in a user namespace")
        return fds[0]


def hold(parent: socket.socket, user: int = -1, *, network: bool) -> None:
    """What a child does that holds namespaces until the other end of ``parent`` has descriptors of
    them: it enters ``user``, or makes a user namespace and waits for its mapping.

    It hands over its directory in /proc: its number would be wrong for a receiver in a PID
    namespace that /proc does not show. The network namespace comes once the mapping is there,
    since it notes who its root is.
    """
    if user >= 0:
        process.setns(user, process.CLONE_NEWUSER, "user namespace")
        made = []
    else:
        process.unshare(process.CLONE_NEWUSER)
        directory = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
        socket.send_fds(parent, [b"r"], [directory])
        if not parent.recv(1):
            return
        made = ["user"]
    if network:
        process.unshare(process.CLONE_NEWNET)
        made.append("net")
    fds = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in made]
    socket.send_fds(parent, [b"n"], fds)


class _Holder:
    """A process that runs :func:`hold`; ``with`` ends it."""

    def __init__(self, ours: socket.socket, pid: int = 0) -> None:
        """``pid``: of a child of ours."""
        self.ours, self.pid = ours, pid

    def receive(self, count: int) -> tuple[bytes, list[int]]:
        """A byte, empty when the holder has failed, and up to ``count`` descriptors."""
        try:
            return socket.recv_fds(self.ours, 1, count)
        except OSError:
            return b"", []

    def __enter__(self) -> _Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        if self.pid:
            os.waitpid(self.pid, 0)


def _helped(helper: Helper | None, *user: int) -> _Holder | None:
    """A holder that another process has forked; None when it did not."""
    if helper is None:
        return None
    ours, theirs = socket.socketpair()
    ours.settimeout(HELP_TIMEOUT)
    try:
        asked = helper([theirs.fileno(), *user])
    finally:
        theirs.close()
    holder = _Holder(ours)
    if asked and holder.receive(0)[0]:
        return holder
    ours.close()
    return None


def _fork(user: int = -1, *, network: bool) -> _Holder:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            hold(theirs, user, network=network)
        finally:
            os._exit(0)
    theirs.close()
    return _Holder(ours, pid)


def _held(uids: Mappings, gids: Mappings, holder: _Holder) -> list[int]:
    """Descriptors of the new namespaces that ``holder`` makes."""
    with holder:
        _, fds = holder.receive(1)
        if not fds:
            raise SystemFailure("cannot make a user namespace (is user.max_user_namespaces 0?)")
        try:
            _write_mapping(fds[0], "uid_map", uids)
            _write_mapping(fds[0], "gid_map", gids)
        finally:
            os.close(fds[0])
        holder.ours.send(b"m")
        _, made = holder.receive(2)
        if not made:
            raise SystemFailure("cannot make a network namespace in a user namespace")
        return made


def _write_mapping(directory: int, name: str, mappings: Mappings) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, lines(mappings).encode())
    except OSError as err:
        raise SystemFailure(f"cannot write {name}: {err.strerror}") from err
    finally:
        os.close(fd)
