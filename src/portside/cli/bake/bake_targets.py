"""Targets as they are built: inheritance, matrices, groups, and what ``--set`` changes."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re

from portside.cli.bake import hcl_expressions as hcl
from portside.cli.bake.bake_files import Block, Definitions
from portside.cli.build import csv_options
from portside.cli.session import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Target = dict[str, Any]

_ORDER = (
    "description", "annotations", "attest", "context", "contexts", "dockerfile",
    "dockerfile-inline", "args", "labels", "tags", "cache-from", "cache-to", "target", "secret",
    "ssh", "platforms", "output", "pull", "no-cache", "network", "no-cache-filter", "shm-size",
    "ulimits", "call", "entitlements", "extra-hosts",
)  # fmt: skip
"""Attributes as they are printed."""
_MAPS = frozenset(("args", "labels", "contexts", "extra-hosts"))
_FLAGS = frozenset(("pull", "no-cache"))
_LISTS = frozenset(("annotations", "tags", "platforms", "no-cache-filter", "ulimits",
                    "entitlements"))  # fmt: skip
_ENTRIES = frozenset(("attest", "cache-from", "cache-to", "output", "secret", "ssh"))
_ADDED = frozenset(("annotations", "entitlements", "cache-from", "secret", "ssh"))
"""Lists that grow when a target is changed; others are replaced."""
_NAME = re.compile(r"[a-zA-Z0-9_-]+")


class Bake:
    """All groups and targets. Raises Failed."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._targets: dict[str, list[tuple[Block, dict[str, Any]]]] = {}
        """Blocks of each target, with the matrix's values."""
        self.groups: dict[str, dict[str, Any]] = {}
        for name, blocks in definitions.groups.items():
            self.groups[name] = self._group(blocks)
        for name, blocks in definitions.targets.items():
            self._expand(name, blocks)

    def _group(self, blocks: list[Block]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for block in blocks:
            for key in ("description", "targets"):
                if key in block.body:
                    value = self._definitions.evaluated(block, block.body[key])
                    found[key] = value
        return {"targets": [], **found}

    def _expand(self, name: str, blocks: list[Block]) -> None:
        matrix: dict[str, list[Any]] = {}
        naming = None
        for block in blocks:
            if "matrix" in block.body:
                matrix |= self._definitions.evaluated(block, block.body["matrix"])
            if "name" in block.body:
                naming = (block, block.body["name"])
        if not matrix:
            if naming is not None:
                raise Failed(1, f"ERROR: target {name} has a name but no matrix")
            self._targets[name] = [(block, {}) for block in blocks]
            return
        if naming is None:
            raise Failed(1, f"ERROR: target {name} has a matrix: it needs a name")
        made = []
        for values in itertools.product(*matrix.values()):
            given = dict(zip(matrix, values, strict=True))
            full = hcl.text_of(self._definitions.evaluated(naming[0], naming[1], **given))
            if not _NAME.fullmatch(full):
                raise Failed(1, f'ERROR: invalid name {full}; only "a-zA-Z0-9_-" are allowed')
            if full in self._targets:
                raise Failed(1, f"ERROR: target {full} is defined twice")
            self._targets[full] = [(block, given) for block in blocks]
            made.append(full)
        self.groups[name] = {"targets": made}

    def target_names(self) -> list[str]:
        return list(self._targets)

    # -- one target ----------------------------------------------------------------------

    def own(self, name: str) -> Target:
        """A target's own attributes, normalized."""
        found: Target = {}
        for block, given in self._targets[name]:
            merge(found, self._read(block, given))
        return found

    def _read(self, block: Block, given: dict[str, Any]) -> Target:
        found: Target = {}
        for key, expression in block.body.items():
            if key in ("name", "matrix") or (key not in _ORDER and key not in (
                    "inherits", "no-cache")):  # fmt: skip
                if key not in ("name", "matrix", "policy"):
                    raise Failed(1, f"ERROR: {block.source.name}: Unsupported argument; An argument"
                                    f' named "{key}" is not expected here.')  # fmt: skip
                continue
            value = self._definitions.evaluated(block, expression, **given)
            if value is not None:
                found[key] = normalized(key, value)
        return found

    def resolved(self, name: str, path: tuple[str, ...] = ()) -> Target:
        """With everything it inherits."""
        if name not in self._targets:
            raise Failed(1, f"ERROR: failed to find target {name}")
        if name in path:  # it has its own attributes already
            return {}
        own = self.own(name)
        found: Target = {}
        for parent in own.pop("inherits", ()):
            merge(found, self.resolved(parent, (*path, name)))
        merge(found, own)
        return found

    # -- requested targets --------------------------------------------------------------

    def select(self, names: list[str]) -> list[str]:
        """Names of targets behind names of groups and targets."""
        found: dict[str, None] = {}
        for name in names:
            for item in self._members(name, ()):
                found[item] = None
        return list(found)

    def _members(self, name: str, path: tuple[str, ...]) -> Iterable[str]:
        if name in path:
            return
        if name in self.groups:
            for member in self.groups[name]["targets"]:
                yield from self._members(member, (*path, name))
            if name in self._targets:
                yield name
        elif name in self._targets:
            yield name
        else:
            raise Failed(1, f"ERROR: failed to find target {name}")

    def groups_of(self, names: list[str]) -> list[str]:
        """The groups on the way."""
        found: dict[str, None] = {}
        pending = list(names)
        while pending:
            name = pending.pop(0)
            if name in self.groups and name not in found:
                found[name] = None
                pending += self.groups[name]["targets"]
        return list(found)

    def default_names(self) -> list[str]:
        if "default" in self.groups or "default" in self._targets:
            return ["default"]
        raise Failed(1, "ERROR: failed to find target default")


# -- values ---------------------------------------------------------------------------------


def normalized(key: str, value: Any) -> Any:
    """A value in the shape that is printed."""
    if key in _MAPS:
        if isinstance(value, list):
            value = dict(str(item).partition("=")[::2] for item in value)
        return {name: hcl.text_of(item) for name, item in value.items() if item is not None}
    if key in _FLAGS:
        return hcl.truth(value)
    if key in _ENTRIES:
        items = value if isinstance(value, list) else [value]
        return [_entry(key, item) for item in items if item is not None and item != ""]
    if key in _LISTS or key == "inherits":
        items = value if isinstance(value, list) else [value]
        return [hcl.text_of(item) for item in items if item is not None]
    return hcl.text_of(value)


def _entry(key: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        return _parsed(key, hcl.text_of(item))
    if key == "ssh":
        return {k: v for k, v in item.items() if v}
    if key == "secret":
        return _secret({name: hcl.text_of(v) for name, v in item.items() if v is not None})
    return {name: hcl.text_of(v) for name, v in sorted(item.items()) if v is not None}


def _parsed(key: str, text: str) -> dict[str, Any]:
    if key == "ssh":
        name, _, paths = text.partition("=")
        return {"id": name, **({"paths": paths.split(",")} if paths else {})}
    parts = csv_options.fields(text)
    if len(parts) == 1 and "=" not in parts[0]:
        if key in ("cache-from", "cache-to"):
            return {"ref": parts[0], "type": "registry"}
        if key == "output":
            kind = "tar" if parts[0] == "-" else "local"
            return {"dest": parts[0], "type": kind}
    found: dict[str, Any] = {**csv_options.pairs(parts)}
    if key == "secret":
        return _secret(found)
    if "type" not in found:
        raise Failed(1, f'ERROR: type required form> "{text}"')
    if key == "attest" and found.get("disabled", "").lower() in ("1", "t", "true"):
        return dict(sorted({**found, "disabled": True}.items()))
    return dict(sorted(found.items()))


def _secret(found: dict[str, str]) -> dict[str, str]:
    kind = found.pop("type", "")
    if "source" in found:
        found["src"] = found.pop("source")
    if kind == "env" and "env" not in found:
        found["env"] = found.pop("src", found.get("id", ""))
    return {name: found[name] for name in ("id", "src", "env") if found.get(name)}


def merge(target: Target, more: Target) -> None:
    """Change a target by another's attributes."""
    for key, value in more.items():
        if key in _MAPS:
            target[key] = {**target.get(key, {}), **value}
        elif key in _ADDED and key in target:
            target[key] = _distinct([*target[key], *value])
        elif key == "attest":
            known = {item.get("type"): item for item in target.get(key, ())}
            known |= {item.get("type"): item for item in value}
            target[key] = list(known.values())
        elif key == "inherits":
            target[key] = [*target.get(key, ()), *value]
        else:
            target[key] = value


def _distinct(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


_SINGULAR = {
    "platform": "platforms", "tag": "tags", "secrets": "secret", "annotation": "annotations",
    "entitlement": "entitlements",
}  # fmt: skip


def override(targets: dict[str, Target], bake: Bake, texts: list[str]) -> None:
    """``--set PATTERN.KEY[.NAME]=VALUE``, ``+=`` to add. Raises Failed."""
    given: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        adds = left.endswith("+")
        pattern, dot, key = left.rstrip("+").partition(".")
        if not equals or not dot:
            raise Failed(1, f"ERROR: invalid override key {left}, expected target.name")
        known = bake.target_names()
        matched = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if pattern in bake.groups:
            matched += bake.select([pattern])
        if not matched:
            raise Failed(1, f"ERROR: could not find any target matching '{pattern}'")
        for name in set(matched) & targets.keys():
            _set(targets[name], key, value, given, name, adds)


def _set(
    target: Target, key: str, value: str, given: dict[tuple[str, str], list[str]], name: str,
    adds: bool,
) -> None:  # fmt: skip
    top, dot, rest = key.partition(".")
    top = _SINGULAR.get(top, top)
    if top in _MAPS:
        if not dot:
            raise Failed(1, f"ERROR: invalid format for {key}, expecting {top}.<name>=<value>")
        target.setdefault(top, {})[rest] = value
        return
    if top not in _ORDER:
        raise Failed(1, f"ERROR: unknown key: {key}")
    made = normalized(top, value)
    if top in _LISTS or top in _ENTRIES:
        known = given.setdefault((name, top), [] if not adds else list(target.get(top, ())))
        if top == "attest":
            known[:] = [i for i in known if i.get("type") != made[0].get("type")]  # type: ignore[attr-defined]
        known += made
        target[top] = list(known)
    else:
        target[top] = made


def finished(target: Target) -> Target:
    """With defaults, in the order in which attributes are printed."""
    found = dict(target)
    context = found.get("context", ".")
    found["context"] = context if is_remote(context) else os.path.normpath(context)
    dockerfile = found.get("dockerfile", "Dockerfile")
    if dockerfile != "-" and not is_remote(dockerfile):
        dockerfile = os.path.normpath(dockerfile)
    found["dockerfile"] = dockerfile
    return {key: _sorted(found[key]) for key in _ORDER if _is_printed(key, found.get(key))}


def _is_printed(key: str, value: Any) -> bool:
    return value is not None and (key in _FLAGS or value not in ("", [], {}))


def _sorted(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def is_remote(place: str) -> bool:
    return "://" in place or place.startswith(("git@", "github.com/", "target:")) or place == "-"
