"""Checks of a ``config.json`` before anything is made from it (runtime-spec, config.md)."""

from __future__ import annotations

import os
import resource

from portside.kernel import apparmor, process, selinux
from portside.model.errors import InvalidParameter, NotImplementedHere
from portside.model.ociruntime import Hooks, Mount, Process, Spec
from portside.runtime import mounts, privileges, scheduling, userns

_MAX_ID = (1 << 31) - 1
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)


def check(spec: Spec) -> list[str]:
    """Raise InvalidParameter or NotImplementedHere; returns what is only worth a warning."""
    warnings = [*_version(spec.oci_version), *check_process(spec.process)]
    if spec.root is None:
        raise InvalidParameter("config.json: root is missing: root must be specified")
    if spec.linux is None:
        raise InvalidParameter(
            "config.json: linux is missing: the container is not a Linux container"
        )
    _namespaces(spec)
    _sysctls(spec)
    _refused(spec)
    _net_devices(spec)
    if spec.hooks is not None:
        _hooks(spec.hooks)
    if spec.process is not None:
        scheduling.check(spec.process, spec.linux.personality)
    userns.check(spec)
    return warnings


def _version(text: str) -> list[str]:
    """A warning about a version that is none, or newer than what we know: what such a file says is
    read as far as it is known, as other runtimes do."""
    ends = [text.index(sign) for sign in "-+" if sign in text]
    core = text[: min(ends, default=len(text))]
    numbers = core.split(".")
    plain = all(n.isascii() and n.isdigit() and (n == "0" or n[0] != "0") for n in numbers)
    rest = text[len(core) + 1 :]
    fits = all(letter.isascii() and (letter.isalnum() or letter in ".+-") for letter in rest)
    if len(numbers) != 3 or not plain or not fits or (ends and not rest):
        return [f"config.json: ociVersion {text!r} is not a semantic version such as 1.2.0"]
    if int(numbers[0]) > 1:
        return [f"config.json: unknown version specified: ociVersion {text}"]
    return []


def check_process(process: Process | None) -> list[str]:
    """The same for a process that is to be executed."""
    if process is None:
        raise InvalidParameter("config.json: process property must not be empty")
    if not process.cwd:
        raise InvalidParameter("config.json: Cwd property must not be empty")
    if not process.cwd.startswith("/"):
        raise InvalidParameter(f"config.json: Cwd must be an absolute path: {process.cwd!r}")
    if not process.args:
        raise InvalidParameter("config.json: process.args must not be empty")
    user = process.user
    if not all(0 <= number <= _MAX_ID for number in (user.uid, user.gid, *user.additional_gids)):
        raise InvalidParameter(f"uids and gids must be in range 0-{_MAX_ID}")
    seen = set()
    for limit in process.rlimits:
        if not limit.type.startswith("RLIMIT_") or not hasattr(resource, limit.type):
            raise InvalidParameter(f"wrong rlimit value: {limit.type}")
        if limit.type in seen:
            raise InvalidParameter(f"rlimits has {limit.type} twice")
        seen.add(limit.type)
    privileges.environment(process.env, privileges.Who(0, 0, (), "/"))
    if process.apparmor_profile and not apparmor.enabled():
        raise InvalidParameter("apparmor: config provided but apparmor not supported")
    if process.selinux_label and not selinux.enabled():
        raise InvalidParameter("selinux label is specified in config, but selinux is disabled")
    return _unknown_capabilities(process)


def _unknown_capabilities(wanted: Process) -> list[str]:
    sets = wanted.capabilities
    if sets is None:
        return []
    every = (sets.bounding, sets.effective, sets.permitted, sets.inheritable, sets.ambient)
    known = {f"CAP_{name}" for name in process.CAPABILITIES[: process.last_capability() + 1]}
    unknown = sorted({name for names in every for name in names} - known)
    if not unknown:
        return []
    return [f"ignoring unknown or unavailable capabilities: [{' '.join(unknown)}]"]


