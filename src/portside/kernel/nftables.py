"""nf_tables over netlink (nfnetlink): tables written as atomic transactions, chains and rules read.

A transaction is a list of messages made by the functions here; ``Nft.commit`` sends them as one
batch, of which either all takes effect or nothing. Only what the transaction names is looked at:
no other program's tables are read for it. Rules are written in nft(8)'s language and compiled by
``nftrules.py``.

Message and attribute numbers are those of <linux/netfilter/nf_tables.h>; numbers in attributes
are big-endian.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from portside.kernel import netlink, nftrules
from portside.kernel.netlink import (
    NETLINK_EXT_ACK,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    attribute,
    attributes,
    nested,
    text,
)
from portside.model.errors import PortsideError

NETLINK_ADD_MEMBERSHIP = 1
NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NLM_F_APPEND = 0x800

NEWTABLE, DELTABLE, NEWCHAIN, GETCHAIN, NEWRULE, GETRULE = 0, 2, 3, 4, 6, 7
NEWSET, NEWSETELEM, GETSETELEM, DELSETELEM, NEWGEN = 9, 12, 13, 14, 15
NFTA_NAME = 1
"""The attribute that names the table: first in every kind of nftables message."""
TABLE, LIST_ELEM = 1, 1
CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 3, 4, 5, 7
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
RULE_CHAIN, RULE_EXPRESSIONS = 2, 4
SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LEN, SET_DATA_TYPE, SET_DATA_LEN = 2, 3, 4, 5, 6, 7
SET_DESC, SET_ID, SET_TIMEOUT, SET_USERDATA = 9, 10, 11, 13
DESC_SIZE = 1
SET_MAP, SET_TIMEOUT_FLAG, SET_EVAL = 0x8, 0x10, 0x20
ELEM_SET, ELEM_ELEMENTS = 2, 3
ELEM_KEY, ELEM_DATA, ELEM_FLAGS, ELEM_KEY_END = 1, 2, 3, 10
DATA_VALUE = 1
FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
NF_DROP, NF_ACCEPT = 0, 1

_HEADER = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct("!BBH")
_ELEMENTS = 400
"""Elements in one message, whose nested attribute has a length of 16 bits."""
_DUMP_LIMIT = 8 << 20
"""Bytes read of one dump; larger rule sets are not looked at."""


class NftError(PortsideError, OSError):
    """The kernel refused a transaction; nothing of it took effect."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a transaction."""

    kind: int
    flags: int
    family: str
    body: bytes
    what: str
    """Said in the error."""


