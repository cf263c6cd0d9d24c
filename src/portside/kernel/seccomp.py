"""seccomp(2): filters compiled by libseccomp, and installed without it.

Compiling needs ``libseccomp.so.2`` (the engine does it, once for each profile); installing is
one system call with the compiled bytes, which is all that a container's init does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from ctypes import c_char_p, c_int, c_long, c_uint, c_uint32, c_uint64, c_void_p

from portside.kernel.libc import encoded
from portside.kernel.light_stdlib import cache
from portside.model.errors import InvalidParameter, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.model.ociruntime import Seccomp, SeccompArg, SeccompSyscall

# linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    _KILLABLE: 1 << 5,
}
NEW_LISTENER = 1 << 3
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_SYSCALL = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "ppc64le": 358, "s390x": 348}

_ALLOW, _LOG, _NOTIFY, _ERRNO, _TRACE = 0x7FFF0000, 0x7FFC0000, 0x7FC00000, 0x00050000, 0x7FF00000
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": _LOG,
    "SCMP_ACT_ALLOW": _ALLOW,
    "SCMP_ACT_NOTIFY": _NOTIFY,
}
_OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_ARCH_BIT_X32 = 0x40000000
"""Set in a system call's number by x86_64's x32 ABI, which has no audit value of its own."""

# Audit values (linux/audit.h), which libseccomp uses as its architecture tokens; x32 is its own.
_ARCHES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
}
_NO_SYSCALL = -1


class _ArgCmp(ctypes.Structure):
    _fields_ = (("arg", c_uint), ("op", c_int), ("a", c_uint64), ("b", c_uint64))


class _FilterProgram(ctypes.Structure):
    """``struct sock_fprog`` (linux/filter.h)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", c_void_p))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = c_long
