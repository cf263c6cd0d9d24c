"""``portside explain``: a container in the kernel's terms, as one value."""

from __future__ import annotations

import msgspec

from portside.model.network import PathStep


class NamespaceFact(msgspec.Struct, frozen=True):
    """One namespace of the container's first process (namespaces(7))."""

    kind: str
    inode: int
    shared_with: tuple[str, ...] = ()
    """``the host``, or names of other containers."""


class LimitFact(msgspec.Struct, frozen=True):
    """A limit and its present use, in the kernel's units; -1 is unlimited."""

    name: str
    limit: int
    use: int
    unit: str
    """bytes, tasks, microseconds, shares or nanoseconds."""


class LayerFact(msgspec.Struct, frozen=True):
    """One directory of the overlay, topmost first."""

    role: str
    """upper (written by the container), work or lower (of the image)."""
    path: str
    size: int = -1
    """Bytes, where they are known."""


class MountFact(msgspec.Struct, frozen=True):
    """One line of ``/proc/PID/mountinfo`` (proc(5))."""

    target: str
    type: str
    source: str
    """A path on the machine for what is bound from there, else what mount(2) was given."""
    options: str


class DeviceFact(msgspec.Struct, frozen=True):
    """A device of the machine that the container may use."""

    path: str
    """Inside."""
    source: str
    permissions: str
    """Of r, w and m (mknod)."""


class Explanation(msgspec.Struct, kw_only=True):
    """All facts; empty lists for a container that does not run."""

    id: str
    name: str
    status: str
    pid: int = 0
    inner_pid: int = 1
    """The number of the first process in the container's own PID namespace (proc(5), NSpid)."""
    command: tuple[str, ...] = ()
    monitor: int = 0
    """The supervising process."""
    namespaces: tuple[NamespaceFact, ...] = ()
    cgroup: str = ""
    cgroup_paths: dict[str, str] = {}
    """Directory of the group by hierarchy."""
    limits: tuple[LimitFact, ...] = ()
    cpus: str = ""
    """Processors it may run on, such as ``0-3``."""
    memory_nodes: str = ""
    blkio: dict[str, str] = {}
    """Weight and limits of block I/O, by what is limited."""
    ulimits: dict[str, tuple[str, str]] = {}
    """Soft and hard limits of the first process, as proc_pid_limits(5) shows them."""
    devices: tuple[DeviceFact, ...] = ()
    layers: tuple[LayerFact, ...] = ()
    written: int = 0
    """Bytes in the upper directory."""
    capabilities: dict[str, tuple[str, ...]] = {}
    """By set: effective, permitted, inheritable, bounding, ambient."""
    no_new_privileges: bool = False
    seccomp: str = ""
    """disabled, strict or filter, and how many filters."""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    id_mappings: dict[str, tuple[str, ...]] = {}
    """``users`` and ``groups`` of its user namespace, each ``container:host:size``; empty for the
    host's. ``uid``, ``gid`` and ``groups`` are the host's."""
    mounts: tuple[MountFact, ...] = ()
    network: tuple[PathStep, ...] = ()
    processes: tuple[int, ...] = ()
