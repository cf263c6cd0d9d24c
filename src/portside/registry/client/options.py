"""How registries are reached: the keys of daemon.json that concern them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from portside.model.errors import InvalidParameter

HUB_HOST = "registry-1.docker.io"
"""The host that serves the images of ``docker.io``."""


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """Immutable; the engine makes a new one on reload (``ImageService.reconfigure``)."""

    mirrors: tuple[str, ...] = ()
    """Base URLs asked before Docker Hub (``registry-mirrors``)."""
    upstream_mirrors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Mirrors of any registry: host (such as ``quay.io``) to base URLs."""
    insecure: tuple[str, ...] = ()
    """Hosts, ``host:port`` or CIDR networks reached without TLS or with any certificate."""
    certs_dir: Path = Path("/etc/docker/certs.d")
    """``<host>[:port]/{*.crt,*.cert,*.key}``: CAs and client certificates by registry."""
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None
    """Proxy settings; None: taken from the environment."""
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    retry_delay: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""

    def __post_init__(self) -> None:
        for mirror in (*self.mirrors, *(m for ms in self.upstream_mirrors.values() for m in ms)):
            if not mirror.startswith(("http://", "https://")):
                raise InvalidParameter(
                    f'invalid mirror: "{mirror}" is not a URL: unsupported scheme, '
                    "use http:// or https://"
                )

    def is_insecure(self, host: str) -> bool:
        """Whether ``host[:port]`` may be reached by plain HTTP or with any certificate."""
        name = _hostname(host)
        if host in self.insecure or name in self.insecure or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or any(address in net for net in self._networks(address.version))

    def _networks(self, version: int) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        found = []
        for text in self.insecure:
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                continue
            if network.version == version:
                found.append(network)
        return found


def _hostname(host: str) -> str:
    """Without the port and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
