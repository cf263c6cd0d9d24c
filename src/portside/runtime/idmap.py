"""Idmapped mounts: files keep their owners on disk and show others inside.

mount_setattr(2), MOUNT_ATTR_IDMAP (Linux 5.12) takes the mapping from a user namespace,
which a short-lived child is made to hold.
"""

from __future__ import annotations

import os
import socket

from portside.kernel import mount as kernel
from portside.kernel import process
from portside.model.errors import SystemFailure
from portside.model.ociruntime import IDMapping


def apply(tree: int, uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> None:
    """Map the owners of a detached mount; SystemFailure where the file system cannot."""
    namespace = user_namespace(uids, gids)
    try:
        apply_namespace(tree, namespace)
    finally:
        os.close(namespace)


def apply_namespace(tree: int, namespace: int) -> None:
    """As :func:`apply`, with the mapping of a user namespace's descriptor."""
    try:
        kernel.mount_setattr(tree, set=kernel.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=True)
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
            _write(fds[0], "uid_map", uids)
            _write(fds[0], "gid_map", gids)
            return os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fds[0])
        finally:
            os.close(fds[0])
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _write(directory: int, name: str, mappings: tuple[IDMapping, ...]) -> None:
    lines = "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, lines.encode())
    except OSError as err:
        raise SystemFailure(f"idmapped mount: cannot write {name}: {err.strerror}") from err
    finally:
        os.close(fd)
