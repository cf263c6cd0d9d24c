"""The mounts of a container: the kernel's file systems, the network's files, the user's."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from portside.model import ociruntime as oci
from portside.model.container import HostConfig
from portside.model.errors import InvalidParameter
from portside.model.idmap import IDMappings

SHM_SIZE = 64 << 20
"""Bytes of /dev/shm unless ``--shm-size`` says otherwise."""

MASKED_PATHS: tuple[str, ...] = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS: tuple[str, ...] = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

_NETWORK_FILES = ("resolv.conf", "hostname", "hosts")
# A read-only root does not make these read-only: programs need them.
_ALWAYS_WRITABLE = frozenset({"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"})


_TTY_GROUP = 5
"""Group ``tty`` of nearly all images (FHS has no number; login(1) and script(1) use it)."""


def _terminal_modes(mappings: IDMappings | None) -> tuple[str, ...]:
    """The options of devpts that say whose terminals are: the group's too, where the container's
    user namespace, one of its own or ours, has it."""
    from portside.kernel.id_maps import highest

    last = highest("gid") if mappings is None else mappings.last_gid()
    group = (f"gid={_TTY_GROUP}",) if last >= _TTY_GROUP else ()
    return ("ptmxmode=0666", "mode=0620", *group)


def default_mounts(
    writable_sys: bool, writable_cgroup: bool, mappings: IDMappings | None
) -> list[oci.Mount]:
    """The file systems every container has, except /dev/shm and /dev/mqueue."""
    safe = ("nosuid", "noexec", "nodev")
    sys_access = "rw" if writable_sys else "ro"
    cgroup_access = "rw" if writable_cgroup else "ro"
    return [
        oci.Mount("/proc", "proc", "proc", safe),
        oci.Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        oci.Mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ("nosuid", "noexec", "newinstance", *_terminal_modes(mappings)),
        ),
        oci.Mount("/sys", "sysfs", "sysfs", (*safe, sys_access)),
        oci.Mount("/sys/fs/cgroup", "cgroup", "cgroup", (cgroup_access, *safe)),
    ]


def ipc_mounts(host: HostConfig, shm_of: str) -> list[oci.Mount]:
    """/dev/mqueue and /dev/shm by ``--ipc``.

    ``shm_of`` is a directory of another container or of the host to share; empty: the
    container's own. With ``--ipc none`` there is no /dev/shm. Message queues need nothing to be
    shared: the file system shows those of the IPC namespace (mq_overview(7)).
    """
    safe = ("nosuid", "noexec", "nodev")
    found = [oci.Mount("/dev/mqueue", "mqueue", "mqueue", safe)]
    if shm_of:
        found.append(oci.Mount("/dev/shm", "bind", shm_of, ("rbind", "rprivate")))
    elif host.ipc_mode != "none":
        size = host.shm_size or SHM_SIZE
        found.append(oci.Mount("/dev/shm", "tmpfs", "shm", (*safe, "mode=1777", f"size={size}")))
    return found


def selinux_mount() -> oci.Mount:
    """Mounts that show SELinux to programs inside (``label=nested``)."""
    options = ("rbind", "rprivate", "nosuid", "noexec")
    return oci.Mount("/sys/fs/selinux", "bind", "/sys/fs/selinux", options)


def network_mounts(directory: str, covered: Iterable[str]) -> list[oci.Mount]:
    """``resolv.conf``, ``hostname`` and ``hosts`` from the container's directory.

    Not where the user has mounted something of his own (``covered``).
    """
    taken = set(covered)
    return [
        oci.Mount(f"/etc/{name}", "bind", f"{directory}/{name}", ("rbind", "rprivate"))
        for name in _NETWORK_FILES
        if f"/etc/{name}" not in taken
    ]


def tmpfs_mounts(tmpfs: dict[str, str] | None) -> list[oci.Mount]:
    """``--tmpfs PATH[:OPTIONS]``; Docker's defaults are noexec, nosuid and nodev."""
    found = []
    for target, text in (tmpfs or {}).items():
        if not target.startswith("/"):
            raise InvalidParameter(f"invalid mount path: '{target}' mount path must be absolute")
        if not posixpath.normpath(target).strip("/"):
            raise InvalidParameter("invalid specification: destination can't be '/'")
        found.append(oci.Mount(target, "tmpfs", "tmpfs", tmpfs_options(text)))
    return found


def tmpfs_options(text: str) -> tuple[str, ...]:
    """The user's options laid over Docker's defaults: the last word on a subject wins."""
    opposite = {"exec": "noexec", "suid": "nosuid", "dev": "nodev", "rw": "ro"}
    opposite |= {value: key for key, value in opposite.items()}
    valued = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge")
    plain = {*opposite, "async", "sync", "atime", "noatime", "diratime", "nodiratime"}
    plain |= {"relatime", "norelatime", "strictatime", "nostrictatime", "mand", "nomand"}
    plain |= {"dirsync", "defaults", "rprivate", "private", "shared", "rshared", "slave", "rslave"}
    chosen: dict[str, str] = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
    for option in (word for word in text.split(",") if word):
        key, equals, _ = option.partition("=")
        if (equals and key not in valued) or (not equals and option not in plain):
            raise InvalidParameter(f'invalid tmpfs option "{key}"')
        subject = key if equals else min(option, opposite.get(option, option))
        chosen.pop({"noexec": "exec", "nosuid": "suid", "nodev": "dev"}.get(subject, ""), None)
        chosen[subject] = option
    return tuple(chosen.values())


def order(mounts: Iterable[oci.Mount]) -> list[oci.Mount]:
    """Shallow destinations first, so that a mount never hides one made before it."""
    return sorted(mounts, key=lambda mount: len([p for p in mount.destination.split("/") if p]))


def combine(
    standard: list[oci.Mount],
    user: list[oci.Mount],
    readonly_root: bool,
    writable_types: tuple[str, ...] = (),
) -> list[oci.Mount]:
    """The standard mounts less those the user replaces, then the user's.

    With a read-only root, standard mounts the programs do not need to write become
    read-only as well, but for those of ``writable_types``.
    """
    replaced = {mount.destination for mount in user}
    keep = [
        mount
        for mount in standard
        if mount.destination not in replaced
        and not (mount.destination.startswith("/dev/") and "/dev" in replaced)
    ]
    if readonly_root:
        for mount in keep:
            writable = mount.destination in _ALWAYS_WRITABLE or mount.type in writable_types
            if not writable and "ro" not in mount.options:
                mount.options = (*(o for o in mount.options if o != "rw"), "ro")
    # the network's files lie on top of a user's own /etc
    inner = [m for m in keep if any(m.destination.startswith(f"{at}/") for at in replaced)]
    inner = [m for m in inner if m.destination.startswith("/etc/")]
    return [m for m in keep if m not in inner] + order([*user, *inner])
