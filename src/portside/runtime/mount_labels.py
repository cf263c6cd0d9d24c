"""Which file systems of a container get its ``mountLabel``, and how (SELinux, mount(8))."""

from __future__ import annotations

from portside.kernel import selinux
from portside.model.ociruntime import MOUNT_CONTEXT_TYPE, Mount, Spec
from portside.runtime.mounts import CONTEXT_OPTIONS, LABEL, Parsed

_LABELLED_ELSEWHERE = frozenset(("proc", "sysfs", "cgroup2", "selinuxfs", "securityfs", "bpf"))
"""The policy says what their files are called."""


def label_options(spec: Spec) -> tuple[str, ...]:
    """The mount options that label a new file system; none without a label or SELinux."""
    label = spec.linux.mount_label if spec.linux is not None else ""
    if not label or not selinux.enabled():
        return ()
    kind = spec.annotations.get(MOUNT_CONTEXT_TYPE, "")
    return (f"{kind if kind in CONTEXT_OPTIONS else CONTEXT_OPTIONS[0]}={label}",)


def label_mounts(spec: Spec) -> None:
    """Add the label to the options of the mounts that take it, as runc has it."""
    options = label_options(spec)
    if not options:
        return
    for mount in spec.mounts:
        if mount.type == "mqueue":  # one file system for the whole IPC namespace: no options
            mount.options = (*mount.options, LABEL + options[0].partition("=")[2])
        elif _takes(mount):
            mount.options = (*mount.options, *options)


def _takes(mount: Mount) -> bool:
    if mount.type in _LABELLED_ELSEWHERE:
        return False
    parsed = Parsed(mount)
    return not parsed.bind and not parsed.contexts()
