"""From Docker's configuration to the OCI runtime-spec, which the runtime carries out.

::

    ContainerConfig (image merged in)  ─┐
    HostConfig                          ├─►  build(SpecInputs)  ─►  ociruntime.Spec
    mounts, user, namespaces to join   ─┘

Everything that needs another service (volumes, networks, users, other containers) is
resolved before and comes in as a plain value, so building a spec does no I/O but looking at
device nodes.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field

from portside.containers.spec import (
    oci_mounts,
    oci_process,
    oci_resources,
    security_options,
)
from portside.kernel import apparmor, idmapped
from portside.model import capabilities
from portside.model import ociruntime as oci
from portside.model.container import ContainerConfig, HostConfig, Ulimit
from portside.model.errors import InvalidParameter
from portside.model.idmap import IDMappings
from portside.model.ociruntime import MOUNT_CONTEXT_TYPE
from portside.model.selinux_label import NO_LABELS, Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The daemon's defaults for options that a container does not set."""

    cgroup_parent: str = "/portside"
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = oci_mounts.SHM_SIZE
    ipc_mode: str = "private"
    cgroupns_mode: str = "private"
    """``private`` or ``host``; Docker's is private on cgroup v2 and host on v1."""
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    """JSON text of ``--seccomp-profile``, ``unconfined``, or empty for the built-in one."""
    apparmor_profile: str = ""
    """The default profile's name where AppArmor is on, else empty."""
    init: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecInputs:
    """All that makes one container."""

    id: str
    config: ContainerConfig
    host: HostConfig
    directory: str
    """Host directory with the container's ``hosts``, ``hostname`` and ``resolv.conf``."""
    user: oci.User = field(default_factory=lambda: oci.User(uid=0, gid=0))
    """Already looked up in the container's passwd and group files."""
    mounts: tuple[oci.Mount, ...] = ()
    """Binds, volumes and ``--mount``; ``--tmpfs`` is added here."""
    links: tuple[str, ...] = ()
    """Environment variables of legacy links."""
    joined: dict[str, int] = field(default_factory=dict)
    """Namespace type (``pid``, ``ipc``, ``network``) to the init process of the container
    whose namespace is shared (``container:ID``)."""
    root: str = "rootfs"
    devices: tuple[oci.Device, ...] = ()
    """Further nodes (CDI), which are allowed as well."""
    id_mappings: IDMappings | None = None
    """Mappings of the user namespace; None is the host's. ``joined`` may name its container."""
    labels: Labels = NO_LABELS
    """SELinux labels."""
    shows_selinux: bool = False
    """Programs inside see SELinux and may label (``label=nested``)."""
    defaults: Defaults = field(default_factory=Defaults)


def build_spec(inputs: SpecInputs) -> oci.Spec:
    """The whole configuration. Raises InvalidParameter for what the user got wrong."""
    host, options = (
        inputs.host,
        security_options.parse_security(
            inputs.host.security_opt, inputs.defaults.no_new_privileges
        ),
    )
    caps = capabilities.tweak(host.cap_add or (), host.cap_drop or (), host.privileged)
    return oci.Spec(
        process=_process(inputs, options, caps),
        root=oci.Root(inputs.root, host.readonly_rootfs),
        hostname="" if host.uts_mode == "host" else inputs.config.hostname,
        domainname="" if host.uts_mode == "host" else inputs.config.domainname,
        mounts=tuple(_mounts(inputs, options)),
        annotations=_annotations(inputs),
        linux=_linux(inputs, options, caps),
    )


def _annotations(inputs: SpecInputs) -> dict[str, str]:
    found = dict(inputs.host.annotations or {})
    if inputs.shows_selinux:  # files of a file system's own context could not be labelled
        found.setdefault(MOUNT_CONTEXT_TYPE, "rootcontext")
    return found


def _process(
    inputs: SpecInputs, options: security_options.SecurityOptions, caps: tuple[str, ...]
) -> oci.Process:
    config, host = inputs.config, inputs.host
    size = None
    if config.tty and any(host.console_size):
        size = oci.Box(height=host.console_size[0], width=host.console_size[1])
    return oci.Process(
        terminal=config.tty,
        console_size=size,
        user=inputs.user,
        args=oci_process.arguments(config),
        env=oci_process.environment(config, config.hostname, inputs.links, terminal=config.tty),
        cwd=config.working_dir or "/",
        capabilities=oci_process.capabilities(caps),
        rlimits=oci_process.rlimits(host.ulimits, inputs.defaults.ulimits),
        no_new_privileges=options.no_new_privileges,
        apparmor_profile=apparmor_of(options, host.privileged, inputs.defaults),
        oom_score_adj=oci_process.oom_score_adj(host.oom_score_adj),
        selinux_label=inputs.labels.process,
    )


