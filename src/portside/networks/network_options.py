"""Options of a network: their names, and Docker's checks of a request."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from portside.kernel.netlink import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES
from portside.model.errors import (
    Forbidden,
    InvalidParameter,
    InvalidText,
    NotFound,
    SystemFailure,
)
from portside.model.golang.booleans import parse_bool
from portside.model.network import PREDEFINED, IPAddress, NetworkCreate

OPTION = "com.docker.network."
BRIDGE_NAME = OPTION + "bridge.name"
BRIDGE_DEFAULT = OPTION + "bridge.default_bridge"
BRIDGE_MASQUERADE = OPTION + "bridge.enable_ip_masquerade"
BRIDGE_ICC = OPTION + "bridge.enable_icc"
BRIDGE_BINDING = OPTION + "bridge.host_binding_ipv4"
BRIDGE_INHIBIT4 = OPTION + "bridge.inhibit_ipv4"
BRIDGE_MODE4 = OPTION + "bridge.gateway_mode_ipv4"
BRIDGE_MODE6 = OPTION + "bridge.gateway_mode_ipv6"
BRIDGE_TRUSTED = OPTION + "bridge.trusted_host_interfaces"
ENABLE_IPV4 = OPTION + "enable_ipv4"
ENABLE_IPV6 = OPTION + "enable_ipv6"
MTU = OPTION + "driver.mtu"
HOST_IPV4 = OPTION + "host_ipv4"
HOST_IPV6 = OPTION + "host_ipv6"
PREFIX = OPTION + "container_iface_prefix"
ENDPOINT_NAME = OPTION + "endpoint.ifname"
ENDPOINT_SYSCTLS = OPTION + "endpoint.sysctls"

MAX_NAME = 255
DRIVERS = ("bridge", "macvlan", "ipvlan")
GATEWAY_MODES = ("", "nat", "nat-unprotected", "routed", "isolated")
BOOLEANS = (
    BRIDGE_MASQUERADE,
    BRIDGE_ICC,
    BRIDGE_INHIBIT4,
    BRIDGE_DEFAULT,
)


def check_name(name: str) -> None:
    """Raises InvalidParameter or Forbidden for a name that a user's network cannot have."""
    if not name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if name in (*PREDEFINED, "default"):
        raise Forbidden(f"operation is not permitted on predefined {name} network")
    if name.startswith("container:") or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidParameter(
            f'invalid name: "{name}": at most {MAX_NAME} printable characters, and not '
            "container:, which means the network of a container"
        )


def check_driver(request: NetworkCreate) -> None:
    """Check driver and scope. Raises Forbidden, NotFound or InvalidParameter in dockerd's words."""
    if request.config_only and (request.internal or request.attachable or request.scope):
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator "
            "fields like [ ingress | internal | attachable | scope ] are not supported."
        )
    if request.ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if request.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")
    if request.driver == "overlay":
        raise Forbidden(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
            "connect this node to swarm and try again."
        )
    if request.driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{request.driver}" network is allowed')
    if request.driver not in DRIVERS:
        raise NotFound(f'plugin "{request.driver}" not found')
    if request.scope not in ("", "local"):
        raise InvalidParameter(f"invalid network scope {request.scope}")


def check_options(driver: str, options: Mapping[str, str]) -> None:
    """InvalidParameter and, where dockerd has that status, SystemFailure for values the driver
    could not use."""
    mtu = options.get(MTU, "")
    if mtu and not re.fullmatch(r"[+-]?[0-9]+", mtu):
        raise InvalidParameter(
            f'failed to parse {MTU} value: {mtu} (strconv.Atoi: parsing "{mtu}": invalid syntax)'
        )
    if mtu and int(mtu) and not 68 <= int(mtu) <= 65535:
        raise InvalidParameter(f"invalid MTU number: {mtu}")
    for name in BOOLEANS:
        try:
            parse_bool(options.get(name) or "true")
        except InvalidText as err:
            raise InvalidParameter(
                f"failed to parse {name} value: {options[name]} ({err})"
            ) from None
    for name in (BRIDGE_MODE4, BRIDGE_MODE6):
        if options.get(name, "") not in GATEWAY_MODES:
            mode = options[name]
            raise InvalidParameter(
                f"failed to parse {name} value: {mode} (unknown gateway mode {mode})"
            )
    for name in (
        BRIDGE_BINDING,
        HOST_IPV4,
        HOST_IPV6,
    ):
        if options.get(name):
            check_address(name, options[name])
    for name in (BRIDGE_NAME, "parent"):
        value = options.get(name, "x")
        if not re.fullmatch(r"[^\s/:\"\\{};]{1,15}", value) or value in (".", ".."):
            raise InvalidParameter(f"invalid interface name for {name}: {value!r}")
    for name in options.get(BRIDGE_TRUSTED, "").split(":"):
        if name and not re.fullmatch(r"[^\s/:\"\\{};]{1,15}", name):
            raise InvalidParameter(f"invalid interface name for {BRIDGE_TRUSTED}: {name!r}")
    choices = {
        "macvlan": {"macvlan_mode": MACVLAN_MODES},
        "ipvlan": {"ipvlan_mode": IPVLAN_MODES, "ipvlan_flag": IPVLAN_FLAGS},
    }.get(driver, {})
    for name, allowed in choices.items():
        if name in options and options[name] not in allowed:
            _, _, what = name.partition("_")
            usual = "l2" if name == "ipvlan_mode" else "bridge"
            raise SystemFailure(
                f"requested {driver} {what} '{options[name]}' is not valid, '{usual}' "
                f"{'mode ' if what == 'mode' else ''}is the {driver} driver default"
            )


def address_families(
    request: NetworkCreate, options: Mapping[str, str], usual_ipv6: bool
) -> tuple[bool, bool]:
    """Whether a network has IPv4 and IPv6: as its fields say, else its options, else as usual.

    Raises InvalidParameter for an option that is not a boolean.
    """
    found = []
    for name, given, usual in (
        (ENABLE_IPV4, request.enable_ipv4, True),
        (ENABLE_IPV6, request.enable_ipv6, usual_ipv6),
    ):
        if given is None and name in options:
            try:
                given = parse_bool(options[name])
            except InvalidText:
                raise InvalidParameter(f'driver-opt "{name}" is not a valid bool') from None
        found.append(usual if given is None else given)
    return found[0], found[1]


def check_isolated(request: NetworkCreate) -> None:
    for name in (BRIDGE_MODE4, BRIDGE_MODE6):
        if (request.options or {}).get(name) == "isolated" and not request.internal:
            raise SystemFailure("gateway mode 'isolated' can only be used for an internal network")


def check_address(name: str, text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError as err:
        raise InvalidParameter(f"failed to parse {name} value: {text} (nil ip)") from err
