"""Short forms of ports, volumes and devices: one string for several attributes."""

from __future__ import annotations

import posixpath
import re

from portside.compose.yaml_source import Map
from portside.model.errors import InvalidParameter

PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
_PROTOCOLS = ("tcp", "udp", "sctp")


def _is_drive(text: str) -> bool:
    return len(text) == 1 and text.isalpha()


def _sections(spec: str) -> list[str]:
    """A volume's text at its colons; ``C:`` at the start of a section is a drive."""
    sections: list[str] = []
    current, nested = "", 0
    for index, char in enumerate(spec):
        if spec.startswith("${", index):
            nested += 1
        elif char == "}" and nested:
            nested -= 1
        if char == ":" and not nested and not _is_drive(current):
            sections.append(current)
            current = ""
        else:
            current += char
    return [*sections, current]


def volume_target(spec: str) -> str:
    """The place in the container that a volume's short form names."""
    sections = _sections(spec)
    return sections[0] if len(sections) == 1 else sections[1]


def is_path(source: str) -> bool:
    """Is a volume's source a path of the host, not a volume's name?"""
    return (
        source[:1] in (".", "/", "~")
        or source.startswith("\\\\")
        or (_is_drive(source[:1]) and source[1:2] == ":")
    )


def parse_volume(spec: str) -> Map:
    """``SOURCE:TARGET:OPTIONS`` as the long form. Raises InvalidParameter."""
    if not spec:
        raise InvalidParameter("invalid empty volume spec")
    volume = Map()
    if len(spec) <= 2:
        volume.update(type="volume", target=spec)
        return volume
    sections = _sections(spec)
    if "" in sections:
        raise InvalidParameter(f"invalid spec: {spec}: empty section between colons")
    if len(sections) > 3:
        raise InvalidParameter(f"invalid spec: {spec}: too many colons")
    source = sections[0] if len(sections) > 1 else ""
    target = sections[1] if len(sections) > 1 else sections[0]
    bind, named, read_only = Map(), Map(), False
    for option in sections[2].split(",") if len(sections) == 3 else ():
        if option in ("ro", "rw"):
            read_only = option == "ro"
        elif option == "nocopy":
            named["nocopy"] = True
        elif option in PROPAGATIONS:
            bind["propagation"] = option
        elif option in ("z", "Z"):
            bind["selinux"] = option
    kind = "bind" if is_path(source) else "volume"
    volume["type"] = kind
    if source:
        volume["source"] = source
    volume["target"] = posixpath.normpath(target) if target else target
    if read_only:
        volume["read_only"] = True
    if kind == "bind":
        bind["create_host_path"] = True
    if kind == "bind" or bind:
        volume["bind"] = bind
    if kind == "volume" or named:
        volume["volume"] = named
    return volume


def parse_device(spec: str) -> Map:
    """``SOURCE:TARGET:PERMISSIONS`` as the long form. Raises InvalidParameter."""
    parts = spec.split(":")
    if len(parts) > 3:
        raise InvalidParameter(f"confusing device mapping, please use long syntax: {spec}")
    device = Map()
    device["source"] = parts[0]
    device["target"] = parts[1] if len(parts) > 1 and parts[1] else parts[0]
    device["permissions"] = parts[2] if len(parts) > 2 else "rwm"
    return device


def parse_ports(spec: str) -> list[Map]:
    """``[IP:][HOST:]CONTAINER[/PROTOCOL]`` as the long forms, one for each port of a range.

    Raises InvalidParameter.
    """
    rest, slash, protocol = spec.partition("/")
    protocol = protocol.lower() if slash and protocol else "tcp"
    if protocol not in _PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {protocol}")
    address, host, container = _port_parts(rest)
    if not container:
        raise InvalidParameter(f"no port specified: {spec}<empty>")
    first, last = _range(container, f"invalid containerPort: {container}")
    if host:
        host_first, host_last = _range(host, f"invalid hostPort: {host}")
        if host_last - host_first != last - first and last != first:
            raise InvalidParameter(f"invalid ranges specified for container and host Ports: {container} and {host}")  # fmt: skip # noqa: E501
    found = []
    for number in range(first, last + 1):
        port = Map()
        port["mode"] = "ingress"
        if address:
            port["host_ip"] = address
        port["target"] = number
        if host and last == first:
            port["published"] = host if host_first != host_last else str(host_first)
        elif host:
            port["published"] = str(host_first + number - first)
        port["protocol"] = protocol
        found.append(port)
    return sorted(found, key=lambda item: f"{item['target']}/{protocol}")


def _port_parts(text: str) -> tuple[str, str, str]:
    address = ""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise InvalidParameter(f"invalid IP address: {text}")
        text = rest[1:]
        host, colon, container = text.rpartition(":")
        _check_address(address)
        return address, host if colon else "", container
    parts = text.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    address = ":".join(parts[:-2])
    if address:
        _check_address(address)
    return address, parts[-2], parts[-1]


def _check_address(address: str) -> None:
    import ipaddress

    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {address}") from None


def _range(text: str, message: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not match:
        raise InvalidParameter(message)
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last > 65535:
        raise InvalidParameter(message)
    return first, last
