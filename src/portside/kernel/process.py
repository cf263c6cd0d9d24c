"""A process's own attributes: namespaces, prctl(2), capabilities, descriptors."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from portside.kernel.libc import check, encoded, libc, number, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_INTO_CGROUP = 0x200000000

NAMESPACES = {
    "mount": (CLONE_NEWNS, "mnt"),
    "uts": (CLONE_NEWUTS, "uts"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "network": (CLONE_NEWNET, "net"),
    "pid": (CLONE_NEWPID, "pid"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "user": (CLONE_NEWUSER, "user"),
    "time": (CLONE_NEWTIME, "time"),
}
"""The runtime-spec's names, clone(2)'s flags, and names below /proc/PID/ns."""

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
"""Names by number, without ``CAP_`` (capabilities(7), <linux/capability.h>)."""
_NUMBERS = {f"CAP_{name}": bit for bit, name in enumerate(CAPABILITIES)}
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_locked_libc = ctypes.PyDLL(None, use_errno=True)
_locked_libc.syscall.restype = ctypes.c_long
libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
libc.unshare.argtypes = (ctypes.c_int,)
libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones (unshare(2)); CLONE_NEWPID counts for children only."""
    check(libc.unshare(flags), "unshare")


def fork_sibling() -> int:
    """fork(2), but the child is our parent's (clone(2), CLONE_PARENT): 0 in the child.

    Call it with one thread only. CLONE_PARENT may not be asked of a PID namespace's init.
    """
    arguments = [ctypes.c_long(CLONE_PARENT | 17), *[ctypes.c_long(0)] * 4]  # 17: SIGCHLD
    return _forked("clone", *arguments)


def _forked(name: str, *arguments: ctypes.c_long | ctypes.c_size_t | bytes) -> int:
    """Fork by a system call of this name, with what os.fork does for the interpreter. OSError."""
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    ctypes.set_errno(0)
    # PyDLL: the interpreter's lock stays held, so that the child has it, too
    pid = int(_locked_libc.syscall(ctypes.c_long(number(name)), *arguments))
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, os.strerror(code), name)
    return pid


def fork_into(directory: int) -> int:
    """fork(2) into a version 2 control group, given by a descriptor of its directory: 0 there.

    Call it with one thread only. Raises OSError: ENOSYS before Linux 5.7, EBUSY when the group
    may not hold processes (clone3 with CLONE_INTO_CGROUP, clone(2)).
    """
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size,
    # tls, set_tid, set_tid_size, cgroup; 17 is SIGCHLD
    arguments = struct.pack("=11Q", _CLONE_INTO_CGROUP, 0, 0, 0, 17, 0, 0, 0, 0, 0, directory)
    return _forked("clone3", arguments, ctypes.c_size_t(len(arguments)))


def setns(fd: int, flags: int, about: str = "setns") -> None:
    """Join the namespace of an nsfs descriptor, or several of a pidfd's (Linux 5.8)."""
    check(libc.setns(fd, flags), about)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2); missing arguments are zero."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return check(libc.prctl(option, *padded), "prctl")


def set_name(name: str) -> None:
    """Set the name that ps(1) shows for this process, at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    check(libc.prctl(PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0))


def execveat(directory: int, name: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Execute a file below a descriptor's directory (execveat(2)); returns only by raising.

    Unlike a path below /proc/self/fd this needs no /proc, and the process gets the file's name.
    """
    pairs = [encoded(f"{key}={value}") for key, value in env.items()]
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*map(encoded, arguments), None)
    envp = (ctypes.c_char_p * (len(pairs) + 1))(*pairs, None)
    syscall("execveat", directory, encoded(name), argv, envp, 0, about=name)


def default_internal_signals() -> None:
    """Undo what glibc's posix_spawn(3) leaves ignored: the two signals it keeps for itself.

    sigaction(3) refuses these, and containers would inherit the state by execve(2).
    """
    action = ctypes.create_string_buffer(64)  # struct sigaction of the kernel: SIG_DFL, no flags
    for internal in (32, 33):
        try:
            syscall("rt_sigaction", internal, action, None, 8)
        except OSError:
            pass


