"""Finding the command inside the root, and saying well why it cannot be executed."""

from __future__ import annotations

import errno
import os
import stat
import struct

from portside.kernel import binfmt
from portside.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    PortsideError,
    SystemFailure,
)
from portside.runtime.privileges import DEFAULT_PATH

_OWN = {"x86_64": ("amd64", "386"), "aarch64": ("arm64", "arm"), "riscv64": ("riscv64",)}
CREATE = "OCI runtime create failed: unable to start container process: "
INIT = CREATE + "error during container init: "
EXEC = "OCI runtime exec failed: exec failed: unable to start container process: "


class CommandError(SystemFailure):
    """A command that cannot be executed."""

    def __init__(self, message: str, *, prefix: str = CREATE) -> None:
        super().__init__(prefix + message)
        self._message = message

    def of_exec(self) -> CommandError:
        """The same error of an exec, where it was one of a start."""
        return type(self)(self._message, prefix=EXEC)


class NoCommand(CommandError, CommandNotFound):
    """The command does not exist (exit code 127)."""


class DeniedCommand(CommandError, CommandNotExecutable):
    """The command exists and cannot be executed (exit code 126)."""


def find(args: tuple[str, ...], env: dict[str, str]) -> str:
    """Path of the command, looked up in the container's PATH as a shell does.

    Raises NoCommand, DeniedCommand.
    """
    if not args:
        raise NoCommand("no command specified")
    name = args[0]
    if not name:
        raise NoCommand('exec: "": executable file not found in $PATH')
    if "/" in name:
        return _checked(name, name)
    denied = ""
    # an empty name is found nowhere, though each directory itself is there
    for directory in env.get("PATH", DEFAULT_PATH).split(":"):
        path = f"{directory or '.'}/{name}"
        try:
            found = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            if found.st_mode & 0o111:
                return path
            denied = denied or path
    if denied:
        raise DeniedCommand(f'exec: "{name}": permission denied')
    raise NoCommand(f'exec: "{name}": executable file not found in $PATH')


def _checked(path: str, name: str) -> str:
    try:
        found = os.stat(path)
    except OSError as err:
        failure = DeniedCommand if err.errno == errno.EACCES else NoCommand
        reason = (os.strerror(err.errno or 0)).lower()
        raise failure(f'exec: "{name}": stat {name}: {reason}') from err
    if stat.S_ISDIR(found.st_mode):
        raise DeniedCommand(f'exec: "{name}": is a directory: permission denied')
    if not found.st_mode & 0o111:
        raise DeniedCommand(f'exec: "{name}": permission denied')
    return path


def explain(path: str, name: str, err: OSError) -> PortsideError:
    """The error for a failed execve(2) of an existing file."""
    start = f'exec: "{name}": '
    head = _head(path)
    if err.errno == errno.ENOENT:
        return NoCommand(start + _missing(path, head))
    if err.errno == errno.ENOEXEC:
        return DeniedCommand(start + f"exec format error: {_format(head)}")
    if err.errno == errno.EACCES:
        return DeniedCommand(f"{start}permission denied")
    text = os.strerror(err.errno or 0).lower()
    return DeniedCommand(start + text)


def is_static(path: str) -> bool:
    """Whether a program is an ELF file that needs no loader."""
    head = _head(path)
    return head.startswith(b"\x7fELF") and not _loader(head)


def _head(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def _missing(path: str, head: bytes) -> str:
    """The file exists, so what is missing is what it names: interpreter or loader."""
    if head.startswith(b"#!"):
        line = head[2:].split(b"\n", 1)[0]
        words = line.strip(b" \t").split()
        interpreter = words[0].decode(errors="replace") if words else ""
        if line.endswith(b"\r"):
            return (
                f"no such file or directory: the script has CRLF line ends, so its interpreter is "
                f"read as {interpreter!r} with a carriage return; convert it to LF line ends"
            )
        return f"no such file or directory: its interpreter {interpreter} is not in the container"
    loader = _loader(head)
    if loader:
        machine = _machine(head)
        if machine and machine not in _OWN.get(os.uname().machine, (machine,)):
            return f"exec format error: {binfmt.made_for(machine, _own_name())}"
        return f"no such file or directory: its loader {loader} is not in the container"
    return "no such file or directory"


def _own_name() -> str:
    return _OWN.get(os.uname().machine, (os.uname().machine,))[0]


def _machine(head: bytes) -> str:
    if not head.startswith(b"\x7fELF") or len(head) < 20:
        return ""
    number = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)[0]
    return binfmt.MACHINES.get(number, f"machine {number}")


def _format(head: bytes) -> str:
    machine = _machine(head)
    if machine and machine not in _OWN.get(os.uname().machine, (machine,)):
        return binfmt.made_for(machine, _own_name())
    if machine:
        return "the ELF file is damaged"
    if not head:
        return "the file is empty"
    if not head.startswith(b"#!"):
        return "it is neither an ELF file nor a script with a #! line"
    return "its #! line cannot be used"


def _loader(head: bytes) -> str:
    """PT_INTERP of an ELF file (elf(5)), if it is within what was read."""
    if not head.startswith(b"\x7fELF") or len(head) < 64:
        return ""
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    offset = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
    for index in range(min(count, 64)):
        at = offset + index * size
        if at + size > len(head):
            break
        if struct.unpack_from(order + "I", head, at)[0] != 3:  # PT_INTERP
            continue
        if wide:
            begin, _, _, length = struct.unpack_from(order + "QQQQ", head, at + 8)
        else:
            begin, _, _, length = struct.unpack_from(order + "IIII", head, at + 4)
        return head[begin : begin + min(length, 4096)].rstrip(b"\0").decode(errors="replace")
    return ""
