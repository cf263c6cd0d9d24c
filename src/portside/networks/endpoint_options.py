"""Wishes for an endpoint, checked with Docker's texts before anything is made."""

from __future__ import annotations

import re
from collections.abc import Iterator

from portside.model.errors import InvalidParameter
from portside.model.network import PREDEFINED, EndpointSettings
from portside.networks import host_links, ipam, network_records
from portside.networks.endpoints import unmapped
from portside.networks.network_records import NetworkRecord


def check_settings(name: str, network: NetworkRecord | None, wanted: EndpointSettings) -> None:
    """InvalidParameter with all that the network ``name`` cannot give; None: it does not exist
    yet, so that only the form is checked."""
    found = [*_misplaced(name, wanted), *_bad_addresses(wanted)]
    if network is not None:
        found += _outside(network, wanted)
    found += _bad_sysctls(wanted)
    if found:
        raise InvalidParameter(f"invalid endpoint settings:\n{ipam.listed(found)}")
    if wanted.mac_address:
        host_links.parse_mac(wanted.mac_address)


def check_link_local(wanted: EndpointSettings) -> None:
    """Docker checks only at the start of a container that these are link-local addresses."""
    for text in (wanted.ipam_config or network_records.NO_IPAM).link_local_ips:
        if not unmapped(text).is_link_local:
            raise InvalidParameter(f"invalid link local IP address: {text}")


def _misplaced(name: str, wanted: EndpointSettings) -> Iterator[str]:
    if name not in (*PREDEFINED, "default"):
        return
    ranges = wanted.ipam_config or network_records.NO_IPAM
    if ranges.ipv4_address or ranges.ipv6_address:
        yield "user specified IP address is supported on user defined networks only"
    if wanted.aliases:
        yield "network-scoped alias is supported only for containers in user defined networks"


def _bad_addresses(wanted: EndpointSettings) -> Iterator[str]:
    ranges = wanted.ipam_config or network_records.NO_IPAM
    if ranges.ipv4_address and _version(ranges.ipv4_address) != 4:
        yield f"invalid IPv4 address: {ranges.ipv4_address}"
    if ranges.ipv6_address and _version(ranges.ipv6_address) != 6:
        yield f"invalid IPv6 address: {ranges.ipv6_address}"
    for text in ranges.link_local_ips:
        if not _version(text):
            yield f"invalid link-local IP address: {text}"


def _version(text: str) -> int:
    """4 or 6; 0 for what is no address of one host."""
    try:
        address = unmapped(text)
    except ValueError:
        return 0
    return 0 if address.is_unspecified else address.version


def _outside(network: NetworkRecord, wanted: EndpointSettings) -> Iterator[str]:
    ranges = wanted.ipam_config or network_records.NO_IPAM
    for version, text in ((4, ranges.ipv4_address), (6, ranges.ipv6_address)):
        subnets = network.user_subnets(version)
        if not text:
            continue
        if not subnets:
            yield (
                "user specified IP address is supported only when connecting to networks with "
                "user configured subnets"
            )
        elif _version(text) != version or not any(unmapped(text) in subnet for subnet in subnets):
            yield f"no configured subnet or ip-range contain the IP address {text}"


def _bad_sysctls(wanted: EndpointSettings) -> Iterator[str]:
    text = (wanted.driver_opts or {}).get(network_records.ENDPOINT_SYSCTLS, "")
    for item in filter(None, text.split(",")):
        if not _SYSCTL.fullmatch(item):
            yield (
                f"unrecognised network interface sysctl '{item}'; represent 'net.X.Y.ethN.Z=V' as "
                "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )


_SYSCTL = re.compile(
    r"net\.(ipv4|ipv6|mpls)\.[^./=]+\.ifname\.[^./=]+(\.[^./=]+)*=.*", re.IGNORECASE
)
"""The docker CLI writes IFNAME in small letters."""
