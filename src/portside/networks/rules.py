"""From a network's options to what the firewall has to know of it."""

from __future__ import annotations

from portside.networks import network_records
from portside.networks.network_records import NetworkRecord
from portside.networks.ruleset import NetworkRules, subnets


def network_rules(record: NetworkRecord) -> NetworkRules:
    modes = {
        4: record.option(network_records.BRIDGE_MODE4) or "nat",
        6: record.option(network_records.BRIDGE_MODE6) or "nat",
    }
    return NetworkRules(
        bridge=record.link,
        subnets=subnets(*(config.subnet for config in record.configs())),
        internal=record.resource.internal,
        icc=record.flag(network_records.BRIDGE_ICC, True),
        masquerade=record.flag(network_records.BRIDGE_MASQUERADE, True),
        source4=record.option(network_records.HOST_IPV4),
        source6=record.option(network_records.HOST_IPV6),
        direct=tuple(version for version, mode in modes.items() if mode == "routed"),
        unprotected=tuple(version for version, mode in modes.items() if mode == "nat-unprotected"),
        trusted=tuple(filter(None, record.option(network_records.BRIDGE_TRUSTED).split(":"))),
    )
