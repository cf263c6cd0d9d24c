"""The SELinux labels of containers: chosen when one is made, kept in its record.

A pair of categories is taken as long as there is a record with it: it is stored in one transaction
with the record and is free again when that is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from portside.containers.container_jobs import Relabel, Tree
from portside.containers.spec.security_options import parse_security
from portside.kernel import selinux
from portside.kernel.selinux import ContainerContexts
from portside.model import ociruntime as oci
from portside.model import selinux_label
from portside.model.container import HostConfig
from portside.model.errors import InvalidParameter, NotFound, SystemFailure
from portside.model.rootfs import Rootfs
from portside.model.selinux_label import Context, Labels

if TYPE_CHECKING:
    from portside.containers.container import MountPoint, Record
    from portside.containers.core import Core

DISABLE = "label=disable"
NESTED = "nested"
_NETWORK_FILES = ("hosts", "hostname", "resolv.conf")


def implied_options(core: Core, host: HostConfig) -> tuple[str, ...]:
    """The label options of a container that shares processes or memory. With the host: no label,
    with another container it is the other's. Raises InvalidParameter, NotFound."""
    if any(option.startswith(("label=", "label:")) for option in host.security_opt or ()):
        return ()
    if host.privileged or "host" in (host.pid_mode, host.ipc_mode):
        return (DISABLE,)
    found: list[tuple[str, ...]] = []
    for mode in (host.ipc_mode, host.pid_mode):
        kind, _, name = mode.partition(":")
        if kind == "container" and name:
            with suppress(NotFound):  # reported at the start, as in Docker
                found.append(selinux_label.same_options(core.find(name).record.process_label))
    if len(set(found)) > 1:
        raise InvalidParameter("--ipc and --pid containers SELinux labels aren't the same")
    return found[0] if found else ()


def allocate(core: Core, options: Iterable[str]) -> Labels:
    """Labels for a container with ``--security-opt label=OPTION`` for each of ``options``. The
    caller stores them before anyone else may ask. Raises InvalidParameter, SystemFailure."""
    contexts = core.options.selinux
    if contexts is None:
        return Labels()
    taken = {
        selinux_label.level_of(label)
        for container in core.containers.values()
        for label in (container.record.process_label, container.record.mount_label)
    }
    return selinux_label.choose(options, contexts.process, contexts.file, taken)


def assign(core: Core, record: Record) -> None:
    """Give labels to a record that has none: a new one, or one from before SELinux was on."""
    if core.options.selinux is None or record.mount_label:
        return
    options = parse_security(record.host.security_opt).labels
    record.process_label, record.mount_label = allocate(core, options)


def of(core: Core, record: Record) -> Labels:
    """The labels that a container runs with now."""
    if core.options.selinux is None:
        return Labels()
    return Labels(record.process_label, record.mount_label)


def check(core: Core, record: Record) -> None:
    """Whether the policy knows the labels. Raises SystemFailure."""
    for label in of(core, record):
        if label:
            selinux.check(label)


def shows_selinux(core: Core, host: HostConfig) -> bool:
    """``label=nested``: the container sees SELinux and may label, as far as the policy lets it."""
    return core.options.selinux is not None and NESTED in parse_security(host.security_opt).labels


async def label_sources(core: Core, record: Record, mounts: Iterable[oci.Mount]) -> None:
    """Label what a container is given from the host, as far as was asked for: volumes, binds with
    ``:z`` or ``:Z``, and a root that is a copy. Raises SystemFailure."""
    label = of(core, record).mount
    if not label:
        return
    trees = [
        Tree(path=mount.source, label=label if private else shared_label(label))
        for point, mount in zip(record.mounts, mounts, strict=True)
        if (private := _is_private(point)) is not None
    ]
    for tree in trees:
        check_source(tree.path)
    root = core.store.writables.rootfs(record.id)
    if root.driver != "overlay" and selinux.label_of(root.upper) != label:
        trees.append(Tree(path=root.upper, label=label))
    if trees:
        await core.store.workers.run(Relabel(trees=tuple(trees)))


async def label_layers(core: Core) -> None:
    """Layers from before SELinux was on. What is made in the directory inherits its label.

    The kernel asks for the right to map and execute a file of an overlay twice: for the overlay's
    file and for the layer's own.
    """
    contexts = core.options.selinux
    layers = core.store.layers
    if contexts is None or selinux.label_of(str(layers.layers_dir)) == contexts.read_only:
        return
    tree = Tree(path=str(layers.layers_dir), label=contexts.read_only)
    await core.store.workers.run(Relabel(trees=(tree,)))


def label_writable(core: Core, rootfs: Rootfs) -> None:
    """The writable layer of a container that is being made, as long as nothing is in it."""
    if core.options.selinux is not None and rootfs.work:
        for directory in (rootfs.upper, rootfs.work):
            selinux.set_label(directory, core.options.selinux.read_only)


def _is_private(point: MountPoint) -> bool | None:
    """None: its files keep their labels."""
    words = point.mode.split(",")
    if point.type not in ("bind", "volume"):
        return None
    if "Z" in words:
        return True
    if "z" in words or (point.type == "volume" and point.anonymous):
        return False
    return None


def shared_label(label: str) -> str:
    """The label of files that several containers use."""
    context = Context.parse(label)
    return str(context._replace(level=selinux_label.SHARED_LEVEL) if context.level else context)


_SYSTEM_PATHS = frozenset(
    "/ /bin /boot /dev /etc /etc/passwd /etc/pki /etc/shadow /home /lib /lib64 /media /opt /proc "
    "/root /run /sbin /srv /sys /tmp /usr /var /var/lib /var/log".split()
)
"""Labelled for containers, these would break the machine; the list is go-selinux's."""


def check_source(path: str) -> None:
    """Raises SystemFailure for a path of the system that must keep its labels."""
    found = os.path.realpath(path)
    if found in _SYSTEM_PATHS or found == os.environ.get("HOME"):
        raise SystemFailure(
            f"error setting label on mount source '{found}': SELinux relabeling of {found} is not "
            "allowed"
        )


def label_network_files(label: str, directory: str, shared: bool) -> None:
    """Label the files that the engine keeps for a container; ``shared``: with another one."""
    if label:
        for name in _NETWORK_FILES:
            with suppress(OSError):
                selinux.set_label(f"{directory}/{name}", shared_label(label) if shared else label)


def contexts(wanted: bool) -> ContainerContexts | None:
    """The policy's contexts for containers; None where SELinux is off or not ``wanted``."""
    if not wanted or not selinux.enabled():
        return None
    return selinux.container_contexts()
