"""``system audit``: the engine's settings and files by the CIS Docker Benchmark (parts 2 and 3)."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from portside.engine.options import DEFAULT_CONFIG_FILE
from portside.kernel import selinux
from portside.model.audit_findings import INFO, PASS, WARN, Finding

if TYPE_CHECKING:
    from portside.engine.engine import Engine
    from portside.engine.options import DaemonOptions


def audit_engine(engine: Engine) -> list[Finding]:
    """All findings about the engine; reads the owners and modes of its files."""
    options = engine.options
    return [*_settings(options, engine.id_mappings is not None), *_files(options)]


def _set(key: str, value: str) -> str:
    return f'set "{key}": {value} in {DEFAULT_CONFIG_FILE}, then restart the engine'


def _settings(options: DaemonOptions, remapped: bool) -> Iterator[Finding]:
    def found(
        number: str, title: str, good: bool, reason: str, fix: str, otherwise: str = WARN
    ) -> Finding:
        if good:
            return Finding(id=number, title=title, verdict=PASS)
        return Finding(id=number, title=title, verdict=otherwise, reason=reason, fix=fix)

    tcp = [host for host in options.effective_hosts if host.startswith("tcp://")]
    builtin = options.seccomp_profile in ("", "builtin")
    yield found(
        "2.1",
        "The engine runs without root where possible",
        os.getuid() != 0,
        "it runs as root",
        "run portside as an ordinary user where that is enough",
        INFO,
    )
    yield found(
        "2.2",
        "Containers on the default bridge cannot reach each other",
        not options.icc,
        "icc is on: each container on the default bridge can reach all others",
        _set("icc", "false"),
    )
    yield found(
        "2.3",
        "The log level is info",
        options.log_level == "info",
        f"it is {options.log_level}",
        _set("log-level", '"info"'),
    )
    yield found(
        "2.4",
        "The engine may change the firewall",
        options.iptables,
        "without its rules nothing keeps networks apart",
        _set("iptables", "true"),
    )
    yield found(
        "2.5",
        "No insecure registries",
        not options.insecure_registries,
        f"unverified: {', '.join(options.insecure_registries)}",
        _set("insecure-registries", "[]"),
    )
    yield found(
        "2.7",
        "TCP sockets verify their clients",
        not tcp or options.tlsverify,
        f"{', '.join(tcp)} gives root to everybody who reaches it",
        "portside daemon --tlsverify --tlscacert FILE --tlscert FILE --tlskey FILE",
    )
    yield found(
        "2.8",
        "Default limits are set",
        bool(options.default_ulimits),
        "containers inherit the engine's limits of open files and processes",
        _set("default-ulimits", '{"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 65536}}'),
        INFO,
    )
    yield found(
        "2.9",
        "Containers have user namespaces",
        remapped or os.getuid() != 0,
        "root in a container is root of the host, held by capabilities and filters only",
        _set("userns-remap", '"default"'),
    )
    yield found(
        "2.10",
        "The default control group is used",
        not options.cgroup_parent,
        f"containers are in {options.cgroup_parent}: what else is there shares its limits",
        _set("cgroup-parent", '""'),
        INFO,
    )
    yield found(
        "2.13",
        "Logs are sent to a central place",
        options.log_driver in ("syslog", "journald"),
        f"the driver {options.log_driver} keeps them on this machine",
        _set("log-driver", '"syslog"'),
        INFO,
    )
    yield found(
        "2.14",
        "Containers cannot gain privileges",
        options.no_new_privileges,
        "a set-user-ID program in a container can give more rights than its user has",
        _set("no-new-privileges", "true"),
    )
    yield found("2.15", "Containers outlive the engine", True, "", "")
    yield found(
        "2.16",
        "No proxy for published ports",
        not options.userland_proxy,
        "IPv6 clients of containers without IPv6 are passed on by the engine",
        _set("userland-proxy", "false"),
        INFO,
    )
    yield found(
        "2.17",
        "The default seccomp profile is not replaced",
        options.seccomp_profile != "unconfined",
        "containers have no seccomp filter",
        _set("seccomp-profile", '"builtin"'),
    )
    if not builtin and options.seccomp_profile != "unconfined":
        yield found(
            "2.17",
            "The default seccomp profile is not replaced",
            False,
            f"it is {options.seccomp_profile}",
            _set("seccomp-profile", '"builtin"'),
            INFO,
        )
    yield found(
        "2.18",
        "Experimental features are off",
        not options.experimental,
        "experimental is on",
        _set("experimental", "false"),
    )
    if selinux.enabled():
        yield found(
            "5.3",
            "SELinux labels containers",
            options.selinux_enabled,
            "selinux-enabled is off",
            _set("selinux-enabled", "true"),
        )


# -- files -----------------------------------------------------------------------------------


def _files(options: DaemonOptions) -> Iterator[Finding]:
    """Owners and modes: what is less open than recommended is as good."""
    config = options.config_file or DEFAULT_CONFIG_FILE
    group = options.group
    places = [
        ("3.5", "3.6", str(Path(config).parent), "root", 0o755),
        ("3.17", "3.18", config, "root", 0o644),
        ("3.9", "3.10", options.tlscacert, "root", 0o444),
        ("3.11", "3.12", options.tlscert, "root", 0o444),
        ("3.13", "3.14", options.tlskey, "root", 0o400),
        ("3.7", "3.8", options.certs_dir, "root", 0o755),
    ]
    for host in options.effective_hosts:
        scheme, _, path = host.partition("://")
        if scheme == "unix":
            places.append(("3.15", "3.16", path, group, 0o660))
    for owner_id, mode_id, path, wanted, mode in places:
        if path:
            with suppress(OSError):
                yield from _file(owner_id, mode_id, path, wanted, mode)
    with suppress(OSError):
        yield from _mode("3.21", options.data_root, 0o710)


def _file(owner_id: str, mode_id: str, path: str, group: str, mode: int) -> Iterator[Finding]:
    about = Path(path).stat()
    user, owning = _name(about.st_uid, user=True), _name(about.st_gid, user=False)
    good = about.st_uid == os.getuid() and (about.st_gid == os.getgid() or owning == group)
    own = pwd.getpwuid(os.getuid()).pw_name
    title = "Files of the engine belong to it"
    if good:
        yield Finding(id=owner_id, title=title, verdict=PASS, subject=path)
    else:
        yield Finding(
            id=owner_id,
            title=title,
            verdict=WARN,
            subject=path,
            reason=f"it belongs to {user}:{owning}",
            fix=f"chown {own}:{group} {path}",
        )
    yield from _mode(mode_id, path, mode)


def _mode(number: str, path: str, most: int) -> Iterator[Finding]:
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    title = "Files of the engine are closed to others"
    if mode & ~most & 0o777:
        yield Finding(
            id=number,
            title=title,
            verdict=WARN,
            subject=path,
            reason=f"its mode is {mode:04o}",
            fix=f"chmod {most:o} {path}",
        )
    else:
        yield Finding(id=number, title=title, verdict=PASS, subject=path)


def _name(number: int, *, user: bool) -> str:
    try:
        return pwd.getpwuid(number).pw_name if user else grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
