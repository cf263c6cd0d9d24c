"""Published ports: what the user wrote, which host ports are given, and keeping them ours.

Traffic to a published port is redirected by the firewall before any socket sees it. The
engine still binds each host port, so that no other program can take it and a conflict is
found before the container runs.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from portside.kernel.host_sockets import Bind
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.network import PROTOCOLS, IPAddress, PortBinding

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
FALLBACK = (49153, 65535)
_TYPES = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}


BACKLOG = 1024
"""Connections that wait at a relayed port."""
OUTSIDE = ("tcp", "udp")
"""Protocols that are passed on between an engine without root and the host's network."""
"""Protocols the engine can pass on between IP versions."""


class Publication(msgspec.Struct, frozen=True):
    """One published port: a host address and port led to a container's."""

    protocol: str
    host_ip: str
    """``0.0.0.0`` and ``::`` mean every address of the family."""
    host_port: int
    container_ip: str
    container_port: int

    @property
    def version(self) -> int:
        return 6 if ":" in self.container_ip else 4

    @property
    def relayed(self) -> bool:
        """Whether IPv6 clients are passed on to a container's IPv4 address."""
        return ":" in self.host_ip and ":" not in self.container_ip

    @property
    def any_address(self) -> bool:
        return self.host_ip in ("0.0.0.0", "::")

    @property
    def host(self) -> str:
        """``0.0.0.0:80`` or ``[::]:80``."""
        return endpoint_text(self.host_ip, self.host_port)


class Wanted(NamedTuple):
    """One binding the user asked for, parsed."""

    protocol: str
    container_port: int
    host_ip: str
    first: int
    """First acceptable host port; 0 means any free one."""
    last: int


def endpoint_text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def parse_exposed(text: str) -> tuple[int, int, str]:
    """First, last and protocol of ``80``, ``80/udp`` or ``8000-8010/tcp``. As in Docker, a port
    that is only exposed may be 0 and have any protocol."""
    numbers, _, protocol = text.partition("/")
    return *parse_range(numbers), (protocol or "tcp").lower()


