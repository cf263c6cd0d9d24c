"""HCL's functions for networks: ``cidrhost``, ``cidrnetmask``, ``cidrsubnet``, ``cidrsubnets``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network


def _network(prefix: str) -> IPv4Network | IPv6Network:
    import ipaddress

    if "/" not in prefix:
        raise ValueError(f"invalid CIDR expression: invalid CIDR address: {prefix}")
    return ipaddress.ip_network(prefix, strict=False)


def host(prefix: str, number: float) -> str:
    """An address by its number; negative ones count from the end. ValueError outside."""
    network = _network(prefix)
    wanted = int(number)
    if not -network.num_addresses <= wanted < network.num_addresses:
        raise ValueError(
            f"prefix of {network.prefixlen} does not accommodate a host numbered {wanted}"
        )
    return str(network[wanted])


def netmask(prefix: str) -> str:
    return str(_network(prefix).netmask)


def subnet(prefix: str, new_bits: float, number: float) -> str:
    """Subnet ``number`` with a prefix that is ``new_bits`` bits longer. ValueError."""
    network = _network(prefix)
    length = _longer(network, new_bits)
    wanted = int(number)
    if not 0 <= wanted < 1 << int(new_bits):
        raise ValueError(
            f"prefix extension of {int(new_bits)} does not accommodate a subnet numbered {wanted}"
        )
    start = int(network.network_address) + (wanted << (network.max_prefixlen - length))
    return str(type(network)((start, length)))


def subnets(prefix: str, *new_bits: float) -> list[str]:
    """Networks one after the other, each aligned to its size. ValueError."""
    network = _network(prefix)
    found = []
    at, end = int(network.network_address), int(network.broadcast_address)
    for bits in new_bits:
        length = _longer(network, bits)
        size = 1 << (network.max_prefixlen - length)
        at = -(-at // size) * size
        if at + size - 1 > end:
            raise ValueError(f"not enough remaining address space for a subnet of {length} bits")
        found.append(str(type(network)((at, length))))
        at += size
    return found


def _longer(network: IPv4Network | IPv6Network, bits: float) -> int:
    length = network.prefixlen + int(bits)
    if bits < 0 or length > network.max_prefixlen:
        raise ValueError(
            f"insufficient address space to extend prefix of {network.prefixlen} by {int(bits)}"
        )
    return length
