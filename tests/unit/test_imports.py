"""The folders of the package are layers: imports run down only, without circles."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "portside"

# For each folder, the folders it may import. What a folder may import, it may import from at
# any depth; a folder not listed may import nothing. ``registry`` is two folders: its client is
# part of the engine, its server a program of its own.
ALLOWED = {
    "model": set(),
    "kernel": {"model"},
    "store": {"kernel", "model"},
    "flags": {"model"},
    "runtime": {"flags", "kernel", "model"},
    "registry.client": {"store", "kernel", "model"},
    "serving": {"model"},
    "registry.server": {"registry.client", "serving", "flags", "model"},
    "monitor": {"client", "serving", "flags", "kernel", "model"},
    "volumes": {"store", "kernel", "model"},
    "networks": {"store", "kernel", "model"},
    "images": {"registry.client", "store", "kernel", "model"},
    "containers": {"runtime", "store", "kernel", "model"},
    "builder": {
        "containers",
        "images",
        "registry.client",
        "runtime",
        "store",
        "kernel",
        "model",
    },
    "engine": {
        "builder",
        "containers",
        "images",
        "networks",
        "volumes",
        "registry.client",
        "runtime",
        "store",
        "kernel",
        "model",
    },
    # The API names the filters and stream types of the service that it calls.
    "api": {"engine", "builder", "containers", "serving", "model"},
    "daemon": {"api", "engine", "serving", "runtime", "flags", "kernel", "model"},
    "client": {"model"},
    "compose": {"client", "model"},
    "cli": {"client", "compose", "flags", "model"},
}


def floor_of(module: str) -> str:
    """``portside.registry.server.app`` → ``registry.server``."""
    parts = module.split(".")[1:]
    if not parts:
        return ""
    return ".".join(parts[:2]) if parts[0] == "registry" else parts[0]


def module_of(path: Path) -> str:
    return ".".join(("portside", *path.relative_to(PACKAGE).with_suffix("").parts))


@cache
def import_nodes(path: Path) -> tuple[tuple[ast.Import | ast.ImportFrom, bool], ...]:
    """A file's import statements in order, also those for type checkers, with whether each is at
    its top level. Other expressions are not looked into."""
    found = []
    stack = [(node, True) for node in reversed(ast.parse(path.read_bytes()).body)]
    while stack:
        node, is_top = stack.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append((node, is_top))
        for field in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                stack += [(item, False) for item in reversed(inner)]
    return tuple(found)


@cache
def _is_module(base: str, name: str) -> bool:
    inner = PACKAGE.parent.joinpath(*base.split("."), name)
    return inner.is_dir() or inner.with_suffix(".py").exists()


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every module of the package that a file imports, anywhere in it, with the line."""
    for node, _ in import_nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        else:
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its floor"
            base = node.module or ""
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}" if _is_module(base, name.name) else base


FILES = sorted(PACKAGE.rglob("*.py"))


def upward(path: Path) -> list[str]:
    floor = floor_of(module_of(path))
    if floor in ("", "__main__", "__init__"):
        return []  # the entry: hands over to any part
    found = []
    for line, target in imports_of(path):
        other = floor_of(target)
        if target.startswith("portside.") and other != floor and other not in ALLOWED[floor]:
            found.append(f"{path.relative_to(PACKAGE)}:{line}: {floor} imports {other}")
    return found


def test_imports_run_down() -> None:
    assert FILES
    found = [edge for path in FILES for edge in upward(path)]
    assert not found, "\n".join(found)


def test_floors_have_no_circle() -> None:
    below: dict[str, set[str]] = {}

    def reach(floor: str, way: tuple[str, ...]) -> set[str]:
        assert floor not in way, " → ".join((*way, floor))
        if floor not in below:
            below[floor] = set(ALLOWED[floor])
            for other in ALLOWED[floor]:
                below[floor] |= reach(other, (*way, floor))
        return below[floor]

    for floor in ALLOWED:
        reach(floor, ())


def test_modules_have_no_circle() -> None:
    """Imports made when a module is loaded; those inside functions are late on purpose."""
    edges: dict[str, set[str]] = {}
    names = {module_of(path).removesuffix(".__init__") for path in FILES}
    for path in FILES:
        lines = {node.lineno for node, is_top in import_nodes(path) if is_top}
        module = module_of(path).removesuffix(".__init__")
        edges[module] = {
            target
            for line, target in imports_of(path)
            if line in lines and target in names and target != module
        }
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way[way.index(module) :], module))
        if module not in finished:
            for other in edges[module]:
                visit(other, (*way, module))
            finished.add(module)

    for module in edges:
        visit(module, ())


def test_the_test_sees_an_upward_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "kernel" / "wrong.py"
    wrong.parent.mkdir()
    wrong.write_text("def f():\n    from portside.engine import engine\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert upward(wrong) == ["kernel/wrong.py:2: kernel imports engine"]


# -- files ----------------------------------------------------------------------------------------

SAME_MEANING = frozenset(
    """app apparmor auth client config connection container context endpoints errors events explain
    files filters gc guard images inspect logs main messages metrics mounts networks
    notify options parser progress rootfs service stats streams system table tls tree update
    usage volumes""".split()
)
"""Names of modules that occur in several folders: each folder's own part of the same thing."""


def _file_imports(path: Path, modules: set[str]) -> set[str]:
    """The files of the package that a file imports, at any depth of it, also for its types."""
    found: set[str] = set()
    for node, _ in import_nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
    return found & modules


def _circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of files that reach one another."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        stack = list(graph[start])
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack += graph[name]
        return seen

    reach = {name: reached(name) for name in graph}
    return {
        frozenset(other.removeprefix("portside.") for other in reach[name] if name in reach[other])
        for name in graph
        if name in reach[name]
    }


def test_files_import_one_another_in_no_circle() -> None:
    files = {module_of(path).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")}
    graph = {module: _file_imports(path, set(files)) - {module} for module, path in files.items()}
    assert _circles(graph) == set()


def test_a_module_name_means_one_thing() -> None:
    names = [path.stem for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__")]
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= SAME_MEANING, f"occur more than once: {sorted(twice - SAME_MEANING)}"
    assert twice >= SAME_MEANING, f"occur only once now: {sorted(SAME_MEANING - twice)}"
