"""network create, ls, rm, connect, disconnect."""

from __future__ import annotations

from portside.cli import table
from portside.cli.ps import labels_text
from portside.cli.verb import verb
from portside.client.client import filters_text, path_of
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]


@verb("network create", usage="[OPTIONS] NETWORK", about="Create a network", arguments=(1, 1),
      flags="""
      --attachable           Accepted and ignored
      --aux-address map      Address that is already in use (NAME=IP)
      --config-from string   Network to copy the configuration from
      --config-only          Keep the configuration only, for other networks
  -d, --driver string        Driver of the network (default "bridge")
      --gateway strings      Gateway of a subnet
      --ingress              Not supported: a swarm's routing mesh
      --internal             Isolate the network from other networks
      --ip-range strings     Part of a subnet to take addresses from
      --ipam-driver string   Driver that manages addresses (default "default")
      --ipam-opt map         Option of the address manager (NAME=VALUE)
      --ipv4                 Give out IPv4 addresses (default true)
      --ipv6                 Give out IPv6 addresses
      --label list           Add a label (NAME=VALUE)
  -o, --opt map              Option of the driver (NAME=VALUE)
      --scope string         Scope of the network
      --subnet strings       Subnet of the network in CIDR notation
""")  # fmt: skip
def create(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.envfile import labels

    body: Item = {
        "Name": arguments[0],
        "Driver": options.text("driver", "bridge"),
        "Scope": options.text("scope"),
        "IPAM": {
            "Driver": options.text("ipam-driver", "default"),
            "Options": dict(options.many("ipam-opt")),
            "Config": ipam_configs(options),
        },
        "Internal": options.flag("internal"),
        "Attachable": options.flag("attachable"),
        "Ingress": options.flag("ingress"),
        "ConfigOnly": options.flag("config-only"),
        "Options": dict(options.many("opt")),
        "Labels": labels([], options.many("label")),
    }
    for flag, name in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if options.given(flag):
            body[name] = options.flag(flag)
    if options.text("config-from"):
        body["ConfigFrom"] = {"Network": options.text("config-from")}
    made = session.client.post("/networks/create", body=body)
    if made.get("Warning"):
        session.warn(f"WARNING: {made['Warning']}")
    session.out(made["Id"])


def ipam_configs(options: Options) -> list[Item]:
    """Subnets, and the ranges, gateways and addresses in them.

    Raises InvalidParameter for what lies in none.
    """
    from ipaddress import ip_address, ip_network

    found: list[tuple[Any, Item]] = []
    try:
        for text in options.many("subnet"):
            if not _is_network(text):  # the engine says what is wrong with it
                return [{"Subnet": text}]
            network = ip_network(text, strict=False)
            if any(network.version == other.version and network.overlaps(other)
                   for other, _ in found):  # fmt: skip
                raise InvalidParameter("multiple overlapping subnet configuration is not supported")
            found.append((network, {"Subnet": text}))
        if any(len(options.many(flag)) > len(found) for flag in ("ip-range", "gateway")):
            raise InvalidParameter("every ip-range or gateway must have a corresponding subnet")
        for flag, name in (("ip-range", "IPRange"), ("gateway", "Gateway")):
            for text in options.many(flag):
                inside = ip_network(text, strict=False)
                config = _containing(found, inside, f"no matching subnet for {flag} {text}")
                if name in config:
                    raise InvalidParameter(f"cannot configure multiple {flag}s ({text}, "
                                           f"{config[name]}) on the same subnet")  # fmt: skip
                config[name] = text
        for label, text in options.many("aux-address"):
            host = ip_network(ip_address(text)) if _is_network(f"{text}/0") else None
            config = _containing(found, host, f"no matching subnet for aux-address {text}")
            config.setdefault("AuxiliaryAddresses", {})[label] = text
    except ValueError as err:
        raise InvalidParameter(f"invalid network configuration: {err}") from None
    return [config for _, config in found]


def _is_network(text: str) -> bool:
    from ipaddress import ip_network

    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def _containing(found: list[tuple[Any, Item]], inside: Any, problem: str) -> Item:
    for network, config in found:
        if inside and network.version == inside.version and inside.subnet_of(network):
            return config
    raise InvalidParameter(problem)


# -- listing ---------------------------------------------------------------------------------


def _created(item: Item, _: Any) -> str:
    """Go's text of the time, with its fraction."""
    from portside.cli import times
    from portside.model.golang import timestamps

    text = str(item.get("Created", ""))
    fraction = text.partition(".")[2]
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))].rstrip("0")
    shown = timestamps.local_time(times.seconds_of(text))
    return shown[:19] + (f".{digits}" if digits else "") + shown[19:]


