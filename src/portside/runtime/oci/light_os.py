"""What the runtime needs of ``os``, out of its C half: importing ``os`` takes collections.abc and
posixpath along, 3 ms beside the 12 ms of a bare interpreter. What is missing here is the real
module's. A test compares the two. ``stand_ins`` puts this in the place of ``os``."""

from __future__ import annotations

import posix
import sys
from posix import *  # noqa: F403 - as os does

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_exit = posix._exit
SEEK_SET, SEEK_CUR, SEEK_END = 0, 1, 2
_CODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def fsencode(name: Any) -> bytes:
    """As os.fsencode."""
    name = posix.fspath(name)
    return name.encode(*_CODING) if isinstance(name, str) else name


def fsdecode(name: Any) -> str:
    """As os.fsdecode."""
    name = posix.fspath(name)
    return name if isinstance(name, str) else name.decode(*_CODING)


environ = {fsdecode(key): fsdecode(value) for key, value in posix.environ.items()}  # type: ignore[misc]
"""To read: what is written here is not passed on to the C library."""


def makedirs(name: str, mode: int = 0o777, exist_ok: bool = False) -> None:
    """As os.makedirs."""
    head = path.dirname(name.rstrip("/"))
    if head and not path.exists(head):
        makedirs(head, exist_ok=True)
    try:
        posix.mkdir(name, mode)
    except OSError:
        if not exist_ok or not path.isdir(name):
            raise


class _Path:
    """``os.path`` for text."""

    isabs = staticmethod(lambda name: name.startswith("/"))

    @staticmethod
    def normpath(name: str) -> str:
        return posix._path_normpath(name) or "."  # type: ignore[attr-defined]

    @staticmethod
    def join(first: str, *others: str) -> str:
        for name in others:
            if name.startswith("/"):
                first = name
            else:
                first += name if not first or first.endswith("/") else f"/{name}"
        return first

    @staticmethod
    def split(name: str) -> tuple[str, str]:
        at = name.rfind("/") + 1
        head = name[:at]
        return head.rstrip("/") or head, name[at:]

    @staticmethod
    def dirname(name: str) -> str:
        return path.split(name)[0]

    @staticmethod
    def basename(name: str) -> str:
        return path.split(name)[1]

    @staticmethod
    def _mode(name: Any, follow: bool = True) -> int:
        """Type and permissions; 0 when there is no such file."""
        try:
            return posix.stat(name, follow_symlinks=follow).st_mode
        except (OSError, ValueError):
            return 0

    @staticmethod
    def exists(name: Any) -> bool:
        return path._mode(name) != 0

    @staticmethod
    def lexists(name: Any) -> bool:
        return path._mode(name, follow=False) != 0

    @staticmethod
    def isdir(name: Any) -> bool:
        return path._mode(name) & 0o170000 == 0o040000

    @staticmethod
    def isfile(name: Any) -> bool:
        return path._mode(name) & 0o170000 == 0o100000

    @staticmethod
    def islink(name: Any) -> bool:
        return path._mode(name, follow=False) & 0o170000 == 0o120000

    @staticmethod
    def abspath(name: str) -> str:
        return path.normpath(path.join(posix.getcwd(), name))

    @staticmethod
    def realpath(name: str) -> str:
        """As os.path.realpath, by itself where there are no links."""
        found = path.join(posix.getcwd(), name)
        parts = found.split("/")
        if ".." in parts or any(path.islink("/".join(parts[: n + 1])) for n in range(len(parts))):
            return str(_real().path.realpath(name))
        return path.normpath(found)

    def __getattr__(self, name: str) -> Any:
        return getattr(_real().path, name)


path = _Path()


def _real() -> Any:
    own = sys.modules.pop("os", None) if sys.modules.get("os") is sys.modules[__name__] else None
    try:
        import os
    finally:
        if own is not None:
            sys.modules["os"] = own
    return os


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # the import system's questions
        raise AttributeError(name)
    return getattr(_real(), name)
