"""The three files every container gets: ``hosts``, ``hostname`` and ``resolv.conf``.

They are written in place once they exist: they are bind-mounted into the container, which
would still see the old file if it were replaced.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from portside.model.errors import Conflict, InvalidParameter
from portside.model.ids import short
from portside.model.network import IPAddress, NetworkOptions
from portside.networks.dns.resolver import (
    FALLBACK_SERVERS,
    HostResolver,
    ResolvConf,
    Upstream,
    is_loopback,
)
from portside.networks.network_store import Catalogue, EndpointRecord, SandboxRecord
from portside.networks.portmapper import usable_ports

HOST_GATEWAY = "host-gateway"
"""The word in an extra host that stands for the host's address as containers see it."""
EMBEDDED_SERVER = "127.0.0.11"
"""Address of the engine's name server in a container on a user network."""

LOCAL4 = ("127.0.0.1\tlocalhost",)
LOCAL6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


def write_file(directory: str, name: str, text: str) -> None:
    """Write one of the files, keeping its inode; mode 0644 as every user inside reads it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(Path(directory, name), flags, 0o644)
    try:
        os.fchmod(fd, 0o644)
        data = text.encode()
        os.write(fd, data)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def parse_extra_hosts(extra: Iterable[str], gateways: Sequence[str]) -> list[tuple[str, str]]:
    """``name:address`` or ``name=address`` as (address, name); InvalidParameter."""
    entries: list[tuple[str, str]] = []
    for text in extra:
        split = min((i for i in (text.find(":"), text.find("=")) if i >= 0), default=-1)
        name, address = text[:split], text[split + 1 :]
        if split <= 0 or any(c.isspace() for c in text):
            raise InvalidParameter(f'bad format for add-host: "{text}"')
        if address == HOST_GATEWAY:
            if not gateways:
                raise InvalidParameter(
                    "unable to derive the IP value for host-gateway: this engine has no "
                    "default bridge; set --host-gateway-ip"
                )
            entries += [(gateway, name) for gateway in gateways]
            continue
        try:
            parsed = ipaddress.ip_address(address.strip("[]"))
        except ValueError as err:
            raise InvalidParameter(f'invalid IP address in add-host: "{address}"') from err
        entries.append((str(parsed), name))
    return entries


def hosts(
    own: Sequence[str],
    names: Sequence[str],
    extra: Sequence[tuple[str, str]],
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """``/etc/hosts`` of a container with its own addresses and names."""
    lines = [*LOCAL4, *LOCAL6]
    lines += [f"{address}\t{name}" for address, name in extra]
    lines += [f"{address}\t{name}" for address, name in links]
    if names:
        lines += [f"{address}\t{' '.join(names)}" for address in own]
    return "\n".join(lines) + "\n"


def own_names(hostname: str, domainname: str) -> list[str]:
    """``host.domain host`` as hosts(5) wants the canonical name first."""
    if not hostname:
        return []
    if domainname:
        return [f"{hostname}.{domainname}", hostname]
    short, dot, _ = hostname.partition(".")
    return [hostname, short] if dot and short else [hostname]


def host_hosts(extra: Sequence[tuple[str, str]]) -> str:
    """``/etc/hosts`` of a container in the host's namespace: the host's own and the extra."""
    try:
        text = Path("/etc/hosts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = "\n".join((*LOCAL4, *LOCAL6)) + "\n"
    if text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(f"{address}\t{name}\n" for address, name in extra)


def resolv_conf(
    host: ResolvConf,
    servers: Sequence[str],
    search: Sequence[str],
    options: Sequence[str],
    *,
    embedded: bool = False,
    own_namespace: bool = True,
    ipv6: bool = True,
) -> str:
    """``/etc/resolv.conf``; empty ``servers``, ``search`` and ``options`` mean the host's: of its
    servers, a container without ``ipv6`` gets only the IPv4 addresses.

    A single search domain ``.`` means none. With ``embedded`` the engine's name server is
    the only one, and it asks the others.
    """
    upstream = tuple(servers)
    if not upstream:
        upstream = host.reachable_servers(ipv6) if own_namespace else host.servers
    if not upstream and own_namespace and not embedded:
        upstream = FALLBACK_SERVERS
    domains = tuple(search) or host.search
    if domains == (".",):
        domains = ()
    chosen = list(options or host.options)
    lines = ["# Made by Portside; changed when the container's networks change."]
    if embedded:
        lines.append(f"nameserver {EMBEDDED_SERVER}")
        if not any(option.startswith("ndots:") for option in chosen):
            chosen.append("ndots:0")
    else:
        lines += [f"nameserver {server}" for server in upstream]
    if domains:
        lines.append(f"search {' '.join(domains)}")
    if chosen:
        lines.append(f"options {' '.join(chosen)}")
    return "\n".join(lines) + "\n"


# -- of each container ---------------------------------------------------------------------


MAX_FILE = 1 << 20
"""Bytes of a container's own hosts or resolv.conf that are read back."""


