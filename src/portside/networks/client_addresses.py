"""The clients' own addresses towards containers, where the engine passes connections on.

A relayed connection comes from the engine. With ``IP_TRANSPARENT`` (ip(7)) its socket has the
client's address instead; the container's answers then have to come back here, although their
destination is elsewhere. A rule for each published port does that (ip-rule(8))::

    from 172.17.0.2 ipproto tcp sport 80 lookup 20540
    table 20540:  local default dev lo

Only for TCP: with UDP a container may well send from its published port on its own account,
as WireGuard does, and such datagrams have to leave.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections import Counter
from contextlib import suppress

from portside.kernel.netlink import Rtnl, rule_message, table_of_local_route
from portside.networks.portmapper import Publication

log = logging.getLogger(__name__)
TABLE = 20540
PRIORITY = 20540
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
"""<linux/in.h>, <linux/in6.h>"""


class ClientAddresses:
    """The rules of one engine, in the network namespace of its own. Never raises."""

    def __init__(self) -> None:
        self._rules: Counter[tuple[str, int]] = Counter()
        self._versions: set[int] = set()
        """IP versions with the table; without it containers see the bridge's address."""
        for version in (4, 6):
            try:
                self._prepare(version)
                self._versions.add(version)
            except OSError as err:
                log.debug("clients over IPv%d are seen at the bridge's address: %s", version, err)

    def _prepare(self, version: int) -> None:
        """The table, and no rule that an engine before has left."""
        rtnl = Rtnl()
        try:
            rtnl.run(table_of_local_route(version, TABLE))
            with suppress(OSError):  # at last there is none
                while True:
                    rtnl.run(rule_message(version, TABLE, PRIORITY, delete=True))
        finally:
            rtnl.close()

    def open(self, publication: Publication) -> None:
        """Have the answers of a container's port come here."""
        self._rules[_source(publication)] += 1
        if self._rules[_source(publication)] == 1:
            self._change(publication, delete=False)

    def close(self, publication: Publication) -> None:
        self._rules[_source(publication)] -= 1
        if self._rules[_source(publication)] <= 0:
            del self._rules[_source(publication)]
            self._change(publication, delete=True)

    def _change(self, publication: Publication, *, delete: bool) -> None:
        version = publication.version
        if version not in self._versions:
            return
        rtnl = Rtnl()
        try:
            source = (ipaddress.ip_address(publication.container_ip), publication.container_port)
            rtnl.run(rule_message(version, TABLE, PRIORITY, source, delete=delete))
        except OSError as err:
            if not delete or err.errno != errno.ENOENT:
                log.warning("clients of %s: %s", publication.host, err)
                self._versions.discard(version)
        finally:
            rtnl.close()

    def take(self, sock: socket.socket, client: str, publication: Publication) -> None:
        """Give a socket towards the container the client's address, if the
        container can use it: a loopback address, or one of the other IP version, has no meaning
        there."""
        address = ipaddress.ip_address(client.partition("%")[0])
        version = publication.version
        if address.version != version or version not in self._versions:
            return
        if address.is_loopback or address.is_link_local:
            return
        level, option = (
            (socket.IPPROTO_IP, IP_TRANSPARENT)
            if version == 4
            else (socket.IPPROTO_IPV6, IPV6_TRANSPARENT)
        )
        try:
            sock.setsockopt(level, option, 1)
            sock.bind((str(address), 0))
        except OSError as err:
            log.debug("the address of client %s is not kept: %s", client, err)


def _source(publication: Publication) -> tuple[str, int]:
    return publication.container_ip, publication.container_port
