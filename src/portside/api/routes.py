"""All groups of the Engine API in one table."""

from __future__ import annotations

from importlib import import_module

from portside.api.router import Router

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


def build() -> Router:
    router = Router()
    for name in GROUPS:
        router.include(import_module(f"portside.api.{name}").router)
    return router