def getcwd() -> str:
    """The working directory as the kernel names it: ``(unreachable)`` and a path for one outside
    of the root (getcwd(2)). The C library hides that."""
    buffer = ctypes.create_string_buffer(4096)
    try:
        syscall("getcwd", buffer, 4096)
    except FileNotFoundError:  # a directory that was removed
        return ""
    return os.fsdecode(buffer.value)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close all descriptors from ``first`` on; flag 4 only sets close-on-exec (Linux 5.11)."""
    syscall("close_range", first, last, flags)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor from 3 on that is not in ``keep``."""
    first = 3
    for fd in sorted(set(keep)):
        if fd > first:
            close_range(first, fd - 1)
        first = max(first, fd + 1)
    close_range(first)


def join_session_keyring() -> None:
    """An empty session keyring of our own (keyctl(2)); kernels without keys are passed over."""
    try:
        syscall("keyctl", 1, None)  # KEYCTL_JOIN_SESSION_KEYRING, anonymous
    except OSError:
        pass


def personality(value: int) -> None:
    """Set the execution domain, such as PER_LINUX32 (personality(2))."""
    syscall("personality", value)


def sched_setattr(
    policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int
) -> None:
    """Set this thread's scheduling (sched_setattr(2)); times in nanoseconds."""
    # struct sched_attr as of its first version, 48 bytes
    attributes = struct.pack(
        "=IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period
    )
    syscall("sched_setattr", 0, attributes, 0)


def ioprio_set(kind: int, level: int) -> None:
    """Set this thread's I/O scheduling class (1 real time, 2 best effort, 3 idle) and level
    (ioprio_set(2))."""
    syscall("ioprio_set", 1, 0, kind << 13 | level)  # 1: IOPRIO_WHO_PROCESS


def setgroups(groups: tuple[int, ...]) -> None:
    """setgroups(2). In a user namespace that a user made without help nobody may, since groups
    can take rights away; the caller's own then stay (user_namespaces(7))."""
    try:
        os.setgroups(list(groups))
    except PermissionError:
        with open("/proc/self/setgroups") as file:
            if file.read().strip() != "deny":
                raise


def last_capability() -> int:
    """The highest capability this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def capability_bits(names: tuple[str, ...]) -> int:
    """A bit set of names such as ``CAP_CHOWN``; unknown names are ignored."""
    bits = 0
    for name in names:
        if name in _NUMBERS:
            bits |= 1 << _NUMBERS[name]
    return bits


def bounded(bits: int) -> int:
    """Which of these capabilities are in this process's bounding set; those that the kernel does
    not know are not.

    Not from /proc, which in a container may be anything; each costs a system call.
    """
    found = 0
    for bit in range(bits.bit_length()):
        if bits >> bit & 1:
            try:
                found |= prctl(PR_CAPBSET_READ, bit) << bit
            except OSError as err:
                if err.errno != errno.EINVAL:
                    raise
    return found


def drop_bounding(keep: int, last: int) -> None:
    """Drop every capability that is not kept from the bounding set."""
    for bit in range(last + 1):
        if not keep >> bit & 1:
            prctl(PR_CAPBSET_DROP, bit)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability sets (capset(2), version 3 of its header)."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    words = []
    for shift in (0, 32):
        words += [(s >> shift) & 0xFFFFFFFF for s in (effective, permitted, inheritable)]
    data = struct.pack("=6I", *words)
    check(libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)), "capset")


def permitted() -> int:
    """This thread's permitted capabilities (capget(2))."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    check(libc.capget(ctypes.c_char_p(header), data), "capget")
    words = struct.unpack("=6I", data.raw)
    return int(words[1] | words[4] << 32)


def raise_ambient(bits: int) -> None:
    """Clear the ambient set and raise the given capabilities in it."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for bit in range(bits.bit_length()):
        if bits >> bit & 1:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit)


def sethostname(name: str) -> None:
    data = os.fsencode(name)
    check(libc.sethostname(data, len(data)), "sethostname")


def setdomainname(name: str) -> None:
    data = os.fsencode(name)
    check(libc.setdomainname(data, len(data)), "setdomainname")


def kernel_version() -> tuple[int, ...]:
    """The running kernel's version, major and minor number."""
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())
