"""The little of DNS's wire format (RFC 1035 section 4) that the name server needs.

A query is read as far as its one question; answers are made from it. What is forwarded is
passed on byte for byte, so no other record types need to be understood.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from portside.model.errors import InvalidText
from portside.model.network import IPAddress

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, REFUSED = 0, 1, 2, 3, 5
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
MAX_UDP = 512
"""Bytes of an answer to a client that did not say more (RFC 1035 section 4.2.1)."""
TTL = 600
"""Seconds a resolver may keep a container's address, as Docker says; the C library keeps none."""

_HEADER = struct.Struct("!HHHHHH")


class BadQuery(InvalidText):
    """Not a query that can be read."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query with one question."""

    id: int
    flags: int
    name: str
    """Lower case, without the last dot."""
    type: int
    cls: int
    question: bytes
    """The question's bytes, name in the asker's own spelling."""
    udp_size: int = MAX_UDP

    @classmethod
    def parse(cls, data: bytes) -> Query:
        """BadQuery for anything that is not a plain query with exactly one question."""
        if len(data) < 17:
            raise BadQuery("too short")
        number, flags, questions, answers, _, additional = _HEADER.unpack_from(data)
        if flags & QR or flags & 0x7800 or questions != 1 or answers:
            raise BadQuery("not a standard query with one question")
        labels: list[str] = []
        offset, total = 12, 0
        while True:
            if offset >= len(data):
                raise BadQuery("the name does not end")
            length = data[offset]
            if length == 0:
                break
            total += length + 1
            if length > 63 or total > 254 or offset + 1 + length > len(data):
                raise BadQuery("bad label")
            labels.append(data[offset + 1 : offset + 1 + length].decode("latin-1"))
            offset += 1 + length
        end = offset + 5
        if end > len(data):
            raise BadQuery("the question does not end")
        kind, klass = struct.unpack_from("!HH", data, offset + 1)
        size = MAX_UDP
        if additional and data[end : end + 3] == b"\0\0" + bytes([OPT]) and len(data) >= end + 5:
            size = max(MAX_UDP, struct.unpack_from("!H", data, end + 3)[0])
        name = ".".join(labels).lower()
        return cls(number, flags, name, kind, klass, data[12:end], size)

    def answer(
        self, records: Sequence[tuple[int, bytes]] = (), code: int = NOERROR, limit: int = 65535
    ) -> bytes:
        """A response with (type, data) records about the question's own name; when they do
        not fit into ``limit`` bytes the answer is cut and marked so."""
        flags = QR | AA | RA | (self.flags & RD) | code
        parts, length, count = [self.question], 12 + len(self.question), 0
        for kind, data in records:
            record = struct.pack("!HHHIH", 0xC00C, kind, IN, TTL, len(data)) + data
            if length + len(record) > limit:
                flags |= TC
                break
            parts.append(record)
            length += len(record)
            count += 1
        return _HEADER.pack(self.id, flags, 1, count, 0, 0) + b"".join(parts)


def failure(data: bytes, code: int) -> bytes | None:
    """A response without a question to something unreadable; None when even its id is."""
    if len(data) < 4:
        return None
    number, flags = struct.unpack_from("!HH", data)
    if flags & QR:
        return None
    return _HEADER.pack(number, QR | RA | (flags & RD) | code, 0, 0, 0, 0)


def address_record(address: IPAddress) -> tuple[int, bytes]:
    return (A if address.version == 4 else AAAA, address.packed)


def name_record(name: str) -> tuple[int, bytes]:
    """The data of a PTR record."""
    labels = [label.encode("latin-1", "replace")[:63] for label in name.split(".") if label]
    return PTR, b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def reverse_address(name: str) -> IPAddress | None:
    """The address an in-addr.arpa or ip6.arpa name asks about."""
    try:
        if name.endswith(".in-addr.arpa"):
            return ipaddress.IPv4Address(".".join(reversed(name.split(".")[:-2])))
        if name.endswith(".ip6.arpa"):
            digits = name.split(".")[:-2]
            if len(digits) == 32:
                return ipaddress.IPv6Address(int("".join(reversed(digits)), 16))
    except ValueError:
        pass
    return None
