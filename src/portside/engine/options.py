"""The daemon's options, under dockerd's names. One table for flags and daemon.json.

Each field of :class:`DaemonOptions` has its flag, its key in the configuration file, its
help and whether SIGHUP reloads it. ``portside.daemon.config`` reads both sources.
"""

# ruff: noqa: RUF009 - _option returns dataclasses.field(...)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from portside.model.errors import InvalidParameter, InvalidText
from portside.model.golang.numbers import atoi
from portside.model.paths import (
    DEFAULT_CONFIG_DIR,
    DEFAULT_DATA_ROOT,
    DEFAULT_EXEC_ROOT,
    DEFAULT_SOCKET,
)

DEFAULT_CONFIG_FILE = f"{DEFAULT_CONFIG_DIR}/daemon.json"


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit (setrlimit(2)); -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Runtime:
    """A further OCI runtime (``runtimes`` in daemon.json, ``--add-runtime name=path``)."""

    path: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """``--default-address-pool base=10.0.0.0/8,size=24``."""

    base: str
    size: int


@dataclass(frozen=True, slots=True)
class Spec:
    """Spelling of one option."""

    flag: str
    key: str
    kind: str
    """str, bool, int, size, seconds, list, map, ulimits, runtimes, pools, network-options."""
    help: str
    short: str = ""
    reloads: bool = False
    flag_only: bool = False


