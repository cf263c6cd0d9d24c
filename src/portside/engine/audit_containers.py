"""``system audit``: running containers by the CIS Docker Benchmark (parts 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from portside.containers import processes, user_mapping
from portside.containers.container import Record
from portside.containers.core import Core
from portside.containers.spec import security_options
from portside.kernel import apparmor
from portside.model import capabilities
from portside.model.audit_findings import INFO, PASS, WARN, Finding
from portside.model.errors import PortsideError

_SENSITIVE = ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/var/lib/docker",
              "/var/lib/portside", "/root")  # fmt: skip
_SOCKETS = ("docker.sock", "portside.sock", "containerd.sock", "crio.sock")
_LAST_PRIVILEGED = 1023


class _Check(NamedTuple):
    id: str
    title: str
    wrong: Callable[[Core, Record], str]
    """What is not as recommended; empty when everything is."""
    fix: str
    """The option of ``run`` that corrects it."""
    verdict: str = WARN
    is_live: bool = False
    """Whether ``update`` has the option, for the container that runs."""


def audit_containers(core: Core) -> list[Finding]:
    """Every check for every running container."""
    running = [c.record for c in core.containers.values() if c.record.running]
    return [finding for record in running for finding in _one(core, record)]


def _one(core: Core, record: Record) -> Iterator[Finding]:
    for check in _CHECKS:
        reason = check.wrong(core, record)
        verdict = check.verdict if reason else PASS
        fix = f"portside run {check.fix} …"
        if check.is_live:
            fix = f"portside update {check.fix} {record.name}"
        yield Finding(id=check.id, title=check.title, verdict=verdict, subject=record.name,
                      reason=reason, fix=fix if reason else "")  # fmt: skip


def _options(record: Record) -> security_options.SecurityOptions:
    return security_options.parse_security(record.host.security_opt)


def _user(core: Core, record: Record) -> str:
    name = record.config.user.partition(":")[0]
    return "it runs as root" if name in ("", "0", "root") else ""


def _apparmor(core: Core, record: Record) -> str:
    if not apparmor.enabled():
        return ""
    wanted = _options(record).apparmor
    if wanted == security_options.UNCONFINED or (record.host.privileged and not wanted):
        return "it is unconfined"
    return "" if wanted or core.options.apparmor_profile else "the engine has no profile for it"


def _selinux(core: Core, record: Record) -> str:
    if core.options.selinux is None:
        return ""
    return "" if record.process_label else "it has no label: SELinux does not confine it"


def _sshd(core: Core, record: Record) -> str:
    """Processes of the container that are named sshd, as in ps(1)."""
    try:
        group = processes.cgroup_of(core, core.containers[record.id])
        found = [_name_of(pid) for pid in group.pids()]
    except (PortsideError, OSError):
        return ""
    return "it is another way in, with passwords and keys of its own" if "sshd" in found else ""


def _name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def _ports(core: Core, record: Record) -> str:
    found = [port for port, bindings in (record.host.port_bindings or {}).items()
             if any(not b.host_ip.startswith(("127.", "::1")) for b in bindings or ())]  # fmt: skip
    if record.host.publish_all_ports:
        return "every port that the image names is published"
    return f"reachable from outside: {', '.join(found)}" if found else ""


def _newer(core: Core, record: Record) -> str:
    try:
        present = core.images.get(record.image).id
    except PortsideError:
        return ""
    return "" if present == record.image_id else f"{record.image} is another image by now"


def _image_health(core: Core, record: Record) -> str:
    if not _health(core, record):
        return ""  # the container has one of its own
    try:
        check = core.images.get(record.image_id).run.healthcheck
    except PortsideError:
        return ""
    return "" if check is not None and check.test else "its image has none"


def _capabilities(core: Core, record: Record) -> str:
    added = capabilities.normalize(record.host.cap_add or (), "CapAdd")
    more = [name for name in added if name not in capabilities.DEFAULT]
    return f"it has more capabilities than usual: {' '.join(more)}" if more else ""


def _privileged(core: Core, record: Record) -> str:
    return "it has all rights of the host" if record.host.privileged else ""


def _binds(core: Core, record: Record) -> str:
    found = [p.source for p in record.mounts if p.type == "bind" and p.rw
             and (p.source.rstrip("/") or "/") in _SENSITIVE]  # fmt: skip
    return f"it can write to {', '.join(found)} of the host" if found else ""


def _low_ports(core: Core, record: Record) -> str:
    ports = [binding.host_port for bindings in (record.host.port_bindings or {}).values()
             for binding in bindings or ()]  # fmt: skip
    low = [p for p in ports if p.isdecimal() and 0 < int(p) <= _LAST_PRIVILEGED]
    return f"published below 1024: {', '.join(low)}" if low else ""


def _any_address(core: Core, record: Record) -> str:
    if record.host.publish_all_ports:
        return "published on all addresses: every port that the image names"
    found = [port for port, bindings in (record.host.port_bindings or {}).items()
             if any(b.host_ip in ("", "0.0.0.0", "::") for b in bindings or ())]  # fmt: skip
    return f"published on all addresses: {', '.join(found)}" if found else ""


def _shares(field: str, words: str) -> Callable[[Core, Record], str]:
    return lambda core, record: words if getattr(record.host, field) == "host" else ""


def _memory(core: Core, record: Record) -> str:
    return "" if record.host.memory > 0 else "it may take all memory"


def _cpu(core: Core, record: Record) -> str:
    host = record.host
    bounded = host.nano_cpus or host.cpu_shares or host.cpu_quota > 0 or host.cpuset_cpus
    return "" if bounded else "its share of the processors is not bounded"


def _read_only(core: Core, record: Record) -> str:
    return "" if record.host.readonly_rootfs else "it can write to its root file system"


def _restart(core: Core, record: Record) -> str:
    policy = record.host.restart_policy
    if policy.name in ("always", "unless-stopped"):
        return f"the policy {policy.name} restarts it without end"
    if policy.name == "on-failure" and not 0 < policy.maximum_retry_count <= 5:
        return "it is restarted more than five times"
    return ""


def _devices(core: Core, record: Record) -> str:
    found = [device.path_on_host for device in record.host.devices or ()]
    return f"it has {', '.join(found)} of the host" if found else ""


def _propagation(core: Core, record: Record) -> str:
    found = [p.destination for p in record.mounts if p.propagation in ("shared", "rshared")]
    return f"mounts at {', '.join(found)} reach the host" if found else ""


def _seccomp(core: Core, record: Record) -> str:
    chosen = _options(record).seccomp
    if chosen == security_options.UNCONFINED or (record.host.privileged and not chosen):
        return "it has no seccomp filter"
    return "the engine's default is unconfined" if (
        not chosen and core.options.seccomp_profile == security_options.UNCONFINED
    ) else ""  # fmt: skip


def _cgroup(core: Core, record: Record) -> str:
    parent = record.host.cgroup_parent
    return f"it is in the control group {parent}" if parent else ""


def _privileges(core: Core, record: Record) -> str:
    options = security_options.parse_security(
        record.host.security_opt, core.options.no_new_privileges
    )
    return "" if options.no_new_privileges else "its set-user-ID programs can give more rights"


def _health(core: Core, record: Record) -> str:
    check = record.config.healthcheck
    return "" if check is not None and check.test and check.test[0] != "NONE" else "it has none"


def _pids(core: Core, record: Record) -> str:
    limit = record.host.pids_limit
    return "" if limit is not None and limit > 0 else "the number of its processes is not bounded"


def _bridge(core: Core, record: Record) -> str:
    mode = record.host.network_mode
    return "it is on the default bridge" if mode in ("bridge", "default") else ""


def _userns(core: Core, record: Record) -> str:
    remapped = user_mapping.of(core, record) is not None
    shared = record.host.userns_mode == "host" and core.options.id_mappings is not None
    return "" if remapped or not shared else "its root is root of the host"


def _sockets(core: Core, record: Record) -> str:
    found = [p.source for p in record.mounts if p.source.rpartition("/")[2] in _SOCKETS]
    return f"{', '.join(found)} makes it root of the host" if found else ""


def _ulimits(core: Core, record: Record) -> str:
    found = [limit.name for limit in record.host.ulimits or ()]
    return f"it overrides {', '.join(found)}" if found else ""


_CHECKS = (
    _Check("4.1", "It has a user of its own", _user, "--user USER"),
    _Check("4.6", "Its image has a health check", _image_health,
           "--health-cmd COMMAND (HEALTHCHECK in the Dockerfile)", INFO),
    _Check("5.2", "It has an AppArmor profile", _apparmor, "--security-opt apparmor=PROFILE"),
    _Check("5.3", "It has an SELinux label", _selinux, "--security-opt label=type:TYPE"),
    _Check("5.4", "Capabilities are restricted", _capabilities,
           "--cap-drop ALL --cap-add NAME (of the default capabilities)"),
    _Check("5.5", "It is not privileged", _privileged, "(without --privileged)"),
    _Check("5.6", "No sensitive directory of the host is writable", _binds, "-v SOURCE:TARGET:ro"),
    _Check("5.7", "No sshd runs in it", _sshd, "(without sshd: portside exec)"),
    _Check("5.8", "No ports below 1024 are published", _low_ports, "-p 8080:80", INFO),
    _Check("5.9", "Only needed ports are open", _ports, "(without -p PORT)", INFO),
    _Check("5.10", "It does not share the host's network", _shares("network_mode",
           "it can reach everything on the host's loopback"), "--network NETWORK"),
    _Check("5.11", "Its memory is limited", _memory,
           "--memory 512m --memory-swap 512m", is_live=True),
    _Check("5.12", "Its processor time is limited", _cpu, "--cpus 1", is_live=True),
    _Check("5.13", "Its root file system is read-only", _read_only, "--read-only --tmpfs /tmp"),
    _Check("5.14", "Ports are published on one address", _any_address, "-p 127.0.0.1:8080:80"),
    _Check("5.15", "Restarts are bounded", _restart, "--restart on-failure:5",
           is_live=True),
    _Check("5.16", "It does not see the host's processes", _shares("pid_mode",
           "it sees and signals processes of the host"), "(without --pid host)"),
    _Check("5.17", "It does not share the host's memory segments", _shares("ipc_mode",
           "it shares memory and queues with the host"), "(without --ipc host)"),
    _Check("5.18", "It has no devices of the host", _devices, "(without --device)", INFO),
    _Check("5.19", "It keeps the default limits", _ulimits, "(without --ulimit)", INFO),
    _Check("5.20", "No mounts reach the host", _propagation, "-v SOURCE:TARGET:rslave"),
    _Check("5.21", "It does not share the host's name", _shares("uts_mode",
           "it can change the host's name"), "(without --uts host)"),
    _Check("5.22", "It has a seccomp filter", _seccomp, "--security-opt seccomp=builtin"),
    _Check("5.25", "It is in the engine's control group", _cgroup, "(without --cgroup-parent)",
           INFO),
    _Check("5.26", "It cannot gain privileges", _privileges, "--security-opt no-new-privileges"),
    _Check("5.27", "Its health is checked", _health, "--health-cmd COMMAND"),
    _Check("5.28", "It runs what its image's name means now", _newer, "--pull always", INFO),
    _Check("5.29", "The number of its processes is limited", _pids, "--pids-limit 200",
           is_live=True),
    _Check("5.30", "It is not on the default bridge", _bridge, "--network NETWORK"),
    _Check("5.31", "It has a user namespace where the engine gives one", _userns,
           "(without --userns host)"),
    _Check("5.32", "It has no engine's socket", _sockets, "(without the socket's mount)"),
)  # fmt: skip
