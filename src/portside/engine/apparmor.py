"""The AppArmor profile of containers, ``docker-default``: loaded when the engine starts.

It has the name that users write in ``--security-opt`` and see in ``inspect``. Containers are
held by capabilities, seccomp, masked and read-only paths as well; the profile keeps those who
got more capabilities from undoing that: no mounts, no tracing of strangers, no writing to the
kernel's own files.
"""

from __future__ import annotations

import logging

from portside.kernel import apparmor
from portside.model.errors import SystemFailure

DEFAULT = "docker-default"

_TEXT = """\
profile docker-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # The engine signals its containers, and their processes each other.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=docker-default,
  ptrace (trace, read, tracedby, readby) peer=docker-default,

  deny mount,
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,
  deny /proc/{acpi,asound,bus,driver,fs,irq,scsi,tty}/** wklx,
  deny /proc/sys/{abi,debug,dev,fs,user,vm}/** wklx,
  deny /proc/sys/kernel/{,**/}{core_*,hotplug,modprobe,modules_disabled,panic*,printk*} wklx,
  deny /proc/sys/kernel/{kexec*,randomize_va_space,sysrq,usermodehelper/**,yama/**} wklx,
  deny /sys/{block,bus,class,dev,devices,firmware,hypervisor,kernel,module,power}/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
"""

log = logging.getLogger(__name__)


def default_profile() -> str:
    """The profile that containers get: loaded if it was not, empty where AppArmor is off.

    Without apparmor_parser and without a loaded profile containers go without; the log says
    so.
    """
    if not apparmor.enabled():
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