@dataclass(frozen=True, slots=True)
class Set:
    """A named set, or a map when it has a ``value`` type. Types are written as in nft(8)."""

    name: str
    key: str
    value: str = ""
    elements: Sequence[tuple[str, str]] = ()
    """(key, value) as text; the value of a set's element is empty."""
    timeout: int = 0
    """Seconds; a set with a timeout is filled by rules (``update``)."""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; with a ``hook`` a base chain, whose policy is to accept."""

    name: str
    rules: Sequence[str] = ()
    """In nft(8)'s language; see ``nftrules.py``."""
    hook: str = ""
    type: str = "filter"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A table with all that is in it."""

    family: str
    name: str
    sets: Sequence[Set] = ()
    chains: Sequence[Chain] = ()

    def replace(self) -> list[Message]:
        """Messages that make the table as it is here, whatever it was before."""
        types = {item.name: item for item in self.sets}
        messages = [*delete_table(self.family, self.name), _table(self.family, self.name)]
        for number, item in enumerate(self.sets, 1):
            messages.append(_new_set(self.family, self.name, item, number))
            messages += elements(NEWSETELEM, self.family, self.name, item, item.elements)
        messages += [_new_chain(self.family, self.name, chain) for chain in self.chains]
        values = {name: nftrules.Type.of(item.value) for name, item in types.items() if item.value}
        for chain in self.chains:
            for rule in chain.rules:
                compiled = nftrules.compile(rule, self.family, values)
                messages.append(_new_rule(self.family, self.name, chain.name, rule, compiled))
        return messages


def delete_table(family: str, name: str) -> list[Message]:
    """Messages that delete a table that may exist or not."""
    delete = Message(DELTABLE, 0, family, text(TABLE, name), f"delete table {name}")
    return [_table(family, name), delete]


def _table(family: str, name: str) -> Message:
    return Message(NEWTABLE, NLM_F_CREATE, family, text(TABLE, name), f"add table {name}")


def _new_set(family: str, table: str, item: Set, number: int) -> Message:
    key, value = nftrules.Type.of(item.key), nftrules.Type.of(item.value)
    flags = (SET_MAP if item.value else 0) | (SET_TIMEOUT_FLAG | SET_EVAL if item.timeout else 0)
    parts = [text(TABLE, table), text(SET_NAME, item.name), _be32(SET_FLAGS, flags)]
    parts += [_be32(SET_KEY_TYPE, key.number), _be32(SET_KEY_LEN, key.length)]
    if item.value:
        parts += [_be32(SET_DATA_TYPE, value.number), _be32(SET_DATA_LEN, value.length)]
    if item.size:
        parts.append(_nest(SET_DESC, _be32(DESC_SIZE, item.size)))
    parts.append(_be32(SET_ID, number))
    if item.timeout:
        parts.append(attribute(SET_TIMEOUT, struct.pack("!Q", item.timeout * 1000)))
    parts.append(attribute(SET_USERDATA, key.userdata(value)))
    return Message(NEWSET, NLM_F_CREATE, family, b"".join(parts), f"add set {item.name}")


def elements(
    kind: int, family: str, table: str, item: Set, pairs: Sequence[tuple[str, str]]
) -> list[Message]:
    """Add (``NEWSETELEM``) or delete (``DELSETELEM``) elements of a set."""
    key, value = nftrules.Type.of(item.key), nftrules.Type.of(item.value)
    messages = []
    for start in range(0, len(pairs), _ELEMENTS):
        parts = []
        for name, data in pairs[start : start + _ELEMENTS]:
            element = _nest(ELEM_KEY, attribute(DATA_VALUE, key.encode(name)))
            if data and kind == NEWSETELEM:
                element += _nest(ELEM_DATA, attribute(DATA_VALUE, value.encode(data)))
            parts.append(_nest(LIST_ELEM, element))
        body = text(TABLE, table) + text(ELEM_SET, item.name) + _nest(ELEM_ELEMENTS, *parts)
        flags = NLM_F_CREATE if kind == NEWSETELEM else 0
        verb = "add to" if kind == NEWSETELEM else "delete from"
        messages.append(Message(kind, flags, family, body, f"{verb} set {item.name}"))
    return messages


def flush_set(family: str, table: str, name: str) -> Message:
    body = text(TABLE, table) + text(ELEM_SET, name)
    return Message(DELSETELEM, 0, family, body, f"flush set {name}")


def _new_chain(family: str, table: str, chain: Chain) -> Message:
    parts = [text(TABLE, table), text(CHAIN_NAME, chain.name)]
    if chain.hook:
        priority = attribute(HOOK_PRIORITY, struct.pack("!i", chain.priority))
        parts.append(_nest(CHAIN_HOOK, _be32(HOOK_NUMBER, HOOKS[chain.hook]), priority))
        parts += [_be32(CHAIN_POLICY, NF_ACCEPT), text(CHAIN_TYPE, chain.type)]
    return Message(NEWCHAIN, NLM_F_CREATE, family, b"".join(parts), f"add chain {chain.name}")


def _new_rule(family: str, table: str, chain: str, rule: str, compiled: bytes) -> Message:
    body = text(TABLE, table) + text(RULE_CHAIN, chain) + _nest(RULE_EXPRESSIONS, compiled)
    flags = NLM_F_CREATE | NLM_F_APPEND
    return Message(NEWRULE, flags, family, body, f"add rule to {chain}: {rule}")


def _be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def _nest(kind: int, *parts: bytes) -> bytes:
    return nested(kind | NLA_F_NESTED, *parts)


class Nft:
    """An nfnetlink socket. It belongs to the network namespace of the thread that made it
    (setns(2)), so it acts there for good. Not for two threads at once."""

    def __init__(self) -> None:
        """OSError when the kernel has no nf_tables."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def commit(self, messages: Sequence[Message]) -> None:
        """One transaction; NftError when the kernel refuses a message."""
        first = self._sequence + 1
        parts = [self._batch(NFNL_MSG_BATCH_BEGIN)]
        for number, message in enumerate(messages):
            last = number == len(messages) - 1
            flags = NLM_F_REQUEST | message.flags | (NLM_F_ACK if last else 0)
            kind = NFNL_SUBSYS_NFTABLES << 8 | message.kind
            head = _NFGENMSG.pack(FAMILIES[message.family], 0, 0)
            parts.append(self._frame(kind, flags, head + message.body))
        parts.append(self._batch(NFNL_MSG_BATCH_END))
        data = b"".join(parts)
        if len(data) > 100_000:
            # SO_SNDBUFFORCE: the whole batch has to fit (twice, as the kernel counts)
            self._socket.setsockopt(socket.SOL_SOCKET, 32, 4 * len(data))
        self._socket.send(data)
        acknowledged = False
        for kind, flags, sequence, body in self._answers():
            if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                continue
            code = -struct.unpack_from("=i", body)[0]
            if code:
                index = min(max(sequence - first - 1, 0), len(messages) - 1)
                reason = netlink.reason(code, flags, body)
                raise NftError(code, f"cannot {messages[index].what}: {reason}")
            acknowledged = True
        if not acknowledged:
            raise NftError(errno.EPROTO, "the kernel did not confirm a change of nftables")

    def _batch(self, kind: int) -> bytes:
        return self._frame(kind, NLM_F_REQUEST, _NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES))

    def _frame(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        head = _HEADER.pack(16 + len(body), kind, flags, self._sequence, 0)
        return head + body + b"\0" * (-len(body) % 4)

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        """All answers there are: the kernel has put them there before ``send`` returned."""
        while True:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                continue  # more errors than the buffer holds: the first ones are there
            yield from _messages(data)

    def dump(self, kind: int, family: int = 0, body: bytes = b"") -> Iterator[tuple[int, bytes]]:
        """(family, attributes) of all objects of a kind; EFBIG when there are too many."""
        head = _NFGENMSG.pack(family, 0, 0)
        request = NFNL_SUBSYS_NFTABLES << 8 | kind
        frame = self._frame(request, NLM_F_REQUEST | NLM_F_DUMP, head + body)
        self._socket.send(frame)
        size, sequence = 0, self._sequence
        while True:
            data = self._socket.recv(1 << 16)
            size += len(data)
            for answer, _, number, content in _messages(data):
                if number != sequence:
                    continue
                if answer == NLMSG_DONE:
                    return
                if answer == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    raise NftError(code, f"cannot read nftables: {os.strerror(code)}")
                yield content[0], content[4:]
            if size > _DUMP_LIMIT:
                raise NftError(errno.EFBIG, "the host's firewall has too many rules to look at")


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


@dataclass(slots=True)
class Monitor:
    """Notices of changes to one table, distinguished by who made them.

    Use ``fileno`` with an event loop and call ``foreign_changes`` when it is readable, and
    also right after each own transaction. The kernel sends notices before the transaction
    returns, with the sender's netlink port, which is learnt from the creation of our own
    table (nobody else creates it).
    """

    table: str
    _own_port: int = 0
    _socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_NETFILTER,
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def foreign_changes(self) -> tuple[bool, bool]:
        """Read all notices: (our table was changed by others, any other table changed)."""
        ours = others = False
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return ours, others
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                ours = others = True  # notices were lost: assume the worst
                continue
            for mine, foreign in self._notices(data):
                ours = ours or mine
                others = others or foreign

    def _notices(self, data: bytes) -> list[tuple[bool, bool]]:
        found = []
        offset = 0
        while offset + 20 <= len(data):
            length, kind, _, _, port = _HEADER.unpack_from(data, offset)
            body = data[offset + 16 : offset + length]
            offset += (length + 3) & ~3
            if kind >> 8 != NFNL_SUBSYS_NFTABLES or kind & 0xFF == NEWGEN:
                continue
            name = attributes(body, 4).get(NFTA_NAME, b"").rstrip(b"\0")
            if name != self.table.encode():
                found.append((False, True))
                continue
            if kind & 0xFF == NEWTABLE:
                self._own_port = port
            elif port != self._own_port:
                found.append((True, False))
        return found