_DOCKERS_PROFILE = "docker-default"


def apparmor_of(
    options: security_options.SecurityOptions, privileged: bool, defaults: Defaults
) -> str:
    """The profile's name; privileged containers are unconfined unless a profile was requested.

    Where the kernel has AppArmor, a profile is always applied, or the start fails: also when the
    default could not be loaded. Docker's default means ours where no dockerd has loaded it.
    """
    wanted = options.apparmor
    if wanted == _DOCKERS_PROFILE and defaults.apparmor_profile and not apparmor.is_loaded(wanted):
        return defaults.apparmor_profile
    if wanted and apparmor.enabled():
        return wanted
    if not defaults.apparmor_profile:
        return ""
    return security_options.UNCONFINED if privileged else defaults.apparmor_profile


def _mounts(inputs: SpecInputs, options: security_options.SecurityOptions) -> list[oci.Mount]:
    host = inputs.host
    writable_cgroup = host.privileged
    if options.writable_cgroups is not None:
        writable_cgroup = options.writable_cgroups
    standard = oci_mounts.default_mounts(host.privileged, writable_cgroup, inputs.id_mappings)
    standard += oci_mounts.ipc_mounts(host, _shared_shm(inputs))
    user = [*inputs.mounts, *oci_mounts.tmpfs_mounts(host.tmpfs)]
    files = oci_mounts.network_mounts(inputs.directory, (m.destination for m in user))
    if inputs.shows_selinux:
        standard.append(oci_mounts.selinux_mount())
    if (mappings := inputs.id_mappings) is not None:
        for mount in files:
            if not idmapped.is_supported(mount.source):
                continue  # they belong to the container's root
            mount.uid_mappings, mount.gid_mappings = mappings.uids, mappings.gids
    standard += files
    # what was asked for by name is more than the read-only root
    types: tuple[str, ...] = ("cgroup",) if writable_cgroup else ()
    types += ("sysfs",) if host.privileged else ()
    return oci_mounts.combine(standard, user, host.readonly_rootfs, types)


def _shared_shm(inputs: SpecInputs) -> str:
    """The directory for /dev/shm when the IPC namespace is shared; empty for one of its own."""
    if inputs.host.ipc_mode == "host":
        return "/dev/shm"
    if pid := inputs.joined.get("ipc"):
        return f"/proc/{pid}/root/dev/shm"
    return ""


def _linux(
    inputs: SpecInputs, options: security_options.SecurityOptions, caps: tuple[str, ...]
) -> oci.Linux:
    host = inputs.host
    limits = oci_resources.resources(host, host.privileged)
    nodes = list(inputs.devices)
    if host.privileged:
        nodes += oci_resources.all_device_nodes()
        if host.devices:  # under another name, perhaps
            present = {node.path for node in nodes}
            extra = oci_resources.device_nodes(host.devices)[0]
            nodes += [node for node in extra if node.path not in present]
    else:
        mapped, rules = oci_resources.device_nodes(host.devices or ())
        nodes += mapped
        rules += [oci.DeviceCgroup(True, n.type, n.major, n.minor, "rwm") for n in inputs.devices]
        limits.devices = (*limits.devices, *rules)
    return oci.Linux(
        sysctl=_sysctls(inputs),
        resources=limits,
        cgroups_path=cgroup_path(inputs.id, host, inputs.defaults),
        namespaces=tuple(_namespaces(inputs)),
        devices=tuple(nodes),
        seccomp=seccomp_of(options, host.privileged, caps, inputs.defaults),
        masked_paths=masked_paths(host),
        readonly_paths=readonly_paths(host),
        mount_label=inputs.labels.mount,
        uid_mappings=inputs.id_mappings.uids if inputs.id_mappings else (),
        gid_mappings=inputs.id_mappings.gids if inputs.id_mappings else (),
    )


