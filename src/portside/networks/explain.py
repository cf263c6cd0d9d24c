"""The way of a container's packets, step by step, for people."""

from __future__ import annotations

from portside.model.instance import Instance
from portside.model.network import PathStep
from portside.networks import network_options
from portside.networks.network_store import (
    Catalogue,
    EndpointRecord,
    NetworkRecord,
    SandboxRecord,
    gateway_endpoint,
)
from portside.networks.portmapper import endpoint_text


def steps(record: SandboxRecord, catalogue: Catalogue, instance: Instance) -> list[PathStep]:
    """Interface, link, bridge, routes, name server and rules of one running container."""
    if record.kind == "host":
        return [PathStep("interface", "host", "the host's own network namespace")]
    if record.kind == "shared":
        return [PathStep("interface", "shared", f"the namespace of container {record.owner}")]
    found = [PathStep("interface", "lo", "127.0.0.1/8 ::1/128")]
    for endpoint in record.endpoints:
        network = catalogue.find(endpoint.network_id)
        if network is not None and endpoint.interface:
            found += _endpoint(endpoint, network, instance)
    for version in (4, 6):
        chosen = gateway_endpoint(record.endpoints, version)
        if chosen is not None:
            gateway = chosen.gateway4 if version == 4 else chosen.gateway6
            found.append(PathStep("route", f"default (IPv{version})",
                                  f"via {gateway} dev {chosen.interface}"))  # fmt: skip
    for port in record.ports:
        inner = endpoint_text(port.container_ip, port.container_port)
        if port.host_port:
            detail = f"nft inet {instance.table}: dnat to {inner}"
            found.append(PathStep("publish", f"{port.host}/{port.protocol}", detail))
        else:
            found.append(
                PathStep("publish", f"{inner}/{port.protocol}", "reached directly (routed)")
            )
    return found


def _endpoint(
    endpoint: EndpointRecord, network: NetworkRecord, instance: Instance
) -> list[PathStep]:
    addresses = [f"{endpoint.ipv4}/{endpoint.prefix4}"] if endpoint.ipv4 else []
    addresses += [f"{endpoint.ipv6}/{endpoint.prefix6}"] if endpoint.ipv6 else []
    detail = " ".join([*addresses, endpoint.mac])
    found = [PathStep("interface", endpoint.interface, f"{detail} (network {network.name})")]
    if network.driver != "bridge":
        found.append(PathStep(network.driver, network.link, "parent interface on the host"))
        return found
    found.append(PathStep("veth", endpoint.link, f"peer of {endpoint.interface} on the host"))
    gateways = " ".join(config.gateway for config in network.configs())
    found.append(PathStep("bridge", network.link, f"gateway {gateways}"))
    if network.has_names:
        found.append(PathStep("dns", "127.0.0.11:53", "answered by the engine"))
    table = f"nft inet {instance.table}"
    if network.resource.internal:
        found.append(PathStep("firewall", table, "internal: nothing leaves, nothing enters"))
    elif network.flag(network_options.BRIDGE_MASQUERADE, True):
        subnets = " ".join(config.subnet for config in network.configs())
        found.append(PathStep("masquerade", table, f"{subnets} leaves as the host"))
    if not network.flag(network_options.BRIDGE_ICC, True):
        found.append(PathStep("firewall", network.link, "icc=false: ports are isolated"))
    return found
