"""Which files bake reads, and as what: HCL, JSON or a Compose file."""

from __future__ import annotations

import os

from portside.cli.bake.remote_definition import LOCAL
from portside.cli.session import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from portside.cli.bake.bake_files import Definitions
    from portside.cli.bake.remote_definition import RemoteDefinition

DEFAULT_FILES = (
    "compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml",
    "docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl",
)  # fmt: skip
"""Looked for in this order; later ones change earlier ones."""


def read_all(
    definitions: Definitions, files: list[str], remote: RemoteDefinition | None = None
) -> None:
    """Read the files, by default bake's files of the remote definition, where there is one, else of
    the working directory. ``cwd://`` before a name means the working directory. Raises Failed."""
    found = []
    local = [name for name in files if not remote or name.startswith(LOCAL)]
    if remote is not None:
        found = list(_remote(definitions, remote, [name for name in files if name not in local]))
    elif not files:
        local = [name for name in DEFAULT_FILES if os.path.exists(name)]
    found += [(name.removeprefix(LOCAL),) * 2 for name in local]
    if not found and (remote is None or remote.text is None):
        raise Failed(1, "ERROR: couldn't find a bake definition")
    texts = [(name, path, _text(path)) for name, path in found]
    compose = [path for name, path, text in texts if _is_compose(name, text)]
    if compose:  # always first: the other files change its targets
        from portside.cli.bake.compose_targets import add_compose

        add_compose(definitions, compose)
    for name, path, text in texts:
        if path not in compose:
            _add(definitions, name, text)


def _remote(
    definitions: Definitions, remote: RemoteDefinition, names: list[str]
) -> Iterator[tuple[str, str]]:
    """Name and path of each file; a single file of another format is added at once."""
    if remote.text is None:
        yield from remote.files(names, DEFAULT_FILES)
    elif _is_compose(remote.url, remote.text):
        yield remote.url, remote.stored()
    else:
        _add(definitions, remote.url, remote.text)


def _is_compose(name: str, text: str) -> bool:
    if name.endswith((".yaml", ".yml")):
        return True
    return not (name.endswith((".json", ".hcl")) or name == "-" or _is_hcl(text))


def _add(definitions: Definitions, name: str, text: str) -> None:
    if name.endswith(".json") or (name == "-" and text.lstrip().startswith("{")):
        definitions.add_json(name, text)
    else:
        definitions.add_hcl(name, text)


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
