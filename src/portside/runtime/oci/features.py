"""Description of this runtime: ``--version``, ``--help``, ``features``, ``spec``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import portside
from portside.flags.table import Flag, read_table
from portside.kernel import process, seccomp
from portside.kernel.cgroup import detect
from portside.model.errors import Conflict, NotImplementedHere
from portside.model.ociruntime import (
    Capabilities,
    DeviceCgroup,
    IDMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
    complete,
)
from portside.model.spec_version import SPEC_VERSION
from portside.runtime import mounts
from portside.runtime.oci.arguments import Context, Options

_MOUNTS = (
    Mount("/proc", "proc", "proc"),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount("/dev/pts", "devpts", "devpts",
          ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    Mount("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
)  # fmt: skip
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def version() -> int:
    print(f"portside-runtime version {portside.__version__}\nspec: {SPEC_VERSION}")
    return 0


def usage(verbs: Mapping[str, tuple[str, str, str, str]], flags: Sequence[Flag], name: str) -> int:
    """Print the help of a verb, or of the program when ``name`` is empty."""
    from portside.flags.help_text import of_flags

    program = "portside-runtime"
    if name:
        operands, about, table, _ = verbs[name]
        own = read_table(table)
        words = (program, name, "[OPTIONS]" if own else "", operands)
        print(f"Usage:  {' '.join(filter(None, words))}\n\n{about}")
        if own:
            print(f"\nOptions:\n{of_flags(own)}")
        return 0
    width = max(map(len, verbs)) + 3
    lines = [f"  {verb:<{width}}{verbs[verb][1]}" for verb in sorted(verbs)]
    print(
        f"Usage:  {program} [GLOBAL OPTIONS] VERB [OPTIONS] ...\n\n"
        "Runs containers from OCI bundles\n\nVerbs:\n"
        + "\n".join(lines)
        + f"\n\nGlobal options:\n{of_flags(flags)}\n\n"
        f"Run '{program} VERB --help' for more information on a verb."
    )
    return 0


def unbuilt(context: Context, options: Options) -> int:
    raise NotImplementedHere("checkpoint and restore are not supported")


def spec(context: Context, options: Options) -> int:
    """Write a ``config.json`` to begin with."""
    path = os.path.join(options.text("bundle") or ".", "config.json")
    example = _example()
    if options.flag("rootless"):
        _make_rootless(example)
    data = msgspec.json.format(complete(example), indent=2)
    try:
        with open(path, "xb") as file:
            file.write(data + b"\n")
    except FileExistsError:
        raise Conflict(f"file {path} exists. Remove it first") from None
    return 0


def _example() -> Spec:
    granted = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    return Spec(
        process=Process(
            terminal=True,
            args=("sh",),
            env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"),
            capabilities=Capabilities(bounding=granted, effective=granted, permitted=granted),
            rlimits=(Rlimit("RLIMIT_NOFILE", 1024, 1024),),
            no_new_privileges=True,
        ),
        root=Root("rootfs", readonly=True),
        hostname="portside",
        mounts=_MOUNTS,
        linux=Linux(
            resources=Resources(devices=(DeviceCgroup(False, access="rwm"),)),
            namespaces=tuple(
                Namespace(kind) for kind in ("pid", "network", "ipc", "uts", "cgroup", "mount")
            ),
            masked_paths=_MASKED,
            readonly_paths=_READ_ONLY,
        ),
    )


def _make_rootless(spec: Spec) -> None:
    """Adapt the example to a caller without root: a user namespace in which the caller is root,
    the host's network and /sys, no limits (runc's ``spec --rootless``)."""
    assert spec.linux is not None
    kept = [n for n in spec.linux.namespaces if n.type not in ("network", "user")]
    spec.linux.namespaces = (*kept, Namespace("user"))
    spec.linux.uid_mappings = (IDMapping(0, os.geteuid(), 1),)
    spec.linux.gid_mappings = (IDMapping(0, os.getegid(), 1),)
    spec.linux.resources = None
    mounts = []
    for mount in spec.mounts:
        if mount.destination == "/sys":
            options = ("rbind", "nosuid", "noexec", "nodev", "ro")
            mount = Mount("/sys", "none", "/sys", options)
        kept_options = [o for o in mount.options if not o.startswith(("uid=", "gid="))]
        mount.options = tuple(kept_options)
        mounts.append(mount)
    spec.mounts = tuple(mounts)


def features(context: Context, options: Options) -> int:
    """Features of the runtime and of this machine (runtime-spec, features.md)."""
    print(json.dumps(described(), indent=2))
    return 0


def described() -> dict[str, Any]:
    """The runtime-spec's document of features, as a JSON value."""
    layout = detect()
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart",
                  "poststop"],
        "mountOptions": mounts.known_options(),
        "linux": {
            "namespaces": sorted(
                name for name, (_, link) in process.NAMESPACES.items()
                if os.path.exists(f"/proc/self/ns/{link}")
            ),
            "capabilities": [
                f"CAP_{name}" for name in process.CAPABILITIES[: process.last_capability() + 1]
            ],
            "cgroup": {
                "v1": bool(layout.hierarchies),
                "v2": bool(layout.unified),
                "systemd": False,
                "systemdUser": False,
                "rdma": layout.has("rdma"),
            },
            "seccomp": {
                "enabled": seccomp.supported(),
                "actions": seccomp.actions(),
                "operators": seccomp.operators(),
                "archs": seccomp.architectures(),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "netDevices": {"enabled": True},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"org.portside.version": portside.__version__},
    }  # fmt: skip
