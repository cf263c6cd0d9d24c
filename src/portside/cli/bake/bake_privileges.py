"""What targets of a bake file may do beyond building from the working directory: a file may come
from somebody else. The user grants it with ``--allow``, or on a terminal when asked.

Paths outside of the working directory are checked unless BUILDX_BAKE_ENTITLEMENTS_FS is 0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping

from portside.cli.bake.bake_targets import is_remote
from portside.cli.session import Failed
from portside.model.entitlement_names import (
    DEVICE,
    NETWORK_HOST,
    SECURITY_INSECURE,
    is_known,
)
from portside.model.golang.booleans import parse_bool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.bake.bake_targets import Target

FS, READ, WRITE, SSH = "fs", "fs.read", "fs.write", "ssh"
_STEPS = {
    NETWORK_HOST: "Running build containers that can access host network",
    SECURITY_INSECURE: "Running privileged containers that can make system changes",
    SSH: "Forwarding default SSH agent socket",
}
_PATHS = {FS: "Read and write access to path", READ: "Read access to path",
          WRITE: "Write access to path"}  # fmt: skip
_NOT_LOCAL = ("target:", "docker-image://", "oci-layout://")


def check(targets: Mapping[str, Target], allowed: Iterable[str], *, paths: bool) -> None:
    """Raises Failed for privileges that the user does not grant. Without ``paths`` those of steps
    alone are checked."""
    granted = _granted(allowed)
    wanted = {name for target in targets.values() for name in target.get("entitlements") or ()}
    if any(not entry.get("paths") for entry in _entries(targets, "ssh")):
        wanted.add(SSH)
    order = [*_STEPS, *sorted(wanted - set(_STEPS))]
    missing = [name for name in order if name in wanted and not _has(name, granted)]
    shown = {name: _STEPS.get(name, f"Access to device {name}") for name in missing}
    if paths and _checks_paths():
        for key, path in _missing_paths(targets, granted):
            shown[f"{key}={path}"] = f"{_PATHS[key]} {path}"
    if shown and not _confirmed(shown):
        raise Failed(1, "ERROR: additional privileges requested")


def _granted(allowed: Iterable[str]) -> dict[str, list[str]]:
    """Values of ``--allow`` by key. Raises Failed for a key that does not exist."""
    found: dict[str, list[str]] = {}
    for text in allowed:
        key, _, value = text.partition("=")
        if key not in (FS, READ, WRITE, SSH) and not is_known(text):
            raise Failed(1, f'ERROR: unknown entitlement key "{key}"')
        found.setdefault(key, []).append(value)
    return found


def _has(name: str, granted: Mapping[str, list[str]]) -> bool:
    key, _, value = name.partition("=")
    values = granted.get(key, [])
    return value in values or "" in values if key == DEVICE else key in granted


def _checks_paths() -> bool:
    text = os.environ.get("BUILDX_BAKE_ENTITLEMENTS_FS", "")
    return not text or parse_bool(text)


def _missing_paths(
    targets: Mapping[str, Target], granted: Mapping[str, list[str]]
) -> Iterator[tuple[str, str]]:
    """What access to which paths is not granted: both, then reading, then writing."""
    reads = _outside(_read(targets), [*granted.get(FS, ()), *granted.get(READ, ())])
    writes = _outside(_written(targets), [*granted.get(FS, ()), *granted.get(WRITE, ())])
    for key, found in ((FS, reads & writes), (READ, reads - writes), (WRITE, writes - reads)):
        for path in sorted(found):
            yield key, min(os.path.relpath(path), path, key=len)


def _outside(paths: Iterable[str], roots: Iterable[str]) -> set[str]:
    """The real paths that are not beneath a root or the working directory, without those beneath
    another one. Of a path that does not exist the directory that does."""
    real = [os.path.realpath(os.path.expanduser(root)) for root in (os.getcwd(), *roots) if root]
    if "*" in roots:
        return set()
    found = set()
    for path in paths:
        full = os.path.realpath(os.path.expanduser(path))
        while not os.path.lexists(full):
            full = os.path.dirname(full)
        if not any(_is_beneath(full, root) for root in real):
            found.add(full)
    return {path for path in found
            if not any(other != path and _is_beneath(path, other) for other in found)}  # fmt: skip


def _is_beneath(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _read(targets: Mapping[str, Target]) -> Iterator[str]:
    for target in targets.values():
        context = target["context"]
        if _is_local(context):
            yield context
            if not target.get("dockerfile-inline"):
                yield os.path.join(context, target["dockerfile"])
        yield from filter(_is_local, (target.get("contexts") or {}).values())
    for entry in _entries(targets, "secret", "cache-from"):
        yield from (entry[key] for key in ("src", "source") if entry.get(key))
    for entry in _entries(targets, "ssh"):
        yield from entry.get("paths") or ()


def _written(targets: Mapping[str, Target]) -> Iterator[str]:
    for entry in _entries(targets, "cache-to", "output"):
        if entry.get("dest") not in (None, "", "-"):
            yield entry["dest"]


def _is_local(place: str) -> bool:
    return place not in ("", "-") and not is_remote(place) and not place.startswith(_NOT_LOCAL)


def _entries(targets: Mapping[str, Target], *keys: str) -> Iterator[dict[str, Any]]:
    for target in targets.values():
        for key in keys:
            yield from target.get(key) or ()


def _confirmed(shown: Mapping[str, str]) -> bool:
    """Show what is requested; on a terminal the user may grant it."""
    flags = " ".join(f"--allow={name}" for name in shown)
    lines = ["Your build is requesting privileges for following possibly insecure capabilities:",
             "", *(f" - {text}" for text in shown.values()), "",
             f'Pass "{flags}" to grant requested privileges.']  # fmt: skip
    if any(name.startswith(FS) for name in shown):
        lines += ["", "To disable filesystem entitlements checks, you can set "
                  "BUILDX_BAKE_ENTITLEMENTS_FS=0 ."]  # fmt: skip
    print("\n".join(lines), end="\n\n", file=sys.stderr, flush=True)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print("Do you want to grant requested privileges and continue? [y/N] ", end="",
          file=sys.stderr, flush=True)  # fmt: skip
    return sys.stdin.readline().strip().lower() in ("y", "yes")
