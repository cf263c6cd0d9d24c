"""binfmt_misc: which programs of other machines this kernel runs, and what is missing for one.

The kernel knows an emulator by the first bytes of the programs that it runs
(``Documentation/admin-guide/binfmt-misc.rst``); e_machine of an ELF file is among them.
"""

from __future__ import annotations

import os

MACHINES = {0x03: "386", 0x28: "arm", 0x3E: "amd64", 0xB7: "arm64", 0xF3: "riscv64",
            0x15: "ppc64le", 0x16: "s390x"}  # fmt: skip
"""``e_machine`` of elf(5) in image-spec's names."""
DIRECTORY = "/proc/sys/fs/binfmt_misc"
_MADE_FOR = "it is made for "


class Emulator:
    """One file of binfmt_misc."""

    def __init__(self, name: str, text: str) -> None:
        words = [line.split() for line in text.splitlines()]
        self.name = name
        fields = {line[0]: line[1] for line in words if len(line) > 1}
        self.is_enabled = ["enabled"] in words
        self.is_kept_open = "F" in fields.get("flags:", "")
        """The emulator is open already: it need not be inside the container."""
        self.architecture = _architecture(fields.get("magic", ""), fields.get("offset", "0"))


def _architecture(magic: str, offset: str) -> str:
    """Architecture of an ELF header; empty for programs of another kind."""
    try:
        head = bytes.fromhex(magic)
    except ValueError:
        return ""
    if offset != "0" or not head.startswith(b"\x7fELF") or len(head) < 20:
        return ""
    return MACHINES.get(int.from_bytes(head[18:20], "big" if head[5] == 2 else "little"), "")


def emulators(directory: str = DIRECTORY) -> list[Emulator] | None:
    """Registered emulators of other machines; None where binfmt_misc is not mounted."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return None
    if "register" not in names:
        return None
    found = []
    for name in names:
        if name in ("register", "status"):
            continue
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                emulator = Emulator(name, file.read(1 << 16))
        except OSError:
            continue
        if emulator.architecture:
            found.append(emulator)
    return found


def made_for(architecture: str, own: str) -> str:
    """The message about a program for another machine; :func:`explained` adds what to do."""
    return f"{_MADE_FOR}{architecture}, this machine is {own}"


def explained(message: str, directory: str = DIRECTORY) -> str:
    """A message with what is missing to run the program, if it is of another machine."""
    _, mark, rest = message.partition(_MADE_FOR)
    if not mark:
        return message
    return f"{message}: {_missing(rest.partition(',')[0], emulators(directory), directory)}"


def _missing(architecture: str, known: list[Emulator] | None, directory: str) -> str:
    install = (
        "install an emulator on the host, such as the package qemu-user-static with binfmt-support"
    )
    if known is None:
        return f"binfmt_misc is not mounted on {directory}: {install}"
    fitting = [each for each in known if each.architecture == architecture]
    if not fitting:
        return f"no emulator for {architecture} is registered in {directory}: {install}"
    name = fitting[0].name
    if not any(each.is_enabled for each in fitting):
        return f"its emulator is disabled: echo 1 > {directory}/{name}"
    if not any(each.is_kept_open for each in fitting):
        return (
            f"its emulator {name} is registered in {directory} without the flag F, so it would "
            "have to be inside the container: register it with that flag"
        )
    return f"its emulator {directory}/{name} cannot run it"
