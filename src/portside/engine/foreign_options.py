"""Options that dockerd 28 knows and this engine has no use for.

A daemon.json or a unit file that starts dockerd starts this engine too: these keys are accepted,
and the log says at the start why they change nothing. What would weaken security if it were
ignored is refused instead (``option_checks``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Foreign:
    """Spelling of an option without effect, and the reason why it has none."""

    key: str
    reason: str
    """Empty when ignoring it is what it asks for."""
    flag: str = ""
    """Empty when it is the key."""
    is_switch: bool = False


_NO_CONTAINERD = "containers and images are managed without containerd"
_NO_SWARM = "swarm mode is not supported"

FOREIGN: tuple[Foreign, ...] = (
    Foreign("allow-direct-routing", "direct routing is set by the network option gateway_mode_ipv4",
            is_switch=True),
    Foreign("allow-nondistributable-artifacts", "deprecated by Docker: all layers are pushed",
            flag="allow-nondistributable-artifacts"),
    Foreign("containerd", _NO_CONTAINERD),
    Foreign("containerd-namespace", _NO_CONTAINERD),
    Foreign("containerd-plugins-namespace", _NO_CONTAINERD),
    Foreign("cpu-rt-period", "real-time scheduling is set for each container only"),
    Foreign("cpu-rt-runtime", "real-time scheduling is set for each container only"),
    Foreign("cri-containerd", _NO_CONTAINERD, is_switch=True),
    Foreign("deprecated-key-path", "deprecated by Docker: schema 1 manifests are not signed"),
    Foreign("ip-forward-no-drop", "", is_switch=True),  # the policy is never set to drop
    Foreign("network-control-plane-mtu", _NO_SWARM),
    Foreign("network-diagnostic-port", _NO_SWARM),
    Foreign("node-generic-resources", _NO_SWARM, flag="node-generic-resource"),
    Foreign("raw-logs", "", is_switch=True),  # the log has no colours
    Foreign("rootless", "", is_switch=True),
    Foreign("swarm-default-advertise-addr", _NO_SWARM),
    Foreign("userland-proxy-path", "published ports need no proxy program"),
)  # fmt: skip

BY_KEY = {option.key: option for option in FOREIGN}
BY_FLAG = {option.flag or option.key: option for option in FOREIGN}
