"""The modules of ``portside-runtime`` in a few files: half of a start is finding and reading them.

The files lie among the package's bytecode and are like it: they hold the same code, are valid as
long as the sources are as they were, and each is made anew by the first call that finds it missing
or old. Verbs that become a container's process (``create``, ``exec``) have a file each, with what
they always import: those modules are made and executed in the order in which a start imported
them, without the import system. Others are found in the file when they are imported.
A file is marshalled (the form of bytecode, which changes with the interpreter)::

    [this module's code,
     [(path, mtime in ns, size), ...],
     [(module, path, is a package, code), ...],
     {module: (path, is a package, marshalled code)}]

Paths are relative to the package's directory, or absolute.
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType
    from typing import Any

    Modules = dict[str, tuple[str, bool, bytes]]
    Executed = list[tuple[str, str, bool, CodeType]]

_FIRST = (
    "portside", "portside.runtime", "portside.runtime.oci",
    "portside.runtime.oci.combined_modules", "portside.runtime.oci.process_start",
)  # fmt: skip
"""What is imported before anything can be noted."""
_OTHERS = ("ctypes", "ctypes._endian", "struct")
"""What modules of the standard library are worth it; the rest is frozen or compiled."""
_LATER = ("portside.runtime.oci.exec_process", "portside.runtime.oci.process_verbs")
"""Modules that the call which makes the file may not have needed."""
LAST = {
    "create": "portside.runtime.oci.lifecycle_verbs",
    "exec": "portside.runtime.oci.exec_process",
}
"""Files of verbs, and the module that is the last of those that the verb always imports."""
_LIGHT = "portside.runtime.oci.light_os"
"""The last of the stand-ins for libraries in those verbs, for all modules after it."""


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


class _Recorder:
    """Finder that notes our modules in the order in which they are executed to their end."""

    def __init__(self, last: str) -> None:
        self._last = last
        self.names: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] != "portside" or self._last in self.names:
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.names.append(name)

            loader.exec_module = exec_module
        return spec


def _place(package: str, verb: str) -> str:
    name = f"combined-{verb}" if verb else "combined"
    return f"{package}/runtime/oci/__pycache__/{name}.{sys.implementation.cache_tag}"


def _absolute(package: str, path: str) -> str:
    return path if path[0] == "/" else f"{package}/{path}"


def _stamp(package: str, path: str) -> tuple[str, int, int]:
    found = posix.stat(_absolute(package, path))
    return path, found.st_mtime_ns, found.st_size


def use(package: str, verb: str = "") -> bool:
    """Import from a file of ``package``'s directory from now on: the one of ``verb``, ``create`` or
    ``exec``, or the one of all. Whether there is a valid one; else what is imported is noted."""
    if any(isinstance(finder, (_Loader, _Recorder)) for finder in sys.meta_path[:1]):
        return isinstance(sys.meta_path[0], _Loader)
    try:
        fd = posix.open(_place(package, verb), posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            data = posix.read(fd, posix.fstat(fd).st_size)
        finally:
            posix.close(fd)
        if enter(package, marshal.loads(data)):
            return True
    except (OSError, ValueError, EOFError, TypeError):
        pass
    if verb:
        sys.meta_path.insert(0, _Recorder(LAST[verb]))
    return False


def enter(package: str, found: list[Any]) -> bool:
    """Import from what a file holds, if it is valid."""
    _, stamps, executed, modules = found
    for path, mtime, size in stamps:
        now = posix.stat(_absolute(package, path))
        if now.st_mtime_ns != mtime or now.st_size != size:
            return False
    sys.meta_path.insert(0, _Loader(package, modules))
    _execute(package, executed)
    return True


def _execute(package: str, executed: Executed) -> None:
    """Make modules and execute them, but for those that are there."""
    modules = sys.modules
    kind = type(sys)
    made = []
    for name, path, is_package, code in executed:
        if name in modules:
            continue
        module = modules[name] = kind(name)
        module.__file__ = _absolute(package, path)
        parent, _, last = name.rpartition(".")
        module.__package__ = name if is_package else parent
        if is_package:
            module.__path__ = [module.__file__.rpartition("/")[0]]
        made.append((module, parent, last, code))
    for module, parent, last, _ in made:
        if parent:
            setattr(modules[parent], last, module)
    for module, _, _, code in made:
        exec(code, module.__dict__)
        if module.__name__ == _LIGHT:
            modules["portside.runtime.oci.stand_ins"].install()


def make(package: str, verb: str = "") -> None:
    """Write a file with what this process has imported; not where nothing may be written."""
    _write(_place(package, verb), lambda: _contents(package, verb))


def _contents(package: str, verb: str) -> bytes:
    recorder = sys.meta_path[0]
    if not verb:
        for name in _LATER:
            __import__(name)
    executed: Executed = []
    modules: Modules = {}
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        path = getattr(spec, "origin", None) or ""
        ours = name.partition(".")[0] == "portside" and not verb
        if not (ours or name in _OTHERS) or not path.endswith(".py") or spec is None:
            continue
        code = spec.loader.get_code(name)
        modules[name] = (path.removeprefix(f"{package}/"), _is_package(spec), marshal.dumps(code))
    if verb:
        if not isinstance(recorder, _Recorder) or LAST[verb] not in recorder.names:
            return b""
        first = (name for name in _FIRST if name in sys.modules)
        for name in (*first, *recorder.names):
            spec = sys.modules[name].__spec__
            assert spec is not None and spec.origin is not None
            path = spec.origin.removeprefix(f"{package}/")
            executed.append((name, path, _is_package(spec), _lean(spec.origin, path)))
    paths = [path for path, _, _ in modules.values()] + [one[1] for one in executed]
    stamps = [_stamp(package, path) for path in paths]
    return marshal.dumps([_lean(__file__, "combined_modules.py"), stamps, executed, modules])


def _lean(file: str, path: str) -> CodeType:
    """A module's code without what only readers need: texts, annotations of functions, line
    numbers, assertions. That halves the time of reading it. ``--debug`` runs the sources."""
    import __future__

    import ast

    with open(file, "rb") as source:
        tree = ast.parse(source.read())
    # an import as any other, which each module would do again
    tree.body = [node for node in tree.body if getattr(node, "module", "") != "__future__"]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
    return _without_lines(
        compile(
            tree, path, "exec", __future__.annotations.compiler_flag, dont_inherit=True, optimize=2
        )
    )


def _without_lines(code: CodeType) -> CodeType:
    inner = (_without_lines(one) if isinstance(one, type(code)) else one for one in code.co_consts)
    return code.replace(co_consts=tuple(inner), co_linetable=b"")


def _is_package(spec: ModuleSpec) -> bool:
    return bool(spec.submodule_search_locations)


def _write(place: str, contents: Callable[[], bytes]) -> None:
    temporary = f"{place}.{posix.getpid()}"
    try:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC | posix.O_NOFOLLOW
        fd = posix.open(temporary, flags, 0o644)
    except OSError:
        return
    complete = False
    try:
        with open(fd, "wb", buffering=0) as file:
            data = contents()
            complete = bool(data) and file.write(data) == len(data)
        if complete:
            posix.rename(temporary, place)
    except OSError:
        complete = False
    finally:
        if not complete:
            posix.unlink(temporary)
