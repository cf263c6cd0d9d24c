"""Would the host's own firewall let a new connection through? Read, never written.

The rules are followed as the kernel would, for a packet from another machine that opens a
connection. What cannot be known beforehand (a source address, an interface's name) counts as
not matched, so the answer is about clients nobody made an exception for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Object = dict[str, Any]
"""An object of ``list ruleset`` (libnftables-json(5))."""
MAX_DEPTH = 16
"""Nested jumps the kernel allows (NFT_JUMP_STACK_SIZE)."""


class HostFirewall:
    """The input and forward chains of all tables but our own."""

    def __init__(self, objects: Iterable[Object], own_table: str) -> None:
        self._bases: dict[str, list[Object]] = {"input": [], "forward": []}
        self._rules: dict[tuple[str, str, str], list[Object]] = {}
        self._sets: dict[tuple[str, str, str], Sequence[Any]] = {}
        for item in objects:
            ((kind, value),) = item.items()
            if value.get("table") == own_table or value.get("family") not in ("ip", "ip6", "inet"):
                continue
            if kind == "chain" and value.get("hook") in self._bases and value["type"] == "filter":
                self._bases[value["hook"]].append(value)
            elif kind == "rule":
                key = (value["family"], value["table"], value["chain"])
                self._rules.setdefault(key, []).append(value)
            elif kind == "set":
                key = (value["family"], value["table"], value["name"])
                self._sets[key] = value.get("elem", ())

    def closes(self, protocol: str, port: int, hook: str = "input") -> str:
        """The chain that drops connections to a port, such as ``inet filter input``; empty when
        the host lets them through."""
        for base in self._bases[hook]:
            where = (base["family"], base["table"], base["name"])
            if where[0] == "ip6":
                continue
            verdict = self._follow(where, protocol, port, 0) or base.get("policy", "accept")
            if verdict == "drop":
                return " ".join(where)
        return ""

    def _follow(self, where: tuple[str, str, str], protocol: str, port: int, depth: int) -> str:
        """``accept``, ``drop``, or nothing when the chain ends without a verdict."""
        if depth > MAX_DEPTH:
            return ""
        for rule in self._rules.get(where, ()):
            verdict = self._rule(rule, where, protocol, port, depth)
            if verdict == "return":
                return ""
            if verdict:
                return verdict
        return ""

    def _rule(
        self, rule: Object, where: tuple[str, str, str], protocol: str, port: int, depth: int
    ) -> str:
        for expression in rule["expr"]:
            ((kind, value),) = expression.items()
            if kind == "match":
                if not self._matches(value, where, protocol, port):
                    return ""
            elif kind in ("accept", "drop", "return"):
                return str(kind)
            elif kind == "reject":
                return "drop"
            elif kind in ("jump", "goto"):
                inner = self._follow((*where[:2], value["target"]), protocol, port, depth + 1)
                return inner or ("return" if kind == "goto" else "")
            elif kind not in ("counter", "log", "limit", "comment"):
                return ""  # not known here: as if it did not match
        return ""

    def _matches(
        self, match: Object, where: tuple[str, str, str], protocol: str, port: int
    ) -> bool:
        left, right = match["left"], match["right"]
        if not isinstance(left, dict):
            return False
        known: object = None
        if "payload" in left:
            of, field = left["payload"].get("protocol"), left["payload"].get("field")
            if field == "dport" and of in (protocol, "th"):
                known = port
            elif field in ("protocol", "nexthdr"):
                known = protocol
        elif left.get("meta", {}).get("key") == "l4proto":
            known = protocol
        elif left.get("ct", {}).get("key") == "state":
            known = "new"
        if known is None:
            return False
        found = self._contains(right, known, where)
        return not found if match.get("op") == "!=" else found

    def _contains(self, right: Any, known: object, where: tuple[str, str, str]) -> bool:
        if isinstance(right, str) and right.startswith("@"):
            right = self._sets.get((*where[:2], right[1:]), ())
        elif isinstance(right, dict) and "set" in right:
            right = right["set"]
        if isinstance(right, dict) and "range" in right:
            low, high = right["range"]
            return isinstance(known, int) and low <= known <= high
        if isinstance(right, dict) and "elem" in right:
            return self._contains(right["elem"].get("val"), known, where)
        if isinstance(right, list | tuple):
            return any(self._contains(item, known, where) for item in right)
        return bool(right == known)
