"""Under which names a server that only this machine reaches may be asked.

A page of any site can have its own name resolve to 127.0.0.1 (DNS rebinding): the browser then
takes this server for a part of that site and lets the page read its answers. So a server on
loopback that asks nobody for a password answers only to names that such a site cannot have:
``localhost``, addresses, the machine's own name, and what the settings name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from portside.serving.listening import address


def is_loopback(listen: str, setting: str = "http.addr") -> bool:
    """Whether only this machine reaches ``HOST:PORT``. Raises InvalidParameter."""
    host, _ = address(listen, setting)
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


class HostNames:
    """The host names that one server answers to."""

    def __init__(self, names: Iterable[str]) -> None:
        """``names`` may have a port, which does not count; ``*`` is every name."""
        own = socket.gethostname().lower()
        self._known = {"localhost", own, *(_name(name) for name in names if name)}

    def has(self, host: str) -> bool:
        """Whether a ``Host`` header (RFC 9110, 7.2) names this server."""
        name = _name(host)
        if not name or name in self._known or "*" in self._known:
            return True
        if name.endswith(".localhost"):  # RFC 6761, 6.3: never another machine
            return True
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """Without the port and the final dot, in small letters."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


REFUSED = (
    "{host!r} is not a name of this server, which answers on this machine only and asks for no "
    "password: name it in {setting}, or turn authentication on"
)
"""The message for the client, with status 421 (RFC 9110, 15.5.20)."""
