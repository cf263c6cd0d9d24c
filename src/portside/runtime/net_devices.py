"""The runtime-spec's network devices (config-linux.md, ``linux.netDevices``): interfaces of the
caller's network namespace that are moved into the container's.

An interface keeps its hardware address, MTU and settings by itself; its addresses the kernel
drops, so those of global scope are added again. When the container's namespace ends, the kernel
moves physical interfaces back and deletes virtual ones (network_namespaces(7)).
"""

from __future__ import annotations

import os

from portside.kernel import netns
from portside.kernel.netlink import (
    IFLA_IFNAME,
    IFLA_NET_NS_FD,
    Rtnl,
    address_message,
    link_message,
    number,
    text,
)
from portside.model.errors import SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from portside.model.ociruntime import NetDevice


def move(devices: Mapping[str, NetDevice], pid: int) -> None:
    """Move interfaces into the network namespace of a process and bring them up there.

    ``devices``: by the name they have in this thread's namespace. Raises SystemFailure.
    """
    target = netns.open_of(pid)
    try:
        here, inside = Rtnl(), _netlink_in(target)
        try:
            for name, device in devices.items():
                try:
                    _move(here, inside, target, name, device.name or name)
                except OSError as err:
                    raise SystemFailure(
                        f"cannot move the network device {name} into the container: {err}"
                    ) from err
        finally:
            here.close()
            inside.close()
    finally:
        os.close(target)


def _netlink_in(target: int) -> Rtnl:
    home = netns.open_own()
    try:
        netns.setns_net(target)
        try:
            return Rtnl()
        finally:
            netns.setns_net(home)
    finally:
        os.close(home)


def _move(here: Rtnl, inside: Rtnl, target: int, name: str, new_name: str) -> None:
    found = here.link(name)
    if found is None:
        raise SystemFailure(
            f"the network device {name} (linux.netDevices) does not exist in the runtime's "
            "network namespace"
        )
    # the kernel renames after it has moved: refused then, the device would be lost to the host
    if inside.link(new_name) is not None:
        raise SystemFailure(
            f"cannot move the network device {name} into the container: a device named "
            f"{new_name} exists there"
        )
    addresses = [a for a in here.addresses(found.index) if a.permanent and a.scope == 0]
    here.run(link_message(found.index, number(IFLA_NET_NS_FD, target), text(IFLA_IFNAME, new_name)))
    moved = inside.link(new_name)
    if moved is None:
        raise SystemFailure(f"the network device {name} is gone after it was moved")
    inside.run(
        *(address_message(moved.index, a.address, a.prefix) for a in addresses),
        link_message(moved.index, up=True),
    )
