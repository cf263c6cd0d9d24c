"""Errors between a command and the engine."""

from __future__ import annotations

from portside.model.errors import PortsideError, Unavailable


class Refused(PortsideError):
    """The engine answered with an error; ``status`` is the HTTP status.

    ``exit_status`` is what a shell would give for the failed start of a command (126, 127),
    0 when the engine does not say.
    """

    def __init__(self, status: int, message: str, exit_status: int = 0) -> None:
        super().__init__(message)
        self.status, self.exit_status = status, exit_status

    @property
    def is_not_found(self) -> bool:
        return self.status == 404


class NotRunning(Unavailable):
    """Nobody listens at the engine's address."""


class NotAllowed(Unavailable):
    """The caller may not connect to the engine's socket."""
