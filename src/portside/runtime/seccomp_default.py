"""The default seccomp profile: what a container may ask of the kernel, equal to Docker's.

An allow list by subject; what is not in it fails with EPERM. Left out on purpose: loading
kernels and modules, clocks, swap, keyrings (not namespaced), NUMA placement, new namespaces
and mounts (by capability), ``userfaultfd``, ``io_uring`` (its requests evade seccomp), and
what only old interfaces need. Some calls come back with a capability, and a few depend on
their arguments.
"""

from __future__ import annotations

import functools

from portside.model import ociruntime as oci
from portside.runtime.seccomp_profile import Architecture, Arg, Condition, Profile, Rule, resolve

ENOSYS = 38
ALLOW = "SCMP_ACT_ALLOW"
ERRNO = "SCMP_ACT_ERRNO"

_SUBJECTS: dict[str, str] = {
    "files, opened and closed": """
        open openat openat2 creat close close_range dup dup2 dup3 pipe pipe2 fcntl fcntl64 flock
        name_to_handle_at memfd_create memfd_secret""",
    "reading and writing": """
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek
        sendfile sendfile64 copy_file_range splice tee vmsplice readahead fadvise64 fadvise64_64
        fallocate truncate truncate64 ftruncate ftruncate64 sync syncfs fsync fdatasync
        sync_file_range cachestat ioctl""",
    "names and directories": """
        access faccessat faccessat2 chdir fchdir getcwd mkdir mkdirat rmdir getdents getdents64
        link linkat symlink symlinkat readlink readlinkat unlink unlinkat rename renameat
        renameat2 mknod mknodat umask""",
    "metadata": """
        stat lstat fstat stat64 lstat64 fstat64 fstatat64 newfstatat statx statfs fstatfs
        statfs64 fstatfs64 chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat chown32
        lchown32 fchown32 utime utimes futimesat utimensat utimensat_time64 listmount statmount
        getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
        listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr
        removexattrat""",
    "waiting for events": """
        poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create
        epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
        eventfd eventfd2 signalfd signalfd4 inotify_init inotify_init1 inotify_add_watch
        inotify_rm_watch fanotify_mark""",
    "asynchronous input and output": """
        io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
        io_pgetevents_time64""",
    "memory": """
        brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 munlock mlockall
        munlockall remap_file_pages membarrier pkey_alloc pkey_free pkey_mprotect
        process_mrelease map_shadow_stack mseal""",
    "processes and threads": """
        fork vfork execve execveat exit exit_group wait4 waitpid waitid getpid getppid gettid
        getpgid getpgrp setpgid getsid setsid set_tid_address set_thread_area get_thread_area
        set_robust_list get_robust_list rseq prctl pidfd_open pidfd_send_signal getcpu""",
    "identity": """
        getuid geteuid getgid getegid getresuid getresgid getgroups getuid32 geteuid32 getgid32
        getegid32 getresuid32 getresgid32 getgroups32 setuid setgid setreuid setregid setresuid
        setresgid setfsuid setfsgid setgroups setuid32 setgid32 setreuid32 setregid32
        setresuid32 setresgid32 setfsuid32 setfsgid32 setgroups32 capget capset seccomp
        landlock_create_ruleset landlock_add_rule landlock_restrict_self""",
    "signals": """
        kill tkill tgkill pause sigaltstack sigprocmask sigreturn rt_sigaction rt_sigpending
        rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_sigtimedwait_time64 restart_syscall uretprobe""",
    "scheduling and limits": """
        sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr
        sched_getparam sched_setparam sched_getscheduler sched_setscheduler
        sched_get_priority_max sched_get_priority_min sched_rr_get_interval
        sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set getrlimit
        setrlimit ugetrlimit prlimit64 getrusage times""",
    "futexes": "futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue",
    "time": """
        time gettimeofday adjtimex clock_adjtime clock_adjtime64 clock_getres
        clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
        nanosleep alarm getitimer setitimer timer_create timer_delete timer_getoverrun
        timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
        timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64""",
    "sockets (but see socket)": """
        socketcall socketpair bind listen accept accept4 connect shutdown getsockname
        getpeername getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg
        recvmmsg recvmmsg_time64""",
    "System V and POSIX communication": """
        ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat
        shmctl shmdt shmget mq_open mq_unlink mq_notify mq_getsetattr mq_timedsend
        mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64""",
    "the machine": "uname sysinfo getrandom riscv_hwprobe",
}
"""Allowed to everyone."""

