"""The commands of README.md, pasted as printed and in one go, do and print what it shows.

They use the default socket, data root and ports. So they run in mount, PID and network namespaces
of their own, where ``/run`` is empty and ``/etc/portside/daemon.json`` names a private data root:
an engine of the machine is neither seen nor disturbed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from portside.model.instance import Instance

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
NOT_RUN = {
    "sudo ./test": "it is what runs this test",
    "portside daemon -H unix": "needs certificates; tests/api has TLS",
    "sudo apt-get install uidmap": "as an ordinary user; tests/e2e/test_rootless.py",
    "podman --runtime": "an image to choose; tests/e2e/test_runtime_below_others.py",
}
"""Beginnings of blocks that are not pasted, and why."""
FAULT = r"(?im)^(.*: )?error|not found|^bash: |refused|traceback|did not start"
_MARK = "@@ command"
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command"),
    pytest.mark.timeout(300),
]


@dataclass
class Command:
    """One command of a document, and the lines that are shown as its output."""

    text: str
    shown: list[str] = field(default_factory=list)


def commands_of(document: str) -> list[Command]:
    """What a reader pastes, in order; a line that starts with ``# `` is a command of root."""
    found: list[Command] = []
    for kind, block in re.findall(r"^```(console|sh)\n(.*?)^```$", document, re.M | re.S):
        if any(block.startswith(start) for start in NOT_RUN):
            continue
        if kind == "sh":
            found.append(Command(block))
            continue
        is_continued = False
        for line in block.splitlines():
            if is_continued:
                found[-1].text += f"\n{line}"
            elif line.startswith("# "):
                found.append(Command(line.removeprefix("# ")))
            else:
                found[-1].shown.append(line)
            is_continued = line.endswith("\\")
    return found


def pattern_of(shown: str) -> re.Pattern[str]:
    """What may differ from run to run: identifiers, numbers, ages, and so the columns' widths."""
    words = []
    for word in shown.split():
        if re.fullmatch(r"[0-9a-f]{12}|[0-9a-f]{64}", word):
            words.append(r"[0-9a-f]{12}([0-9a-f]{52})?")
        else:
            words.append(re.sub(r"\d+(?:\\\.\d+)?", r"[0-9.]+", re.escape(word)))
    text = r"\s+".join(words)
    for age in (r"[0-9.]+\s+seconds\s+ago", r"Less\s+than\s+a\s+second"):
        text = text.replace(age, r"(About an? |Less than an? )?[0-9.]*\s*(second|minute)s?( ago)?")
    text = re.sub(r"\[0-9\.\]\+([kKMG]?i?B)", r"[0-9.]+[kKMG]?i?B", text)
    return re.compile(text)


PREPARE = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir "$TOP/upper" "$TOP/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$TOP/upper,workdir=$TOP/work" /etc
mkdir -p /etc/portside
cp "$TOP/daemon.json" /etc/portside/daemon.json
ip link set lo up
set +e
cd "$CHECKOUT"
sudo() { "$@"; }
exec 2>&1
"""
FINISH = """
unset DOCKER_HOST
./portside system reset --force
find "$TOP/data" -mindepth 1 2>/dev/null | sed 's/^/left: /'
find /sys/fs/cgroup -name "portside-$SUFFIX" | sed 's/^/left: /'
"""


@pytest.fixture(scope="module")
def outputs() -> Iterator[tuple[list[Command], list[str]]]:
    """The commands, and what each printed."""
    top = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
    (top / "daemon.json").write_text(json.dumps({"data-root": str(top / "data")}))
    commands = commands_of(README)
    suffix = Instance.of(top / "data", "/run/portside").suffix
    values = f"TOP={shlex.quote(str(top))} CHECKOUT={shlex.quote(str(ROOT))} SUFFIX={suffix}"
    script = [values, PREPARE]
    for command in commands:
        script += [f"echo; echo '{_MARK}'", command.text]
    script += [f"echo; echo '{_MARK}'", FINISH]
    environment = {name: value for name, value in os.environ.items() if "DOCKER" not in name}
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "bash"],
            input="\n".join(script), capture_output=True, text=True, timeout=280, env=environment,
        )  # fmt: skip
        found = done.stdout.split(f"{_MARK}\n")[1:]
        assert len(found) == len(commands) + 1, done.stdout + done.stderr
        yield commands, found
    finally:
        shutil.rmtree(top, ignore_errors=True)


def test_every_command_works(outputs: tuple[list[Command], list[str]]) -> None:
    faults = [
        f"{command.text}\n{printed}"
        for command, printed in zip(*outputs, strict=False)
        if re.search(FAULT, printed)
    ]
    assert not faults, "\n\n".join(faults)


def test_every_command_prints_what_is_shown(outputs: tuple[list[Command], list[str]]) -> None:
    faults = []
    for command, printed in zip(*outputs, strict=False):
        for shown in command.shown:
            if shown != "..." and not pattern_of(shown).search(printed):
                faults.append(f"{command.text}\nshown: {shown}\nprinted:\n{printed}")
    assert not faults, "\n\n".join(faults)


def test_first_command_says_hello(outputs: tuple[list[Command], list[str]]) -> None:
    commands, printed = outputs
    assert commands[0].text == "sudo ./portside run --rm portside/base echo hello\n"
    assert printed[0].splitlines()[-2:] == ["hello", ""]
    assert "starting one in the background" in printed[0]


def test_a_reset_leaves_nothing(outputs: tuple[list[Command], list[str]]) -> None:
    assert "left: " not in outputs[1][-1]
