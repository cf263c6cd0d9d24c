"""``system audit``: the engine's settings and files by the CIS Docker Benchmark (parts 1 to 3, 5.1
and 6). What only a person can judge (1.2.1, 4.2 to 4.5, 4.7 to 4.12, 5.23, 5.24) and what is about
swarms (part 7) is left out."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import portside
from portside.engine.options import DEFAULT_CONFIG_FILE
from portside.kernel import selinux
from portside.model.audit_findings import INFO, PASS, WARN, Finding
from portside.model.log_drivers import REMOTE
from portside.model.paths import rootless_user

if TYPE_CHECKING:
    from portside.engine.engine import Engine
    from portside.engine.options import DaemonOptions


async def audit_all(engine: Engine) -> list[Finding]:
    """The engine and its running containers beside the CIS Docker Benchmark."""
    from portside.engine.audit_containers import audit_containers

    found = await asyncio.to_thread(audit_engine, engine)
    return [*found, *audit_sprawl(engine), *audit_containers(engine.containers)]


def audit_engine(engine: Engine) -> list[Finding]:
    """All findings about the engine; reads the owners and modes of its files."""
    options = engine.options
    return [
        *_machine(options),
        *_settings(options, engine.id_mappings is not None),
        *_files(options),
    ]


def _config_file(options: DaemonOptions) -> str:
    return options.config_file or DEFAULT_CONFIG_FILE


def _settings(options: DaemonOptions, remapped: bool) -> Iterator[Finding]:
    def found(
        number: str, title: str, good: bool, reason: str, fix: str, otherwise: str = WARN
    ) -> Finding:
        if good:
            return Finding(id=number, title=title, verdict=PASS)
        return Finding(id=number, title=title, verdict=otherwise, reason=reason, fix=fix)

    file = _config_file(options)

    def setting(key: str, value: str) -> str:
        return f'set "{key}": {value} in {file} (and no flag for it), then restart the engine'

    rootless = rootless_user() != 0
    tcp = [host for host in options.effective_hosts if host.startswith("tcp://")]
    builtin = options.seccomp_profile in ("", "builtin")
    yield found(
        "2.1",
        "The engine runs without root where possible",
        rootless,
        "it runs as root",
        "run portside as an ordinary user where that is enough",
        INFO,
    )
    yield found(
        "2.2",
        "Containers on the default bridge cannot reach each other",
        not options.icc,
        "icc is on: each container on the default bridge can reach all others",
        setting("icc", "false"),
    )
    yield found(
        "2.3",
        "The log level is info",
        options.log_level == "info",
        f"it is {options.log_level}",
        setting("log-level", '"info"'),
    )
    yield found(
        "2.4",
        "The engine may change the firewall",
        options.iptables,
        "without its rules nothing keeps networks apart",
        setting("iptables", "true"),
    )
    yield found(
        "2.5",
        "No insecure registries",
        not options.insecure_registries,
        f"unverified: {', '.join(options.insecure_registries)}",
        setting("insecure-registries", "[]"),
    )
    yield found("2.6", "The storage driver aufs is not used", True, "", "")
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
        setting("default-ulimits", '{"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 65536}}'),
        INFO,
    )
    yield found(
        "2.9",
        "Containers have user namespaces",
        remapped or rootless,
        "root in a container is root of the host, held by capabilities and filters only",
        setting("userns-remap", '"default"'),
    )
    yield found(
        "2.10",
        "The default control group is used",
        not options.cgroup_parent,
        f"containers are in {options.cgroup_parent}: what else is there shares its limits",
        setting("cgroup-parent", '""'),
        INFO,
    )
    sizes = [option for option in options.storage_opts if "basesize" in option]
    yield found(
        "2.11",
        "The base device size is not changed",
        not sizes,
        f"storage-opts: {', '.join(sizes)}",
        setting("storage-opts", "[]"),
        INFO,
    )
    yield found(
        "2.12",
        "Commands of clients are authorized",
        rootless,
        "whoever may open the socket may do everything: authorization plugins are not supported",
        "run an engine without root for each user (portside run as that user starts it)",
        INFO,
    )
    yield found(
        "2.13",
        "Logs are sent to a central place",
        options.log_driver in REMOTE,
        f"the driver {options.log_driver} keeps them on this machine",
        setting("log-driver", '"syslog"'),
        INFO,
    )
    yield found(
        "2.14",
        "Containers cannot gain privileges",
        options.no_new_privileges,
        "a set-user-ID program in a container can give more rights than its user has",
        setting("no-new-privileges", "true"),
    )
    yield found("2.15", "Containers outlive the engine", True, "", "")
    yield found(
        "2.16",
        "No proxy for published ports",
        not options.userland_proxy,
        "IPv6 clients of containers without IPv6 are passed on by the engine",
        setting("userland-proxy", "false"),
        INFO,
    )
    yield found(
        "2.17",
        "The default seccomp profile is not replaced",
        options.seccomp_profile != "unconfined",
        "containers have no seccomp filter",
        setting("seccomp-profile", '"builtin"'),
    )
    if not builtin and options.seccomp_profile != "unconfined":
        yield found(
            "2.17",
            "The default seccomp profile is not replaced",
            False,
            f"it is {options.seccomp_profile}",
            setting("seccomp-profile", '"builtin"'),
            INFO,
        )
    yield found(
        "2.18",
        "Experimental features are off",
        not options.experimental,
        "experimental is on",
        setting("experimental", "false"),
    )
    yield found("5.1", "Swarm mode is off", True, "", "")
    if selinux.enabled():
        yield found(
            "5.3",
            "SELinux labels containers",
            options.selinux_enabled,
            "selinux-enabled is off",
            setting("selinux-enabled", "true"),
        )


def _machine(options: DaemonOptions) -> Iterator[Finding]:
    """Part 1, as far as it is about the engine's own files and users."""
    root = options.data_root
    with suppress(OSError):
        separate = Path(root).stat().st_dev != Path("/").stat().st_dev
        yield Finding(
            id="1.1.1",
            title="Containers have a file system of their own",
            verdict=PASS if separate else INFO,
            subject=root,
            reason="" if separate else "a full disk of containers is a full disk of the machine",
            fix="" if separate else f"mount a file system at {root}",
        )
    users = [] if rootless_user() else _members(options.group)
    yield Finding(
        id="1.1.2",
        title="Only trusted users control the engine",
        verdict=INFO if users else PASS,
        subject=options.group,
        reason=f"with root's rights: {', '.join(users)}" if users else "",
        fix=f"gpasswd --delete USER {options.group}" if users else "",
    )
    rules = _audit_rules()
    program, settings = (
        portside.__file__.rpartition("/")[0],
        str(Path(_config_file(options)).parent),
    )
    places = {"1.1.3": program, "1.1.4": options.exec_root, "1.1.5": root, "1.1.6": settings}
    for number, path in places.items():
        if Path(path).exists():
            watched = any(Path(path).is_relative_to(rule) for rule in rules)
            yield Finding(
                id=number,
                title="Changes of the engine's files are audited",
                verdict=PASS if watched else INFO,
                subject=path,
                reason="" if watched else "no rule of auditd watches it",
                fix="" if watched else _watch(path),
            )


