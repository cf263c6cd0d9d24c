"""Wishes for an endpoint, checked with Docker's texts before anything is made."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from portside.model.errors import InvalidParameter
from portside.model.network import PREDEFINED, EndpointSettings
from portside.networks import host_links, ipam, network_records
from portside.networks.network_records import NetworkRecord


def check_settings(name: str, network: NetworkRecord | None, wanted: EndpointSettings) -> None:
    """InvalidParameter with all that the network ``name`` cannot give; None: it does not exist
    yet, so that only the form is checked."""
    found = [*_misplaced(name, wanted), *_bad_addresses(wanted)]
    if network is not None and not found:
        found += _outside(network, wanted)
    if wanted.mac_address:
        try:
            host_links.parse_mac(wanted.mac_address)
        except InvalidParameter as err:
            found.append(str(err))
    found += _bad_sysctls(wanted)
    if found:
        raise InvalidParameter(f"invalid endpoint settings:\n{ipam.listed(found)}")


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
    given = [("IPv4", ranges.ipv4_address), ("IPv6", ranges.ipv6_address)]
    given += [("link-local IP", text) for text in ranges.link_local_ips]
    for kind, text in given:
        try:
            told = f"IPv{ipaddress.ip_address(text).version}" if text else kind
        except ValueError:
            told = ""
        if told != kind and not (told and kind == "link-local IP"):
            yield f"invalid {kind} address: {text}"


def _outside(network: NetworkRecord, wanted: EndpointSettings) -> Iterator[str]:
    ranges = wanted.ipam_config or network_records.NO_IPAM
    for version, text in ((4, ranges.ipv4_address), (6, ranges.ipv6_address)):
        config = network.config(version)
        if not text:
            continue
        if config is None:
            yield (
                "user specified IP address is supported only when connecting to networks with "
                "user configured subnets"
            )
        elif ipaddress.ip_address(text) not in ipaddress.ip_network(config.subnet):
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
