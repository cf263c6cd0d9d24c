"""Network interfaces: bridges and links on the host, and the interfaces inside containers.

What takes microseconds is done on the event loop; sysctls, which must be written from inside the
namespace, and deleted links, which the kernel takes 30 ms for, go to the worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from portside.kernel import netlink
from portside.kernel.netlink import Link, Message, Rtnl
from portside.model.errors import Conflict, InvalidParameter, NotFound, SystemFailure
from portside.model.instance import Instance
from portside.model.network import IPAddress
from portside.model.quiet_teardown import teardown
from portside.networks import network_options, network_store
from portside.networks.netns_pool import Namespace, NamespaceWorker
from portside.networks.network_store import (
    Catalogue,
    EndpointRecord,
    NetworkRecord,
    SandboxRecord,
    gateway_endpoint,
)

log = logging.getLogger(__name__)

SYS_NET = Path("/proc/sys/net")


def write_sysctl(name: str, value: str) -> None:
    """Set a network sysctl given as a path below /proc/sys/net, if it differs; a setting this
    kernel does not have (IPv6 switched off at boot) is passed over."""
    path = SYS_NET / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except FileNotFoundError:
        return
    except OSError as err:
        raise SystemFailure(
            f"cannot set the kernel's {name.replace('/', '.')} to {value}: {err}; set it on the "
            "host, or start the engine where /proc/sys is writable"
        ) from err


def enable_forwarding(ipv6: bool) -> None:
    """Let the kernel route. IPv6 routers ignore router advertisements unless set otherwise
    (ip-sysctl, accept_ra), so interfaces that depend on advertisements are set to accept them."""
    write_sysctl("ipv4/ip_forward", "1")
    if not ipv6:
        return
    path = SYS_NET / "ipv6/conf/all/forwarding"
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() == "1":
            return
        for entry in (SYS_NET / "ipv6/conf").iterdir():
            setting = entry / "accept_ra"
            if entry.name not in ("all", "default", "lo") and setting.read_text().strip() == "1":
                setting.write_text("2")
        write_sysctl("ipv6/conf/all/forwarding", "1")


def bridged_packets_are_translated() -> bool:
    """Whether br_netfilter hands bridged packets to the IP firewall.

    Then a container's packet to its own published port gets its new destination while it is
    still on the bridge, which must send it back through the port it came from.
    """
    try:
        return any(
            (SYS_NET / "bridge" / f"bridge-nf-call-{name}").read_bytes() != b"0\n"
            for name in ("iptables", "ip6tables")
        )
    except FileNotFoundError:
        return False


def random_mac() -> str:
    """A locally administered hardware address. It is random, so that no container meets one that
    was given the same before; neighbours are informed of it (``netns_pool.SYSCTLS``)."""
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 2
    return raw.hex(":")


def mac_text(given: str) -> str:
    """The hardware address asked for in its usual form, or a random one."""
    return parse_mac(given).hex(":") if given else random_mac()


def parse_mac(text: str) -> bytes:
    """Six bytes of ``02:42:ac:11:00:02``, ``02-42-…`` or ``0242.ac11.0002``; InvalidParameter
    for anything else or a group address."""
    digits = "[0-9a-fA-F]{%d}"
    forms = (
        f"{digits % 2}(:{digits % 2}){{5}}", f"{digits % 2}(-{digits % 2}){{5}}",
        f"{digits % 4}([.]{digits % 4}){{2}}",
    )  # fmt: skip
    if not any(re.fullmatch(form, text) for form in forms):
        raise InvalidParameter(f"invalid MAC address {text}")
    raw = bytes.fromhex(re.sub("[:.-]", "", text))
    if raw[0] & 1:
        raise InvalidParameter(f"invalid MAC address {text}: it is the address of a group")
    return raw


class Links:
    """The interfaces this engine owns in the host's namespace."""

    def __init__(self, instance: Instance, firewall: bool = True) -> None:
        """``firewall``: our table guards the host's loopback."""
        self._instance, self._firewall = instance, firewall
        self._rtnl = Rtnl()
        self._indexes: dict[str, int] = {}

    def close(self) -> None:
        self._rtnl.close()

    @property
    def rtnl(self) -> Rtnl:
        return self._rtnl

    # -- networks --------------------------------------------------------------------------

    def ensure(self, record: NetworkRecord) -> NetworkRecord:
        """Make the network's interface, or repair what is missing of it. The record that is
        returned says whether the engine made the interface."""
        if record.driver == "bridge":
            return self._ensure_bridge(record)
        if record.driver in ("macvlan", "ipvlan"):
            return self._ensure_parent(record)
        return record

    def remove(self, record: NetworkRecord) -> None:
        """Delete a network's interface if the engine made it; slow, for the worker."""
        self._indexes.pop(record.link, None)
        if record.link and self._owns(record):
            self.delete([record.link])

    def _owns(self, record: NetworkRecord) -> bool:
        """Whether the engine made the interface: as recorded, or by its name, which nobody
        else gives."""
        return record.own_link or record.link == self._instance.link(record.id)

    def _ensure_bridge(self, record: NetworkRecord) -> NetworkRecord:
        link, own = self._rtnl.link(record.link), self._owns(record)
        if link is not None and link.kind != "bridge":
            kind = link.kind or "physical"
            raise Conflict(f"{record.link} is a {kind} interface of the host, not a bridge")
        with ExitStack() as undo:
            if link is None:
                link, own = self._make_bridge(record.link), True
                undo.callback(self.delete, [record.link])
            self._set_up_bridge(record, link, own)
            undo.pop_all()
        self._indexes[record.link] = link.index
        return record if own == record.own_link else _with_own_link(record)

    def _make_bridge(self, name: str) -> Link:
        mac = netlink.attribute(netlink.IFLA_ADDRESS, parse_mac(random_mac()))
        try:
            self._rtnl.run(netlink.new_link_message(name, "bridge", b"", mac))
        except OSError as err:
            raise SystemFailure(f"cannot create bridge {name}: {err}") from err
        link = self._rtnl.link(name)
        assert link is not None
        return link

    def _set_up_bridge(self, record: NetworkRecord, link: Link, own: bool) -> None:
        """Settings, MTU and addresses; the latter two of the engine's own bridges only."""
        self._bridge_sysctls(record)
        messages: list[Message] = []
        mtu = int(record.option(network_options.MTU, "0"))
        if mtu and link.mtu != mtu and own:
            messages.append(netlink.link_message(link.index, netlink.number(netlink.IFLA_MTU, mtu)))
        if own:
            messages += self._bridge_addresses(record, link.index)
        if not link.up:
            messages.append(netlink.link_message(link.index, up=True))
        self._rtnl.run(*messages)

    def _bridge_sysctls(self, record: NetworkRecord) -> None:
        name = record.link
        # for ports published on the loopback; without our rules, containers would reach what
        # listens there (CVE-2020-8558)
        write_sysctl(f"ipv4/conf/{name}/route_localnet", "1" if self._firewall else "0")
        if not record.flag(network_options.BRIDGE_ICC, True):
            # ports are isolated: what links allow passes through the host, which answers for
            # the neighbours (ip-sysctl, proxy_arp_pvlan)
            write_sysctl(f"ipv4/conf/{name}/proxy_arp_pvlan", "1")
            write_sysctl(f"ipv4/conf/{name}/send_redirects", "0")
        write_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
        ipv6 = record.config(6) is not None
        write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0" if ipv6 else "1")

    def _bridge_addresses(self, record: NetworkRecord, index: int) -> list[Message]:
        """Give the bridge exactly its gateways' addresses."""
        wanted: set[tuple[IPAddress, int]] = set()
        for version, mode in ((4, network_options.BRIDGE_MODE4), (6, network_options.BRIDGE_MODE6)):
            config = record.config(version)
            if config is None or not config.gateway or record.option(mode) == "isolated":
                continue
            if version == 4 and record.flag(network_options.BRIDGE_INHIBIT4, False):
                continue
            prefix = ipaddress.ip_network(config.subnet).prefixlen
            wanted.add((ipaddress.ip_address(config.gateway), prefix))
        present = {
            (item.address, item.prefix)
            for item in self._rtnl.addresses(index)
            if not item.address.is_link_local
        }
        stale = [netlink.del_address_message(index, *item) for item in present - wanted]
        return stale + [netlink.address_message(index, *item) for item in wanted - present]

    def _ensure_parent(self, record: NetworkRecord) -> NetworkRecord:
        """The host interface a macvlan or ipvlan network hangs on: as named, a VLAN made when
        the name is ``parent.id``, or a dummy when the network has no parent."""
        parent = self._rtnl.link(record.link)
        own = self._owns(record)
        if parent is None:
            base, dot, tag = record.link.rpartition(".")
            if dot and tag.isdigit():
                self._make_vlan(record.link, base, int(tag))
            elif record.option("parent"):
                raise SystemFailure(
                    f"invalid subinterface vlan name {record.link}, example formatting is eth0.10"
                )
            else:
                self._make_dummy(record.link)
            parent, own = self._rtnl.link(record.link), True
            assert parent is not None
        if parent.flags & netlink.IFF_LOOPBACK:
            raise SystemFailure(f"loopback interface is not a valid {record.driver} parent link")
        self._indexes[record.link] = parent.index
        return record if own == record.own_link else _with_own_link(record)

    def _make_vlan(self, name: str, base: str, tag: int) -> None:
        under = self._rtnl.link(base)
        if under is None:
            raise NotFound(f"the host has no interface {base} (option parent)")
        if not 1 <= tag <= 4094:
            raise InvalidParameter(f"invalid VLAN {tag}: it must lie between 1 and 4094")
        data = netlink.attribute(netlink.IFLA_VLAN_ID, tag.to_bytes(2, "little"))
        self._create(
            netlink.new_link_message(
                name, "vlan", data, netlink.number(netlink.IFLA_LINK, under.index), up=True
            ),
            "vlan",
        )

    def _make_dummy(self, name: str) -> None:
        self._create(netlink.new_link_message(name, "dummy", up=True), "dummy")

    def _create(self, message: Message, kind: str) -> None:
        try:
            self._rtnl.run(message)
        except OSError as err:
            raise _unsupported(err, kind) from err

    # -- endpoints -------------------------------------------------------------------------

    def plug(self, network: NetworkRecord, endpoint: EndpointRecord, space: Namespace) -> int:
        """Connect a namespace to a network; the interface's index inside. Its pair is the
        prepared one when ``endpoint.link`` names it, else a new one is made."""
        if network.driver != "bridge":
            return self._plug_vlan(network, endpoint, space)
        if endpoint.link == space.link:
            index, inner = space.link_index, space.eth0_index
            if endpoint.interface != "eth0":
                name = netlink.text(netlink.IFLA_IFNAME, endpoint.interface)
                space.inside.run(
                    netlink.link_message(inner, up=False),
                    netlink.link_message(inner, name),
                    netlink.link_message(inner, up=True),
                )
        else:
            index, inner = self._new_pair(endpoint, space)
        self._enslave(network, index)
        mtu = int(network.option(network_options.MTU, "0"))
        if mtu:
            size = netlink.number(netlink.IFLA_MTU, mtu)
            self._rtnl.run(netlink.link_message(index, size))
            space.inside.run(netlink.link_message(inner, size))
        return inner

    def _new_pair(self, endpoint: EndpointRecord, space: Namespace) -> tuple[int, int]:
        if self._rtnl.link(endpoint.link) is None:
            self._rtnl.run(netlink.veth_message(endpoint.link, endpoint.interface, space.fd))
        link, inner = self._rtnl.link(endpoint.link), space.inside.link(endpoint.interface)
        if link is None or inner is None:
            raise SystemFailure(f"the link of {endpoint.interface} vanished while it was made")
        quiet = netlink.no_link_local()
        self._rtnl.run(
            netlink.link_message(link.index, quiet), netlink.link_message(link.index, up=True)
        )
        space.inside.run(netlink.link_message(inner.index, up=True))
        return link.index, inner.index

    def _enslave(self, network: NetworkRecord, index: int) -> None:
        bridge = self._indexes.get(network.link)
        if bridge is None:
            raise SystemFailure(f"bridge {network.link} of network {network.name} is missing")
        master = netlink.link_message(index, netlink.number(netlink.IFLA_MASTER, bridge))
        try:
            self._rtnl.run(master)
        except OSError as err:
            if err.errno not in (errno.ENODEV, errno.EINVAL):
                raise
            # the bridge was deleted by hand: make it again
            self._ensure_bridge(network)
            bridge = self._indexes[network.link]
            self._rtnl.run(netlink.link_message(index, netlink.number(netlink.IFLA_MASTER, bridge)))
        hairpin = bridged_packets_are_translated()
        isolated = not network.flag(network_options.BRIDGE_ICC, True)
        if hairpin or isolated:
            port = netlink.bridge_port_message(index, isolated=isolated, hairpin=hairpin)
            self._rtnl.run(port)

    def _plug_vlan(self, network: NetworkRecord, endpoint: EndpointRecord, space: Namespace) -> int:
        parent = self._indexes.get(network.link)
        if parent is None:
            raise SystemFailure(f"parent {network.link} of network {network.name} is missing")
        if network.driver == "macvlan":
            mode = netlink.MACVLAN_MODES[network.option("macvlan_mode", "bridge")]
            data = netlink.number(netlink.IFLA_MACVLAN_MODE, mode)
        else:
            mode = netlink.IPVLAN_MODES[network.option("ipvlan_mode", "l2")]
            flag = netlink.IPVLAN_FLAGS[network.option("ipvlan_flag", "bridge")]
            data = netlink.attribute(netlink.IFLA_IPVLAN_MODE, mode.to_bytes(2, "little"))
            data += netlink.attribute(netlink.IFLA_IPVLAN_FLAGS, flag.to_bytes(2, "little"))
        attributes = [
            netlink.number(netlink.IFLA_LINK, parent),
            netlink.number(netlink.IFLA_NET_NS_FD, space.fd),
        ]
        self._create(
            netlink.new_link_message(endpoint.interface, network.driver, data, *attributes),
            network.driver,
        )
        inner = space.inside.link(endpoint.interface)
        if inner is None:
            raise SystemFailure(f"{endpoint.interface} vanished while it was made")
        return inner.index

    def unplug(self, endpoint: EndpointRecord) -> None:
        """Delete an endpoint's pair from the host's side; slow (30 ms), for the worker."""
        if not endpoint.link:
            return
        rtnl = Rtnl()
        try:
            link = rtnl.link(endpoint.link)
            if link is not None:
                rtnl.run(netlink.del_link_message(link.index))
        finally:
            rtnl.close()

    def intact(self, network: NetworkRecord, endpoint: EndpointRecord, space: Namespace) -> bool:
        """Whether an endpoint's interface is up inside with its addresses, and its pair on its
        bridge."""
        inner = space.inside.link(endpoint.interface)
        if inner is None or not inner.up:
            return False
        present = {item.address for item in space.inside.addresses(inner.index)}
        wanted = (endpoint.address(version) for version in (4, 6))
        if any(address is not None and address not in present for address in wanted):
            return False
        if network.driver != "bridge":
            return True
        outer = self._rtnl.link(endpoint.link)
        return outer is not None and outer.up and outer.master == self._indexes.get(network.link)

    def stale(self, known: set[str]) -> list[str]:
        """Interfaces with a name only this engine gives that nothing known accounts for."""
        suffix = self._instance.suffix
        pattern = re.compile(f"ps{suffix[:4]}[0-9a-f]{{9}}" if suffix else "ps[0-9a-f]{11}")
        return [
            link.name
            for link in self._rtnl.links()
            if (pattern.fullmatch(link.name) or link.name == self._instance.bridge)
            and link.kind in ("veth", "bridge", "dummy")
            and link.name not in known
        ]

    def delete(self, names: list[str]) -> None:
        """Delete links by name; for the worker."""
        rtnl = Rtnl()
        try:
            for name in names:
                link = rtnl.link(name)
                if link is not None and link.kind in ("veth", "bridge", "vlan", "dummy"):
                    rtnl.run(netlink.del_link_message(link.index))
        finally:
            rtnl.close()