def _bool(name: str, default: bool = False) -> Any:
    return lambda item, _: "true" if item.get(name, default) else "false"


COLUMNS = {
    "ID": ("NETWORK ID", lambda item, full: item["Id"] if full else item["Id"][:12]),
    "Name": ("NAME", lambda item, _: item["Name"]),
    "Driver": ("DRIVER", lambda item, _: item["Driver"]),
    "Scope": ("SCOPE", lambda item, _: item["Scope"]),
    "IPv4": ("IPV4", _bool("EnableIPv4", True)),
    "IPv6": ("IPV6", _bool("EnableIPv6")),
    "Internal": ("INTERNAL", _bool("Internal")),
    "Labels": ("LABELS", lambda item, _: labels_text(item.get("Labels"))),
    "CreatedAt": ("CREATED AT", _created),
}


@verb("network ls", "network list", usage="[OPTIONS]", about="List networks", flags="""
  -f, --filter filter   Only networks that match, such as driver=bridge
      --format string   Print by a Go template, 'table TEMPLATE' or 'json'
      --no-trunc        Do not shorten anything
  -q, --quiet           Print IDs only
""")  # fmt: skip
def ls(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.format import print_rows

    query = {"filters": filters_text(table.filters(options))}
    found = sorted(session.client.get("/networks", query), key=lambda item: _natural(item["Name"]))
    full, format = options.flag("no-trunc"), options.text("format")
    if options.flag("quiet") and format in ("", "table"):
        for item in found:
            session.out(COLUMNS["ID"][1](item, full))
        return
    format = format or session.config.text("networksFormat")
    print_rows(
        session, format, found, COLUMNS, ("ID", "Name", "Driver", "Scope"), full, kind="network",
        methods={"Label": lambda item, name: (item.get("Labels") or {}).get(name, "")},
    )  # fmt: skip


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in names count as numbers: net2 comes before net10."""
    parts: list[tuple[int, int, str]] = []
    rest = name
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        if digits:
            parts.append((0, int(digits), ""))
            rest = rest[len(digits) :]
            continue
        end = next((at for at, letter in enumerate(rest) if letter.isdigit()), len(rest))
        parts.append((1, 0, rest[:end]))
        rest = rest[end:]
    return parts


# -- the rest --------------------------------------------------------------------------------


@verb("network rm", "network remove", usage="NETWORK [NETWORK...]", about="Remove networks",
      arguments=(1, None), completes="network", flags="""
  -f, --force   No error when a network does not exist
""")  # fmt: skip
def rm(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client
    return session.each(
        arguments, lambda name: client.delete(path_of("networks", name)),
        silent_when_missing=options.flag("force"),
    )  # fmt: skip


@verb("network connect", usage="[OPTIONS] NETWORK CONTAINER", arguments=(2, 2),
      about="Connect a container to a network", completes="network-container", flags="""
      --alias strings           Additional name on the network
      --driver-opt strings      Option of the driver (NAME=VALUE)
      --gw-priority int         Priority; the network with the highest has the default gateway
      --ip string               IPv4 address on the network
      --ip6 string              IPv6 address on the network
      --link list               Link to another container (NAME[:ALIAS])
      --link-local-ip strings   Additional link-local address
      --mac-address string      MAC address on the network
""")  # fmt: skip
def connect(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.network_flags import endpoint

    for text in options.many("driver-opt"):
        if "=" not in text:
            raise InvalidParameter("invalid key/value pair format in driver options")
    settings = endpoint(
        {
            "aliases": options.many("alias"),
            "links": options.many("link"),
            "driver_opts": dict(text.split("=", 1) for text in options.many("driver-opt")),
            "priority": options.number("gw-priority"),
            "ip": options.text("ip"),
            "ip6": options.text("ip6"),
            "link_local": options.many("link-local-ip"),
            "mac": options.text("mac-address"),
        }
    )
    body = {"Container": arguments[1], "EndpointConfig": settings}
    session.client.post(path_of("networks", arguments[0], "connect"), body=body)


@verb("network disconnect", usage="[OPTIONS] NETWORK CONTAINER", arguments=(2, 2),
      about="Disconnect a container from a network", completes="network-container", flags="""
  -f, --force   Also when the container no longer exists
""")  # fmt: skip
def disconnect(session: Session, options: Options, arguments: list[str]) -> None:
    body = {"Container": arguments[1], "Force": options.flag("force")}
    session.client.post(path_of("networks", arguments[0], "disconnect"), body=body)
