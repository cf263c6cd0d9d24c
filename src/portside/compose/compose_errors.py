"""Errors of a Compose project, with the place in the file.

ComposeError            a file, a value or the project as a whole; exit status 1
└── InvalidFile         a file that cannot be read as a Compose file
"""

from __future__ import annotations

from collections import namedtuple

from portside.client.errors import Refused
from portside.model.errors import InvalidParameter, PortsideError


class Position(namedtuple("Position", ("file", "line", "column"))):  # typing takes 10 ms
    """Where something stands: a file, a line and a column, both counted from 1."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class ComposeError(InvalidParameter):
    """A project that cannot be used as it is written."""


class InvalidFile(ComposeError):
    """A Compose file that is not valid; ``at`` is the place, ``path`` the attribute."""

    def __init__(self, message: str, at: Position | None = None, path: str = "") -> None:
        self.at = at
        self.path = path
        self.reason = message
        place = f"{at}: " if at else ""
        attribute = f"{path}: " if path else ""
        super().__init__(f"{place}{attribute}{message}")


def user_message(error: PortsideError) -> str:
    """The text of an error for the user; the engine's errors have Docker's prefix."""
    return f"Error response from daemon: {error}" if isinstance(error, Refused) else str(error)
