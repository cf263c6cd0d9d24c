"""Facts about the machine, read once or cheaply, for ``info`` and ``version``."""

from __future__ import annotations

import os
import platform
import shlex
from functools import cache
from pathlib import Path

from portside.model.platform import Platform


@cache
def os_release() -> dict[str, str]:
    """os-release(5) of this machine."""
    for name in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(name).read_text()
        except OSError:
            continue
        found: dict[str, str] = {}
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if equals and not key.startswith("#"):
                found[key.strip()] = " ".join(shlex.split(value))
        return found
    return {}


def operating_system() -> str:
    release = os_release()
    return release.get("PRETTY_NAME") or release.get("NAME") or "Linux"


def kernel() -> str:
    return platform.release()


def machine() -> str:
    """``x86_64``, ``aarch64`` …"""
    return platform.machine()


def architecture() -> str:
    """``amd64``, ``arm64`` …"""
    return Platform.host().architecture


def cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def memory() -> int:
    """Bytes of memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def descriptors() -> int:
    """Descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - the quickest way


def sysctl(name: str) -> str:
    """A kernel setting such as ``net/ipv4/ip_forward``; empty when there is none."""
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
