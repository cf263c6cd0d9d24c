"""Endpoints of a registry: its mirrors first, then the registry itself.

As Docker does: a registry that is insecure (``insecure-registries``, loopback) is tried
with TLS but without checking the certificate, then in plain HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from portside.model.reference import DEFAULT_DOMAIN
from portside.registry.client.options import HUB_HOST, RegistryOptions


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One base URL, without a trailing slash."""

    url: str
    host: str
    """``host[:port]``, as certs.d and credentials name it."""
    verify: bool = True
    """Whether the certificate must be good."""
    is_mirror: bool = False
    namespace: str = ""
    """The registry that a mirror mirrors, sent as ``ns`` so that one mirror can serve many."""

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https://")


def endpoints(options: RegistryOptions, domain: str, *, push: bool = False) -> list[Endpoint]:
    """A registry's endpoints in the order to try them. Pushes never go to mirrors."""
    found = [] if push else _mirrors(options, domain)
    if domain == DEFAULT_DOMAIN:
        return [*found, Endpoint(f"https://{HUB_HOST}", HUB_HOST)]
    if not options.is_insecure(domain):
        return [*found, Endpoint(f"https://{domain}", domain)]
    return [
        *found,
        Endpoint(f"https://{domain}", domain, verify=False),
        Endpoint(f"http://{domain}", domain, verify=False),
    ]


def _mirrors(options: RegistryOptions, domain: str) -> list[Endpoint]:
    urls = list(options.upstream_mirrors.get(domain, ()))
    if domain == DEFAULT_DOMAIN:
        urls += options.mirrors
    found = []
    for url in urls:
        host = urlsplit(url).netloc.rpartition("@")[2]
        namespace = "" if domain == DEFAULT_DOMAIN else domain
        found.append(
            Endpoint(
                url.rstrip("/"),
                host,
                verify=not options.is_insecure(host),
                is_mirror=True,
                namespace=namespace,
            )
        )
    return found
