"""The error hierarchy, drawn once.

::

    PortsideError                 anything this package raises on purpose
    ├── InvalidParameter          the request is malformed or out of range        (400)
    │   ├── InvalidText           a number, size, time … that cannot be read      (400)
    │   └── LimitUnsupported      a limit that this machine cannot enforce        (400)
    ├── Unauthorized              credentials are missing or wrong                (401)
    ├── Forbidden                 understood, and refused                         (403)
    ├── NotFound                  no such object                                  (404)
    ├── NotAcceptable             the object cannot be given in that form         (406)
    ├── Conflict                  the object's state or name forbids it           (409)
    │   ├── NotModified           already in the wanted state                     (304)
    │   └── NotRunning            the container or process has ended              (409)
    ├── TooLarge                  the request exceeds a stated bound              (413)
    ├── NotImplementedHere        a Docker feature that is not supported              (501)
    ├── Unavailable               the engine or a peer cannot answer now          (503)
    ├── Cancelled                 the caller went away                            (499)
    └── SystemFailure             the kernel, the disk or a peer failed           (500)
        ├── NoSpace               the disk is full
        ├── CommandNotFound       the container's command does not exist    (400, exit 127)
        └── CommandNotExecutable  the container's command cannot be run     (400, exit 126)

An error says what happened, why, and what to do. Callers add context with
``raise X(...) from err``. Never classify an error by its text: by its class.
The one table from class to HTTP status is in ``portside.api.errors``.
"""

from __future__ import annotations


class PortsideError(Exception):
    """Base of every error this package raises on purpose.

    ``str(error)`` is the message shown to the user, in the field's words.
    """

    @property
    def message(self) -> str:
        return str(self)


class InvalidParameter(PortsideError):
    """A request, option or file is malformed or out of range; the message names the field."""


class InvalidText(InvalidParameter, ValueError):
    """A text is not the number, size, duration or time it should be; Go's words say why."""


class LimitUnsupported(InvalidParameter):
    """A limit is asked for that the kernel or the control groups here do not have."""


class Unauthorized(PortsideError):
    """Credentials are missing or were refused."""


class Forbidden(PortsideError):
    """The request was understood and is refused."""


class NotFound(PortsideError):
    """No such container, image, network, volume, blob, …"""


class NotAcceptable(PortsideError):
    """The object exists but not in the form that was asked for."""


class Conflict(PortsideError):
    """A name is taken or the object's state forbids the operation."""


class NotModified(Conflict):
    """The object is already in the wanted state (Docker answers 304)."""


class NotRunning(Conflict):
    """The operation needs a running container or process, and it has ended."""


class TooLarge(PortsideError):
    """A stated bound on size or number was exceeded."""


class NotImplementedHere(PortsideError):
    """A Docker feature that Portside does not have; the message says so."""


class Unavailable(PortsideError):
    """The engine, a registry or another peer cannot answer now."""


class Cancelled(PortsideError):
    """The caller went away before the work was done."""


class SystemFailure(PortsideError):
    """The kernel, the disk or a peer failed in a way the caller cannot repair."""


class NoSpace(SystemFailure):
    """A disk, a quota or its inodes are used up; the message names the path."""


class CommandNotFound(SystemFailure):
    """The container's command, its interpreter or its loader does not exist (exit code 127)."""


class CommandNotExecutable(SystemFailure):
    """The container's command exists and cannot be executed (exit code 126)."""


def reworded(err: PortsideError, text: str) -> PortsideError:
    """A copy of an error with another text, whatever arguments its class takes."""
    made = type(err).__new__(type(err))
    made.__dict__.update(err.__dict__)
    made.args = (text,)
    return made
