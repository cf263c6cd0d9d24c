"""The one table from error class to HTTP status, and Docker's error body."""

from __future__ import annotations

import os

import msgspec

from portside.model import errors
from portside.serving.http.messages import Response

STATUS: dict[type[errors.PortsideError], int] = {
    errors.InvalidParameter: 400,
    errors.InvalidText: 400,
    errors.LimitUnsupported: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.NotAcceptable: 406,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.NotRunning: 409,
    errors.TooLarge: 413,
    errors.NotImplementedHere: 501,
    errors.Unavailable: 503,
    errors.Cancelled: 499,
    errors.SystemFailure: 500,
    errors.NoSpace: 500,
    errors.CommandNotFound: 400,
    errors.CommandNotExecutable: 400,
}
EXIT_STATUS: dict[type[BaseException], str] = {
    errors.CommandNotFound: "127",
    errors.CommandNotExecutable: "126",
}
"""A shell's exit status for these; sent in a header, since both have the same HTTP status."""


class ErrorBody(msgspec.Struct):
    """The body of the answer to a failed request."""

    message: str


def status_of(error: BaseException) -> int:
    """The HTTP status of an error: that of its nearest class in the table, else 500."""
    for cls in type(error).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    return 500


def body(message: str) -> bytes:
    """Docker ends the body of an error with a line feed."""
    return msgspec.json.encode(ErrorBody(message)) + b"\n"


def message_of(error: BaseException) -> str:
    """The message for the user, never empty. Errors of the kernel begin with the path, as in Go."""
    if isinstance(error, OSError) and error.strerror:
        where = (
            os.fsdecode(error.filename) + ": " if isinstance(error.filename, str | bytes) else ""
        )
        return where + error.strerror.lower()
    return str(error) or type(error).__name__


def respond(error: BaseException) -> Response:
    status = status_of(error)
    if status == 304:
        return Response(304)
    exit_status = EXIT_STATUS.get(type(error))
    headers = {"Portside-Exit-Status": exit_status} if exit_status else None
    return Response(status, body(message_of(error)), "application/json", headers)
