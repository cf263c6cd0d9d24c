"""ID mappings of the caller's user namespace (user_namespaces(7), uid_map and gid_map).

Each file is read once in a process's life, and in that of its forks.
"""

from __future__ import annotations

_read: dict[str, str] = {}


def _map(kind: str) -> str:
    if kind not in _read:
        with open(f"/proc/self/{kind}_map") as file:
            _read[kind] = file.read()
    return _read[kind]


def highest(kind: str) -> int:
    """The highest ID that the caller's user namespace has; ``kind`` is ``uid`` or ``gid``."""
    lines = map(str.split, _map(kind).splitlines())
    return max(int(start) + int(count) - 1 for start, _, count in lines)


def in_user_namespace() -> bool:
    """Whether our IDs are mapped: the first user namespace maps all of them to themselves."""
    return _map("uid").split() != ["0", "0", "4294967295"]
