"""Waiting for descriptors by poll(2), which takes every number: select(2) refuses those from 1024
(``FD_SETSIZE``) on, and the engine has many more."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class HasFileno(Protocol):
        """An object with a descriptor."""

        def fileno(self) -> int: ...


def readable(*files: int | HasFileno, timeout: float | None = None) -> set[int]:
    """Descriptors that can be read without blocking, or whose other side is gone.

    ``timeout`` in seconds; without it, wait for the first one. Empty when the time is over.
    """
    import select  # a library of its own, which not every container's start needs

    poller = select.poll()
    for file in files:
        poller.register(file, select.POLLIN)
    return {fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)}


def prepare() -> None:
    """For who calls :func:`readable` inside a container, where nothing may be imported."""
    import select  # noqa: F401
