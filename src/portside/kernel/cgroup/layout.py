"""Layout of this machine's control groups: version 1, version 2, or both at once.

Facts from cgroups(7), ``Documentation/admin-guide/cgroup-v1`` and ``cgroup-v2.rst``.

* ``v2``: one hierarchy with every controller.
* ``v1``: one hierarchy for each controller, or for a few that are mounted together.
* ``hybrid``: version 1 hierarchies for some controllers beside a version 2 hierarchy that
  has the others, or none. A process is in one group of every hierarchy.
* ``none``: there are no groups to make. An engine without root has a part of version 2 that
  was delegated to its user (``v2``, with that part as the root), or nothing at all.
"""

from __future__ import annotations

import os

import msgspec

from portside.kernel.id_maps import in_user_namespace
from portside.kernel.light_stdlib import cache
from portside.kernel.mountinfo_text import unescaped
from portside.model.errors import SystemFailure
from portside.model.paths import rootless_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Mode = Literal["v1", "v2", "hybrid", "none"]

_V1_CONTROLLERS = frozenset(
    {"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc"}
    | {"net_cls", "net_prio", "perf_event", "pids", "rdma"}
)


class Hierarchy(msgspec.Struct, frozen=True):
    """One mounted version 1 hierarchy; ``controllers`` is empty for a named one (systemd's)."""

    controllers: tuple[str, ...]
    name: str
    """The name of a hierarchy without controllers, such as ``systemd``; else empty."""
    mount: str

    @property
    def label(self) -> str:
        """As in ``/proc/PID/cgroup``: ``cpu,cpuacct`` or ``name=systemd``."""
        return ",".join(self.controllers) or f"name={self.name}"


class Layout(msgspec.Struct, frozen=True):
    """The hierarchies that are mounted here. Made by :func:`detect`."""

    mode: Mode
    hierarchies: tuple[Hierarchy, ...] = ()
    """Version 1 hierarchies in mount order."""
    unified: str = ""
    """Mount point of the version 2 hierarchy, or the directory that was delegated to us, or
    empty."""
    unified_controllers: frozenset[str] = frozenset()
    """Controllers of the version 2 hierarchy's root (``cgroup.controllers``)."""

    def v1(self, controller: str) -> str:
        """Mount point of the version 1 hierarchy with ``controller``, or empty."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy.mount
        return ""

    def has(self, controller: str) -> bool:
        """Whether a limit of this controller can be set. Names are version 1's.

        Version 2 spells ``blkio`` as ``io``, counts ``cpuacct`` always, freezes without a
        controller, and decides on devices with a program instead of a controller.
        """
        if self.v1(controller):
            return True
        if not self.unified:
            return False
        if controller in ("devices", "freezer", "cpuacct"):
            return True
        return ("io" if controller == "blkio" else controller) in self.unified_controllers

    def mounts(self) -> tuple[str, ...]:
        """Every hierarchy's mount point, the version 2 one last."""
        found = tuple(hierarchy.mount for hierarchy in self.hierarchies)
        return (*found, self.unified) if self.unified else found


@cache
def detect() -> Layout:
    """The machine's layout, read once for each process (and inherited over a fork).

    Raises SystemFailure where no control group file system is mounted.
    """
    with open("/proc/self/mountinfo") as file:
        text = file.read()
    if not (rootless_user() or in_user_namespace()):
        return parse(text, _read_controllers)
    try:
        return delegated(parse(text, _read_controllers), own_path())
    except SystemFailure:
        return NONE


def _read_controllers(mount: str) -> str:
    with open(f"{mount}/cgroup.controllers") as file:
        return file.read()


NONE = Layout("none")
OWN_LEAF = "portside-engine"
"""Subgroup that the engine's processes move to when their own group must delegate."""


def delegated(layout: Layout, path: str) -> Layout:
    """What a user may use: the version 2 group ``path`` that the caller is in, when it was
    delegated (cgroup-v2.rst, "Delegation Containment"), else nothing."""
    if not layout.unified:
        return NONE
    directory = (layout.unified + path.removesuffix(f"/{OWN_LEAF}")).rstrip("/")
    names = ("", "/cgroup.procs", "/cgroup.subtree_control")
    if not all(os.access(directory + name, os.W_OK) for name in names):
        return NONE
    return Layout("v2", (), directory, frozenset(_read_controllers(directory).split()))


def parse(mountinfo: str, controllers_of: object = _read_controllers) -> Layout:
    """A layout from the text of ``/proc/PID/mountinfo`` (proc(5))."""
    assert callable(controllers_of)
    v1: dict[str, Hierarchy] = {}
    unified = ""
    for line in mountinfo.splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, rest = tail.partition(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        mount = unescaped(fields.split(" ")[4])
        if kind == "cgroup2":
            unified = unified or mount
            continue
        options = rest.rpartition(" ")[2].split(",")
        controllers = tuple(option for option in options if option in _V1_CONTROLLERS)
        name = next((o.removeprefix("name=") for o in options if o.startswith("name=")), "")
        if controllers or name:
            v1.setdefault(
                ",".join(controllers) or f"name={name}", Hierarchy(controllers, name, mount)
            )
    available = frozenset(controllers_of(unified).split()) if unified else frozenset[str]()
    if not unified and not v1:
        raise SystemFailure(
            "no control groups here: mount cgroup2 at /sys/fs/cgroup "
            "(mount -t cgroup2 none /sys/fs/cgroup) or the version 1 hierarchies below it"
        )
    mode: Mode = "v1" if not unified else "hybrid" if v1 else "v2"
    return Layout(mode, tuple(v1.values()), unified, available)


def own_path(mount_label: str = "") -> str:
    """This process's group in a hierarchy: ``""`` means version 2, else a label such as ``memory``.

    Returns ``/`` when the hierarchy is not in ``/proc/self/cgroup``.
    """
    return path_of("self", mount_label)


def path_of(pid: int | str, mount_label: str = "") -> str:
    """The group of ``pid`` in a hierarchy, relative to the hierarchy's (namespace's) root."""
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            _, labels, path = line.rstrip("\n").split(":", 2)
            if mount_label in labels.split(","):
                return path
    return "/"


def warm_up(layout: Layout | None = None) -> None:
    """Make the next migration quick, by a migration that changes nothing.

    The first write to a ``cgroup.procs`` file after a quiet moment waits for an RCU grace
    period (5 to 7 ms here), since it takes the kernel's per-CPU lock against forks; those
    that follow soon do not. Call it in a process or thread that has nothing better to do
    while a start is being prepared. Never raises.
    """
    layout = layout or detect()
    try:
        if layout.unified and not rootless_user():
            directory = layout.unified + own_path()
        elif not layout.hierarchies:
            return
        else:
            first = layout.hierarchies[0]
            directory = first.mount + own_path(first.label.split(",")[0])
        fd = os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b"0")
    except OSError:
        pass
    finally:
        os.close(fd)