def configure(endpoint: EndpointRecord, index: int, space: Namespace, ipvlan: bool = False) -> None:
    """Addresses and hardware address of one interface inside a namespace, in one send.

    The hardware address comes last: on its change the kernel informs neighbours whose caches
    have another hardware address for an IP address (ip-sysctl, arp_notify and ndisc_notify).
    """
    messages = [netlink.link_message(index, up=True)]
    for version, prefix in ((4, endpoint.prefix4), (6, endpoint.prefix6)):
        address = endpoint.address(version)
        if address is not None:
            messages.append(netlink.address_message(index, address, prefix))
    for text in (endpoint.settings.ipam_config or network_store.NO_IPAM).link_local_ips:
        address = ipaddress.ip_address(text)
        messages.append(netlink.address_message(index, address, 16 if address.version == 4 else 64))
    if endpoint.mac and not ipvlan:
        mac = netlink.attribute(netlink.IFLA_ADDRESS, parse_mac(endpoint.mac))
        messages.append(netlink.link_message(index, mac))
    space.inside.run(*messages)


def prepare_ipv6(endpoint: EndpointRecord, index: int, space: Namespace) -> None:
    """Set the hardware address and have a link-local address made once IPv6 is let in."""
    changes = [netlink.link_local()]
    if endpoint.mac:
        changes.append(netlink.attribute(netlink.IFLA_ADDRESS, parse_mac(endpoint.mac)))
    space.inside.run(netlink.link_message(index, *changes))