def readable_ports(exposed: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """First, last and protocol of each exposed port. As in Docker, a text that names no port
    can be exposed, and has no effect."""
    for text in exposed:
        with suppress(InvalidParameter):
            yield parse_exposed(text)


def usable_ports(exposed: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Port and protocol of each exposed port that packets can be sent to."""
    for first, last, protocol in readable_ports(exposed):
        if protocol in PROTOCOLS:
            yield from ((port, protocol) for port in range(max(first, 1), last + 1))


def parse_port(text: str) -> tuple[int, int, str]:
    """:func:`parse_exposed` of a port that is published."""
    first, last, protocol = parse_exposed(text)
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid port {text!r}: unknown protocol {protocol!r}")
    if first == 0:
        raise InvalidParameter(f"invalid port {text!r}: 0 is not a container's port")
    return first, last, protocol


def parse_range(text: str) -> tuple[int, int]:
    """``80`` or ``8000-8010``; raises InvalidParameter when it is not a port number, or ends
    before it starts."""
    low, dash, high = text.partition("-")
    is_number = low.isdecimal() and (high.isdecimal() or not dash)
    if not is_number or not text.isascii() or len(text) > 200:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    first, last = int(low), int(high) if dash else int(low)
    if not 0 <= first <= last <= 65535:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return first, last


def parse_wanted(
    bindings: Mapping[str, Sequence[PortBinding]],
    exposed: Sequence[str],
    publish_all: bool,
    default_ip: str = "",
) -> list[Wanted]:
    """Ports that PortBindings (and, with PublishAll, ExposedPorts) request. Raises
    InvalidParameter."""
    wanted: list[Wanted] = []
    for key, hosts in bindings.items():
        first, last, protocol = parse_port(key)
        for port in range(first, last + 1):
            for binding in hosts or (PortBinding(),):
                low, high = parse_range(binding.host_port) if binding.host_port else (0, 0)
                if last > first and high - low == last - first and low:
                    low = high = low + port - first
                address = _host_ip(binding.host_ip or default_ip)
                wanted.append(Wanted(protocol, port, address, low, high))
    if publish_all:
        named = {(item.protocol, item.container_port) for item in wanted}
        for first, last, protocol in readable_ports(exposed):
            if protocol not in PROTOCOLS:
                raise InvalidParameter(f"invalid port {first}: unknown protocol {protocol!r}")
            wanted += [
                Wanted(protocol, port, _host_ip(default_ip), 0, 0)
                for port in range(max(first, 1), last + 1)
                if (protocol, port) not in named
            ]
    return wanted


def _host_ip(text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError as err:
        raise InvalidParameter(f"invalid IP address in a port binding: {text!r}") from err


def ephemeral_range() -> tuple[int, int]:
    """The kernel's range of local ports, which random host ports come from."""
    try:
        low, high = EPHEMERAL.read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return FALLBACK


_Socket = socket.socket


class HostPorts:
    """The host ports this engine's containers hold, each with a socket bound to it."""

    def __init__(self, relay: bool = False, bind: Bind | None = None) -> None:
        """``bind`` opens sockets of the host where they are another network namespace's."""
        self._outside = bind
        self._relay = relay and ipv6_enabled()
        self._held: dict[tuple[str, int], dict[str, socket.socket | None]] = {}
        self._range = ephemeral_range()
        self._cursor = self._range[0]

    def reserve(
        self,
        wanted: Sequence[Wanted],
        ipv4: IPAddress | None,
        ipv6: IPAddress | None,
        dual: bool = False,
    ) -> list[Publication]:
        """Take host ports for all that is wanted, or none of them: SystemFailure in Docker's
        words when one is taken (by another container, or another program). ``dual``: the
        other IP version is reserved with another call, and not to be relayed."""
        relay = self._relay and not dual
        done: list[Publication] = []
        try:
            # fixed ports first, so that none is given to a binding that may have any
            for item in sorted(wanted, key=lambda item: item.first == 0 or item.last > item.first):
                taken = self._reserve_one(item, ipv4, ipv6, relay)
                if not taken and not dual:
                    raise SystemFailure(
                        f"cannot publish {item.container_port}/{item.protocol} on {item.host_ip}: "
                        "the container has no address of that IP version; create its network "
                        "with --ipv6"
                    )
                done += taken
        except BaseException:
            self.release(done)
            raise
        return done

    def socket(self, publication: Publication) -> socket.socket | None:
        """The socket that keeps a port."""
        key = (publication.protocol, publication.host_port)
        return self._held.get(key, {}).get(publication.host_ip)

    def hold(self, publication: Publication) -> str | None:
        """Take a port again after a restart: what a running container has is kept even when
        another program took the port meanwhile; the text returned reports it."""
        key = (publication.protocol, publication.host_port)
        try:
            sock = self._bind(publication)
        except OSError as err:
            self._held.setdefault(key, {})[publication.host_ip] = None
            return f"port {publication.host}/{publication.protocol} of a running container is " \
                   f"also held by another program: {err.strerror}"  # fmt: skip
        self._held.setdefault(key, {})[publication.host_ip] = sock
        return None

    def release(self, publications: Sequence[Publication]) -> None:
        """Give host ports back and close the sockets that held them."""
        for publication in publications:
            key = (publication.protocol, publication.host_port)
            holders = self._held.get(key, {})
            sock = holders.pop(publication.host_ip, None)
            if sock is not None:
                sock.close()
            if not holders:
                self._held.pop(key, None)

    def close(self) -> None:
        for holders in self._held.values():
            for sock in holders.values():
                if sock is not None:
                    sock.close()
        self._held.clear()

    def _reserve_one(
        self, item: Wanted, ipv4: IPAddress | None, ipv6: IPAddress | None, relay: bool
    ) -> list[Publication]:
        targets = _targets(item, ipv4, ipv6, relay)
        if not targets:
            return []
        if item.first == 0 or item.last > item.first:
            return self._reserve_any(item, targets)
        taken: list[Publication] = []
        try:
            for host_ip, address in targets:
                publication = _publication(item, host_ip, item.first, address)
                self._take(publication)
                taken.append(publication)
        except BaseException:
            self.release(taken)
            raise
        return taken

    def _reserve_any(self, item: Wanted, targets: list[tuple[str, str]]) -> list[Publication]:
        """The first port of a range that is free for every family."""
        low, high = (item.first, item.last) if item.first else self._range
        count = high - low + 1
        start = self._cursor - low if not item.first else 0
        for step in range(count):
            port = low + (start + step) % count
            taken: list[Publication] = []
            try:
                for host_ip, address in targets:
                    publication = _publication(item, host_ip, port, address)
                    self._take(publication)
                    taken.append(publication)
            except SystemFailure:
                self.release(taken)
                continue
            if not item.first:
                self._cursor = port + 1 if port < high else low
            return taken
        address = targets[0][0]
        raise SystemFailure(f"Bind for {address}:{low}-{high} failed: all ports are allocated")

    def _take(self, publication: Publication) -> None:
        key = (publication.protocol, publication.host_port)
        for other in self._held.get(key, ()):
            same_family = (":" in other) == (":" in publication.host_ip)
            wild = {"0.0.0.0", "::"} & {other, publication.host_ip}
            if other == publication.host_ip or (same_family and wild):
                raise SystemFailure(
                    f"Bind for {publication.host} failed: port is already allocated"
                )
        try:
            sock = self._bind(publication)
        except OSError as err:
            inner = endpoint_text(publication.container_ip, publication.container_port)
            reason = {
                errno.EADDRINUSE: "address already in use",
                errno.EADDRNOTAVAIL: "cannot assign requested address",
                errno.EACCES: "permission denied"
                + (_PRIVILEGED.format(publication.host_port) if self._outside else ""),
            }.get(err.errno or 0, err.strerror)
            raise SystemFailure(
                f"failed to bind host port for {publication.host}:{inner}/"
                f"{publication.protocol}: {reason}"
            ) from err
        self._held.setdefault(key, {})[publication.host_ip] = sock

    def _bind(self, publication: Publication) -> _Socket | None:
        if self._outside is None:
            return _bind(publication)
        if publication.protocol not in OUTSIDE:
            raise SystemFailure(
                f"cannot publish {publication.protocol} ports: an engine without root passes on "
                "tcp and udp"
            )
        return self._outside(
            publication.protocol, publication.host_ip, publication.host_port, BACKLOG
        )


_PRIVILEGED = (
    ": ports below the host's net.ipv4.ip_unprivileged_port_start (1024 unless changed) are closed "
    "to users: sudo sysctl net.ipv4.ip_unprivileged_port_start={}, or publish a higher port"
)


def ipv6_enabled() -> bool:
    """Whether this host has IPv6 at all (ip-sysctl, disable_ipv6)."""
    try:
        return Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def _targets(
    item: Wanted, ipv4: IPAddress | None, ipv6: IPAddress | None, relay: bool
) -> list[tuple[str, str]]:
    """(host address, container address) for each family the binding covers."""
    pairs: list[tuple[str, str]] = []
    if ipv4 is not None and ":" not in item.host_ip:
        pairs.append((item.host_ip or "0.0.0.0", str(ipv4)))
    if ipv6 is not None and (not item.host_ip or ":" in item.host_ip):
        pairs.append((item.host_ip or "::", str(ipv6)))
    elif relay and ipv4 is not None and "." not in item.host_ip:
        pairs.append((item.host_ip or "::", str(ipv4)))
    return pairs


def _publication(item: Wanted, host_ip: str, port: int, address: str) -> Publication:
    return Publication(item.protocol, host_ip, port, address, item.container_port)


def _bind(publication: Publication) -> socket.socket | None:
    """A socket that keeps the port; None where the kernel has no such protocol (SCTP).

    TCP listens: a bound socket alone would not keep others from binding with SO_REUSEADDR.
    SO_REUSEADDR itself is set so that connections in TIME_WAIT do not count as a conflict.
    """
    kind, protocol = _TYPES[publication.protocol]
    family = socket.AF_INET6 if ":" in publication.host_ip else socket.AF_INET
    try:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    except OSError as err:
        if publication.protocol == "sctp" and err.errno in (
            errno.EPROTONOSUPPORT,
            errno.ESOCKTNOSUPPORT,
        ):
            return None
        raise
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((publication.host_ip, publication.host_port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG if publication.relayed else 1)
    except OSError:
        sock.close()
        raise
    return sock
