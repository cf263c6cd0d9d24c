"""Control groups, version 1, version 2 and both at once, behind one face.

``detect()`` reports what is mounted. ``Cgroup`` is one container's group in every hierarchy;
``prepare`` makes a parent fit to hold containers. Limits that users give are checked in
``portside.kernel.cgroup.limits``; device rules are in ``.devices``; what a limit becomes in
files is in ``.plan``. See cgroups(7).
"""

from portside.kernel.cgroup.devices import DEFAULT_DEVICES, RUNTIME_DEVICES
from portside.kernel.cgroup.group import Cgroup, children
from portside.kernel.cgroup.layout import Hierarchy, Layout, detect, own_path, path_of, warm_up
from portside.kernel.cgroup.parents import prepare

__all__ = [
    "DEFAULT_DEVICES",
    "RUNTIME_DEVICES",
    "Cgroup",
    "Hierarchy",
    "Layout",
    "children",
    "detect",
    "own_path",
    "path_of",
    "prepare",
    "warm_up",
]
