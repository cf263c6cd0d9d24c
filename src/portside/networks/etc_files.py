"""The three files every container gets: ``hosts``, ``hostname`` and ``resolv.conf``.

They are written in place once they exist: they are bind-mounted into the container, which
would go on seeing the old file if it were replaced.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from portside.model.errors import InvalidParameter
from portside.networks.dns.resolver import FALLBACK_SERVERS, ResolvConf

HOST_GATEWAY = "host-gateway"
"""The word in an extra host that stands for the host's address as containers see it."""
EMBEDDED_SERVER = "127.0.0.11"
"""Where a container on a user network finds the engine's name server."""

LOCAL4 = ("127.0.0.1\tlocalhost",)
LOCAL6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


def write(directory: str, name: str, text: str) -> None:
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
        if split <= 0 or not address or any(c.isspace() for c in text):
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
    servers, a container without ``ipv6`` is told those with IPv4 addresses only.

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