def set_gateway(space: Namespace, index: int, gateway: str, version: int) -> None:
    """The default route of one IP version; over the link itself when there is no gateway."""
    target = ipaddress.ip_address(gateway) if gateway else None
    space.inside.run(netlink.route_message(index, target, None, version))


def drop_addresses(endpoint: EndpointRecord, space: Namespace) -> None:
    """Take the addresses off, so that they can be given to another container at once."""
    index = space.interface(endpoint.interface)
    messages = []
    for version, prefix in ((4, endpoint.prefix4), (6, endpoint.prefix6)):
        address = endpoint.address(version)
        if address is not None:
            messages.append(netlink.del_address_message(index, address, prefix))
    space.inside.run(*messages)


def _with_own_link(record: NetworkRecord) -> NetworkRecord:
    return msgspec.structs.replace(record, own_link=True)


def _unsupported(err: OSError, kind: str) -> SystemFailure:
    if err.errno in (errno.EOPNOTSUPP, errno.ENODEV):
        return SystemFailure(
            f"this kernel has no {kind} interfaces (CONFIG_{kind.upper()}; "
            f"try `modprobe {kind}`): {err.strerror}"
        )
    return SystemFailure(f"cannot make a {kind} interface: {err}")


# -- inside a container --------------------------------------------------------------------


