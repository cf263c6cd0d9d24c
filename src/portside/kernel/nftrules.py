"""Rules in nft(8)'s language, compiled for nf_tables: the part of the language that is needed here.

A rule is a list of matches and statements::

    iifname @ours ip daddr 127.0.0.0/8 drop
    ip saddr . meta l4proto . th dport @allowed accept
    dnat ip to ip daddr . meta l4proto . th dport map @published4
    udp dport 53 udp dport set 4711

Each becomes expressions of the kernel's small machine (<linux/netfilter/nf_tables.h>): load a
field into a register, compare it or look it up, decide. Registers are numbered in units of 4
bytes, from ``REGISTER`` on; the fields of a concatenation follow each other, each padded to 4
bytes. ``nft list`` shows a compiled rule as it was written.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from portside.kernel.netlink import NLA_F_NESTED, attribute, nested, text

REGISTER = 8
"""NFT_REG32_00"""
EXPRESSION, EXPRESSION_NAME, EXPRESSION_DATA = 1, 1, 2
IIFNAME, OIFNAME, NFPROTO, L4PROTO = 6, 7, 15, 16
NETWORK, TRANSPORT = 1, 2
EQ, NEQ = 0, 1
DNAT_DONE = 0x20
"""IPS_DST_NAT"""
STATES = {"established": 2, "related": 4, "new": 8}
VERDICTS = {"drop": 0, "accept": 1, "return": -5}
JUMP = -3
NFPROTOS = {"ipv4": 2, "ipv6": 10}
FAMILY = {"ip": 2, "ip6": 10}
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132}
CHECKSUMS = {"tcp": 16, "udp": 6}
"""Offset of the checksum in the header."""
BITS = 6
"""By which nft(8) shifts the type numbers of a concatenation (TYPE_BITS)."""
HOST_ENDIAN, BIG_ENDIAN = 1, 2


def _interface(value: str) -> bytes:
    return value.strip('"').encode().ljust(16, b"\0")


def _port(value: str) -> bytes:
    return int(value).to_bytes(2, "big")


def _protocol(value: str) -> bytes:
    return bytes([PROTOCOLS[value]])


_TYPES: dict[str, tuple[int, int, Callable[[str], bytes]]] = {
    "ipv4_addr": (7, 4, lambda value: ipaddress.IPv4Address(value).packed),
    "ipv6_addr": (8, 16, lambda value: ipaddress.IPv6Address(value).packed),
    "inet_proto": (12, 1, _protocol),
    "inet_service": (13, 2, _port),
    "ifname": (41, 16, _interface),
}
"""nft(8)'s type number, bytes, and the reader of a value."""


@dataclass(frozen=True, slots=True)
class Type:
    """A type of keys or values: one, or several joined by dots (a concatenation)."""

    parts: tuple[str, ...]

    @classmethod
    @cache
    def of(cls, written: str) -> Type:
        """From ``ipv4_addr . inet_service``; an empty text is not a type."""
        return cls(tuple(part for part in written.split(" . ") if part))

    @property
    def number(self) -> int:
        number = 0
        for part in self.parts:
            number = number << BITS | _TYPES[part][0]
        return number

    @property
    def length(self) -> int:
        """Bytes of a value."""
        if len(self.parts) == 1:
            return _TYPES[self.parts[0]][1]
        return sum((_TYPES[part][1] + 3) & ~3 for part in self.parts)

    def encode(self, value: str) -> bytes:
        """A value such as ``10.0.0.1 . 80``; ValueError or KeyError when it is none."""
        values = value.split(" . ")
        if len(values) != len(self.parts):
            raise ValueError(f"{value!r} is not a value of {' . '.join(self.parts)}")
        raw = [_TYPES[part][2](one) for part, one in zip(self.parts, values, strict=True)]
        if len(raw) == 1:
            return raw[0]
        return b"".join(item.ljust((len(item) + 3) & ~3, b"\0") for item in raw)

    def userdata(self, value: Type) -> bytes:
        """What nft(8) keeps about a set for itself: the byte orders of key and value."""
        found = b""
        for kind, one in ((0, self), (1, value)):
            if one.parts:
                order = HOST_ENDIAN if one.parts[0] == "ifname" else BIG_ENDIAN
                found += struct.pack("=BBI", kind, 4, order)
        return found


@dataclass(frozen=True, slots=True)
class Field:
    """Something of a packet that can be loaded into a register."""

    expression: str
    values: tuple[tuple[int, int], ...]
    """Attributes of the expression that loads it, without the register."""
    length: int
    family: int = 0
    """Only packets of this family have it (NFPROTO)."""
    protocol: int = 0
    """Only packets of this transport protocol have it."""

    def load(self, register: int, length: int = 0) -> bytes:
        """The expression that loads it, or its first ``length`` bytes."""
        values = [(4, length) if length and kind == 4 else (kind, n) for kind, n in self.values]
        return expression(self.expression, be32(1, register), *(be32(*v) for v in values))


