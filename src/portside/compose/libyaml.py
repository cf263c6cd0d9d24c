"""The nodes of YAML documents by PyYAML's binding of libyaml, which keeps their positions.

``import yaml`` takes 20 ms and more: it brings a reader, a writer and resolvers in pure Python,
with regular expressions that are compiled each time. Only the compiled module and the plain
classes of nodes are loaded here. Where that is not possible, the package is imported as usual.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import yaml

_ERRORS = {
    "composer": "ComposerError", "constructor": "ConstructorError", "emitter": "EmitterError",
    "parser": "ParserError", "reader": "ReaderError", "representer": "RepresenterError",
    "scanner": "ScannerError", "serializer": "SerializerError",
}  # fmt: skip
"""Modules in pure Python from which the compiled one takes an exception, and nothing else."""


def _package() -> Any:
    """The package with the parts that are needed, and not as the ``yaml`` of others."""
    if "yaml" in sys.modules:
        return _whole()
    try:
        return _parts()
    except (ImportError, AttributeError, TypeError):
        return _whole()
    finally:
        if getattr(sys.modules.get("yaml"), "__file__", "") is None:
            for name in ("yaml", *(f"yaml.{part}" for part in _ERRORS)):
                sys.modules.pop(name, None)


def _whole() -> Any:
    import yaml

    return yaml


def _parts() -> Any:
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("yaml")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("no package yaml")
    package = ModuleType("yaml")
    package.__file__ = None
    package.__path__ = spec.submodule_search_locations
    sys.modules["yaml"] = package
    from yaml import error, events, nodes, tokens  # noqa: F401

    for part, name in _ERRORS.items():
        module = ModuleType(f"yaml.{part}")
        base = _ReaderError if part == "reader" else error.MarkedYAMLError
        bases = (base, error.YAMLError) if part == "reader" else (base,)
        setattr(module, name, type(name, bases, {}))
        setattr(package, part, module)
        sys.modules[f"yaml.{part}"] = module
    from yaml import _yaml  # noqa: F401

    return package


class _ReaderError:
    """Bytes that are not text, as libyaml reports them."""

    def __init__(self, name: str, at: int, character: int, encoding: str, reason: str) -> None:
        self._text = f"{reason} at byte {at}"

    def __str__(self) -> str:
        return self._text


_yaml = _package()
YAMLError: type[yaml.YAMLError] = _yaml.error.YAMLError
MarkedYAMLError: type[yaml.MarkedYAMLError] = _yaml.error.MarkedYAMLError
ScalarNode: type[yaml.ScalarNode] = _yaml.nodes.ScalarNode
MappingNode: type[yaml.MappingNode] = _yaml.nodes.MappingNode
SequenceNode: type[yaml.SequenceNode] = _yaml.nodes.SequenceNode


_Base: Any = _yaml._yaml.CParser if hasattr(_yaml, "_yaml") else _yaml.SafeLoader


class _Parser(_Base):  # type: ignore[misc]
    """libyaml's parser, the pure Python one where PyYAML was built without it; what is not
    tagged in the text gets an empty tag."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        return ""

    def descend_resolver(self, parent: Any, index: Any) -> None:
        pass

    def ascend_resolver(self) -> None:
        pass


def compose_all(text: str | bytes) -> Iterator[yaml.Node | None]:
    """The top node of each document. Raises YAMLError."""
    parser = _Parser(text)
    try:
        while parser.check_node():
            yield parser.get_node()
    finally:
        parser.dispose()
