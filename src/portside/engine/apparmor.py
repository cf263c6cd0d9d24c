"""The AppArmor profile of containers, ``portside-default``: loaded when the engine starts.

Containers are held by capabilities, seccomp, masked and read-only paths as well; the profile keeps
those who got more capabilities from undoing that: no mounts, no tracing of strangers, no writing to
the kernel's own files. What it denies is what Docker's profile denies.
"""

from __future__ import annotations

import logging

from portside.kernel import apparmor
from portside.model.errors import SystemFailure
from portside.model.paths import rootless_user

DEFAULT = "portside-default"

_TEXT = """\
profile portside-default flags=(attach_disconnected,mediate_deleted) {
  network,
  deny network alg,
  capability,
  file,
  umount,

  # The engine and its runtimes signal containers, and their processes each other.
  signal (receive) peer=unconfined,
  signal (receive) peer={runc,crun},
  signal (send, receive) peer=portside-default,
  ptrace (trace, read, tracedby, readby) peer=portside-default,

  deny mount,

  # Of proc only the processes' own directories can be written to, and the limits of shared memory
  # and semaphores, which belong to the IPC namespace.
  deny /proc/* w,
  deny /proc/[^1-9s]*/** wklx,
  deny /proc/s[^ey]*/** wklx,
  deny /proc/sys/[^k]** wklx,
  deny /proc/sys/k[^e]** wklx,
  deny /proc/sys/kernel/[^s]** wklx,
  deny /proc/sys/kernel/s[^eh]** wklx,
  deny /proc/sys/kernel/se[^m]** wklx,
  deny /proc/sys/kernel/sh[^m]** wklx,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/{kcore,kmem,mem} rwklx,

  # Of sysfs only the control groups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
"""

log = logging.getLogger(__name__)


def default_profile() -> str:
    """The profile that containers get: loaded if it was not, empty where AppArmor is off.

    Without apparmor_parser and without a loaded profile containers go without; the log says
    so. Without root no profile is loaded, which takes ``CAP_MAC_ADMIN`` of the host's.
    """
    if not apparmor.enabled() or rootless_user():
        return ""
    if not apparmor.is_loaded(DEFAULT):
        try:
            apparmor.load(_TEXT)
        except SystemFailure as err:
            log.warning("Containers run without an AppArmor profile: %s", err)
            return ""
        log.info("Loaded the AppArmor profile %s", DEFAULT)
    return DEFAULT


def in_use() -> bool:
    """Whether containers get the profile."""
    return apparmor.enabled() and apparmor.is_loaded(DEFAULT)
