"""A network namespace's counters and sockets, read through a process that is in it.

Nothing stays open: a descriptor of ``/proc/PID/net`` would keep the namespace, and the links
in it, alive after its container ended.
"""

from __future__ import annotations

import os

from portside.monitor.samples import LINK

_TCP_STATES = {
    "01": "Established", "02": "SynSent", "03": "SynRecv", "04": "FinWait1", "05": "FinWait2",
    "06": "TimeWait", "07": "Close", "08": "CloseWait", "09": "LastAck", "0A": "Listen",
    "0B": "Closing",
}  # fmt: skip
"""``enum`` in include/net/tcp_states.h, as hexadecimal in ``/proc/net/tcp``."""
_PAGE = 2048
"""Bytes; less than a page, because the kernel does not break lines."""
_MOST = 1 << 22
"""Bytes of a socket table that are read: more sockets than that are counted in part."""
_VIRTUAL = (b"veth", b"docker", b"nerdctl")
"""Interfaces of the machine that are left out, as cAdvisor leaves them out: the other ends of
containers' links, and bridges of Docker's."""


def _read(path: str, most: int = _MOST) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        size = 0
        while size < most and (piece := os.read(fd, 65536)):
            parts.append(piece)
            size += len(piece)
            if len(piece) < _PAGE and len(parts) == 1:
                break  # the kernel fills a page at least while there is more
        return b"".join(parts)
    finally:
        os.close(fd)


def link_table(proc: str) -> bytes:
    """``/proc/PID/net/dev`` as the kernel writes it.

    ``proc``: the process's directory, such as ``/proc/1``. Raises OSError when it is gone.
    """
    return _read(f"{proc}/net/dev")


def parse_links(text: bytes, is_machine: bool) -> tuple[tuple[str, ...], bytes]:
    """Names and packed counters of the interfaces, without the loopback.

    ``text``: :func:`link_table`, eight columns received, eight sent (proc(5)).
    """
    names: list[str] = []
    packed: list[bytes] = []
    for line in text.split(b"\n")[2:]:
        name, colon, rest = line.partition(b":")
        name = name.strip()
        if not colon or name == b"lo" or (is_machine and name.startswith(_VIRTUAL)):
            continue
        columns = rest.split()
        if len(columns) < 12:
            continue
        shown = name.decode(errors="replace")
        names.append(shown)
        packed.append(LINK.pack(*map(int, columns[0:4]), *map(int, columns[8:12])))
    return tuple(names), b"".join(packed)


def namespace_of(proc: str) -> str:
    """An identity of the network namespace of a process; empty when the process is gone.

    The link in ``ns`` is only to be read with ptrace access (namespaces(7)). The files below
    ``net`` are there for everybody, and each namespace has inodes of its own for them.
    """
    try:
        return str(os.stat(f"{proc}/net/dev").st_ino)
    except OSError:
        return ""


def sockets_in_use(proc: str) -> dict[str, int]:
    """Sockets of a network namespace by kind: ``tcp``, ``tcp6``, ``udp``, ``udp6``.

    ``/proc/PID/net/sockstat`` is cheap. The tables of the sockets are not: the kernel walks a
    hash table of all namespaces for each of them, which takes milliseconds on large machines.
    """
    found = dict.fromkeys(("tcp", "tcp6", "udp", "udp6"), 0)
    for file in ("sockstat", "sockstat6"):
        for line in _lines(f"{proc}/net/{file}", skip=0):
            kind, _, rest = line.partition(b":")
            words = rest.split()
            name = kind.decode(errors="replace").lower()
            if name in found and words[:1] == [b"inuse"]:
                waiting = int(words[words.index(b"tw") + 1]) if b"tw" in words else 0
                found[name] = int(words[1]) + waiting
    if found["tcp"]:  # sockets that wait for their end are counted together
        found["tcp6"] = found["tcp6"] or int(os.path.exists(f"{proc}/net/tcp6"))
    return found


def no_tcp() -> dict[str, int]:
    return dict.fromkeys(_TCP_STATES.values(), 0)


def no_udp() -> dict[str, int]:
    return {"Listen": 0, "Dropped": 0, "RxQueued": 0, "TxQueued": 0}


def tcp_states(proc: str, table: str) -> dict[str, int]:
    """Sockets by state; ``table``: ``tcp`` or ``tcp6``."""
    found = no_tcp()
    for line in _lines(f"{proc}/net/{table}"):
        words = line.split(None, 4)
        state = _TCP_STATES.get(words[3].decode()) if len(words) > 3 else None
        if state is not None:
            found[state] += 1
    return found


def udp_counters(proc: str, table: str) -> dict[str, int]:
    """``table``: ``udp`` or ``udp6``. A socket without a peer listens."""
    found = no_udp()
    for line in _lines(f"{proc}/net/{table}"):
        words = line.split()
        if len(words) < 13:
            continue
        found["Listen"] += words[3] == b"07"
        sent, _, received = words[4].partition(b":")
        found["TxQueued"] += int(sent, 16)
        found["RxQueued"] += int(received, 16)
        found["Dropped"] += int(words[12])
    return found


def _lines(path: str, skip: int = 1) -> list[bytes]:
    try:
        return _read(path).split(b"\n")[skip:]
    except OSError:
        return []


def tcp_advanced(proc: str) -> dict[str, int]:
    """Tcp of ``/proc/PID/net/snmp`` and TcpExt of ``netstat``: a line of names, one of values."""
    found: dict[str, int] = {}
    for file, group in (("snmp", b"Tcp"), ("netstat", b"TcpExt")):
        names: list[bytes] = []
        try:
            text = _read(f"{proc}/net/{file}")
        except OSError:
            continue
        for line in text.split(b"\n"):
            kind, _, rest = line.partition(b":")
            if kind != group:
                continue
            if not names:
                names = rest.split()
            else:
                found.update(
                    (name.decode(), int(value))
                    for name, value in zip(names, rest.split(), strict=False)
                )
                names = []
    return found
