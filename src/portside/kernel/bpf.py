"""bpf(2) as far as control groups need it: device programs, assembled here and attached.

Version 2 has no ``devices`` controller; a program of type ``BPF_PROG_TYPE_CGROUP_DEVICE`` is
asked instead for every open and mknod. It gets ``struct bpf_cgroup_dev_ctx`` (linux/bpf.h)
and answers 1 to allow or 0 to refuse. With several programs on the way to the root, all
must allow.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portside.kernel.cgroup.devices import DeviceAccess

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280}

BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 1 << 1
BPF_F_REPLACE = 1 << 2

_DEVICE_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_MKNOD, _READ, _WRITE

# Opcodes: class | size/operation | source (Documentation/bpf/standardization/instruction-set.rst)
_LDXW = 0x61
_AND32_K, _RSH32_K, _MOV32_K, _MOV32_X = 0x54, 0x74, 0xB4, 0xBC
_JNE_K, _JNE_X, _JEQ_K, _EXIT = 0x55, 0x5D, 0x15, 0x95
_R0, _R1, _TYPE, _ACC, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, dst | src << 4, off, imm)


def device_program(access: DeviceAccess) -> bytes:
    """The instructions that answer as ``access`` says.

    Each exception is a block of comparisons; the first that fails jumps to the next block.
    """
    code = [
        _insn(_LDXW, _TYPE, _R1, 0),  # access_type: access << 16 | type
        _insn(_MOV32_X, _ACC, _TYPE),
        _insn(_AND32_K, _TYPE, imm=0xFFFF),
        _insn(_RSH32_K, _ACC, imm=16),
        _insn(_LDXW, _MAJOR, _R1, 4),
        _insn(_LDXW, _MINOR, _R1, 8),
    ]
    for (kind, major, minor), letters in access.exceptions.items():
        code += _block(access.allow, kind, major, minor, letters)
    code += [_insn(_MOV32_K, _R0, imm=int(access.allow)), _insn(_EXIT)]
    return b"".join(code)


def _block(allow: bool, kind: str, major: int, minor: int, letters: str) -> list[bytes]:
    mask = sum(_ACCESS[letter] for letter in letters)
    tests: list[tuple[int, int, int, int]] = [(_JNE_K, _TYPE, 0, _DEVICE_TYPES[kind])]
    before: list[bytes] = []
    if mask != 7:
        before = [_insn(_MOV32_X, _R1, _ACC), _insn(_AND32_K, _R1, imm=mask)]
        # Allowed needs every letter that is asked for; refused needs one of them.
        tests.append((_JEQ_K, _R1, 0, 0) if allow else (_JNE_X, _R1, _ACC, 0))
    if major >= 0:
        tests.append((_JNE_K, _MAJOR, 0, major))
    if minor >= 0:
        tests.append((_JNE_K, _MINOR, 0, minor))
    left = len(tests) + 2  # tests still to come, and the two instructions of the answer
    block = list(before)
    for code, dst, src, imm in tests:
        left -= 1
        block.append(_insn(code, dst, src, left, imm))
    return [*block, _insn(_MOV32_K, _R0, imm=int(not allow)), _insn(_EXIT)]


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char], what: str) -> int:
    """bpf(2); raises OSError naming ``what``."""
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        raise OSError(38, "bpf(2) has no number for this architecture here", what)
    result: int = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(command), attributes, ctypes.c_long(len(attributes))
    )
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), what)
    return result


def _attributes(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    packed = struct.pack(layout, *values)
    return ctypes.create_string_buffer(packed.ljust(128, b"\0"), 128)


def load_device_program(instructions: bytes) -> int:
    """BPF_PROG_LOAD; returns a descriptor (the kernel makes it close-on-exec)."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = _attributes(
        "=IIQQIIQII",
        BPF_PROG_TYPE_CGROUP_DEVICE,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        0,
        0,
        0,
        0,
        0,
    )
    return _bpf(BPF_PROG_LOAD, attributes, "device program")


def attached_device_programs(cgroup_fd: int) -> list[int]:
    """Identifiers of the programs attached to the group itself (BPF_PROG_QUERY)."""
    room = 64
    ids = (ctypes.c_uint32 * room)()
    attributes = _attributes(
        "=IIIIQII", cgroup_fd, BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), room, 0
    )
    _bpf(BPF_PROG_QUERY, attributes, "attached programs")
    count = struct.unpack_from("=I", attributes, 24)[0]
    return list(ids[:count])


def _program_fd(identifier: int) -> int:
    return _bpf(BPF_PROG_GET_FD_BY_ID, _attributes("=II", identifier, 0), f"program {identifier}")


def set_device_program(cgroup_fd: int, access: DeviceAccess) -> None:
    """Make ``access`` what holds for the group: attach, or replace what is attached.

    The replacement is atomic: there is no moment without a program. Raises OSError.
    """
    old = attached_device_programs(cgroup_fd)
    if access.unrestricted and not old:
        return
    program = load_device_program(device_program(access))
    try:
        if len(old) == 1:
            _replace(cgroup_fd, program, old[0])
            return
        _attach(cgroup_fd, program, BPF_F_ALLOW_MULTI, 0)
        for identifier in old:
            stale = _program_fd(identifier)
            try:
                _bpf(
                    BPF_PROG_DETACH,
                    _attributes("=IIII", cgroup_fd, stale, BPF_CGROUP_DEVICE, 0),
                    f"program {identifier}",
                )
            finally:
                os.close(stale)
    finally:
        os.close(program)  # the group keeps it


def _replace(cgroup_fd: int, program: int, identifier: int) -> None:
    stale = _program_fd(identifier)
    try:
        _attach(cgroup_fd, program, BPF_F_ALLOW_MULTI | BPF_F_REPLACE, stale)
    finally:
        os.close(stale)


def _attach(cgroup_fd: int, program: int, flags: int, replaced: int) -> None:
    attributes = _attributes("=IIIII", cgroup_fd, program, BPF_CGROUP_DEVICE, flags, replaced)
    _bpf(BPF_PROG_ATTACH, attributes, "device program")