_libc.prctl.argtypes = (c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


@cache
def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        raise SystemFailure(
            "seccomp filters need libseccomp.so.2: install the package libseccomp2, or run with "
            "--security-opt seccomp=unconfined"
        ) from error
    lib.seccomp_init.argtypes, lib.seccomp_init.restype = (c_uint32,), c_void_p
    lib.seccomp_release.argtypes, lib.seccomp_release.restype = (c_void_p,), None
    lib.seccomp_arch_add.argtypes = (c_void_p, c_uint32)
    lib.seccomp_arch_remove.argtypes = (c_void_p, c_uint32)
    lib.seccomp_arch_native.restype = c_uint32
    lib.seccomp_syscall_resolve_name.argtypes = (c_char_p,)
    lib.seccomp_syscall_resolve_name_arch.argtypes = (c_uint32, c_char_p)
    lib.seccomp_rule_add_array.argtypes = (
        c_void_p,
        c_uint32,
        c_int,
        c_uint,
        ctypes.POINTER(_ArgCmp),
    )
    lib.seccomp_export_bpf.argtypes = (c_void_p, c_int)
    return lib


def supported() -> bool:
    """Whether the kernel filters system calls, and libseccomp is here to say which."""
    if not os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
        return False
    try:
        _library()
    except SystemFailure:
        return False
    return True


def actions() -> list[str]:
    """Names of the actions that profiles may ask for."""
    return sorted(_ACTIONS)


def operators() -> list[str]:
    """Names of the comparisons that profiles may ask for."""
    return sorted(_OPERATORS)


def architectures() -> list[str]:
    """Names of the architectures that profiles may be for."""
    return sorted(_ARCHES)


def compile_filter(profile: Seccomp) -> bytes:
    """The profile as a classic BPF program (an array of ``struct sock_filter``).

    System calls that libseccomp does not know are left out, as every runtime does: the
    default action holds for them. System calls newer than anything in the profile get
    ENOSYS instead of the default error, so that C libraries fall back to older ones.
    Raises InvalidParameter for a profile that makes no sense, SystemFailure without libseccomp.
    """
    lib = _library()
    default = _action(profile.default_action, profile.default_errno_ret)
    _check_notifications(profile)
    context = lib.seccomp_init(default)
    if not context:
        raise InvalidParameter(f"seccomp: default action {profile.default_action} is refused")
    try:
        _set_arches(lib, context, profile.architectures)
        for rule in profile.syscalls:
            _add_rule(lib, context, rule, default)
        program = _export(lib, context)
    finally:
        lib.seccomp_release(context)
    return _unknown_calls_prologue(lib, profile, default) + program


def _notifies(profile: Seccomp) -> bool:
    return any(rule.action == "SCMP_ACT_NOTIFY" for rule in profile.syscalls)


def _check_notifications(profile: Seccomp) -> None:
    """What cannot work: without a listener calls would fail, and these two are needed to reach
    it before execve. Raises InvalidParameter."""
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise InvalidParameter("SCMP_ACT_NOTIFY cannot be used as default action")
    if not _notifies(profile):
        return
    if not profile.listener_path:
        raise InvalidParameter("seccomp: SCMP_ACT_NOTIFY needs a listenerPath")
    for rule in profile.syscalls:
        for name in ("write", "sendmsg"):
            if rule.action == "SCMP_ACT_NOTIFY" and name in rule.names:
                raise InvalidParameter(f"SCMP_ACT_NOTIFY cannot be used for the {name} syscall")


def _action(name: str, value: int | None) -> int:
    base = _ACTIONS.get(name)
    if base is None:
        raise InvalidParameter(f"seccomp: invalid action {name!r}")
    if base in (_ERRNO, _TRACE):
        code = errno.EPERM if value is None else value
        if not 0 <= code <= 0xFFFF:
            raise InvalidParameter(f"seccomp: errno {code} is out of range")
        return base | code
    if value is not None:
        raise InvalidParameter(f"seccomp: action {name} takes no errno")
    return base


def _set_arches(lib: ctypes.CDLL, context: int, names: tuple[str, ...]) -> None:
    """The native one, with which libseccomp starts, and those named, as in runc. One that this
    libseccomp does not have is left out: its calls end the process, as those of all others."""
    for name in names:
        if name not in _ARCHES:
            raise InvalidParameter(f"seccomp: invalid architecture {name!r}")
        result = lib.seccomp_arch_add(context, _ARCHES[name])
        if result not in (0, -errno.EEXIST, -errno.EINVAL):
            raise InvalidParameter(f"seccomp: cannot add architecture {name}: {_error(result)}")


def _add_rule(lib: ctypes.CDLL, context: int, rule: SeccompSyscall, default: int) -> None:
    action = _action(rule.action, rule.errno_ret)
    if action == default:
        return  # libseccomp refuses rules that change nothing
    for name in rule.names:
        number = lib.seccomp_syscall_resolve_name(encoded(name))
        if number == _NO_SYSCALL:
            continue
        for comparisons in _alternatives(rule.args):
            array = (_ArgCmp * max(1, len(comparisons)))(*comparisons)
            result = lib.seccomp_rule_add_array(context, action, number, len(comparisons), array)
            if result != 0:
                raise InvalidParameter(f"seccomp: rule for {name} is refused: {_error(result)}")


def _alternatives(args: tuple[SeccompArg, ...]) -> list[list[_ArgCmp]]:
    """Conditions that must hold together, unless two are on the same argument: then any will do.

    The runtime-spec leaves the second case open; runc treats them as alternatives.
    """
    compared = [_comparison(arg) for arg in args]
    indices = [arg.index for arg in args]
    if len(set(indices)) == len(indices):
        return [compared]
    return [[one] for one in compared]


def _comparison(arg: SeccompArg) -> _ArgCmp:
    operator = _OPERATORS.get(arg.op)
    if operator is None:
        raise InvalidParameter(f"seccomp: invalid operator {arg.op!r}")
    if not 0 <= arg.index <= 5:
        raise InvalidParameter(f"seccomp: system calls have no argument {arg.index}")
    for value in (arg.value, arg.value_two):
        if not 0 <= value < 1 << 64:
            raise InvalidParameter(f"seccomp: {value} is not an unsigned number of 64 bits")
    return _ArgCmp(arg.index, operator, arg.value, arg.value_two)


def _export(lib: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        result = lib.seccomp_export_bpf(context, fd)
        if result != 0:
            raise SystemFailure(f"seccomp: cannot compile the filter: {_error(result)}")
        size = os.fstat(fd).st_size
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _error(result: int) -> str:
    return os.strerror(-result)


# -- system calls the profile's author could not know ------------------------------------

_LD_ABS, _JEQ, _JGT, _JGE, _RET = 0x20, 0x15, 0x25, 0x35, 0x06
_AT_NR, _AT_ARCH = 0, 4  # offsets in struct seccomp_data


def _bpf(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _unknown_calls_prologue(lib: ctypes.CDLL, profile: Seccomp, default: int) -> bytes:
    """Answers ENOSYS for numbers beyond the newest call the profile names, per architecture."""
    if default in (_ALLOW, _LOG) or default & 0xFFFF0000 == _TRACE:
        return b""
    if default == _ERRNO | errno.ENOSYS:
        return b""
    newest = _newest_calls(lib, profile)
    plain = {token: number for token, number in newest.items() if token != _ARCHES["SCMP_ARCH_X32"]}
    x32 = newest.get(_ARCHES["SCMP_ARCH_X32"])
    code = [_bpf(_LD_ABS, _AT_ARCH)]
    blocks = []
    for token, number in plain.items():
        both = token == _ARCHES["SCMP_ARCH_X86_64"] and x32 is not None
        block = [_bpf(_LD_ABS, _AT_NR)]
        if both:
            assert x32 is not None
            block.append(_bpf(_JGE, _ARCH_BIT_X32, yes=0, no=2))
            block.append(_bpf(_JGT, x32 | _ARCH_BIT_X32, yes=0, no=3))
            block.append(_bpf(_RET, _ERRNO | errno.ENOSYS))
        block.append(_bpf(_JGT, number, yes=0, no=1))
        block.append(_bpf(_RET, _ERRNO | errno.ENOSYS))
        blocks.append((token, block))
    # Each block is skipped for other architectures, and falls out at the end for its own; a
    # later block then sees a number where it wants the architecture, so that is loaded again.
    for token, block in blocks:
        body = [*block, _bpf(_LD_ABS, _AT_ARCH)]
        code += [_bpf(_JEQ, token, yes=0, no=len(body)), *body]
    return b"".join(code) if blocks else b""


def _newest_calls(lib: ctypes.CDLL, profile: Seccomp) -> dict[int, int]:
    native = int(lib.seccomp_arch_native())
    tokens = dict.fromkeys([native, *(_ARCHES[name] for name in profile.architectures)])
    newest: dict[int, int] = {}
    for token in tokens:
        for rule in profile.syscalls:
            for name in rule.names:
                number = lib.seccomp_syscall_resolve_name_arch(token, encoded(name))
                if number >= 0:
                    number &= ~_ARCH_BIT_X32
                    newest[token] = max(newest.get(token, 0), number)
    return newest


# -- compiled once -----------------------------------------------------------------------

_FORM = 2
"""Changes with what this module makes of a profile: an older version's files are not read."""
_memory: dict[str, bytes] = {}


def key_of(profile: Seccomp) -> str:
    """Cache key of the compiled form: the profile and the versions that compile it."""
    import hashlib

    import msgspec

    lib = _library()
    lib.seccomp_version.restype = ctypes.POINTER(c_uint * 3)
    version = ".".join(str(part) for part in lib.seccomp_version().contents)
    digest = hashlib.sha256(f"{_FORM} {version}".encode())
    digest.update(os.uname().machine.encode())
    digest.update(msgspec.json.encode(profile))
    return digest.hexdigest()


def cached(profile: Seccomp, directory: str = "") -> bytes:
    """As :func:`compile_filter`, remembered in this process and, if given, in ``directory``.

    A file there is written whole or not at all; one that is damaged is compiled anew.
    """
    key = key_of(profile)
    if (program := _memory.get(key)) is not None:
        return program
    path = f"{directory}/{key}.bpf" if directory else ""
    program = _read_program(path)
    if not program:
        program = compile_filter(profile)
        if path:
            _write_program(path, program)
    _memory[key] = program
    return program


def _read_program(path: str) -> bytes:
    """The file's program, or nothing; its first 32 bytes are the digest of the rest."""
    import hashlib  # not at import: containers' processes never need it, nor its libraries

    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        return b""
    program = data[32:]
    whole = len(program) % 8 == 0 and hashlib.sha256(program).digest() == data[:32]
    return program if whole else b""


def _write_program(path: str, program: bytes) -> None:
    import hashlib

    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(hashlib.sha256(program).digest() + program)
        os.rename(temporary, path)
    except OSError:
        return  # a cache only


# -- in the container's init -------------------------------------------------------------


def flags_of(profile: Seccomp) -> int:
    """The flags of seccomp(2). Raises InvalidParameter for an unknown one.

    A profile without flags gets SPEC_ALLOW, as with runc: without it the kernel would
    switch off speculation for the whole container on some processors.
    """
    flags = NEW_LISTENER if _notifies(profile) else 0
    if not profile.flags:
        return flags | FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    for name in profile.flags:
        if name not in FLAGS:
            raise InvalidParameter(f"seccomp: flag {name!r} not known or not supported")
        flags |= FLAGS[name]
    if flags & FLAGS[_KILLABLE] and not flags & NEW_LISTENER:
        raise InvalidParameter(f"seccomp: flag {_KILLABLE} needs an action SCMP_ACT_NOTIFY")
    if flags & NEW_LISTENER:
        flags &= ~FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]  # they exclude each other; we have one thread
    return flags


def install(program: bytes, flags: int = 0) -> int:
    """Put this thread and all it will execute under the filter. Raises OSError.

    Needs no_new_privs or CAP_SYS_ADMIN (EACCES otherwise). Returns the descriptor that hears
    of SCMP_ACT_NOTIFY, close-on-exec, or -1 when the flags ask for none.
    """
    code = ctypes.create_string_buffer(program, len(program))
    filter_program = _FilterProgram(len(program) // 8, ctypes.addressof(code))
    number = _SYSCALL.get(os.uname().machine)
    result = -1
    if number is not None:
        result = _libc.syscall(
            c_long(number),
            c_long(SECCOMP_SET_MODE_FILTER),
            c_long(flags),
            ctypes.byref(filter_program),
        )
        if result < 0 and ctypes.get_errno() == errno.EINVAL and flags:
            spec_allow = FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
            if flags == spec_allow:  # our own addition: kernels before 4.17 do not know it
                return install(program, 0)
    if number is None:
        address = ctypes.addressof(filter_program)
        result = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0)
    if result < 0:
        code_number = ctypes.get_errno()
        raise OSError(code_number, os.strerror(code_number), "seccomp filter")
    return int(result) if flags & NEW_LISTENER else -1
