"""rtnetlink(7): links, addresses, routes and neighbours, in as few system calls as can be.

Requests are bytes made by the ``*_message`` functions; ``Rtnl.run`` sends any number of
them in one call and collects the answers. A full configuration of a container's side
(hardware address, addresses, routes) is one send and costs about 0.1 ms.

A socket belongs to the namespace of the thread that opened it, for good: the engine keeps
one for each container and never has to enter its namespace again.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from portside.model.network import IPAddress, IPNetwork

NETLINK_ROUTE = 0
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x200, 0x400, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
NLM_F_ACK_TLVS, NLM_F_CAPPED = 0x200, 0x100
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_PROTINFO, IFLA_LINKINFO, IFLA_AF_SPEC, IFLA_NET_NS_FD = 12, 18, 26, 28
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_EUI64, IN6_ADDR_GEN_MODE_NONE = 0, 1
VETH_INFO_PEER = 1
IFLA_BRPORT_MODE = 4
IFLA_BRPORT_ISOLATED = 33
IFLA_MACVLAN_MODE = 1
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS = 1, 2
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
IFLA_VLAN_ID = 1
NLA_F_NESTED = 0x8000
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RTM_NEWRULE, RTM_DELRULE = 32, 33
FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_IP_PROTO, FRA_SPORT_RANGE = 2, 6, 15, 22, 23
FR_ACT_TO_TBL = 1
RT_TABLE_UNSPEC, RT_TABLE_MAIN = 0, 254
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
RTN_UNICAST, RTN_LOCAL = 1, 2
LOOPBACK_INDEX = 1
"""Of every network namespace."""
AF_BRIDGE = 7

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTR = struct.Struct("=HH")
_U32 = struct.Struct("=I")
BUFFER = 65536
"""Bytes received at a time; the kernel's dumps never make larger parts by default."""


def attribute(kind: int, value: bytes) -> bytes:
    """One ``struct nlattr``, padded to four bytes."""
    length = 4 + len(value)
    return _ATTR.pack(length, kind) + value + b"\0" * (-length % 4)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind, b"".join(attributes))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type (the last one wins, nesting flags removed)."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTR.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its type, its flags and its body without the header."""

    type: int
    flags: int
    body: bytes
    what: str
    """Said in the error."""
    ignore: tuple[int, ...] = ()
    """Errors (errno) that mean there is nothing left to do."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as a dump shows it."""

    index: int
    name: str
    kind: str
    flags: int
    mtu: int
    master: int
    parent: int
    address: bytes = b""
    attributes: dict[int, bytes] = field(default_factory=dict, repr=False)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table; ``network`` is None for a default route."""

    family: int
    network: IPNetwork | None
    gateway: IPAddress | None
    oif: int
    protocol: int
    metric: int


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of the interface with this index, with its prefix's length in bits (ifaddrmsg,
    rtnetlink(7))."""

    index: int
    address: IPAddress
    prefix: int
    scope: int = 0
    """0 is global (rtnetlink(7), RT_SCOPE_UNIVERSE)."""
    permanent: bool = True
    """Set by an operator, not by automatic configuration."""


# -- requests -----------------------------------------------------------------------------


def link_message(index: int, *attributes: bytes, up: bool | None = None) -> Message:
    """Change a link: ``up`` as wanted, None leaves it."""
    change = 0 if up is None else IFF_UP
    body = _IFINFO.pack(0, 0, index, IFF_UP if up else 0, change) + b"".join(attributes)
    return Message(RTM_NEWLINK, 0, body, f"change link {index}")


def new_link_message(
    name: str, kind: str, data: bytes = b"", *attributes: bytes, up: bool = False
) -> Message:
    """Create a link of a kind such as ``bridge`` or ``veth``; EEXIST when the name is taken."""
    info = attribute(IFLA_INFO_KIND, kind.encode())
    if data:
        info += attribute(IFLA_INFO_DATA, data)
    body = _IFINFO.pack(0, 0, 0, IFF_UP if up else 0, IFF_UP if up else 0)
    body += text(IFLA_IFNAME, name) + b"".join(attributes) + attribute(IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"create {kind} {name}")


def veth_message(name: str, peer_name: str, peer_netns: int, *attributes: bytes) -> Message:
    """Create a veth pair: ``name`` here, the peer at once in another namespace (veth(4)).

    Moving the peer afterwards would cost a grace period of the kernel's RCU.
    """
    peer = _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, peer_name)
    peer += number(IFLA_NET_NS_FD, peer_netns)
    return new_link_message(name, "veth", attribute(VETH_INFO_PEER, peer), *attributes)


def no_link_local() -> bytes:
    """Attribute that keeps the kernel from making an IPv6 link-local address; for existing
    links only, and before they are brought up."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    return nested(IFLA_AF_SPEC, attribute(socket.AF_INET6, mode))


def link_local() -> bytes:
    """Attribute that has the kernel make a link-local address from the hardware address."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_EUI64]))
    return nested(IFLA_AF_SPEC, attribute(socket.AF_INET6, mode))


