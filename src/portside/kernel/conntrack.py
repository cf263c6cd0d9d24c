"""Entries of the kernel's connection tracking, deleted (ctnetlink).

An entry keeps what was decided about a flow's first packet. A client that sent to a published
port before it was published, or that talks to a container that has ended, is held to that
decision for as long as it sends: its entry has to go.

Numbers are those of <linux/netfilter/nfnetlink_conntrack.h>.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Container, Iterator

from portside.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attributes,
    nested,
)

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_ID, CTA_FILTER = 1, 12, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_DST, CTA_IP_V6_DST = 2, 4
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
FILTER_PROTO_NUM, FILTER_DST_PORT = 1 << 3, 1 << 5
"""CTA_FILTER_F_CTA_PROTO_NUM and _DST_PORT: the kernel itself picks the entries (Linux 5.8)."""
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_HEADER = struct.Struct("=IHHII")


def forget(protocol: str, port: int, addresses: Container[bytes], version: int) -> int:
    """Delete the entries of flows to ``port`` of one of ``addresses`` (packed); how many.

    Other machines' ports of the same number are left alone. OSError when the kernel tracks no
    connections.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    kind = CTA_IP_V4_DST if version == 4 else CTA_IP_V6_DST
    count = 0
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    ) as sock:
        sock.bind((0, 0))
        sock.settimeout(5)
        found = [
            values
            for values in _dump(sock, family, PROTOCOLS[protocol], port)
            if _part(values, CTA_TUPLE_IP).get(kind, b"") in addresses
        ]
        for values in found:
            body = bytes([family, 0, 0, 0])
            body += nested(CTA_TUPLE_ORIG | NLA_F_NESTED, values[CTA_TUPLE_ORIG])
            if CTA_ID in values:  # that very entry, not one made since
                body += attribute(CTA_ID, values[CTA_ID])
            sock.send(_frame(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | 4, body))
            with contextlib.suppress(FileNotFoundError):  # it is gone already
                _check(sock.recv(1 << 16))
                count += 1
    return count


def _dump(sock: socket.socket, family: int, protocol: int, port: int) -> Iterator[dict[int, bytes]]:
    proto = attribute(CTA_PROTO_NUM, bytes([protocol]))
    proto += attribute(CTA_PROTO_DST_PORT, struct.pack("!H", port))
    flags = struct.pack("=I", FILTER_PROTO_NUM | FILTER_DST_PORT)
    body = nested(
        CTA_TUPLE_ORIG | NLA_F_NESTED, nested(CTA_TUPLE_PROTO | NLA_F_NESTED, proto)
    ) + nested(
        CTA_FILTER | NLA_F_NESTED,
        attribute(CTA_FILTER_ORIG_FLAGS, flags),
        attribute(CTA_FILTER_REPLY_FLAGS, bytes(4)),
    )
    sock.send(
        _frame(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, bytes([family, 0, 0, 0]) + body)
    )
    while True:
        data = sock.recv(1 << 16)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                _check(data[offset:])
            values = attributes(data[offset + 20 : offset + length])
            offset += (length + 3) & ~3
            tuple_proto = _part(values, CTA_TUPLE_PROTO)
            if tuple_proto.get(CTA_PROTO_NUM) == bytes([protocol]) and (
                tuple_proto.get(CTA_PROTO_DST_PORT) == struct.pack("!H", port)
            ):
                yield values


def _part(values: dict[int, bytes], kind: int) -> dict[int, bytes]:
    """The addresses or the protocol of an entry's first direction."""
    return attributes(attributes(values.get(CTA_TUPLE_ORIG, b"")).get(kind, b""))


def _frame(kind: int, flags: int, body: bytes) -> bytes:
    number = NFNL_SUBSYS_CTNETLINK << 8 | kind
    return _HEADER.pack(16 + len(body), number, flags, 1, 0) + body


def _check(data: bytes) -> None:
    _, kind, _, _, _ = _HEADER.unpack_from(data)
    code = -struct.unpack_from("=i", data, 16)[0] if kind == NLMSG_ERROR else 0
    if code == errno.ENOENT:
        raise FileNotFoundError(code, "no such connection")
    if code:
        raise OSError(code, "cannot change connection tracking")
