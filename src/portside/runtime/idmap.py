"""Idmapped bind mounts: files keep their owners on disk and show others inside.

mount_setattr(2), MOUNT_ATTR_IDMAP (Linux 5.12) takes the mapping from a user namespace,
which a short-lived child is made to hold.
"""

from __future__ import annotations

import os

from portside.kernel import mount as kernel
from portside.kernel import process
from portside.model.errors import SystemFailure
from portside.model.ociruntime import IDMapping


def apply(tree: int, uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> None:
    """Map the owners of a detached mount; SystemFailure where the file system cannot."""
    namespace = _user_namespace(uids, gids)
    try:
        kernel.mount_setattr(tree, set=kernel.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=True)
    except OSError as err:
        raise SystemFailure(
            f"idmapped mount: {err.strerror}: the file system or the kernel does not support it"
        ) from err
    finally:
        os.close(namespace)


def _user_namespace(uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> int:
    """A descriptor of a user namespace with these mappings (user_namespaces(7))."""
    ready_r, ready_w = os.pipe()
    hold_r, hold_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hold_w)
        try:
            process.unshare(process.CLONE_NEWUSER)
            os.write(ready_w, b"r")
            os.read(hold_r, 1)
        finally:
            os._exit(0)
    os.close(ready_w)
    os.close(hold_r)
    try:
        if not os.read(ready_r, 1):
            raise SystemFailure("idmapped mount: cannot make a user namespace")
        for name, mappings in (("uid_map", uids), ("gid_map", gids)):
            lines = "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(lines)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_r)
        os.close(hold_w)
        os.waitpid(pid, 0)