def _payload(base: int, offset: int, length: int, family: int = 0, protocol: int = 0) -> Field:
    return Field("payload", ((2, base), (3, offset), (4, length)), length, family, protocol)


FIELDS = {
    "iifname": Field("meta", ((2, IIFNAME),), 16),
    "oifname": Field("meta", ((2, OIFNAME),), 16),
    "meta nfproto": Field("meta", ((2, NFPROTO),), 1),
    "meta l4proto": Field("meta", ((2, L4PROTO),), 1),
    "ip saddr": _payload(NETWORK, 12, 4, 2),
    "ip daddr": _payload(NETWORK, 16, 4, 2),
    "ip6 saddr": _payload(NETWORK, 8, 16, 10),
    "ip6 daddr": _payload(NETWORK, 24, 16, 10),
    "th sport": _payload(TRANSPORT, 0, 2),
    "th dport": _payload(TRANSPORT, 2, 2),
    "tcp sport": _payload(TRANSPORT, 0, 2, 0, 6),
    "tcp dport": _payload(TRANSPORT, 2, 2, 0, 6),
    "udp sport": _payload(TRANSPORT, 0, 2, 0, 17),
    "udp dport": _payload(TRANSPORT, 2, 2, 0, 17),
    "ct state": Field("ct", ((2, 0),), 4),
    "ct status": Field("ct", ((2, 2),), 4),
    "fib daddr type": Field("fib", ((2, 3), (3, 2)), 4),
}


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!i" if value < 0 else "!I", value))


def expression(name: str, *parts: bytes) -> bytes:
    data = nested(EXPRESSION_DATA | NLA_F_NESTED, *parts)
    return nested(EXPRESSION | NLA_F_NESTED, text(EXPRESSION_NAME, name), data)


def _value(kind: int, raw: bytes) -> bytes:
    return nested(kind | NLA_F_NESTED, attribute(1, raw))


def compare(raw: bytes, operator: int = EQ, register: int = REGISTER) -> bytes:
    return expression("cmp", be32(1, register), be32(2, operator), _value(3, raw))


def mask(raw: bytes) -> bytes:
    zero = bytes(len(raw))
    return expression(
        "bitwise", be32(1, REGISTER), be32(2, REGISTER), be32(3, len(raw)),
        _value(4, raw), _value(5, zero),
    )  # fmt: skip


def immediate(raw: bytes) -> bytes:
    return expression("immediate", be32(1, REGISTER), _value(2, raw))


def verdict(code: int, chain: str = "") -> bytes:
    data = be32(1, code) + (text(2, chain) if chain else b"")
    inner = nested(2 | NLA_F_NESTED, data)
    return expression("immediate", be32(1, 0), nested(2 | NLA_F_NESTED, inner))


def compile(rule: str, family: str, maps: Mapping[str, Type]) -> bytes:
    """The expressions of a rule of a table of ``family``; ``maps``: the types of the values of
    the maps it looks into. ValueError for what is not understood."""
    return _Compiler(rule, family, maps).run()


