"""The engine's firewall table: one table of our own, each change an atomic transaction.

Publishing a port adds one element to a map, which costs 0.1 ms whatever the number of
containers. Networks change rarely: then the whole table is replaced in one transaction,
which is also how it comes back after somebody flushed it. Other tables are never touched, nor
read for any change; that also means that a drop in another table's forward chain stays a drop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from portside.kernel import nftables
from portside.kernel.nftables import Message, Monitor, Nft, NftError
from portside.model.errors import SystemFailure
from portside.networks.firewall.host_firewall import HostFirewall
from portside.networks.firewall.ruleset import LinkRule, Member, NetworkRules, member_set, render


class Firewall:
    """Keeps the table as it should be. Without ``enabled`` it does nothing at all."""

    def __init__(self, table: str, enabled: bool = True, policy: str = "open") -> None:
        self.table, self.enabled = table, enabled
        self.asks_host = policy == "host"
        """Whether the host's input chains decide who reaches published ports."""
        self._host: HostFirewall | None = None
        self._networks: dict[str, NetworkRules] = {}
        self._members: dict[tuple[str, str], str] = {}
        self._links: dict[str, tuple[LinkRule, ...]] = {}
        self._nft: Nft | None = None
        self._monitor: Monitor | None = None

    def start(self) -> None:
        """Open nftables; SystemFailure says what is missing. Writes nothing yet."""
        if not self.enabled:
            return
        try:
            self._nft = Nft()
            self._monitor = Monitor(self.table)
        except OSError as err:
            raise SystemFailure(
                f"cannot use the kernel's firewall: {err}; load the kernel's nf_tables module or "
                "start the engine with --iptables=false (no published ports, no outbound NAT)"
            ) from err

    def follow(self) -> None:
        """Restore the table at once whenever another program changes it."""
        if self._monitor is not None:
            asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._noticed)

    def close(self) -> None:
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._monitor = None
        if self._nft is not None:
            self._nft.close()
            self._nft = None

    def clean(self) -> None:
        """Remove the table."""
        if self._nft is not None:
            self._nft.commit(nftables.delete_table("inet", self.table))
            self._settle()

    # -- changes ---------------------------------------------------------------------------

    def set_network(self, identifier: str, rules: NetworkRules | None) -> None:
        """Add, change or (None) remove a network and replace the table."""
        before = self._networks.get(identifier)
        if before == rules:
            return
        self._put(self._networks, identifier, rules)
        try:
            self.apply()
        except BaseException:
            self._put(self._networks, identifier, before)
            raise

    @staticmethod
    def _put(
        networks: dict[str, NetworkRules], identifier: str, rules: NetworkRules | None
    ) -> None:
        if rules is None:
            networks.pop(identifier, None)
        else:
            networks[identifier] = rules

    def preload(
        self,
        networks: dict[str, NetworkRules],
        members: Iterable[Member],
        links: dict[str, tuple[LinkRule, ...]],
    ) -> None:
        """The whole wanted state, at the engine's start; ``apply`` makes it true."""
        self._networks = dict(networks)
        self._members = {(name, key): value for name, key, value in members}
        self._links = dict(links)

    def add(self, members: Sequence[Member]) -> None:
        """Publish: one transaction; SystemFailure and nothing changed when it is refused."""
        for name, key, value in members:
            self._members[name, key] = value
        messages = self._messages(nftables.NEWSETELEM, members)
        try:
            self._change(messages)
        except BaseException:
            for name, key, _ in members:
                self._members.pop((name, key), None)
            raise

    def remove(self, members: Sequence[Member]) -> None:
        """Take published ports back."""
        gone = [member for member in members if self._members.pop(member[:2], None) is not None]
        self._change(self._messages(nftables.DELSETELEM, gone))

    def _messages(self, kind: int, members: Sequence[Member]) -> list[Message]:
        """Messages that add members to their sets, or delete them."""
        by_set: dict[str, list[tuple[str, str]]] = {}
        for name, key, value in members:
            by_set.setdefault(name, []).append((key, value))
        return [
            message
            for name, pairs in by_set.items()
            for message in nftables.elements(kind, "inet", self.table, member_set(name), pairs)
        ]

    def set_links(self, container_id: str, links: tuple[LinkRule, ...]) -> None:
        """A container's legacy links; replaces the table only when there are any."""
        if links == self._links.get(container_id, ()):
            return
        if links:
            self._links[container_id] = links
        else:
            self._links.pop(container_id, None)
        self.apply()

    def apply(self) -> None:
        """Make the table as it should be, in one transaction."""
        if self._nft is None:
            return
        members = [(name, key, value) for (name, key), value in self._members.items()]
        links = [rule for rules in self._links.values() for rule in rules]
        networks = list(self._networks.values())
        table = render(self.table, networks, members, links, self.asks_host)
        try:
            self._nft.commit(table.replace())
        except NftError as err:
            raise SystemFailure(f"cannot write the firewall table {self.table}: {err}") from err
        finally:
            self._settle()

    def _change(self, messages: Sequence[Message]) -> None:
        """A small change; when the table is not as expected it is written anew."""
        if not messages or self._nft is None:
            return
        try:
            self._nft.commit(messages)
        except NftError:
            self.apply()
        else:
            self._settle()

    def _settle(self) -> None:
        """Ignore events of our own changes; those of other programs in between count."""
        if self._monitor is not None:
            ours, others = self._monitor.foreign_changes()
            if ours or others:
                asyncio.get_running_loop().call_soon(self._changed, ours, others)

    def _noticed(self) -> None:
        assert self._monitor is not None
        self._changed(*self._monitor.foreign_changes())

    def _changed(self, ours: bool, others: bool) -> None:
        """Somebody changed our table, which is put back, or another, such as the host's
        firewall: then whom it let in until now does not count any more."""
        if others:
            self._host = None
        if ours:
            self.apply()
        elif others and self.asks_host and self._nft is not None:
            names = ("admitted4", "admitted6")
            self._change([nftables.flush_set("inet", self.table, name) for name in names])

    # -- what is there ---------------------------------------------------------------------

    def closed_by_host(self, protocol: str, port: int, hook: str = "input") -> str:
        """The host's own chain that would drop new connections to a port; empty for none."""
        if self._nft is None:
            return ""
        if self._host is None:
            self._host = HostFirewall.read(self._nft, self.table)
        return self._host.closes(protocol, port, hook)
