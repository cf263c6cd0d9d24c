"""The entitlements of build steps, as BuildKit names them (``--allow``)."""

from __future__ import annotations

NETWORK_HOST, SECURITY_INSECURE, DEVICE = "network.host", "security.insecure", "device"
NAMES = (NETWORK_HOST, SECURITY_INSECURE, DEVICE)


def is_known(name: str) -> bool:
    """Whether a request can ask for an entitlement; ``device=NAME`` is for one device."""
    return name in NAMES or name.startswith(f"{DEVICE}=")
