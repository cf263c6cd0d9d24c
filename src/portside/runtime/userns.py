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

import msgspec

from portside.kernel import c_socket as socket
from portside.kernel import idmapped, process
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import IDMapping, Linux, Spec
from portside.runtime import messages


class Prepared(msgspec.Struct):
    """Descriptors that were opened with the host's rights."""

    root: int = -1
    sources: dict[int, int] = {}
    """Detached copies of bind mounts' sources, by the mount's identity (``id``)."""
    used: list[int] = []
    """Detached mounts that the root was made of: to be closed, but by nobody in a hurry."""


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


def become_root(channel: socket.socket, existing: int) -> None:
    """Enter the user namespace, new (-1) or the one of the descriptor ``existing``, as its root.

    For a new one the other side of ``channel`` is asked to write the mappings.
    """
    if existing >= 0:
        process.setns(existing, process.CLONE_NEWUSER, "user namespace")
        os.close(existing)
    else:
        process.unshare(process.CLONE_NEWUSER)
        channel.send(b"u")
        if channel.recv(1) != b"m":
            os._exit(1)
    take_root()


def introduce(channel: socket.socket, pid: int, used: list[int]) -> None:
    """Send the init's PID, and descriptors that the receiver closes when it has time."""
    socket.send_fds(channel, [b"p%d" % pid], used[: messages.MAX_FDS])


def take_root() -> None:
    """Root of the namespace we are in; only what it maps is left of us."""
    process.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def write_mappings(pid: int, linux: Linux) -> None:
    """The mappings of a process's new user namespace. Raises SystemFailure.

    Without root a user may map itself alone, and only without supplementary groups; for more,
    newuidmap(1) and newgidmap(1) know what was given to it.
    """
    for name, mappings in (("gid_map", linux.gid_mappings), ("uid_map", linux.uid_mappings)):
        try:
            if os.geteuid():
                _write_as_user(pid, name, mappings)
                continue
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(idmapped.lines(mappings))
        except OSError as err:
            raise SystemFailure(f"cannot write {name}: {err.strerror}") from err


def _write_as_user(pid: int, name: str, mappings: tuple[IDMapping, ...]) -> None:
    if sum(mapping.size for mapping in mappings) == 1:
        if name == "gid_map":
            with open(f"/proc/{pid}/setgroups", "w") as file:
                file.write("deny")
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(idmapped.lines(mappings))
        return
    words = [str(n) for m in mappings for n in (m.container_id, m.host_id, m.size)]
    command = [f"new{name.replace('_', '')}", str(pid), *words]
    import subprocess

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemFailure(f"cannot write {name}: {done.stderr.strip()}")


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
