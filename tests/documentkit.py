"""Pasting a document's commands as printed, in one go, and comparing what they print with it.

They use the default socket, data root and ports. So they run in mount, PID and network namespaces
of their own, where ``/run`` is empty, ``/etc`` and ``/usr/local`` are overlays, and
``/etc/portside/daemon.json`` names a private data root: an engine of the machine is neither seen
nor disturbed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from portside.model.instance import Instance

ROOT = Path(__file__).parents[1]
FAULT = r"(?im)^(.*: )?error|not found|^bash: |refused|traceback|did not start"
_MARK = "@@ command"
_STATUS = "@@ status "


@dataclass
class Command:
    """One command of a document, and the lines that are shown as its output."""

    text: str
    shown: list[str] = field(default_factory=list)


@dataclass
class Printed:
    """What a command printed, and its exit status."""

    text: str
    status: int


def _lines(block: str) -> list[str]:
    """The commands of a block without output; a backslash continues a line."""
    return [line.strip("\n") for line in re.findall(r"(?:.*\\\n)*.+\n", block)]


def commands_of(document: str, not_run: Collection[str] = ()) -> list[Command]:
    """What a reader pastes, in order, but commands that begin with one of ``not_run``.

    In a ``console`` block a line that starts with ``# `` is a command of root, and the others are
    its output; a ``sh`` block has commands only.
    """
    found: list[Command] = []
    for kind, block in re.findall(r"^```(console|sh)\n(.*?)^```$", document, re.M | re.S):
        if kind == "sh":
            found += [Command(line) for line in _lines(block)]
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
    return [each for each in found if not each.text.startswith(tuple(not_run))]


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
for place in etc usr/local; do
    upper="$TOP/upper/$place" work="$TOP/work/$place"
    mkdir -p "$upper" "$work"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=$upper,workdir=$work" "/$place"
done
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


def paste(commands: Sequence[Command], typed: Mapping[str, str] | None = None) -> list[Printed]:
    """What each command printed, and last what the reset at the end printed: ``left: …`` lines for
    what it left. A command that begins with a key of ``typed`` is answered with its value."""
    top = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
    (top / "daemon.json").write_text(json.dumps({"data-root": str(top / "data")}))
    suffix = Instance.of(top / "data", "/run/portside").suffix
    script = [f"export TOP={top}; CHECKOUT={shlex.quote(str(ROOT))} SUFFIX={suffix}", PREPARE]
    for command in commands:
        answers = [answer for start, answer in (typed or {}).items()
                   if command.text.startswith(start)]  # fmt: skip
        given = f"printf '{answers[0]}\\n' | " if answers else ""
        script += [f"echo; echo '{_MARK}'", given + command.text, f"printf '\\n{_STATUS}%s\\n' $?"]
    script += [f"echo; echo '{_MARK}'", FINISH, f'echo; echo "{_STATUS}0"']
    environment = {name: value for name, value in os.environ.items() if "DOCKER" not in name}
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "bash"],
            input="\n".join(script), capture_output=True, text=True, timeout=280, env=environment,
        )  # fmt: skip
    finally:
        shutil.rmtree(top, ignore_errors=True)
    found = [each.partition(f"\n{_STATUS}") for each in done.stdout.split(f"{_MARK}\n")[1:]]
    assert len(found) == len(commands) + 1, done.stdout + done.stderr
    return [Printed(text, int(status.split()[0])) for text, _, status in found]


def faults(commands: Sequence[Command], printed: Sequence[Printed]) -> list[str]:
    """The commands that fail or print an error."""
    return [
        f"{command.text}\nexit status {found.status}\n{found.text}"
        for command, found in zip(commands, printed, strict=False)
        if found.status or re.search(FAULT, found.text)
    ]


def differences(commands: Sequence[Command], printed: Sequence[Printed]) -> list[str]:
    """The lines that a document shows and a command does not print."""
    return [
        f"{command.text}\nshown: {shown}\nprinted:\n{found.text}"
        for command, found in zip(commands, printed, strict=False)
        for shown in command.shown
        if shown != "..." and not pattern_of(shown).search(found.text)
    ]
