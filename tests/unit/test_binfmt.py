"""binfmt_misc: emulators as the kernel lists them, and what a message says is missing."""

from pathlib import Path

import pytest

from portside.kernel import binfmt

AARCH64 = "7f454c460201010000000000000000000200b700"
S390X = "7f454c4602020100000000000000000000020016"


def listed(state: str = "enabled", flags: str = "OCF", magic: str = AARCH64) -> str:
    """A file of binfmt_misc, as fs/binfmt_misc.c prints it."""
    mask = "ff" * 20
    return (
        f"{state}\ninterpreter /usr/bin/qemu-static\nflags: {flags}\noffset 0\n"
        f"magic {magic}\nmask {mask}\n"
    )


def mounted(tmp_path: Path, **files: str) -> str:
    for name, text in {"register": "", "status": "enabled\n", **files}.items():
        (tmp_path / name).write_text(text)
    return str(tmp_path)


def test_emulators_are_known_by_what_they_run(tmp_path: Path) -> None:
    where = mounted(
        tmp_path, arm=listed(), big=listed(magic=S390X, flags=""), off=listed("disabled"),
        jar="enabled\ninterpreter /usr/bin/jexec\nflags: \noffset 0\nmagic 504b0304\n",
        ext="enabled\ninterpreter /usr/bin/python3\nflags: \nextension .pyc\n",
        odd="enabled\nmagic zz\noffset 0\n",
    )  # fmt: skip
    found = binfmt.emulators(where)
    assert found is not None
    assert [(e.name, e.architecture, e.is_enabled, e.is_kept_open) for e in found] == [
        ("arm", "arm64", True, True), ("big", "s390x", True, False), ("off", "arm64", False, True),
    ]  # fmt: skip
    assert binfmt.emulators(f"{where}/nowhere") is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no emulator for arm64 is registered in"),
        ({"s390x": listed(magic=S390X)}, "no emulator for arm64 is registered in"),
        ({"q": listed("disabled")}, "its emulator is disabled: echo 1 > "),
        ({"q": listed(flags="OC")}, "without the flag F"),
        ({"q": listed()}, "/q cannot run it"),
    ],
)
def test_what_is_missing(tmp_path: Path, files: dict[str, str], words: str) -> None:
    told = f"exec format error: {binfmt.made_for('arm64', 'amd64')}"
    message = binfmt.explained(told, mounted(tmp_path, **files))
    assert message.startswith(told) and words in message
    assert ("qemu-user-static" in message) == words.startswith("no emulator")


def test_without_binfmt_misc_and_for_other_errors(tmp_path: Path) -> None:
    told = binfmt.made_for("arm64", "amd64")
    assert "is not mounted on" in binfmt.explained(told, str(tmp_path))
    assert binfmt.explained("permission denied") == "permission denied"