class HostFiles:
    """Writes the files; follows the host's resolv.conf."""

    def __init__(
        self,
        options: NetworkOptions,
        catalogue: Catalogue,
        running: Callable[[], list[SandboxRecord]],
    ) -> None:
        self._options, self._catalogue, self._running = options, catalogue, running
        self._resolver = HostResolver(options.resolv_conf, self._resolver_changed)
        self._previous = self._resolver.conf

    def follow(self) -> None:
        self._resolver.follow()

    def close(self) -> None:
        self._resolver.close()

    # -- contents of the files --------------------------------------------------------------

    def host_gateways(self) -> list[IPAddress]:
        """The host's addresses as containers see them (``host-gateway``)."""
        if self._options.host_gateway_ips:
            return [ipaddress.ip_address(text) for text in self._options.host_gateway_ips]
        bridge = next((n for n in self._catalogue.all() if n.is_default_bridge), None)
        configs = bridge.configs() if bridge is not None else []
        return [ipaddress.ip_address(config.gateway) for config in configs if config.gateway]

    def upstream(self, record: SandboxRecord) -> Sequence[Upstream]:
        """Servers asked for names nobody here has: none for a container that is on internal
        networks only, whose questions must not leave (CVE-2024-29018).

        Of the host's own servers, the host itself asks those on its loopback and, for a
        container without IPv6, those with an IPv6 address.
        """
        outside = any(
            (network := self._catalogue.find(endpoint.network_id)) is not None
            and not network.resource.internal
            for endpoint in record.endpoints
        )
        if not outside:
            return ()
        chosen = record.request.dns or self._options.dns
        if chosen:
            return [Upstream(server) for server in chosen]
        ipv6 = any(endpoint.ipv6 for endpoint in record.endpoints)
        return [
            Upstream(server, is_loopback(server) or (":" in server and not ipv6))
            for server in self._resolver.upstream
        ]

    def _embedded(self, record: SandboxRecord) -> bool:
        found = (self._catalogue.find(endpoint.network_id) for endpoint in record.endpoints)
        return any(network is not None and network.has_names for network in found)

    def _resolv_conf(self, record: SandboxRecord, host: ResolvConf) -> str:
        request = record.request
        return resolv_conf(
            host,
            request.dns or self._options.dns,
            request.dns_search or self._options.dns_search,
            request.dns_options or self._options.dns_options,
            embedded=self._embedded(record),
            own_namespace=record.kind == "own",
            ipv6=any(endpoint.ipv6 for endpoint in record.endpoints),
        )

    def extra_hosts(self, record: SandboxRecord) -> list[tuple[str, str]]:
        gateways = [str(address) for address in self.host_gateways()]
        return parse_extra_hosts(record.request.extra_hosts, gateways)

    # -- writing ---------------------------------------------------------------------------

    def write(self, record: SandboxRecord) -> list[str]:
        """Write all files of a container about to start; variables of its legacy links."""
        request = record.request
        linked, environment = self._links(record)
        if not request.directory:
            return environment
        extra = self.extra_hosts(record)
        if record.kind == "host":
            text = host_hosts(extra)
        else:
            names = own_names(request.hostname, request.domainname)
            text = hosts(_own_addresses(record.endpoints), names, extra, linked)
        write_file(request.directory, "hosts", text)
        hostname = request.hostname or (socket.gethostname() if record.kind == "host" else "")
        write_file(request.directory, "hostname", f"{hostname}\n" if hostname else "")
        conf = self._resolv_conf(record, self._resolver.conf)
        write_file(request.directory, "resolv.conf", conf)
        return environment

    def update(self, record: SandboxRecord, before: SandboxRecord) -> None:
        """After a live connect or disconnect: change the container's own lines, leave what
        the user wrote into the files."""
        request = record.request
        if not request.directory:
            return
        old, new = _own_addresses(before.endpoints), _own_addresses(record.endpoints)
        names = " ".join(own_names(request.hostname, request.domainname))
        gone = {f"{address}\t{names}" for address in old if address not in new}
        text = _read(request.directory, "hosts")
        lines = [line for line in text.splitlines() if line not in gone]
        lines += [f"{address}\t{names}" for address in new if address not in old]
        write_file(request.directory, "hosts", "\n".join(lines) + "\n")
        self._refresh(record, before, self._resolver.conf, self._resolver.conf)

    def _refresh(
        self, record: SandboxRecord, before: SandboxRecord, old: ResolvConf, new: ResolvConf
    ) -> None:
        """Rewrite resolv.conf unless it was changed inside the container."""
        expected, wanted = self._resolv_conf(before, old), self._resolv_conf(record, new)
        directory = record.request.directory
        if expected != wanted and _read(directory, "resolv.conf") == expected:
            write_file(directory, "resolv.conf", wanted)

    def _resolver_changed(self) -> None:
        old, self._previous = self._previous, self._resolver.conf
        for record in self._running():
            if record.request.directory and record.kind != "shared":
                # a container's directory vanishes while it is removed
                with contextlib.suppress(OSError):
                    self._refresh(record, record, old, self._resolver.conf)

    # -- legacy links ----------------------------------------------------------------------

    def linked(self, record: SandboxRecord) -> list[tuple[SandboxRecord, EndpointRecord, str]]:
        """Targets of a container's links on the default bridge, with their aliases."""
        mine = next((e for e in record.endpoints if e.network == "bridge"), None)
        if mine is None:
            return []
        found = []
        for text in record.request.links:
            target, _, alias = text.partition(":")
            target = target.lstrip("/")
            other = next((r for r in self._running() if _is_called(r, target)), None)
            theirs = other.endpoints if other is not None else ()
            endpoint = next((e for e in theirs if e.network == "bridge"), None)
            if other is None or endpoint is None:
                raise Conflict(
                    f"Cannot link to a non running container: /{target} AS "
                    f"/{record.request.name}/{alias or target}"
                )
            found.append((other, endpoint, (alias or target).rpartition("/")[2]))
        return found

    def _links(self, record: SandboxRecord) -> tuple[list[tuple[str, str]], list[str]]:
        hosts: list[tuple[str, str]] = []
        environment: list[str] = []
        for other, endpoint, alias in self.linked(record):
            short_id = short(other.request.container_id)
            names = dict.fromkeys((alias, other.request.hostname or short_id, other.request.name))
            hosts.append((endpoint.ipv4, " ".join(names)))
            environment += link_variables(record, other, endpoint, alias)
        return hosts, environment


