"""Lighter modules in the place of some libraries, for verbs whose time is their imports.

Modules of ours that are imported between :func:`install` and :func:`remove` get them; what the
standard library imports later gets the real ones.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

_installed: dict[str, ModuleType] = {}


def install() -> None:
    """Put them where nothing has imported the real module yet."""
    from portside.runtime.oci import light_structs

    light_structs.install()
    import _stat
    import _struct

    from portside.runtime.oci import light_ctypes, light_os

    if sys.version_info >= (3, 14):
        import ctypes  # noqa: F401 - its C half imports it for each structure, and it imports os
    found = {"os": light_os, "ctypes": light_ctypes, "struct": _struct, "stat": _stat}
    for name, module in found.items():
        if name not in sys.modules:
            sys.modules[name] = _installed[name] = module


def remove() -> None:
    """Take them away again, but for msgspec's."""
    for name, module in _installed.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _installed.clear()
