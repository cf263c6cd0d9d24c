"""Whether the daemon's options make sense, before anything is started with them.

Every error names the option by its key in daemon.json. What only the kernel knows (does
the bridge exist, is the port free) is reported at the start.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from portside.containers.validation import OWN_RUNTIMES
from portside.engine.foreign_options import BY_KEY
from portside.kernel import selinux
from portside.model.errors import InvalidParameter, PortsideError

if TYPE_CHECKING:
    from portside.engine.options import DaemonOptions

_LEVELS = ("debug", "info", "warn", "warning", "error", "fatal", "panic", "trace")
_DRIVERS = ("", "overlay", "overlay2", "overlayfs", "vfs")
_STORAGE_OPTIONS = ("overlay", "overlay2", "vfs", "dm", "zfs", "btrfs")
_RESERVED_LABELS = ("com.docker.", "io.docker.", "org.dockerproject.")
_SEARCH_DOMAIN = re.compile(
    r"\.|(?=.*[a-zA-Z])[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
    r"(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*\.?"
)
_LONGEST_PREFIX = {4: 30, 6: 126}
"""A network needs room for a gateway and a container."""


def check(options: DaemonOptions) -> None:
    """Raise InvalidParameter for the first option that cannot be right."""
    for one in (
        _check_log, _check_numbers, _check_labels, _check_modes, _check_tls, _check_registries,
        _check_network, _check_pools, _check_unsupported, _check_maps, _check_container_log,
        _check_places,
    ):  # fmt: skip
        one(options)


def warnings(options: DaemonOptions) -> list[str]:
    """Why some options change nothing here, one sentence each."""
    found = [f"{key} has no effect: {BY_KEY[key].reason}" for key in dict.fromkeys(options.ignored)
             if BY_KEY[key].reason]  # fmt: skip
    if options.selinux_enabled and not selinux.enabled():
        found.append("selinux-enabled has no effect: SELinux is not enabled on this machine")
    elif options.selinux_enabled and selinux.container_contexts() is None:
        found.append(
            "selinux-enabled has no effect: the policy has no contexts for containers "
            "(lxc_contexts)"
        )
    if options.iptables and not options.ip6tables:
        found.append(
            "ip6tables has no effect: the rules of both address families are one table; "
            "iptables=false leaves the firewall alone altogether"
        )
    for option in options.storage_opts:
        found.append(f"storage-opts: {option} has no effect")
    for option in options.exec_opts:
        if option != "native.cgroupdriver=cgroupfs":
            found.append(
                f"exec-opts: {option} has no effect: control groups are made directly "
                "(native.cgroupdriver=cgroupfs)"
            )
    for name in options.insecure_registries:
        if "://" in name:
            bare = name.partition("://")[2]
            found.append(f"insecure registry {name} is taken as {bare}: it is given without scheme")
    if options.init_path:
        found.append("init-path has no effect: the init is built in")
    return found


def _check_log(options: DaemonOptions) -> None:
    if options.log_level not in _LEVELS:
        raise InvalidParameter(f'invalid logging level: "{options.log_level}"')
    if options.log_format not in ("text", "json"):
        raise InvalidParameter(f'invalid log format: "{options.log_format}"')


def _check_numbers(options: DaemonOptions) -> None:
    if options.mtu < 0:
        raise InvalidParameter(f"invalid default MTU: {options.mtu}")
    for name in ("max_concurrent_downloads", "max_concurrent_uploads", "max_download_attempts"):
        if getattr(options, name) < 0:
            words = name.replace("_", " ")
            raise InvalidParameter(f"invalid {words}: {getattr(options, name)}")
    if not -1000 <= options.oom_score_adjust <= 1000:
        raise InvalidParameter(
            f"invalid oom-score-adjust: {options.oom_score_adjust}: it is from -1000 to 1000"
        )
    if options.default_shm_size <= 0:
        raise InvalidParameter(f"invalid default-shm-size: {options.default_shm_size}")
    for limit in options.default_ulimits.values():
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise InvalidParameter(
                f"default-ulimits.{limit.name}: soft limit must be less than or equal to hard "
                f"limit: {limit.soft} > {limit.hard}"
            )


def _check_labels(options: DaemonOptions) -> None:
    found: dict[str, str] = {}
    for label in options.labels:
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise InvalidParameter(f"bad attribute format: {label}")
        if key.lower().startswith(_RESERVED_LABELS):
            raise InvalidParameter(
                f"label {label} is not allowed: the namespaces com.docker.*, io.docker.*, and "
                "org.dockerproject.* are reserved for internal use"
            )
        if found.setdefault(key, value) != value:
            raise InvalidParameter(
                f"conflict labels for {key}={value} and {key}={found[key]}"
            )  # fmt: skip


def _check_modes(options: DaemonOptions) -> None:
    if options.default_ipc_mode not in ("private", "shareable"):
        raise InvalidParameter(
            f"default IPC mode setting ({options.default_ipc_mode}) is invalid; "
            'use "shareable" or "private"'
        )
    if options.default_cgroupns_mode not in ("", "private", "host"):
        raise InvalidParameter(
            f"invalid default cgroup namespace ({options.default_cgroupns_mode}): "
            'use "host" or "private"'
        )
    if options.publish_policy not in ("open", "host"):
        raise InvalidParameter('"publish-policy" must be open or host')
    for name in ("portside", ""):
        if name in options.runtimes:
            raise InvalidParameter(f"runtime name '{name}' is reserved")
    if options.default_runtime not in {*OWN_RUNTIMES, *options.runtimes}:
        raise InvalidParameter(
            f"specified default runtime '{options.default_runtime}' does not exist"
        )


def _check_tls(options: DaemonOptions) -> None:
    if options.uses_tls and not (options.tlscert and options.tlskey):
        raise InvalidParameter("TLS needs --tlscert and --tlskey")
    if options.tlsverify and not options.tlscacert:
        raise InvalidParameter("--tlsverify needs --tlscacert")


def _check_mirror(key: str, mirror: str) -> None:
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidParameter(
            f"{key}: invalid mirror: {mirror!r}: write http://HOST or https://HOST"
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise InvalidParameter(
            f"{key}: invalid mirror: {mirror!r}: user, query and fragment cannot be part of it"
        )


def _check_registries(options: DaemonOptions) -> None:
    for mirror in options.registry_mirrors:
        _check_mirror("registry-mirrors", mirror)
    for text in options.upstream_mirrors:
        host, equals, mirror = text.partition("=")
        if not host or not equals or "/" in host:
            raise InvalidParameter(
                f"upstream-mirrors: invalid mirror: {text!r}: write HOST=https://MIRROR"
            )
        _check_mirror("upstream-mirrors", mirror)
    for name in options.insecure_registries:
        name = name.removeprefix("https://").removeprefix("http://")
        if "://" in name:
            raise InvalidParameter(
                f"insecure-registries: insecure registry {name} should not contain '://'"
            )
        if "/" in name:
            _value("insecure-registries", name, _network)
        elif not name or name.startswith("-") or any(letter.isspace() for letter in name):
            raise InvalidParameter(f"insecure-registries: insecure registry {name!r} is not valid")


# -- networks --------------------------------------------------------------------------------


def _network(text: str) -> object:
    return ipaddress.ip_network(text, strict=False)


def _interface(version: int) -> Callable[[str], object]:
    def parse(text: str) -> object:
        found = ipaddress.ip_interface(text)
        if "/" not in text or found.version != version:
            raise ValueError(f"it needs an IPv{version} address and a prefix length")
        return found

    return parse


def _value(key: str, text: str, parse: Callable[[str], object]) -> None:
    try:
        parse(text)
    except ValueError as err:
        raise InvalidParameter(f"{key}: invalid value {text!r}: {err}") from None


def _check_network(options: DaemonOptions) -> None:
    if options.bridge and options.bip:
        raise InvalidParameter(
            "bridge and bip are mutually exclusive options: the address of a bridge of your own "
            "is already set"
        )
    readers: tuple[tuple[str, Iterable[str], Callable[[str], object]], ...] = (
        ("bip", (options.bip,), _interface(4)),
        ("bip6", (options.bip6,), _interface(6)),
        ("fixed-cidr", (options.fixed_cidr,), ipaddress.IPv4Network),
        ("fixed-cidr-v6", (options.fixed_cidr_v6,), ipaddress.IPv6Network),
        ("default-gateway", (options.default_gateway,), ipaddress.IPv4Address),
        ("default-gateway-v6", (options.default_gateway_v6,), ipaddress.IPv6Address),
        ("ip", (options.ip,), ipaddress.ip_address),
        ("dns", options.dns, ipaddress.ip_address),
        ("host-gateway-ips", options.host_gateway_ips, ipaddress.ip_address),
    )
    for key, values, parse in readers:
        for text in values:
            if text:
                _value(key, text, parse)
    for domain in options.dns_search:
        if not _SEARCH_DOMAIN.fullmatch(domain.strip()):
            raise InvalidParameter(f"dns-search: {domain} is not a valid domain")


def _check_pools(options: DaemonOptions) -> None:
    for pool in options.default_address_pools:
        try:
            base = ipaddress.ip_network(pool.base, strict=False)
        except ValueError as err:
            raise InvalidParameter(
                f"default-address-pools: invalid base {pool.base!r}: {err}"
            ) from None
        if not base.prefixlen <= pool.size <= _LONGEST_PREFIX[base.version]:
            raise InvalidParameter(
                f"default-address-pools: the size {pool.size} of {pool.base} must be from "
                f"{base.prefixlen} to {_LONGEST_PREFIX[base.version]}"
            )


# -- containers and places -------------------------------------------------------------------


def _check_unsupported(options: DaemonOptions) -> None:
    """Refuse dockerd's options that this engine does not support, rather than ignore them."""
    if options.storage_driver not in _DRIVERS:
        raise InvalidParameter(
            f"storage-driver: {options.storage_driver!r} is not supported: use overlay2 or vfs"
        )
    for option in options.storage_opts:
        name = option.partition("=")[0]
        if name.rpartition(".")[0] not in _STORAGE_OPTIONS:
            raise InvalidParameter(f"storage-opts: unknown option {option!r}")
    for option in options.exec_opts:
        if "=" not in option:
            raise InvalidParameter(f"invalid exec-opt ({option}): must be formatted 'opt=value'")
        name = option.partition("=")[0].strip().lower()
        if name != "native.cgroupdriver":
            raise InvalidParameter(f"invalid exec-opt ({option}): unknown option: '{name}'")