def link_variables(
    record: SandboxRecord, other: SandboxRecord, endpoint: EndpointRecord, alias: str
) -> list[str]:
    """The variables Docker's legacy links set, such as ``DB_PORT_5432_TCP_ADDR``."""
    prefix = alias.upper().replace("-", "_")
    lines = [f"{prefix}_NAME=/{record.request.name}/{alias}"]
    ports = sorted(usable_ports(other.request.exposed_ports))
    if ports:
        port, protocol = ports[0]
        lines.insert(0, f"{prefix}_PORT={protocol}://{endpoint.ipv4}:{port}")
    lines += _range_variables(prefix, endpoint.ipv4, ports)
    for port, protocol in ports:
        name = f"{prefix}_PORT_{port}_{protocol.upper()}"
        lines += [
            f"{name}={protocol}://{endpoint.ipv4}:{port}",
            f"{name}_ADDR={endpoint.ipv4}",
            f"{name}_PORT={port}",
            f"{name}_PROTO={protocol}",
        ]
    return lines


def _range_variables(prefix: str, address: str, ports: list[tuple[int, str]]) -> list[str]:
    """``_START`` and ``_END`` of three ports and more in a row, as Docker shows them."""
    lines: list[str] = []
    start = 0
    while start < len(ports):
        end = start
        while end + 1 < len(ports) and ports[end + 1][0] <= ports[end][0] + 1:
            end += 1
        if end > start + 1:
            (first, protocol), (last, last_protocol) = ports[start], ports[end]
            name = f"{prefix}_PORT_{first}_{protocol.upper()}"
            lines += [
                f"{name}_START={protocol}://{address}:{first}",
                f"{name}_PORT_START={first}",
                f"{name}_END={last_protocol}://{address}:{last}",
                f"{name}_PORT_END={last}",
            ]
        start = end + 1
    return lines


def _is_called(record: SandboxRecord, target: str) -> bool:
    request = record.request
    return target == request.name or (len(target) >= 12 and request.container_id.startswith(target))


def _own_addresses(endpoints: Sequence[EndpointRecord]) -> list[str]:
    return [text for endpoint in endpoints for text in (endpoint.ipv4, endpoint.ipv6) if text]


def _read(directory: str, name: str) -> str:
    """A file the container may have written to: bounded, no link followed."""
    fd = os.open(Path(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(fd, encoding="utf-8", errors="replace") as file:
        return file.read(MAX_FILE)