_BY_CAPABILITY: dict[str, str] = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
        lsm_get_self_attr lsm_set_self_attr lsm_list_modules mount mount_setattr move_mount
        open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
        umount umount2 unshare""",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "init_module finit_module delete_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": """
        kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace""",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

_BY_ARCHITECTURE: tuple[tuple[tuple[str, ...], str], ...] = (
    (("amd64", "x32"), "arch_prctl"),
    (("amd64", "x32", "x86"), "modify_ldt"),
    (
        ("arm", "arm64"),
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (("ppc64le",), "sync_file_range2 swapcontext"),
    (("riscv64",), "riscv_flush_icache"),
    (("s390", "s390x"), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
)

_ABIS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("SCMP_ARCH_X86_64", ("SCMP_ARCH_X86", "SCMP_ARCH_X32")),
    ("SCMP_ARCH_AARCH64", ("SCMP_ARCH_ARM",)),
    ("SCMP_ARCH_MIPS64", ("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64N32")),
    ("SCMP_ARCH_MIPS64N32", ("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64")),
    ("SCMP_ARCH_MIPSEL64", ("SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64N32")),
    ("SCMP_ARCH_MIPSEL64N32", ("SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64")),
    ("SCMP_ARCH_S390X", ("SCMP_ARCH_S390",)),
    ("SCMP_ARCH_RISCV64", ()),
    ("SCMP_ARCH_LOONGARCH64", ()),
)

_AF_ALG, _AF_VSOCK = 38, 40
"""Address families kept from containers: the kernel's crypto and the hypervisor's sockets."""

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together (clone(2))."""

# personality(2): PER_LINUX, PER_LINUX32, UNAME26 with each, and the question.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def _when(action: str, name: str, op: str, value: int, index: int = 0) -> Rule:
    # For SCMP_CMP_MASKED_EQ the value is the mask, and what must remain is 0.
    return Rule(names=(name,), action=action, args=(Arg(index, value, op),))


def _socket_rules() -> list[Rule]:
    return [
        _when(ALLOW, "socket", "SCMP_CMP_LT", _AF_ALG),
        _when(ALLOW, "socket", "SCMP_CMP_EQ", _AF_ALG + 1),
        _when(ALLOW, "socket", "SCMP_CMP_GT", _AF_VSOCK),
    ]


def _clone_rules() -> list[Rule]:
    """Without CAP_SYS_ADMIN: no new namespaces.

    clone3 passes its flags in memory, where no filter can look; it is said not to exist, and
    C libraries take clone instead. On s390 the flags are clone's second argument.
    """
    admin, s390 = ("CAP_SYS_ADMIN",), ("s390", "s390x")

    def clone(index: int, includes: Condition | None, excludes: Condition) -> Rule:
        args = (Arg(index, _NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ"),)
        return Rule(names=("clone",), action=ALLOW, args=args, includes=includes, excludes=excludes)

    return [
        clone(0, None, Condition(caps=admin, arches=s390)),
        clone(1, Condition(arches=s390), Condition(caps=admin)),
        Rule(names=("clone3",), action=ERRNO, errno_ret=ENOSYS, excludes=Condition(caps=admin)),
    ]


@functools.cache
def profile() -> Profile:
    """The whole profile with its conditions, in Docker's form."""
    everyone = tuple(name for names in _SUBJECTS.values() for name in names.split())
    rules = [
        Rule(names=everyone, action=ALLOW),
        # Before Linux 4.8 ptrace could get around a filter.
        Rule(
            names=("process_vm_readv", "process_vm_writev", "ptrace"),
            action=ALLOW,
            includes=Condition(min_kernel="4.8"),
        ),
        *_socket_rules(),
        *(_when(ALLOW, "personality", "SCMP_CMP_EQ", value) for value in _PERSONALITIES),
        *_clone_rules(),
    ]
    for arches, names in _BY_ARCHITECTURE:
        rules.append(
            Rule(names=tuple(names.split()), action=ALLOW, includes=Condition(arches=arches))
        )
    for cap, names in _BY_CAPABILITY.items():
        rules.append(
            Rule(names=tuple(names.split()), action=ALLOW, includes=Condition(caps=(cap,)))
        )
    return Profile(
        default_action=ERRNO,
        default_errno_ret=1,
        arch_map=tuple(Architecture(native, others) for native, others in _ABIS),
        syscalls=tuple(rules),
    )


@functools.lru_cache(maxsize=64)
def default(caps: tuple[str, ...]) -> oci.Seccomp:
    """The default filter of a container with ``caps`` in its bounding set."""
    return resolve(profile(), caps)
