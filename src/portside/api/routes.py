"""All groups of the Engine API in one table."""

from __future__ import annotations

from importlib import import_module
from typing import TypeVar

from portside.api.router import Router

_Api = TypeVar("_Api")

GROUPS = (
    "build",
    "build_session",
    "builds",
    "containers",
    "files",
    "images",
    "networks",
    "portside",
    "streams",
    "swarm",
    "system",
    "volumes",
)


def add_all(router: Router[_Api]) -> None:
    """Add every group's routes; their modules are imported here."""
    for name in GROUPS:
        router.include(import_module(f"portside.api.{name}").router)
