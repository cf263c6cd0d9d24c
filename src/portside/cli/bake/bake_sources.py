"""Which files bake reads, and as what: HCL, JSON or a Compose file."""

from __future__ import annotations

import os

from portside.cli.session import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from portside.cli.bake.bake_files import Definitions

DEFAULT_FILES = (
    "compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml",
    "docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl",
)  # fmt: skip
"""Looked for in this order; later ones change earlier ones."""


def read_all(definitions: Definitions, files: list[str]) -> None:
    """Read the files, or those of the working directory that bake looks for. Raises Failed."""
    names = files or [name for name in DEFAULT_FILES if os.path.exists(name)]
    if not names:
        raise Failed(1, "ERROR: couldn't find a bake definition")
    compose = []
    for name in names:
        text = _text(name)
        if name.endswith((".yaml", ".yml")):
            compose.append(name)
        elif name.endswith(".json") or (name == "-" and text.lstrip().startswith("{")):
            definitions.add_json(name, text)
        elif name.endswith(".hcl") or name == "-" or _is_hcl(text):
            definitions.add_hcl(name, text)
        else:
            compose.append(name)
    if compose:
        from portside.cli.bake.compose_targets import add_compose

        add_compose(definitions, compose)


def _is_hcl(text: str) -> bool:
    first = next((line for line in _lines(text)), "")
    return first.split(" ")[0] in ("variable", "target", "group", "function") or "=" in first


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip() and not line.strip().startswith(("#", "//")):
            yield line.strip()


def _text(name: str) -> str:
    try:
        if name == "-":
            import sys

            return sys.stdin.read()
        with open(name, encoding="utf-8") as file:
            return file.read()
    except OSError as err:
        raise Failed(1, f"ERROR: open {name}: {(err.strerror or '').lower()}") from None
    except UnicodeDecodeError as err:
        raise Failed(1, f"ERROR: {name}: {err}") from None