def bridge_port_message(
    index: int, *, isolated: bool | None = None, hairpin: bool | None = None
) -> Message:
    """Change a bridge port (bridge(8)): isolated ones do not reach each other, only the bridge
    itself; with hairpin, frames may go back through the port they came from.

    RTM_SETLINK: the bridge does not look at IFLA_PROTINFO in an RTM_NEWLINK.
    """
    settings = b""
    if isolated is not None:
        settings += attribute(IFLA_BRPORT_ISOLATED, bytes([isolated]))
    if hairpin is not None:
        settings += attribute(IFLA_BRPORT_MODE, bytes([hairpin]))
    body = _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0)
    body += attribute(IFLA_PROTINFO | NLA_F_NESTED, settings)
    return Message(RTM_SETLINK, 0, body, f"change bridge port {index}")


def del_link_message(index: int) -> Message:
    return Message(
        RTM_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0), f"delete link {index}", (errno.ENODEV,)
    )


def address_message(index: int, address: IPAddress, prefix: int) -> Message:
    """Add an address; IPv6 without duplicate detection, since ours are unique by lease."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _IFADDR.pack(family, prefix, 0, 0, index)
    body += attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    if address.version == 6:
        body += number(IFA_FLAGS, IFA_F_NODAD)
    elif prefix < 31:
        hosts = (1 << 32 - prefix) - 1
        body += attribute(IFA_BROADCAST, (int(address) | hosts).to_bytes(4, "big"))
    return Message(
        RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, f"add address {address}/{prefix}",
        (errno.EEXIST,),
    )  # fmt: skip


def del_address_message(index: int, address: IPAddress, prefix: int) -> Message:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _IFADDR.pack(family, prefix, 0, 0, index)
    body += attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
    return Message(RTM_DELADDR, 0, body, f"delete address {address}/{prefix}", gone)


def route_message(
    index: int, gateway: IPAddress | None, network: IPNetwork | None = None, version: int = 4
) -> Message:
    """Add or replace a route (default when ``network`` is None) over a gateway or a link."""
    body, what = _route_body(index, gateway, network, version)
    return Message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, f"add {what}")


def _route_body(
    index: int, gateway: IPAddress | None, network: IPNetwork | None, version: int
) -> tuple[bytes, str]:
    if gateway is not None:
        version = gateway.version
    elif network is not None:
        version = network.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    scope = RT_SCOPE_LINK if gateway is None and version == 4 else RT_SCOPE_UNIVERSE
    prefix = network.prefixlen if network is not None else 0
    body = _RTMSG.pack(family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    if network is not None:
        body += attribute(RTA_DST, network.network_address.packed)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway.packed)
    if index:
        body += number(RTA_OIF, index)
    return body, f"route {network or 'default'} via {gateway or f'link {index}'}"


def table_of_local_route(version: int, table: int) -> Message:
    """In a table of its own: every address is this machine's."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    body = _RTMSG.pack(
        family, 0, 0, 0, RT_TABLE_UNSPEC, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL, 0
    ) + number(RTA_OIF, LOOPBACK_INDEX) + number(RTA_TABLE, table)  # fmt: skip
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return Message(RTM_NEWROUTE, flags, body, f"add the local route of table {table}")