def _namespaces(spec: Spec) -> None:
    assert spec.linux is not None
    seen = set()
    for wanted in spec.linux.namespaces:
        if wanted.type not in process.NAMESPACES:
            raise InvalidParameter(f"unknown namespace type {wanted.type!r} does not exist")
        if wanted.type in seen:
            raise InvalidParameter(f"malformed spec file: duplicated ns {wanted.type!r}")
        seen.add(wanted.type)
    if "mount" not in seen and (spec.linux.masked_paths or spec.linux.readonly_paths):
        raise InvalidParameter("unable to restrict sys entries without a private MNT namespace")
    for value, name in ((spec.hostname, "hostname"), (spec.domainname, "domainname")):
        if value and "uts" not in seen:
            raise InvalidParameter(f"unable to set {name} without a private UTS namespace")
    if spec.linux.time_offsets and "time" not in seen:
        raise InvalidParameter("time namespace offsets need a time namespace")


def _sysctls(spec: Spec) -> None:
    """Only what belongs to a namespace of the container's own can be set for it alone."""
    assert spec.linux is not None
    for name in spec.linux.sysctl:
        dotted = name.replace("/", ".")
        if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            needed = "ipc"
        elif dotted.startswith("net."):
            needed = "network"
        elif dotted == "kernel.domainname":
            needed = "uts"
        elif dotted == "kernel.hostname":
            raise InvalidParameter(
                f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field'
            )
        else:
            raise InvalidParameter(f'sysctl "{name}" is not in a separate kernel namespace')
        if spec.namespace(needed) is None:
            raise InvalidParameter(f'sysctl "{name}" is not allowed in the host {needed} namespace')


def _refused(spec: Spec) -> None:
    assert spec.linux is not None
    for name, kind in (("l3CacheSchema", "CAT"), ("memBwSchema", "MBA")):
        if (spec.linux.intel_rdt or {}).get(name):
            raise NotImplementedHere(
                f"intelRdt.{name} is specified in config, but Intel RDT/{kind} is not supported"
            )
    for device in spec.linux.devices:
        if device.type not in ("b", "c", "u", "p"):
            raise InvalidParameter(f"device {device.path}: unknown type {device.type!r}")
        if not device.path.strip("/"):
            raise InvalidParameter(f"device {device.path!r}: the path is empty")
    for number, mount in enumerate(spec.mounts):
        if not mount.destination:
            raise InvalidParameter(f"config.json: mounts[{number}]: the destination is empty")
        _options(spec, mount)
    if spec.linux.mount_label and not selinux.enabled():
        raise InvalidParameter("selinux label is specified in config, but selinux is disabled")


def _options(spec: Spec, mount: Mount) -> None:
    found = mounts.Parsed(mount)
    if found.bind and (foreign := mounts.of_file_system(found)):
        raise InvalidParameter(
            f"invalid mount {mount.destination}: bind mounts cannot have any filesystem-specific "
            f"options applied: {','.join(foreign)}"
        )
    mapped = bool(mount.uid_mappings) + bool(mount.gid_mappings)
    if not mapped and not userns.wanted(spec):
        mapped = 1 if {"idmap", "ridmap"}.intersection(mount.options) else 0
    if mapped == 1:
        raise InvalidParameter(
            f"invalid mount {mount.destination}: id-mapped mounts must have both uid and gid "
            "mappings specified"
        )


def _net_devices(spec: Spec) -> None:
    assert spec.linux is not None
    devices = spec.linux.net_devices
    if not devices:
        return
    if os.geteuid():
        raise InvalidParameter("network devices are not supported for rootless containers")
    if spec.namespace("network") is None:
        raise InvalidParameter("unable to move network devices without a private NET namespace")
    names = [device.name or name for name, device in devices.items()]
    for name in (*devices, *names):
        if not _is_device_name(name):
            raise InvalidParameter(f"invalid network device name {name!r}")
    for name in names:
        if names.count(name) > 1:
            raise InvalidParameter(f"netDevices has the name {name} twice in the container")


def _is_device_name(name: str) -> bool:
    """As the kernel sees it (net/core/dev.c, dev_valid_name); ``%`` would be a pattern there."""
    wrong = any(letter in "/:%" or letter.isspace() for letter in name)
    return 0 < len(name.encode()) < 16 and name not in (".", "..") and not wrong


def _hooks(hooks: Hooks) -> None:
    every = (hooks.prestart, hooks.create_runtime, hooks.create_container, hooks.start_container,
             hooks.poststart, hooks.poststop)  # fmt: skip
    for hook in (hook for kind in every for hook in kind):
        if not hook.path.startswith("/"):
            raise InvalidParameter(f"hook path must be absolute: {hook.path!r}")
        if hook.timeout is not None and hook.timeout <= 0:
            raise InvalidParameter(f"hook timeout must be greater than zero: {hook.timeout}")
