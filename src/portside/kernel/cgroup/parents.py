"""Making the way down to a container's groups: parents that exist, initialised, delegating.

Version 1: a new ``cpuset`` group has no CPUs and refuses processes until it is given some;
each group on the way is filled from the one above. Version 2: a group can limit its children
only by controllers that are enabled in its ``cgroup.subtree_control``, and a group other
than the root that enables any must not have processes of its own (``cgroup-v2.rst``, "No
Internal Process Constraint").
"""

from __future__ import annotations

import errno
import os

from portside.kernel.cgroup import files
from portside.kernel.cgroup.layout import OWN_LEAF, Layout, own_path
from portside.model.errors import Conflict, SystemFailure

WANTED = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")

_prepared: set[tuple[str, str]] = set()


def prepare(layout: Layout, parent: str) -> None:
    """Make ``parent`` (``/portside``) and everything above it fit to hold containers.

    Idempotent, remembered for this process and those forked from it: call it once in the
    launcher so that starting a container only makes its own directory. Raises SystemFailure
    or Conflict.
    """
    if (layout.unified, parent) in _prepared:
        return
    for hierarchy in layout.hierarchies:
        os.makedirs(hierarchy.mount + parent, mode=0o755, exist_ok=True)
        if "cpuset" in hierarchy.controllers:
            for above in _steps(parent)[1:]:
                inherit_cpuset(hierarchy.mount, above)
            # Children then copy these values as they are made, which saves four writes each.
            if parent != "/":
                files.write(f"{hierarchy.mount}{parent}/cgroup.clone_children", "1")
    if layout.unified:
        for above in _steps(parent):
            os.makedirs(layout.unified + above, mode=0o755, exist_ok=True)
            delegate(layout, above)
    _prepared.add((layout.unified, parent))


def forget(layout: Layout, parent: str) -> None:
    """The directory has vanished: prepare it anew next time."""
    _prepared.discard((layout.unified, parent))


def _steps(path: str) -> list[str]:
    """``/a/b`` → ``["", "/a", "/a/b"]``; the root is empty so that paths can be joined."""
    parts = [part for part in path.split("/") if part]
    return ["", *("/" + "/".join(parts[: n + 1]) for n in range(len(parts)))]


def inherit_cpuset(mount: str, path: str) -> None:
    """Fill ``cpuset.cpus`` and ``cpuset.mems`` of a version 1 group from its parent, if empty."""
    above = mount + path.rpartition("/")[0]
    for file in ("cpuset.cpus", "cpuset.mems"):
        try:
            if files.read(f"{mount}{path}/{file}").strip():
                continue
            files.write(f"{mount}{path}/{file}", files.read(f"{above}/{file}").strip())
        except OSError as error:
            raise files.failure(f"{mount}{path}/{file}", "the parent's", error) from error


def delegate(layout: Layout, path: str) -> None:
    """Enable for the children of a version 2 group what the group has and we use."""
    directory = layout.unified + path
    has = files.read(f"{directory}/cgroup.controllers").split()
    enabled = files.read(f"{directory}/cgroup.subtree_control").split()
    missing = [name for name in WANTED if name in has and name not in enabled]
    if not missing:
        return
    value = " ".join(f"+{name}" for name in missing)
    try:
        _enable(directory, value)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise files.failure(f"{directory}/cgroup.subtree_control", value, error) from error
        _make_room(layout, path, directory)
        try:
            _enable(directory, value)
        except OSError as again:
            raise files.failure(f"{directory}/cgroup.subtree_control", value, again) from again


def _enable(directory: str, value: str) -> None:
    try:
        files.write(f"{directory}/cgroup.subtree_control", value)
    except OSError as error:
        if error.errno == errno.EBUSY or " " not in value:
            raise
        # One that cannot be enabled (a threaded or partitioned parent) must not cost the others.
        for one in value.split():
            try:
                files.write(f"{directory}/cgroup.subtree_control", one)
            except OSError as single:
                if single.errno == errno.EBUSY:
                    raise


def _make_room(layout: Layout, path: str, directory: str) -> None:
    """Move the processes in the way to a leaf, when they are ours to move.

    They are when the group is the top of a cgroup namespace (the engine is in a container,
    whose every process was started there), or when the engine itself is in the group, as
    under a service manager that delegated it. Anything else is somebody's, and is named.
    """
    pids = files.read(f"{directory}/cgroup.procs").split()
    top_of_namespace = path == "" and os.path.exists(f"{directory}/cgroup.type")
    if not top_of_namespace and own_path() != (path or "/"):
        raise Conflict(
            f"control group {path or '/'} cannot hold containers: it has processes of its own "
            f"({_names(pids)}), and cgroup v2 allows processes only in groups without limited "
            "children. Move them to a group below it, or choose another --cgroup-parent"
        )
    leaf = f"{directory}/{OWN_LEAF}"
    os.makedirs(leaf, mode=0o755, exist_ok=True)
    for _ in range(10):  # they may fork while we move them
        for pid in pids:
            try:
                files.write(f"{leaf}/cgroup.procs", pid)
            except ProcessLookupError:
                continue
            except OSError as error:
                raise files.failure(f"{leaf}/cgroup.procs", pid, error) from error
        pids = files.read(f"{directory}/cgroup.procs").split()
        if not pids:
            return
    raise SystemFailure(f"processes keep appearing in control group {path or '/'}: {_names(pids)}")


def _names(pids: list[str]) -> str:
    shown = []
    for pid in pids[:5]:
        # Processes of another PID namespace are listed as 0.
        name = files.read_or(f"/proc/{pid}/comm", "elsewhere").strip()
        shown.append(f"{pid} {name}")
    return ", ".join(shown) + (", …" if len(pids) > 5 else "")