def cgroup_path(identifier: str, host: HostConfig, defaults: Defaults) -> str:
    """``PARENT/ID``, absolute in form."""
    parent = posixpath.normpath(f"/{host.cgroup_parent or defaults.cgroup_parent}").strip("/")
    return f"/{parent}/{identifier}" if parent else f"/{identifier}"


def masked_paths(host: HostConfig) -> tuple[str, ...]:
    """An empty list given by the user masks nothing; privileged masks nothing either."""
    if host.masked_paths is not None:
        return host.masked_paths
    return () if host.privileged else oci_mounts.MASKED_PATHS


def readonly_paths(host: HostConfig) -> tuple[str, ...]:
    if host.readonly_paths is not None:
        return host.readonly_paths
    return () if host.privileged else oci_mounts.READONLY_PATHS


def seccomp_of(
    options: security_options.SecurityOptions,
    privileged: bool,
    caps: tuple[str, ...],
    defaults: Defaults,
) -> oci.Seccomp | None:
    """None is unconfined: when asked for, and for privileged containers that ask for nothing."""
    from portside.runtime import seccomp_default, seccomp_profile

    chosen = options.seccomp or ("" if not privileged else security_options.UNCONFINED)
    chosen = chosen or defaults.seccomp_profile or security_options.BUILTIN
    if chosen == security_options.UNCONFINED:
        return None
    if chosen == security_options.BUILTIN:
        return seccomp_default.default(caps)
    return seccomp_profile.load(chosen, caps)


def _namespaces(inputs: SpecInputs) -> list[oci.Namespace]:
    host, joined = inputs.host, inputs.joined
    found = [oci.Namespace("mount")]
    if inputs.id_mappings is not None:
        found.append(_namespace("user", joined))
    for kind, mode in (("network", host.network_mode), ("pid", host.pid_mode)):
        if mode != "host":
            found.append(_namespace(kind, joined))
    if host.uts_mode != "host":
        found.append(oci.Namespace("uts"))
    if host.ipc_mode != "host":
        found.append(_namespace("ipc", joined))
    if (host.cgroupns_mode or inputs.defaults.cgroupns_mode) == "private":
        found.append(oci.Namespace("cgroup"))
    return found


def _namespace(kind: str, joined: dict[str, int]) -> oci.Namespace:
    files = {"network": "net", "pid": "pid", "ipc": "ipc", "user": "user"}
    if pid := joined.get(kind):
        return oci.Namespace(kind, f"/proc/{pid}/ns/{files[kind]}")
    return oci.Namespace(kind)


_LAST_PING_GROUP = 2147483647
"""The highest that the kernel takes (icmp(7), ping_group_range)."""


def _network_sysctls(mappings: IDMappings | None) -> dict[str, str]:
    """Ports below 1024 and ping without capabilities, as Docker gives them. A user namespace
    has only the groups it maps."""
    from portside.kernel.id_maps import highest

    last = highest("gid") if mappings is None else mappings.last_gid()
    return {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": f"0 {min(_LAST_PING_GROUP, last)}",
    }


_IPC_SYSCTLS = frozenset(
    {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall"}
    | {"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}
)


def _sysctls(inputs: SpecInputs) -> dict[str, str]:
    """The user's, over Docker's defaults for a network of the container's own."""
    host = inputs.host
    check_sysctls(host)
    shared = host.network_mode == "host" or "network" in inputs.joined
    usual = {} if shared else _network_sysctls(inputs.id_mappings)
    return {**usual, **(host.sysctls or {})}


def check_sysctls(host: HostConfig) -> None:
    """Only values that belong to a namespace of the container's own. Raises InvalidParameter."""
    for given in host.sysctls or {}:
        name = given.replace("/", ".") if "." not in given else given  # as sysctl(8)
        ipc = name in _IPC_SYSCTLS or name.startswith("fs.mqueue.")
        network = name.startswith("net.")
        uts = name == "kernel.domainname"
        if network and host.network_mode == "host":
            raise InvalidParameter(f"sysctl '{name}' not allowed in host network namespace")
        if ipc and host.ipc_mode == "host":
            raise InvalidParameter(f"sysctl '{name}' not allowed in host ipc namespace")
        if uts and host.uts_mode == "host":
            raise InvalidParameter(f"sysctl '{name}' not allowed in host uts namespace")
        if not (ipc or network or uts):
            raise InvalidParameter(f"sysctl '{name}' is not whitelisted")