LINGER = 5.0
"""Seconds that a pair gets to die with its namespace. One that does not is kept by TCP connections
that nobody closes any more, which the kernel lets go of after minutes only."""


class Plumbing:
    """Changes the interfaces of containers' namespaces."""

    def __init__(self, catalogue: Catalogue, links: Links, worker: NamespaceWorker) -> None:
        self._catalogue, self._links, self._worker = catalogue, links, worker
        self._removals: set[asyncio.Task[None]] = set()
        self._dying: set[str] = set()
        self._look: asyncio.TimerHandle | None = None

    async def plug_all(self, record: SandboxRecord, space: Namespace) -> None:
        """All interfaces of a new sandbox, and its default routes."""
        for endpoint in record.endpoints:
            if endpoint.interface:
                await self.plug(space, endpoint)
        self.set_gateways(space, record.endpoints)

    async def plug(self, space: Namespace, endpoint: EndpointRecord) -> None:
        """Make an endpoint's interface in a container's namespace, with its addresses and sysctls.

        Raises OSError, NotFound.
        """
        network = self._catalogue.get(endpoint.network_id)
        index = self._links.plug(network, endpoint, space)
        space.indexes[endpoint.interface] = index
        settings = _user_sysctls(endpoint)
        if endpoint.ipv6:
            # before IPv6 is let in, so that the link-local address follows the final address
            prepare_ipv6(endpoint, index, space)
        if settings or endpoint.ipv6:
            await self._worker.visit(space.fd, lambda: _write_all(endpoint, settings))
        configure(endpoint, index, space, network.driver == "ipvlan")

    def set_gateways(self, space: Namespace, endpoints: Sequence[EndpointRecord]) -> None:
        """Set the default routes to the gateways that the endpoints' priorities choose."""
        for version in (4, 6):
            chosen = gateway_endpoint(endpoints, version)
            routed = self._layer3(endpoints) if chosen is None else None
            endpoint = chosen or routed
            if endpoint is None or (version == 6 and not endpoint.ipv6):
                continue
            gateway = endpoint.gateway4 if version == 4 else endpoint.gateway6
            index = space.interface(endpoint.interface)
            set_gateway(space, index, gateway, version)

    def _layer3(self, endpoints: Sequence[EndpointRecord]) -> EndpointRecord | None:
        """An ipvlan in layer 3 mode has its default route over the link itself."""
        for endpoint in endpoints:
            network = self._catalogue.get(endpoint.network_id)
            if network.driver == "ipvlan" and network.option("ipvlan_mode", "l2") != "l2":
                return endpoint
        return None

    async def repair(self, record: SandboxRecord, space: Namespace) -> None:
        """Make a living namespace what its record says, after a crash between any two steps."""
        for endpoint in record.endpoints:
            network = self._catalogue.get(endpoint.network_id)
            if endpoint.interface and not self._links.intact(network, endpoint, space):
                await self.plug(space, endpoint)
        self.set_gateways(space, record.endpoints)

    def drop(self, record: SandboxRecord, space: Namespace | None, shared: bool) -> None:
        """Addresses off at once; the pairs die with the namespace, or in the background when
        something else lives on in it (``shared``)."""
        for endpoint in record.endpoints:
            if not endpoint.interface:
                continue
            if space is not None:
                with teardown(log, f"addresses of {endpoint.interface}"):
                    drop_addresses(endpoint, space)  # the namespace may be gone already
            if shared or space is None:
                self.remove_later(endpoint)
            elif endpoint.link:
                self._dying.add(endpoint.link)
        if self._dying and self._look is None:
            self._look = asyncio.get_running_loop().call_later(LINGER, self._delete_dying)

    def _delete_dying(self) -> None:
        names, self._dying, self._look = sorted(self._dying), set(), None
        self.in_background(lambda: self._links.delete(names))

    def remove_later(self, endpoint: EndpointRecord) -> None:
        self.in_background(lambda: self._links.unplug(endpoint))

    def in_background(self, work: Callable[[], None]) -> None:
        """Do something in the worker that nobody waits for but ``wait``."""
        task = asyncio.get_running_loop().create_task(self._worker.run(work))
        self._removals.add(task)
        task.add_done_callback(self._removal_done)

    def _removal_done(self, task: asyncio.Task[None]) -> None:
        self._removals.discard(task)
        if not task.cancelled():
            err = task.exception()
            if err is not None:  # gone already; what stays is found at the next start
                log.debug("an interface of a container that has ended: %s", err)

    async def unplug(self, space: Namespace, endpoint: EndpointRecord) -> None:
        """Delete one interface of a living namespace."""
        if endpoint.link:
            await self._worker.run(lambda: self._links.unplug(endpoint))
            return
        await self._worker.visit(space.fd, lambda: _delete_link(endpoint.interface))

    async def wait(self) -> None:
        """Until the links of containers that have ended are gone."""
        if self._look is not None:
            self._look.cancel()
            self._delete_dying()
        await asyncio.gather(*self._removals, return_exceptions=True)


