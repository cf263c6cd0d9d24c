"""Identifiers of containers, networks, execs and images."""

from __future__ import annotations

import os

SHORT = 12
"""Characters of a shortened identifier."""


def new_id() -> str:
    """A random 64-digit hexadecimal identifier that cannot be read as a decimal number.

    Docker avoids short forms that are all digits, since such a container's hostname
    would be read as an address by some resolvers.
    """
    while True:
        identifier = os.urandom(32).hex()
        if not identifier[:SHORT].isdigit():
            return identifier


def short(identifier: str) -> str:
    """The first twelve digits, without an algorithm prefix such as ``sha256:``."""
    return identifier.rpartition(":")[2][:SHORT]