def _option(
    default: Any,
    flag: str,
    help: str,
    *,
    kind: str = "",
    key: str = "",
    short: str = "",
    reloads: bool = False,
    flag_only: bool = False,
) -> Any:
    if not kind:
        kinds = {bool: "bool", int: "int", str: "str", tuple: "list", dict: "map"}
        kind = kinds[type(default)]
    spec = Spec(flag, key or flag, kind, help, short, reloads, flag_only)
    make: Callable[[], Any] = default.copy if isinstance(default, dict) else lambda: default
    return field(default_factory=make, metadata={"spec": spec})


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonOptions:
    """All options with their defaults."""

    # where it lives
    hosts: tuple[str, ...] = _option(
        (), "host", f"Daemon socket(s) to listen on (default unix://{DEFAULT_SOCKET})",
        key="hosts", short="H")  # fmt: skip
    data_root: str = _option(
        DEFAULT_DATA_ROOT, "data-root", "Root directory of persistent state", short="g"
    )
    exec_root: str = _option(
        DEFAULT_EXEC_ROOT, "exec-root", "Root directory for execution state files"
    )
    pidfile: str = _option("", "pidfile", "Path to use for daemon PID file", short="p")
    group: str = _option("docker", "group", "Group for the unix socket", short="G")
    config_file: str = _option(
        "", "config-file", f"Daemon configuration file (default {DEFAULT_CONFIG_FILE})",
        flag_only=True)  # fmt: skip
    validate: bool = _option(
        False, "validate", "Validate the configuration and exit", flag_only=True
    )
    link_docker_sock: bool = _option(
        False,
        "link-docker-sock",
        "Link /var/run/docker.sock to our socket if no Docker lives there",
    )

    # TLS
    tls: bool = _option(False, "tls", "Use TLS; implied by --tlsverify")
    tlsverify: bool = _option(False, "tlsverify", "Use TLS and verify the remote")
    tlscacert: str = _option("", "tlscacert", "Trust certs signed only by this CA")
    tlscert: str = _option("", "tlscert", "Path to TLS certificate file")
    tlskey: str = _option("", "tlskey", "Path to TLS key file")
    insecure_tcp: bool = _option(
        False, "insecure-tcp", "Allow unencrypted tcp:// listeners off loopback (gives root to all)"
    )

    # talking
    debug: bool = _option(False, "debug", "Enable debug mode", short="D", reloads=True)
    log_level: str = _option(
        "info", "log-level", "Set the logging level (debug|info|warn|error|fatal)",
        short="l", reloads=True)  # fmt: skip
    log_format: str = _option("text", "log-format", "Set the logging format (text|json)")
    labels: tuple[str, ...] = _option(
        (), "label", "Set key=value labels to the daemon", key="labels", reloads=True
    )
    buildkit_host: str = _option(
        "",
        "buildkit-host",
        "Serve BuildKit's own API there, too: unix:///run/buildkit/buildkitd.sock",
    )
    metrics_addr: str = _option("", "metrics-addr", "Address and port to serve the metrics API")

    # registries
    registry_mirrors: tuple[str, ...] = _option(
        (), "registry-mirror", "Preferred registry mirror", key="registry-mirrors", reloads=True
    )
    upstream_mirrors: tuple[str, ...] = _option(
        (), "upstream-mirror", "Mirror of another registry: HOST=URL, such as quay.io=https://m",
        key="upstream-mirrors", reloads=True)  # fmt: skip
    insecure_registries: tuple[str, ...] = _option(
        (), "insecure-registry", "Registries spoken to without or with unverified TLS",
        key="insecure-registries", reloads=True)  # fmt: skip
    certs_dir: str = _option(
        "/etc/docker/certs.d", "certs-dir", "Certificates by registry (<host>/*.crt, *.cert, *.key)"
    )
    max_concurrent_downloads: int = _option(
        3, "max-concurrent-downloads", "Set the max concurrent downloads", reloads=True
    )
    max_concurrent_uploads: int = _option(
        5, "max-concurrent-uploads", "Set the max concurrent uploads", reloads=True
    )
    max_download_attempts: int = _option(
        5, "max-download-attempts", "Set the max download attempts for each pull", reloads=True
    )
    http_proxy: str = _option("", "http-proxy", "HTTP proxy URL to use for outgoing traffic")
    https_proxy: str = _option("", "https-proxy", "HTTPS proxy URL to use for outgoing traffic")
    no_proxy: str = _option("", "no-proxy", "Hosts or IP addresses for which no proxy is used")
    proxies: dict[str, str] = _option({}, "", "", key="proxies")

    # networks
    bridge: str = _option("", "bridge", "Attach containers to a network bridge", short="b")
    bip: str = _option("", "bip", "IPv4 address and prefix for the default bridge")
    bip6: str = _option("", "bip6", "IPv6 address and prefix for the default bridge")
    fixed_cidr: str = _option("", "fixed-cidr", "IPv4 subnet for the default bridge network")
    fixed_cidr_v6: str = _option("", "fixed-cidr-v6", "IPv6 subnet for the default bridge network")
    default_gateway: str = _option(
        "", "default-gateway", "Default gateway IPv4 address for the default bridge network"
    )
    default_gateway_v6: str = _option(
        "", "default-gateway-v6", "Default gateway IPv6 address for the default bridge network"
    )
    default_network_opts: dict[str, dict[str, str]] = _option(
        {}, "default-network-opt", "Default network options (driver=key=value)",
        kind="network-options", key="default-network-opts")  # fmt: skip
    default_address_pools: tuple[Pool, ...] = _option(
        (), "default-address-pool", "Default address pools for node specific local networks",
        kind="pools", key="default-address-pools")  # fmt: skip
    mtu: int = _option(0, "mtu", "Set the MTU of the default bridge network")
    icc: bool = _option(True, "icc", "Enable inter-container communication for the default bridge")
    ipv6: bool = _option(False, "ipv6", "Enable IPv6 networking for the default bridge network")
    default_network_ipv6: bool = _option(
        False, "default-network-ipv6", "Make user networks dual-stack unless they say otherwise"
    )
    ip: str = _option("", "ip", "Host IP for port publishing from the default bridge network")
    ip_forward: bool = _option(True, "ip-forward", "Enable IP forwarding in system configuration")
    ip_masq: bool = _option(
        True, "ip-masq", "Enable IP masquerading for the default bridge network"
    )
    iptables: bool = _option(True, "iptables", "Enable addition of firewall rules")
    ip6tables: bool = _option(True, "ip6tables", "Enable addition of IPv6 firewall rules")
    publish_policy: str = _option(
        "open", "publish-policy", "Published ports: open, or host to obey the host's input policy"
    )
    userland_proxy: bool = _option(
        True, "userland-proxy", "Pass IPv6 clients on to containers with IPv4 only"
    )
    dns: tuple[str, ...] = _option((), "dns", "DNS server to use")
    dns_opts: tuple[str, ...] = _option((), "dns-opt", "DNS options to use", key="dns-opts")
    dns_search: tuple[str, ...] = _option((), "dns-search", "DNS search domains to use")
    host_gateway_ips: tuple[str, ...] = _option(
        (), "host-gateway-ip", "IP addresses that host-gateway resolves to",
        key="host-gateway-ips")  # fmt: skip

    # containers
    default_ulimits: dict[str, Ulimit] = _option(
        {}, "default-ulimit", "Default ulimits for containers", kind="ulimits",
        key="default-ulimits")  # fmt: skip
    default_shm_size: int = _option(
        64 << 20, "default-shm-size", "Default shm size for containers", kind="size", reloads=True
    )
    default_ipc_mode: str = _option(
        "private", "default-ipc-mode", "Default mode for containers ipc (shareable|private)"
    )
    default_cgroupns_mode: str = _option(
        "", "default-cgroupns-mode", "Default mode for containers cgroup namespace (host|private)"
    )
    cgroup_parent: str = _option("", "cgroup-parent", "Set parent cgroup for all containers")
    init: bool = _option(False, "init", "Run an init in the container to forward signals and reap")
    init_path: str = _option("", "init-path", "Path to the docker-init binary (statically linked)")
    no_new_privileges: bool = _option(
        False, "no-new-privileges", "Set no-new-privileges by default for new containers"
    )
    seccomp_profile: str = _option("", "seccomp-profile", "Path to seccomp profile, or unconfined")
    selinux_enabled: bool = _option(False, "selinux-enabled", "Enable selinux support")
    userns_remap: str = _option("", "userns-remap", "User/Group setting for user namespaces")
    log_driver: str = _option("json-file", "log-driver", "Default driver for container logs")
    log_opts: dict[str, str] = _option(
        {}, "log-opt", "Default log driver options for containers", key="log-opts"
    )
    default_runtime: str = _option(
        "portside", "default-runtime", "Default OCI runtime for containers", reloads=True
    )
    runtimes: dict[str, Runtime] = _option(
        {}, "add-runtime", "Register an additional OCI compatible runtime", kind="runtimes",
        key="runtimes", reloads=True)  # fmt: skip
    cdi_spec_dirs: tuple[str, ...] = _option(
        ("/etc/cdi", "/var/run/cdi"), "cdi-spec-dir", "CDI specification directories to use",
        key="cdi-spec-dirs")  # fmt: skip
    shutdown_timeout: int = _option(
        15, "shutdown-timeout", "Set the default shutdown timeout", reloads=True
    )
    live_restore: bool = _option(
        True, "live-restore", "Accepted: containers always survive the engine", reloads=True
    )
    exec_opts: tuple[str, ...] = _option(
        (), "exec-opt", "Runtime execution options", key="exec-opts"
    )
    oom_score_adjust: int = _option(0, "oom-score-adjust", "Set the oom_score_adj for the daemon")

    # storage
    storage_driver: str = _option(
        "", "storage-driver", "Storage driver to use (overlay|vfs)", short="s"
    )
    storage_opts: tuple[str, ...] = _option(
        (), "storage-opt", "Storage driver options", key="storage-opts"
    )
    features: dict[str, bool] = _option(
        {}, "feature", "Enable feature in the daemon", key="features", reloads=True
    )
    experimental: bool = _option(False, "experimental", "Enable experimental features")
    builder: dict[str, Any] = _option({}, "", "", key="builder")
    """``gc`` with BuildKit's policy keys: the bounds of the build cache; ``entitlements``."""
    ignored: tuple[str, ...] = _option((), "", "", flag_only=True)
    """Keys of dockerd's without effect here (:mod:`portside.engine.foreign_options`)."""

    @property
    def insecure_hosts(self) -> tuple[str, ...]:
        """``insecure-registries`` without the schemes that some write before them."""
        return tuple(name.rpartition("://")[2] for name in self.insecure_registries)

    @property
    def uses_tls(self) -> bool:
        return self.tls or self.tlsverify

    @property
    def effective_hosts(self) -> tuple[str, ...]:
        """Addresses to listen on; without ``--host`` the socket where clients look for it, wherever
        the exec root is (as dockerd's)."""
        return self.hosts or (f"unix://{DEFAULT_SOCKET}",)

    @property
    def effective_pidfile(self) -> str:
        return self.pidfile or f"{self.exec_root}/portside.pid"