def rule_message(
    version: int,
    table: int,
    priority: int,
    source: tuple[IPAddress, int] | None = None,
    *,
    delete: bool = False,
) -> Message:
    """Look TCP packets from an address and port up in a table (ip-rule(8)); without ``source``
    any rule of that table, to delete it."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    prefix = source[0].max_prefixlen if source else 0
    # struct fib_rule_hdr has the layout of struct rtmsg; the action is where the type is.
    body = _RTMSG.pack(family, 0, prefix, 0, RT_TABLE_UNSPEC, 0, 0, FR_ACT_TO_TBL, 0)
    body += number(FRA_PRIORITY, priority) + number(FRA_TABLE, table)
    if source is not None:
        body += attribute(FRA_SRC, source[0].packed)
        body += attribute(FRA_IP_PROTO, bytes([socket.IPPROTO_TCP]))
        body += attribute(FRA_SPORT_RANGE, struct.pack("=HH", source[1], source[1]))
    if delete:
        return Message(RTM_DELRULE, 0, body, f"delete a rule of table {table}")
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Message(RTM_NEWRULE, flags, body, f"add a rule of table {table}", (errno.EEXIST,))


# -- the socket ---------------------------------------------------------------------------


class Rtnl:
    """A routing socket in the calling thread's network namespace.

    Not for two threads at once. Errors are OSError whose text says what was asked and the
    kernel's own reason where it gives one (NETLINK_EXT_ACK).
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE
        )
        self._sequence = 0
        for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK):
            try:
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            except OSError:
                pass  # older kernels: less exact errors, larger dumps

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def run(self, *messages: Message) -> None:
        """Send all, wait for all answers, raise the first error that is not to be ignored.

        The kernel continues after a failed message, so what follows one may be done.
        """
        if not messages:
            return
        first = self._sequence + 1
        parts: list[bytes] = []
        for message in messages:
            self._sequence += 1
            parts.append(self._frame(message, message.flags | NLM_F_REQUEST | NLM_F_ACK))
        self._socket.send(b"".join(parts))
        failure: OSError | None = None
        waiting = len(messages)
        while waiting:
            for kind, flags, sequence, body in self._receive():
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                waiting -= 1
                message = messages[sequence - first]
                failure = failure or _failure(body, flags, message)
        if failure is not None:
            raise failure

    def _frame(self, message: Message, flags: int) -> bytes:
        length = 16 + len(message.body)
        return _HEADER.pack(length, message.type, flags, self._sequence, 0) + message.body

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(BUFFER)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + 16 : offset + length]
            offset += (length + 3) & ~3

    def _dump(self, type: int, body: bytes, what: str) -> Iterator[bytes]:
        self._sequence += 1
        message = Message(type, 0, body, what)
        self._socket.send(self._frame(message, NLM_F_REQUEST | NLM_F_DUMP))
        while True:
            done = False
            for kind, flags, sequence, answer in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_DONE:
                    done = True
                elif kind == NLMSG_ERROR:
                    failure = _failure(answer, flags, message)
                    if failure is not None:
                        raise failure
                else:
                    yield answer
            if done:
                return

    def links(self) -> list[Link]:
        """All interfaces of the namespace."""
        body = _IFINFO.pack(0, 0, 0, 0, 0)
        return [_link(answer) for answer in self._dump(RTM_GETLINK, body, "list links")]

    def link(self, name: str) -> Link | None:
        """One interface by name; None when there is none."""
        self._sequence += 1
        body = _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name)
        message = Message(RTM_GETLINK, 0, body, f"find link {name}")
        self._socket.send(self._frame(message, NLM_F_REQUEST))
        while True:
            for kind, flags, sequence, answer in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == RTM_NEWLINK:
                    return _link(answer)
                failure = _failure(answer, flags, message)
                if failure is not None and failure.errno != errno.ENODEV:
                    raise failure
                return None

    def addresses(self, index: int = 0) -> list[InterfaceAddress]:
        """Addresses of one interface, or of all (0)."""
        body = _IFADDR.pack(0, 0, 0, 0, 0)
        found = []
        for answer in self._dump(RTM_GETADDR, body, "list addresses"):
            _, prefix, flags, scope, link = _IFADDR.unpack_from(answer)
            values = attributes(answer, _IFADDR.size)
            raw = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
            if raw and index in (0, link):
                permanent = bool(flags & IFA_F_PERMANENT)
                address = ipaddress.ip_address(raw)
                found.append(InterfaceAddress(link, address, prefix, scope, permanent))
        return found

    def routes(self) -> list[Route]:
        """Unicast routes of the main table, both families."""
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for answer in self._dump(RTM_GETROUTE, body, "list routes"):
                route = _route(answer)
                if route is not None:
                    found.append(route)
        return found


def _failure(body: bytes, flags: int, message: Message) -> OSError | None:
    code = -int(struct.unpack_from("=i", body)[0])
    if code == 0 or code in message.ignore:
        return None
    return OSError(code, f"cannot {message.what}: {reason(code, flags, body)}")


def reason(code: int, flags: int, body: bytes) -> str:
    """The error of a refusal, with what the kernel says beside its number (extended
    acknowledgements, Documentation/userspace-api/netlink/intro.rst)."""
    text = os.strerror(code)
    if flags & NLM_F_ACK_TLVS:
        echoed = 16 if flags & NLM_F_CAPPED else struct.unpack_from("=I", body, 4)[0]
        detail = attributes(body, 4 + ((echoed + 3) & ~3)).get(NLMSGERR_ATTR_MSG)
        if detail:
            text = f"{text} ({detail.rstrip(bytes(1)).decode(errors='replace')})"
    return text


def _link(answer: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(answer)
    values = attributes(answer, _IFINFO.size)
    info = attributes(values.get(IFLA_LINKINFO, b""))
    return Link(
        index,
        _string(values.get(IFLA_IFNAME, b"")),
        _string(info.get(IFLA_INFO_KIND, b"")),
        flags,
        _int(values.get(IFLA_MTU)),
        _int(values.get(IFLA_MASTER)),
        _int(values.get(IFLA_LINK)),
        values.get(IFLA_ADDRESS, b""),
        values,
    )


def _route(answer: bytes) -> Route | None:
    family, prefix, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(answer)
    values = attributes(answer, _RTMSG.size)
    table = _int(values.get(RTA_TABLE)) or table
    if table != RT_TABLE_MAIN or kind != RTN_UNICAST:
        return None
    network: IPNetwork | None = None
    if prefix and RTA_DST in values:
        address = ipaddress.ip_address(values[RTA_DST])
        network = ipaddress.ip_network((address, prefix), strict=False)
    gateway = values.get(RTA_GATEWAY)
    return Route(
        family,
        network,
        ipaddress.ip_address(gateway) if gateway else None,
        _int(values.get(RTA_OIF)),
        protocol,
        _int(values.get(RTA_PRIORITY)),
    )


def _string(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _int(raw: bytes | None) -> int:
    return int(_U32.unpack_from(raw)[0]) if raw else 0
