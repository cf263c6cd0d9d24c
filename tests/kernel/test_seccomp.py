"""Filters at work: real processes under them, in every ABI this machine executes."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from portside.kernel import seccomp
from portside.model import capabilities
from portside.model import ociruntime as oci
from portside.model.errors import InvalidParameter
from portside.runtime import seccomp_default, seccomp_profile

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="installing a filter needs root here"),
    pytest.mark.skipif(not seccomp.supported(), reason="no seccomp or no libseccomp"),
]
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def call(number: int, *args: int) -> int:
    """0 or the errno of a raw system call."""
    if LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(arg) for arg in args)) >= 0:
        return 0
    return ctypes.get_errno()


def under(profile: oci.Seccomp, question: Callable[[], object]) -> object:
    """The answer of ``question`` in a child under the filter; its status when it was killed."""
    program = seccomp.compile_filter(profile)
    flags = seccomp.flags_of(profile)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            seccomp.install(program, flags)
            os.write(write, json.dumps(question()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        answer = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(answer) if answer else status


@pytest.fixture(scope="module")
def default() -> oci.Seccomp:
    return seccomp_default.default(capabilities.DEFAULT)


@x86_64
def test_the_default_refuses_what_docker_documents(default: oci.Seccomp) -> None:
    blocked = {
        "acct": 163,
        "add_key": 248,
        "bpf": 321,
        "delete_module": 176,
        "fsopen": 430,
        "get_mempolicy": 239,
        "init_module": 175,
        "io_uring_setup": 425,
        "ioperm": 173,
        "iopl": 172,
        "kcmp": 312,
        "kexec_load": 246,
        "keyctl": 250,
        "mount": 165,
        "move_mount": 429,
        "open_by_handle_at": 304,
        "perf_event_open": 298,
        "pivot_root": 155,
        "quotactl": 179,
        "reboot": 169,
        "request_key": 249,
        "setns": 308,
        "settimeofday": 164,
        "swapon": 167,
        "umount2": 166,
        "unshare": 272,
        "userfaultfd": 323,
        "vhangup": 153,
    }
    answers = under(default, lambda: {name: call(nr) for name, nr in blocked.items()})
    assert answers == dict.fromkeys(blocked, errno.EPERM)


@x86_64
def test_the_default_allows_a_program_to_live(default: oci.Seccomp) -> None:
    def live() -> list[int]:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(write, 1)
            os.execv("/bin/sh", ["sh", "-c", "echo alive; exit 7"])
        os.close(write)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return [code, len(os.read(read, 100))]

    assert under(default, live) == [7, 6]


@x86_64
def test_namespaces_are_refused_by_clones_arguments(default: oci.Seccomp) -> None:
    def ask() -> list[int]:
        sigchld = int(signal.SIGCHLD)
        plain = LIBC.syscall(ctypes.c_long(56), sigchld, 0, 0, 0, 0)
        if plain == 0:
            os._exit(0)
        os.waitpid(plain, 0)
        new_user = call(56, 0x10000000 | sigchld, 0, 0, 0, 0)
        return [int(plain > 0), new_user, call(435, 0, 0)]

    assert under(default, ask) == [1, errno.EPERM, errno.ENOSYS]


@x86_64
def test_sockets_and_personalities_by_argument(default: oci.Seccomp) -> None:
    def ask() -> dict[str, int]:
        families = {"unix": 1, "inet": 2, "netlink": 16, "alg": 38, "vsock": 40}
        found = {
            name: call(41, family, int(socket.SOCK_DGRAM), 0) for name, family in families.items()
        }
        found["alg"] = call(41, 38, int(socket.SOCK_SEQPACKET), 0)
        found["read"] = call(135, 0xFFFFFFFF)
        found["linux32"] = call(135, 8)
        found["no randomisation"] = call(135, 0x0040000)
        return found

    assert under(default, ask) == {
        "unix": 0,
        "inet": 0,
        "netlink": 0,
        "alg": errno.EPERM,
        "vsock": errno.EPERM,
        "read": 0,
        "linux32": 0,
        "no randomisation": errno.EPERM,
    }


@x86_64
def test_calls_newer_than_the_profile_do_not_exist(default: oci.Seccomp) -> None:
    assert (
        under(default, lambda: [call(number) for number in (600, 1000, 0x3FFFFFFF)])
        == [errno.ENOSYS] * 3
    )


@x86_64
def test_capabilities_open_what_belongs_to_them() -> None:
    admin = seccomp_default.default((*capabilities.DEFAULT, "CAP_SYS_ADMIN"))

    def ask() -> list[int]:
        # Bad arguments on purpose: anything but EPERM of the filter will do.
        return [call(165, 0, 0, 0, 0, 0), call(272, 0), call(435, 0, 0), call(246, 0, 0, 0, 0)]

    assert under(admin, ask) == [errno.EFAULT, 0, errno.EINVAL, errno.EPERM]
    nothing = seccomp_default.default(())
    assert under(nothing, lambda: call(161, 0)) == errno.EPERM  # chroot
    chroot = seccomp_default.default(("CAP_SYS_CHROOT",))
    assert under(chroot, lambda: call(161, 0)) == errno.EFAULT


@x86_64
def test_the_32_bit_abi_is_filtered_by_its_own_numbers(default: oci.Seccomp) -> None:
    if _int80(20) <= 0:
        pytest.skip("this kernel does not execute 32-bit system calls")

    def ask() -> list[int]:
        # i386: getpid, mount, unshare, reboot, io_uring_setup, and one from the future
        return [_int80(number) for number in (20, 21, 310, 88, 425, 900)]

    answers = under(default, ask)
    assert isinstance(answers, list)
    assert answers[0] > 0
    assert answers[1:] == [-errno.EPERM] * 4 + [-errno.ENOSYS]


def _int80(number: int) -> int:
    """A system call by the 32-bit gate with zero arguments, from 64-bit code."""
    code = (
        b"\x53"  # push rbx
        b"\xb8"
        + number.to_bytes(4, "little")  # mov eax, number
        + b"\x31\xdb\x31\xc9\x31\xd2"  # xor ebx, ebx; xor ecx, ecx; xor edx, edx
        b"\xcd\x80"  # int 0x80
        b"\x5b\xc3"  # pop rbx; ret
    )
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


@x86_64
def test_actions_and_errnos_are_what_the_profile_says() -> None:
    rules = (
        oci.SeccompSyscall(("getppid",), "SCMP_ACT_ERRNO", 71),
        oci.SeccompSyscall(("getpgrp",), "SCMP_ACT_ERRNO"),
        oci.SeccompSyscall(("no_such_call_ever",), "SCMP_ACT_KILL"),
        oci.SeccompSyscall(("sched_yield",), "SCMP_ACT_ALLOW"),
    )
    profile = oci.Seccomp("SCMP_ACT_ALLOW", syscalls=rules)
    assert under(profile, lambda: [call(110), call(111), call(24)]) == [71, errno.EPERM, 0]


@x86_64
def test_killing_actions_kill() -> None:
    for action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"):
        rule = oci.SeccompSyscall(("getppid",), action)
        profile = oci.Seccomp("SCMP_ACT_ALLOW", syscalls=(rule,))
        assert under(profile, lambda: call(110)) == -int(signal.SIGSYS)


@x86_64
def test_arguments_together_and_alternatives_on_one() -> None:
    def deny(*args: oci.SeccompArg) -> oci.Seccomp:
        rule = oci.SeccompSyscall(("dup2",), "SCMP_ACT_ERRNO", 77, args)
        return oci.Seccomp("SCMP_ACT_ALLOW", syscalls=(rule,))

    equal = "SCMP_CMP_EQ"
    both = deny(oci.SeccompArg(0, 950, equal), oci.SeccompArg(1, 951, equal))
    calls = ((950, 951), (950, 952), (952, 951))
    assert under(both, lambda: [call(33, *pair) for pair in calls]) == [77, 9, 9]
    either = deny(oci.SeccompArg(0, 950, equal), oci.SeccompArg(0, 952, equal))
    calls = ((950, 1), (951, 1), (952, 1))
    assert under(either, lambda: [call(33, *pair) for pair in calls]) == [77, 9, 77]


def test_wrong_profiles_are_refused_with_the_reason() -> None:
    wrong: list[tuple[oci.Seccomp, str]] = [
        (oci.Seccomp("SCMP_ACT_WHATEVER"), "invalid action 'SCMP_ACT_WHATEVER'"),
        (oci.Seccomp("SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_Z80",)), "invalid architecture"),
        (
            oci.Seccomp(
                "SCMP_ACT_ALLOW",
                syscalls=(
                    oci.SeccompSyscall(
                        ("read",), "SCMP_ACT_ERRNO", None, (oci.SeccompArg(0, 1, "LIKE"),)
                    ),
                ),
            ),
            "invalid operator 'LIKE'",
        ),
        (
            oci.Seccomp(
                "SCMP_ACT_ALLOW",
                syscalls=(
                    oci.SeccompSyscall(
                        ("read",), "SCMP_ACT_ERRNO", None, (oci.SeccompArg(6, 1, "SCMP_CMP_EQ"),)
                    ),
                ),
            ),
            "no argument 6",
        ),
        (oci.Seccomp("SCMP_ACT_ERRNO", default_errno_ret=70000), "out of range"),
        (oci.Seccomp("SCMP_ACT_ALLOW", default_errno_ret=1), "takes no errno"),
    ]
    for profile, text in wrong:
        with pytest.raises(InvalidParameter, match=text):
            seccomp.compile_filter(profile)
    with pytest.raises(InvalidParameter, match="flag 'SECCOMP_X'"):
        seccomp.flags_of(oci.Seccomp("SCMP_ACT_ALLOW", flags=("SECCOMP_X",)))


def test_notifications_that_cannot_work_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="default action"):
        seccomp.compile_filter(oci.Seccomp("SCMP_ACT_NOTIFY", listener_path="/run/x.sock"))
    mkdir = (oci.SeccompSyscall(("mkdir",), "SCMP_ACT_NOTIFY"),)
    with pytest.raises(InvalidParameter, match="listenerPath"):
        seccomp.compile_filter(oci.Seccomp("SCMP_ACT_ALLOW", syscalls=mkdir))
    write = (oci.SeccompSyscall(("mkdir", "write"), "SCMP_ACT_NOTIFY"),)
    with pytest.raises(InvalidParameter, match="cannot be used for the write syscall"):
        seccomp.compile_filter(oci.Seccomp("SCMP_ACT_ALLOW", syscalls=write, listener_path="/x"))


def test_flags_reach_the_kernel() -> None:
    every = tuple(name for name in seccomp.FLAGS if "KILLABLE" not in name)
    profile = oci.Seccomp("SCMP_ACT_ALLOW", flags=every)
    assert under(profile, lambda: _mode()) == [2, 1]


def test_compiled_filters_are_kept_and_damaged_ones_made_anew(
    tmp_path: Path, default: oci.Seccomp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "_memory", {})
    first = seccomp.cached(default, str(tmp_path))
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(seccomp, "_memory", {})
    monkeypatch.setattr(seccomp, "compile_filter", _unexpected)
    assert seccomp.cached(default, str(tmp_path)) == first
    monkeypatch.undo()
    monkeypatch.setattr(seccomp, "_memory", {})
    file.write_bytes(file.read_bytes()[:-8])
    assert seccomp.cached(default, str(tmp_path)) == first
    assert seccomp._read_program(str(file)) == first


def _unexpected(profile: oci.Seccomp) -> bytes:
    raise AssertionError("compiled although it was kept")


@x86_64
def test_a_users_profile_in_dockers_form() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"name": "getppid", "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": []},
            {
                "names": ["sched_yield"],
                "action": "SCMP_ACT_ERRNO",
                "excludes": {"caps": ["CAP_SYS_NICE"]},
            },
        ],
    }
    text = json.dumps(profile)
    without = seccomp_profile.load(text, ())
    assert under(without, lambda: [call(110), call(24)]) == [5, errno.EPERM]
    with_nice = seccomp_profile.load(text, ("CAP_SYS_NICE",))
    assert under(with_nice, lambda: [call(110), call(24)]) == [5, 0]


def test_fields_of_a_profile_in_upper_and_lower_case() -> None:
    text = """{"DEFAULTACTION": "SCMP_ACT_ALLOW", "Syscalls": [{"Names": ["getppid"],
        "ACTION": "SCMP_ACT_ERRNO", "ErrnoRet": 5, "Unknown": {"Names": 1},
        "excludes": {"MINKERNEL": "99.0"}}]}"""
    assert under(seccomp_profile.load(text, ()), lambda: [call(110)]) == [5]


@pytest.mark.parametrize(
    "names", [("SCMP_ARCH_X86",), ("SCMP_ARCH_AARCH64",), ("SCMP_ARCH_LOONGARCH64",)]
)
def test_the_machines_own_architecture_is_always_among_them(names: tuple[str, ...]) -> None:
    """A profile for others only holds for it too, and does not end every process."""
    for default in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG"):
        rule = oci.SeccompSyscall(("getppid",), "SCMP_ACT_ERRNO", 5)
        profile = oci.Seccomp(default, architectures=names, syscalls=(rule,))
        assert under(profile, lambda: [call(110)]) == [5]


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_number_that_no_register_has(value: int) -> None:
    for pair in ((value, 0), (0, value)):
        args = (oci.SeccompArg(0, pair[0], "SCMP_CMP_EQ", pair[1]),)
        rule = oci.SeccompSyscall(("getppid",), "SCMP_ACT_ERRNO", 5, args)
        with pytest.raises(InvalidParameter, match="is not an unsigned number of 64 bits"):
            seccomp.compile_filter(oci.Seccomp("SCMP_ACT_ALLOW", syscalls=(rule,)))


def test_a_flag_of_listeners_needs_one() -> None:
    flag = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
    with pytest.raises(InvalidParameter, match=f"{flag} needs an action SCMP_ACT_NOTIFY"):
        seccomp.flags_of(oci.Seccomp("SCMP_ACT_ALLOW", flags=(flag,)))


def _mode() -> list[int]:
    """``Seccomp`` (2: filter) and ``Seccomp_filters`` of this process (proc_pid_status(5))."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(lines["Seccomp"]), int(lines["Seccomp_filters"])]