def _members(group: str) -> list[str]:
    """Users other than root that may open the socket."""
    with suppress(KeyError):
        found = grp.getgrnam(group)
        return sorted({*found.gr_mem, *(u.pw_name for u in pwd.getpwall()
                                        if u.pw_gid == found.gr_gid)} - {"root"})  # fmt: skip
    return []


_RULES = Path("/etc/audit/rules.d")


def _watch(path: str) -> str:
    """A rule that outlives a restart of the machine."""
    rule = shlex.quote(f"-w {shlex.quote(path)} -k portside")
    return f"echo {rule} >> {_RULES}/portside.rules && augenrules --load"


def _audit_rules() -> list[str]:
    """The paths that auditd watches (audit.rules(7)): as files or directories with all below."""
    found: list[str] = []
    for file in (_RULES.parent / "audit.rules", *_RULES.glob("*.rules")):
        with suppress(OSError):
            for line in file.read_text(errors="replace").splitlines():
                found += _watched(line)
    return found


def _watched(rule: str) -> Iterator[str]:
    """The paths of one line."""
    try:
        words = shlex.split(rule, comments=True)
    except ValueError:
        return
    for flag, word in pairwise(words):
        key, equals, value = word.partition("=")
        if flag == "-w":
            yield word
        elif flag == "-F" and equals and key in ("path", "dir"):
            yield value


def audit_sprawl(engine: Engine) -> Iterator[Finding]:
    """Part 6: what is kept and not used. In the engine's own thread."""
    core, counts = engine.containers, engine.containers.counts()
    used = {container.record.image_id for container in core.containers.values()}
    idle = max(0, engine.image_count() - len(used))
    yield Finding(
        id="6.1",
        title="Images that no container uses are removed",
        verdict=INFO if idle else PASS,
        reason=f"{idle} are not used" if idle else "",
        fix="portside image prune --all" if idle else "",
    )
    stopped = counts.stopped
    yield Finding(
        id="6.2",
        title="Containers that do not run are removed",
        verdict=INFO if stopped else PASS,
        reason=f"{stopped} of {counts.total} do not run" if stopped else "",
        fix="portside container prune" if stopped else "",
    )


_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system")


# -- files -----------------------------------------------------------------------------------


def _files(options: DaemonOptions) -> Iterator[Finding]:
    """Owners and modes: what is less open than recommended is as good."""
    config = _config_file(options)
    group = options.group
    places = [
        ("3.5", "3.6", str(Path(config).parent), "root", 0o755),
        ("3.17", "3.18", config, "root", 0o644),
        ("3.9", "3.10", options.tlscacert, "root", 0o444),
        ("3.11", "3.12", options.tlscert, "root", 0o444),
        ("3.13", "3.14", options.tlskey, "root", 0o400),
        ("3.7", "3.8", options.certs_dir, "root", 0o755),
        ("data-root-owner", "data-root", options.data_root, "root", 0o710),
        ("exec-root-owner", "exec-root", options.exec_root, "root", 0o711),
    ]
    for host in options.effective_hosts:
        scheme, _, path = host.partition("://")
        if scheme == "unix":
            places.append(("3.15", "3.16", path, group, 0o660))
    for owner_id, mode_id, path, wanted, mode in places:
        if path:
            with suppress(OSError):
                yield from _file(owner_id, mode_id, path, wanted, mode)
    if rootless_user():
        return  # the system's files are not this engine's
    for owner_id, mode_id, unit in (("3.1", "3.2", "service"), ("3.3", "3.4", "socket")):
        for directory in _UNITS:
            with suppress(OSError):
                yield from _file(owner_id, mode_id, f"{directory}/portside.{unit}", "root", 0o644)
    for owner_id, mode_id, path in (("3.19", "3.20", "/etc/default/portside"),
                                    ("3.22", "3.21", "/etc/sysconfig/portside")):  # fmt: skip
        with suppress(OSError):
            yield from _file(owner_id, mode_id, path, "root", 0o644)


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
            fix=f"chown {own}:{group} {shlex.quote(path)}",
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
            fix=f"chmod {most:o} {shlex.quote(path)}",
        )
    else:
        yield Finding(id=number, title=title, verdict=PASS, subject=path)


def _name(number: int, *, user: bool) -> str:
    try:
        return pwd.getpwuid(number).pw_name if user else grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
