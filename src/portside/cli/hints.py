"""Hints of error messages about what to do next.

Imported only when something has failed.
"""

from __future__ import annotations

import os
from difflib import get_close_matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from portside.client.client import Client
    from portside.flags.table import Options

_LISTENING = "0A"
"""State of a listening TCP socket in /proc/net/tcp, and (07) of an unconnected UDP one."""


def similar(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'run'?``, or nothing."""
    names = sorted(set(known))
    found = get_close_matches(word, names, 1, 0.7) or [
        name for name in names if sorted(name) == sorted(word)
    ]
    return f"Did you mean '{found[0]}'?" if found else ""


def after_image(command: Sequence[str]) -> str:
    """For a command that could not be run: an option that stands behind the image's name."""
    if not command or not command[0].startswith("-"):
        return ""
    return (
        f"'{command[0]}' follows the image's name, so it was taken as the command: "
        "options go before the image"
    )


def holder_of_port(client: Client, is_local: bool, options: Options, message: str) -> str:
    """The listener on a port that could not be published; empty for other errors."""
    if not options.many("publish") or not any(
        words in message for words in ("address already in use", "already allocated")
    ):
        return ""
    from portside.cli import port_flags

    wanted = {
        (binding["HostPort"], port.partition("/")[2] or "tcp")
        for port, bindings in port_flags.published(options.many("publish")).items()
        for binding in bindings
        if str(binding["HostPort"]).isdecimal()
    }
    found = [_holder(client, is_local, int(number), kind) for number, kind in sorted(wanted)]
    return "\n".join(filter(None, found))


def _holder(client: Client, is_local: bool, number: int, kind: str) -> str:
    for container in client.get("/containers/json"):
        for port in container.get("Ports") or ():
            if (port.get("PublicPort"), port.get("Type")) == (number, kind):
                name = container["Names"][0].removeprefix("/")
                return f"Port {number}/{kind} is published by the container {name}"
    if not is_local:
        return ""  # the engine is on another machine
    inodes = _inodes(number, kind)
    process = _process_with(inodes) if inodes else ""
    return f"Port {number}/{kind} is used by the process {process}" if process else ""


def _inodes(number: int, kind: str) -> set[str]:
    """Sockets that listen on a port, proc_pid_net(5)."""
    found = set()
    for name in (kind, f"{kind}6"):
        try:
            with open(f"/proc/net/{name}") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        state = _LISTENING if kind == "tcp" else "07"
        for row in rows:
            if int(row[1].rpartition(":")[2], 16) == number and row[3] == state:
                found.add(f"socket:[{row[9]}]")
    return found


def _process_with(inodes: set[str]) -> str:
    """The first process that has one of the sockets open and that the caller can see."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    with open(f"/proc/{pid}/comm") as file:
                        return f"{file.read().strip()} ({pid})"
        except OSError:
            continue
    return ""


def group_of(path: str) -> str:
    """How to be let to a socket: the name of its group."""
    import grp

    try:
        name = grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return "call with sudo, or as a member of the socket's group"
    if name == "root":
        return "call with sudo (the socket belongs to root alone)"
    return (
        f"call with sudo, or join the group {name} (sudo usermod -aG {name} $USER) and log in again"
    )


def podman_network(options: Options) -> str:
    """The other way to what a mode of Podman's ``--network`` does."""
    for item in options.many("network"):
        mode = item["target"].partition(":")[0]
        if mode in ("pasta", "slirp4netns"):
            return (
                f"--network {mode} is Podman's: an engine without root runs one pasta or "
                "slirp4netns for all of its networks. Leave the option out (published ports keep "
                "the client's address where pasta can), or use --network none or host"
            )
        if mode == "private":
            return "--network private is Podman's: use --network bridge"
        if mode == "ns":
            return "--network ns:PATH is Podman's: use --network container:NAME"
    return ""


def failed_start(
    client: Client, is_local: bool, options: Options, arguments: Sequence[str], error: Any
) -> str:
    """The hint for a failed run or create, as a line, or nothing."""
    if getattr(error, "exit_status", 0) in (126, 127) or error.status == 400:
        return after_image(arguments[1:])
    if error.status == 404 and (said := podman_network(options)):
        return said
    try:
        return holder_of_port(client, is_local, options, str(error))
    except Exception:  # a hint must not hide the error
        return ""
