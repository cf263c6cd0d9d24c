"""An engine on another machine, reached by ssh: ``ssh://[USER@]HOST[:PORT][/SOCKET]``.

Each connection is a program ``ssh`` whose standard input and output are the stream; the
command ``system dial-stdio`` at the other end joins it to the engine's socket. ssh asks for
passwords and reports failures on the caller's terminal. ``ControlMaster`` in ssh's
configuration makes further connections quick.
"""

from __future__ import annotations

import os

from portside.client.errors import NotRunning
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

_QUIET = "-o ConnectTimeout=30 -T"


def command(address: str) -> list[str]:
    """The command line of ssh for an address. Raises InvalidParameter."""
    rest = address.partition("://")[2]
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    port = ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    elif ":" in host:
        host, _, port = host.partition(":")
    if ":" in user:
        raise _invalid(address, "plain-text password is not supported")
    if not host or host.startswith("-") or (at and (not user or user.startswith("-"))):
        raise _invalid(address, "no host specified" if not host else "invalid host or user")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _invalid(address, f"invalid port {port!r}")
    if any(letter in rest for letter in "?#"):
        raise _invalid(address, "extra query or fragment")
    return ["ssh", *_QUIET.split(), *(["-l", user] if at else []), *(["-p", port] if port else []),
            "--", host, remote(slash + path)]  # fmt: skip


def remote(path: str) -> str:
    """The command for the other machine's shell: ours where it is installed, else docker's."""
    socket = f" --host unix://{_quoted(path)}" if len(path) > 1 else ""
    ours = f"exec portside{socket} system dial-stdio"
    return f"command -v portside >/dev/null 2>&1 && {ours} || exec docker{socket} system dial-stdio"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _invalid(address: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"unable to parse docker host `{address}`: {why}")


def connect(address: str) -> socket:
    """A stream to the engine at the address. Raises NotRunning when there is no ssh."""
    import _socket

    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        words = command(address)
        end = far.fileno()
        actions = [(os.POSIX_SPAWN_DUP2, end, 0), (os.POSIX_SPAWN_DUP2, end, 1)]
        # a group of its own: Ctrl-C is for the container, not for its connection
        os.posix_spawnp("ssh", words, os.environ, file_actions=actions, setpgroup=0)
    except FileNotFoundError:
        near.close()
        raise NotRunning(f"{address} needs the program ssh, which is not installed") from None
    except BaseException:
        near.close()
        raise
    finally:
        far.close()
    return near  # type: ignore[return-value]  # has all of socket.socket that is used
