"""The host's resolver configuration (resolv.conf(5)), read and followed live."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from portside.kernel.inotify import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_MOVED_TO,
    Inotify,
)

SYSTEMD_STUB = "127.0.0.53"
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
"""The servers behind systemd-resolved's local stub (systemd-resolved.service(8))."""
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
"""Docker's servers for a container when the host names no server that it could reach."""
MAX_BYTES = 65536


class Upstream(NamedTuple):
    """A name server that is asked on a container's behalf."""

    address: str
    on_host: bool = False
    """Asked from the host's network, since the container's does not reach it."""


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """Servers, search domains and options in the file's order."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> ResolvConf:
        """Lenient, as the C library is: what cannot be understood is passed over."""
        servers: list[str] = []
        search: tuple[str, ...] = ()
        options: list[str] = []
        for line in text.splitlines():
            words = line.split("#")[0].split(";")[0].split()
            if len(words) < 2:
                continue
            if words[0] == "nameserver" and _is_address(words[1]):
                servers.append(words[1])
            elif words[0] in ("search", "domain"):
                search = tuple(words[1:])
            elif words[0] == "options":
                options += words[1:]
        return cls(tuple(servers), search, tuple(options))

    @classmethod
    def read(cls, path: str) -> ResolvConf:
        """A file's configuration; empty when it cannot be read."""
        try:
            with Path(path).open(encoding="utf-8", errors="replace") as file:
                return cls.parse(file.read(MAX_BYTES))
        except OSError:
            return cls()

    def reachable_servers(self, ipv6: bool = True) -> tuple[str, ...]:
        """Servers that mean the same from inside a container: none on a loopback, and none with
        an IPv6 address for a container without ``ipv6``."""
        return tuple(
            server
            for server in self.servers
            if not is_loopback(server) and (ipv6 or ":" not in server)
        )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(server: str) -> bool:
    return ipaddress.ip_address(server.partition("%")[0]).is_loopback


def host_configuration(path: str) -> ResolvConf:
    """The host's configuration; behind systemd-resolved's stub, the one it uses itself."""
    conf = ResolvConf.read(path)
    if conf.servers == (SYSTEMD_STUB,):
        behind = ResolvConf.read(SYSTEMD_RESOLV_CONF)
        if behind.servers:
            return ResolvConf(behind.servers, conf.search or behind.search, conf.options)
    return conf


class HostResolver:
    """The host's current configuration; ``changed`` is called when the file changes.

    The directory is watched, not the file: editors and network managers replace it. Where
    ``/etc/resolv.conf`` is a symbolic link, its target's directory is watched too.
    """

    def __init__(self, path: str, changed: Callable[[], None] | None = None) -> None:
        self.path = path
        self.conf = host_configuration(path)
        self.upstream = self._servers()
        self._changed = changed
        self._inotify: Inotify | None = None

    def follow(self) -> None:
        """Begin to follow the file on the running event loop."""
        loop = asyncio.get_running_loop()
        self._inotify = Inotify()
        mask = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE
        files = {Path(self.path), Path(self.path).resolve(), Path(SYSTEMD_RESOLV_CONF)}
        self._names = {file.name for file in files}
        for directory in {str(file.parent) for file in files}:
            try:
                self._inotify.watch(directory, mask)
            except OSError:
                continue  # the directory does not exist here
        loop.add_reader(self._inotify.fileno(), self._event)

    def _event(self) -> None:
        assert self._inotify is not None
        names = {name for _, _, name in self._inotify.read()}
        if not names & self._names:
            return
        conf = host_configuration(self.path)
        self.upstream = self._servers()
        if conf != self.conf:
            self.conf = conf
            if self._changed is not None:
                self._changed()

    def _servers(self) -> tuple[str, ...]:
        """Servers as the host itself asks them: from its own namespace a local one works too."""
        return ResolvConf.read(self.path).servers or FALLBACK_SERVERS

    def close(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