def _user_sysctls(endpoint: EndpointRecord) -> list[tuple[str, str]]:
    """The user's settings of one interface inside."""
    found: list[tuple[str, str]] = []
    text = (endpoint.settings.driver_opts or {}).get(network_options.ENDPOINT_SYSCTLS, "")
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")  # its form was checked by check_settings
        parts = name.split(".")
        parts[3] = endpoint.interface
        found.append(("/".join(parts[1:]), value))
    return found


def _write_all(endpoint: EndpointRecord, settings: Sequence[tuple[str, str]]) -> None:
    """Allow IPv6 where the interface has an address of it, then set what the user wants.

    Raises InvalidParameter for a setting that this kernel does not have.
    """
    if endpoint.ipv6:
        write_sysctl(f"ipv6/conf/{endpoint.interface}/disable_ipv6", "0")
    for name, value in settings:
        if not (SYS_NET / name).is_file():
            raise InvalidParameter(f"{SYS_NET / name} is not a sysctl file")
        write_sysctl(name, value)


def _delete_link(interface: str) -> None:
    """Delete an interface of the calling thread's namespace."""
    rtnl = netlink.Rtnl()
    try:
        link = rtnl.link(interface)
        if link is not None:
            rtnl.run(netlink.del_link_message(link.index))
    finally:
        rtnl.close()
