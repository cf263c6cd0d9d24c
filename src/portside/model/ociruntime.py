"""The OCI runtime-spec's configuration (config.md, config-linux.md, version 1.2) as values.

Wire names are the spec's camelCase. Absent means None or empty; 0 and -1 are values.
Unknown properties are ignored, as the spec asks of runtimes ("Extensibility").
"""

from __future__ import annotations

import msgspec

from portside.model.spec_version import SPEC_VERSION

MOUNT_CONTEXT_TYPE = "run.oci.mount_context_type"
"""The annotation by which crun and its users choose how ``mountLabel`` becomes a mount option:
with ``context`` every file has the label; with ``rootcontext`` only the root, and files can be
labelled."""


class _Part(msgspec.Struct, rename="camel", omit_defaults=True):
    """A JSON object of the spec; defaults are left out when it is written."""


class Box(_Part):
    height: int = 0
    width: int = 0


class User(_Part):
    uid: int
    gid: int
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str = ""


class Capabilities(_Part):
    """Names such as ``CAP_CHOWN`` for each of the five sets (capabilities(7))."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Part):
    type: str
    """Such as ``RLIMIT_NOFILE``."""
    hard: int
    soft: int


class Scheduler(_Part):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IOPriority(_Part):
    class_: str = msgspec.field(name="class", default="")
    priority: int = 0


class ExecCPUAffinity(_Part):
    initial: str = ""
    final: str = ""


class Process(_Part):
    """A process that is executed inside a container, at start or later by exec."""

    terminal: bool = False
    console_size: Box | None = None
    user: User = msgspec.field(default_factory=lambda: User(uid=0, gid=0))
    args: tuple[str, ...] = ()
    command_line: str = ""
    env: tuple[str, ...] = ()
    cwd: str = "/"
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = msgspec.field(name="apparmorProfile", default="")
    oom_score_adj: int | None = msgspec.field(name="oomScoreAdj", default=None)
    scheduler: Scheduler | None = None
    selinux_label: str = msgspec.field(name="selinuxLabel", default="")
    io_priority: IOPriority | None = msgspec.field(name="ioPriority", default=None)
    exec_cpu_affinity: ExecCPUAffinity | None = msgspec.field(name="execCPUAffinity", default=None)


class Root(_Part):
    path: str
    readonly: bool = False


class IDMapping(msgspec.Struct, rename="camel", frozen=True):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class Mount(_Part):
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class Hook(_Part):
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] | None = None
    """None: the runtime's own, as runc has it."""
    timeout: int | None = None
    """Seconds."""


class Hooks(_Part):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(_Part):
    type: str
    """pid, network, mount, ipc, uts, user, cgroup or time."""
    path: str = ""


class Device(_Part):
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceCgroup(_Part, omit_defaults=False):
    """One rule of device access; ``major`` or ``minor`` None stands for any."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(_Part):
    """Bytes; -1 means unlimited."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    """Memory plus swap."""
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(name="kernelTCP", default=None)
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(name="disableOOMKiller", default=None)
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(_Part):
    """Times in microseconds."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: int | None = None


class Pids(_Part):
    limit: int | None = None


class WeightDevice(_Part):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_Part, omit_defaults=False):
    major: int
    minor: int
    rate: int


class BlockIO(_Part):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        name="throttleReadIOPSDevice", default=()
    )
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        name="throttleWriteIOPSDevice", default=()
    )


class HugepageLimit(_Part, omit_defaults=False):
    page_size: str
    limit: int


class Rdma(_Part):
    hca_handles: int | None = None
    hca_objects: int | None = None


class NetworkPriority(_Part, omit_defaults=False):
    name: str
    priority: int


class NetworkResources(_Part):
    class_id: int | None = msgspec.field(name="classID", default=None)
    priorities: tuple[NetworkPriority, ...] = ()


class Resources(_Part):
    """Limits of a container's cgroup (config-linux.md, "Control groups")."""

    devices: tuple[DeviceCgroup, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(name="blockIO", default=None)
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkResources | None = None
    rdma: dict[str, Rdma] = msgspec.field(default_factory=dict)
    unified: dict[str, str] = msgspec.field(default_factory=dict)


class SeccompArg(_Part, omit_defaults=False):
    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompSyscall(_Part):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(_Part):
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompSyscall, ...] = ()


class Personality(_Part):
    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(_Part):
    secs: int = 0
    nanosecs: int = 0


class NetDevice(_Part):
    """An interface of the host's that the container gets."""

    name: str = ""
    """Its name in the container; empty: as on the host."""


class Linux(_Part):
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    sysctl: dict[str, str] = msgspec.field(default_factory=dict)
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = msgspec.field(default_factory=dict)
    intel_rdt: dict[str, object] | None = None
    net_devices: dict[str, NetDevice] = msgspec.field(default_factory=dict)


class Spec(_Part):
    """A whole ``config.json``."""

    oci_version: str = SPEC_VERSION
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    linux: Linux | None = None

    def namespace(self, type: str) -> Namespace | None:
        """The namespace of that type, when the container has or joins one."""
        if self.linux is None:
            return None
        return next((n for n in self.linux.namespaces if n.type == type), None)


class State(_Part):
    """What ``state`` prints and hooks are given (runtime.md, "State")."""

    oci_version: str
    id: str
    status: str
    """creating, created, running or stopped."""
    bundle: str
    pid: int = 0
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


def complete(spec: Spec) -> bytes:
    """A ``config.json`` for other programs: what must be there is, though it be the default."""
    document = msgspec.to_builtins(spec)
    document = {"ociVersion": spec.oci_version, **document}
    if spec.process is not None:
        document["process"].setdefault("cwd", spec.process.cwd)
        document["process"].setdefault("user", {"uid": 0, "gid": 0})
    return msgspec.json.encode(document)