class _Compiler:
    def __init__(self, rule: str, family: str, maps: Mapping[str, Type]) -> None:
        self._rule, self._family, self._maps = rule, family, maps
        self._words = rule.split()
        self._out: list[bytes] = []
        self._known: set[tuple[str, int]] = set()
        """What the rule has made sure of: families and protocols."""

    def run(self) -> bytes:
        while self._words:
            self._statement()
        return b"".join(self._out)

    def _next(self, *wanted: str) -> str:
        word = self._words.pop(0) if self._words else ""
        if wanted and word not in wanted:
            raise ValueError(f"{self._rule!r}: {' or '.join(wanted)} expected, not {word!r}")
        return word

    def _statement(self) -> None:
        word = self._words[0]
        if word in VERDICTS:
            self._out.append(verdict(VERDICTS[self._next()]))
        elif word == "jump":
            self._next()
            self._out.append(verdict(JUMP, self._next()))
        elif word == "masquerade":
            self._next()
            self._out.append(expression("masq"))
        elif word in ("dnat", "snat"):
            self._translate()
        elif word == "update":
            self._update()
        else:
            self._match()

    def _fields(self) -> list[Field]:
        """A field, or several joined by dots."""
        found = []
        while True:
            name = self._next()
            while name not in FIELDS:
                if not self._words or len(name) > 16:
                    raise ValueError(f"{self._rule!r}: unknown field {name!r}")
                name += f" {self._next()}"
            found.append(FIELDS[name])
            if self._words[:1] != ["."]:
                return found
            self._next()

    def _load(self, fields: list[Field]) -> None:
        for field in fields:
            self._require(field)
        register = REGISTER
        for field in fields:
            self._out.append(field.load(register))
            register += (field.length + 3) // 4

    def _require(self, field: Field) -> None:
        """Make sure that a packet has a field, once in a rule."""
        needs = (("meta nfproto", field.family), ("meta l4proto", field.protocol))
        for name, value in needs:
            if not value or (name, value) in self._known:
                continue
            self._known.add((name, value))
            if name == "meta nfproto" and self._family != "inet":
                continue
            self._out += [FIELDS[name].load(REGISTER), compare(bytes([value]))]

    def _match(self) -> None:
        fields = self._fields()
        word = self._next()
        operator = NEQ if word == "!=" else EQ
        value = self._next() if operator == NEQ else word
        if value == "set":
            self._set_field(fields[0])
        elif value.startswith("@"):
            self._load(fields)
            self._out.append(lookup(value[1:], inverted=operator == NEQ))
        elif fields[0].expression == "ct":
            self._flags(fields[0], value)
        elif "/" in value:
            self._prefix(fields[0], ipaddress.ip_network(value), operator)
        else:
            self._load(fields)
            raw = self._encode(fields[0], value)
            self._out.append(compare(raw, operator))
            if operator == EQ and fields[0] is FIELDS["meta nfproto"]:
                self._known.add(("meta nfproto", raw[0]))

    def _encode(self, field: Field, value: str) -> bytes:
        if field.length == 16 and field.expression == "meta":
            return _interface(value)
        if field.expression == "fib":
            return struct.pack("=I", {"local": 2}[value])  # RTN_LOCAL
        if field is FIELDS["meta nfproto"]:
            return bytes([NFPROTOS[value]])
        if field is FIELDS["meta l4proto"]:
            return _protocol(value)
        if field.length == 2:
            return _port(value)
        version = socket.AF_INET if field.length == 4 else socket.AF_INET6
        return socket.inet_pton(version, value)

    def _flags(self, field: Field, value: str) -> None:
        """``ct state new,related``, ``ct status dnat``: any of some bits."""
        table = STATES if field is FIELDS["ct state"] else {"dnat": DNAT_DONE}
        bits = sum(table[word] for word in value.split(","))
        self._load([field])
        self._out += [mask(struct.pack("=I", bits)), compare(bytes(4), NEQ)]

    def _prefix(
        self, field: Field, network: ipaddress.IPv4Network | ipaddress.IPv6Network, operator: int
    ) -> None:
        self._require(field)
        size, packed = network.prefixlen, network.network_address.packed
        if size % 8 == 0 and size:
            self._out.append(field.load(REGISTER, size // 8))
            self._out.append(compare(packed[: size // 8], operator))
        else:
            self._out += [field.load(REGISTER), mask(network.netmask.packed)]
            self._out.append(compare(packed, operator))

    def _set_field(self, field: Field) -> None:
        """``udp dport set 53``: change the packet, and its checksum."""
        self._require(field)
        self._out.append(immediate(_port(self._next())))
        name = "tcp" if field.protocol == PROTOCOLS["tcp"] else "udp"
        values = dict(field.values)
        self._out.append(
            expression(
                "payload", be32(5, REGISTER), be32(2, values[2]), be32(3, values[3]),
                be32(4, values[4]), be32(6, 1), be32(7, CHECKSUMS[name]), be32(8, 0),
            )
        )  # fmt: skip

    def _translate(self) -> None:
        """``dnat ip to … map @m``, ``snat ip to ADDRESS``."""
        kind = 1 if self._next("dnat", "snat") == "dnat" else 0
        family = FAMILY[self._next("ip", "ip6")]
        self._next("to")
        parts = [be32(1, kind), be32(2, family), be32(3, REGISTER)]
        if kind == 0:
            address = ipaddress.ip_address(self._next())
            self._out.append(immediate(address.packed))
        else:
            self._load(self._fields())
            self._next("map")
            name = self._next()[1:]
            self._out.append(lookup(name, into=REGISTER))
            size = _TYPES[self._maps[name].parts[0]][1]
            parts.append(be32(5, REGISTER + size // 4))
        self._out.append(expression("nat", *parts))

    def _update(self) -> None:
        """``update @set { … }``: remember the packet's key."""
        self._next()
        name = self._next()[1:]
        self._next("{")
        self._load(self._fields())
        self._next("}")
        self._out.append(expression("dynset", text(1, name), be32(3, 1), be32(4, REGISTER)))


def lookup(name: str, *, inverted: bool = False, into: int = 0) -> bytes:
    parts = [text(1, name), be32(2, REGISTER)]
    if into:
        parts.append(be32(3, into))
    if inverted:
        parts.append(be32(5, 1))
    return expression("lookup", *parts)