def _check_maps(options: DaemonOptions) -> None:
    if options.builder:
        from portside.builder.cache.pruning import parse_policy
        from portside.builder.solver.entitlements import grantable

        parse_policy(options.builder, 0)
        grantable(options.builder)
    for name, value in options.features.items():
        if not isinstance(value, bool):
            raise InvalidParameter(f"features.{name} must be true or false")
    for name, text in options.proxies.items():
        if name not in ("http-proxy", "https-proxy", "no-proxy") or not isinstance(text, str):
            raise InvalidParameter(
                f"proxies.{name}: it holds http-proxy, https-proxy and no-proxy, as strings"
            )


def _check_container_log(options: DaemonOptions) -> None:
    from portside.containers.log_config import check_log_config
    from portside.model.container import LogConfig

    for name, value in options.log_opts.items():
        if not isinstance(value, str):
            raise InvalidParameter(f"log-opts.{name} must be a string")
    try:
        check_log_config(LogConfig(type=options.log_driver, config=dict(options.log_opts)))
    except PortsideError as err:
        raise InvalidParameter(f"log-driver, log-opts: {err}") from None


def _check_places(options: DaemonOptions) -> None:
    for key, path in (("data-root", options.data_root), ("exec-root", options.exec_root)):
        if not Path(path).is_absolute():
            raise InvalidParameter(f"{key}: {path!r} is not an absolute path")
    if options.data_root == options.exec_root:
        raise InvalidParameter("--data-root and --exec-root must be different directories")
    profile = options.seccomp_profile
    if profile not in ("", "builtin", "unconfined") and not Path(profile).is_file():
        raise InvalidParameter(f"seccomp-profile: {profile}: no such file")
    parent = options.cgroup_parent
    if ":" in parent or ".." in parent.split("/"):
        raise InvalidParameter(f"cgroup-parent: invalid path {parent!r}")