def specs() -> dict[str, Spec]:
    """Field name to how the option is written."""
    return {item.name: item.metadata["spec"] for item in fields(DaemonOptions)}


def parse_ulimit(text: str) -> Ulimit:
    """``nofile=1024:2048``, or one number for both."""
    name, equals, value = text.partition("=")
    soft, _, hard = value.partition(":")
    try:
        low = atoi(soft)
        high = atoi(hard) if hard else low
    except InvalidText:
        raise InvalidParameter(f"invalid ulimit argument: {text}") from None
    if not equals or not name:
        raise InvalidParameter(f"invalid ulimit argument: {text}")
    if high != -1 and (low > high or low == -1):
        raise InvalidParameter(
            f"ulimit soft limit must be less than or equal to hard limit: {low} > {high}"
        )
    from portside.containers.spec.oci_process import RLIMITS

    if name not in RLIMITS:
        raise InvalidParameter(f"invalid ulimit type: {name}")
    return Ulimit(name, low, high)


def parse_pool(text: str) -> Pool:
    """``base=10.10.0.0/16,size=24``."""
    found = dict(part.partition("=")[::2] for part in text.split(","))
    if set(found) != {"base", "size"} or not found["size"].isdecimal():
        raise InvalidParameter(
            f"invalid default address pool: {text!r}: write base=10.10.0.0/16,size=24"
        )
    return Pool(found["base"], int(found["size"]))
