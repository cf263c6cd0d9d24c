"""Would the host's own firewall let a new connection through? Read, never written.

Used for warnings only: nothing that the engine does depends on it. The kernel's own form of the
rules is followed as the kernel would, for a packet from another machine that opens a connection.
What cannot be known beforehand (a source address, an interface's name) or is not understood here
counts as not matched, so the answer is about clients nobody made an exception for. Rule sets that
are too large are not read.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from portside.kernel import nftables, nftrules
from portside.kernel.netlink import attributes, text
from portside.kernel.nftables import Nft

log = logging.getLogger(__name__)

MAX_DEPTH = 16
"""Nested jumps the kernel allows (NFT_JUMP_STACK_SIZE)."""
VERDICTS = {0: "drop", 1: "accept", -5: "return", -3: "jump", -4: "goto"}
NEW = struct.pack("=I", nftrules.STATES["new"])
FAMILIES = {number: name for name, number in nftables.FAMILIES.items()}
HOOKS = {nftables.HOOKS[name]: name for name in ("input", "forward")}
IGNORED = ("counter", "log", "limit", "notrack")
"""Expressions that decide nothing here."""
INTERVAL_END = 1

Where = tuple[int, str, str]
"""Family, table, and name of a chain or set."""


@dataclass(slots=True)
class HostFirewall:
    """The input and forward chains of all tables but our own."""

    nft: Nft
    bases: dict[str, list[tuple[Where, bool]]] = field(default_factory=dict)
    """Chains by hook, with whether their policy is to drop."""
    rules: dict[Where, list[bytes]] = field(default_factory=dict)
    _sets: dict[Where, list[tuple[bytes, bytes, int]]] = field(default_factory=dict)

    @classmethod
    def read(cls, nft: Nft, own_table: str) -> HostFirewall:
        """Read the current rules; without chains when they cannot be read."""
        found = cls(nft, {name: [] for name in HOOKS.values()})
        try:
            found._read(own_table)
        except (OSError, struct.error, IndexError) as err:
            log.debug("the host's firewall is not looked at: %s", err)
            found.bases = {name: [] for name in HOOKS.values()}
        return found

    def _read(self, own_table: str) -> None:
        tables: set[tuple[int, str]] = set()
        for family, data in self.nft.dump(nftables.GETCHAIN):
            values = attributes(data)
            table, name = _text(values, nftables.TABLE), _text(values, nftables.CHAIN_NAME)
            hook = attributes(values.get(nftables.CHAIN_HOOK, b""))
            number = _number(hook.get(nftables.HOOK_NUMBER, b"\xff" * 4))
            if family not in FAMILIES or table == own_table or number not in HOOKS:
                continue
            if _text(values, nftables.CHAIN_TYPE) == "filter":
                drops = _number(values.get(nftables.CHAIN_POLICY, bytes(4))) == nftables.NF_DROP
                drops = drops and nftables.CHAIN_POLICY in values
                self.bases[HOOKS[number]].append(((family, table, name), drops))
                tables.add((family, table))
        for family, table in sorted(tables):
            body = text(nftables.TABLE, table)
            for _, data in self.nft.dump(nftables.GETRULE, family, body):
                values = attributes(data)
                where = (family, table, _text(values, nftables.RULE_CHAIN))
                if _text(values, nftables.TABLE) == table:
                    expressions = values.get(nftables.RULE_EXPRESSIONS, b"")
                    self.rules.setdefault(where, []).append(expressions)

    def closes(self, protocol: str, port: int, hook: str = "input") -> str:
        """The chain that drops connections to a port, such as ``inet filter input``; empty when
        the host lets them through."""
        packet = _Packet(bytes([nftrules.PROTOCOLS[protocol]]), port.to_bytes(2, "big"))
        for where, drops in self.bases[hook]:
            if where[0] == nftables.FAMILIES["ip6"]:
                continue
            try:
                verdict = self._follow(where, packet, 0)
            except (OSError, struct.error, IndexError) as err:
                log.debug("the host's firewall is not understood: %s", err)
                continue
            if verdict == "drop" or (not verdict and drops):
                return " ".join((FAMILIES[where[0]], *where[1:]))
        return ""

    def _follow(self, where: Where, packet: _Packet, depth: int) -> str:
        """``accept``, ``drop``, or nothing when the chain ends without a verdict."""
        if depth > MAX_DEPTH:
            return ""
        for rule in self.rules.get(where, ()):
            verdict = self._rule(rule, where, packet, depth)
            if verdict == "return":
                return ""
            if verdict:
                return verdict
        return ""

    def _rule(self, rule: bytes, where: Where, packet: _Packet, depth: int) -> str:
        registers: dict[int, bytes | None] = {}
        for name, values in _expressions(rule):
            if name == "immediate" and _number(values.get(1, bytes(4))) == 0:
                data = attributes(attributes(values[2]).get(2, b""))
                verdict = VERDICTS.get(_signed(data[1]), "")
                if verdict not in ("jump", "goto"):
                    return verdict
                inner = self._follow((*where[:2], _text(data, 2)), packet, depth + 1)
                return inner or ("return" if verdict == "goto" else "")
            if name == "reject":
                return "drop"
            if name in IGNORED:
                continue
            if not self._passes(name, values, registers, where, packet):
                return ""
        return ""

    def _passes(
        self,
        name: str,
        values: dict[int, bytes],
        registers: dict[int, bytes | None],
        where: Where,
        packet: _Packet,
    ) -> bool:
        """Run one expression; False when the rule does not match."""
        if name in ("meta", "payload", "ct", "fib", "immediate"):
            if 1 not in values:
                return False  # it changes the packet
            registers[_register(values[1])] = packet.field(name, values)
            return True
        if name == "bitwise":
            raw = registers.get(_register(values[1]))
            masked = _masked(raw, attributes(values.get(4, b"")), attributes(values.get(5, b"")))
            registers[_register(values[2])] = masked
            return True
        if name == "cmp":
            raw = registers.get(_register(values[1]))
            return raw is not None and _compares(raw, _number(values[2]), attributes(values[3])[1])
        if name == "range":
            raw, low, high = registers.get(_register(values[1])), values[3], values[4]
            inside = raw is not None and attributes(low)[1] <= raw <= attributes(high)[1]
            return raw is not None and inside == (_number(values[2]) == 0)
        if name == "lookup" and 3 not in values:
            raw = registers.get(_register(values[2]))
            inverted = bool(_number(values.get(5, bytes(4))) & 1)
            return raw is not None and self._contains(where, _text(values, 1), raw) != inverted
        return False

    def _contains(self, where: Where, name: str, key: bytes) -> bool:
        elements = self._elements((*where[:2], name))
        if any(end and value <= key <= end for value, end, _ in elements):
            return True
        if any(flags & INTERVAL_END for _, _, flags in elements):
            last = [flags for value, _, flags in elements if value <= key][-1:]
            return bool(last) and not last[0] & INTERVAL_END
        return any(value == key for value, _, _ in elements)

    def _elements(self, where: Where) -> list[tuple[bytes, bytes, int]]:
        """(key, end of the key's range, flags) of a set, in order: an interval's end before
        the begin of the next."""
        if where not in self._sets:
            family, table, name = where
            body = text(nftables.TABLE, table) + text(nftables.ELEM_SET, name)
            found = []
            for _, data in self.nft.dump(nftables.GETSETELEM, family, body):
                listed = attributes(data).get(nftables.ELEM_ELEMENTS, b"")
                for element in _list(listed):
                    values = attributes(element)
                    key = attributes(values.get(nftables.ELEM_KEY, b"")).get(1, b"")
                    end = attributes(values.get(nftables.ELEM_KEY_END, b"")).get(1, b"")
                    flags = _number(values.get(nftables.ELEM_FLAGS, bytes(4)))
                    found.append((key, end, flags))
            self._sets[where] = sorted(found, key=lambda item: (item[0], -item[2]))
        return self._sets[where]


@dataclass(frozen=True, slots=True)
class _Packet:
    """The first packet of a connection, as far as it is known."""

    protocol: bytes
    port: bytes

    def field(self, name: str, values: dict[int, bytes]) -> bytes | None:
        """The value that an expression loads; None when it is not known."""
        if name == "immediate":
            return attributes(values.get(2, b"")).get(1)
        number = _number(values.get(2, bytes(4)))
        if name == "meta":
            return {nftrules.L4PROTO: self.protocol, nftrules.NFPROTO: b"\2"}.get(number)
        if name == "ct":
            return NEW if number == 0 else None
        if name == "payload":
            offset, length = _number(values[3]), _number(values[4])
            if (number, offset, length) == (nftrules.TRANSPORT, 2, 2):
                return self.port
            if (number, offset, length) == (nftrules.NETWORK, 9, 1):
                return self.protocol
        return None


def _expressions(rule: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    for item in _list(rule):
        values = attributes(item)
        yield _text(values, nftrules.EXPRESSION_NAME), attributes(values.get(2, b""))


def _list(data: bytes) -> Iterator[bytes]:
    """The attributes of a list, in order."""
    offset = 0
    while offset + 4 <= len(data):
        (length,) = struct.unpack_from("=H", data, offset)
        if length < 4:
            return
        yield data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _text(values: dict[int, bytes], kind: int) -> str:
    return values.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw[:4], "big")


def _signed(raw: bytes) -> int:
    return int(struct.unpack("!i", raw[:4])[0])


def _register(raw: bytes) -> int:
    """NFT_REG_1 to NFT_REG_4 are the registers of 16 bytes over those of 4 bytes."""
    number = _number(raw)
    return number if number >= nftrules.REGISTER else 4 * number + 4


def _masked(raw: bytes | None, mask: dict[int, bytes], xor: dict[int, bytes]) -> bytes | None:
    if raw is None or 1 not in mask or 1 not in xor:
        return None
    return bytes(a & b ^ c for a, b, c in zip(raw, mask[1], xor[1], strict=False))


def _compares(raw: bytes, operator: int, wanted: bytes) -> bool:
    raw = raw[: len(wanted)]
    return (
        raw == wanted, raw != wanted, raw < wanted, raw <= wanted, raw > wanted, raw >= wanted,
    )[operator]  # fmt: skip
