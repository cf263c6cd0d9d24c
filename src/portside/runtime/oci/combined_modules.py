"""All modules of ``portside-runtime`` in one file: half of a start is finding and reading them.

The file lies among the package's bytecode and is one like it: it holds the same code, is valid as
long as the sources are as they were, and is made anew by the first call that finds it missing or
old. It is marshalled (the form of bytecode, which changes with the interpreter)::

    [[(path, mtime in ns, size), ...], {module: (path, is a package, marshalled code)}]

Paths are relative to the package's directory, or absolute.
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    Modules = dict[str, tuple[str, bool, bytes]]

_OTHERS = ("ctypes", "ctypes._endian", "struct")
"""What modules of the standard library are worth it; the rest is frozen or compiled."""


_LATER = ("portside.runtime.oci.exec_process", "portside.runtime.oci.process_verbs")
"""Modules that the call which makes the file may not have needed."""


class _Loader:
    """Finder and loader of the modules in the file (importlib.abc)."""

    def __init__(self, package: str, modules: Modules) -> None:
        self._package, self._modules = package, modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found = self._modules.get(name)
        if found is None:
            return None
        origin = _absolute(self._package, found[0])
        spec = ModuleSpec(name, self, origin=origin, is_package=found[1])  # type: ignore[arg-type]
        if found[1]:  # others of its modules are found as ever
            spec.submodule_search_locations = [origin.rpartition("/")[0]]
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        found: CodeType = marshal.loads(self._modules[name][2])
        return found


def _place(package: str) -> str:
    return f"{package}/runtime/oci/__pycache__/combined.{sys.implementation.cache_tag}"


def _absolute(package: str, path: str) -> str:
    return path if path[0] == "/" else f"{package}/{path}"


def _stamp(package: str, path: str) -> tuple[str, int, int]:
    found = posix.stat(_absolute(package, path))
    return path, found.st_mtime_ns, found.st_size


def use(package: str) -> bool:
    """Import from the file in ``package``'s directory from now on; whether there is a valid one."""
    if isinstance(sys.meta_path[0], _Loader):
        return True
    try:
        fd = posix.open(_place(package), posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            data = posix.read(fd, posix.fstat(fd).st_size)
        finally:
            posix.close(fd)
        stamps, modules = marshal.loads(data)
        for stamp in stamps:
            if _stamp(package, stamp[0]) != stamp:
                return False
    except (OSError, ValueError, EOFError, TypeError):
        return False
    sys.meta_path.insert(0, _Loader(package, modules))
    return True


def make(package: str) -> None:
    """Write the file with what this process has imported; not where nothing may be written."""
    for name in _LATER:
        __import__(name)
    modules: Modules = {}
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        path = getattr(spec, "origin", None) or ""
        ours = name.partition(".")[0] == "portside" or name in _OTHERS
        if not ours or not path.endswith(".py") or spec is None:
            continue
        code = spec.loader.get_code(name)
        path = path.removeprefix(f"{package}/")
        modules[name] = (path, bool(spec.submodule_search_locations), marshal.dumps(code))
    data = marshal.dumps([[_stamp(package, path) for path, _, _ in modules.values()], modules])
    place = _place(package)
    temporary = f"{place}.{posix.getpid()}"
    try:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC | posix.O_NOFOLLOW
        fd = posix.open(temporary, flags, 0o644)
    except OSError:
        return
    try:
        with open(fd, "wb", buffering=0) as file:
            complete = file.write(data) == len(data)
        if complete:
            posix.rename(temporary, place)
    except OSError:
        complete = False
    if not complete:
        posix.unlink(temporary)
