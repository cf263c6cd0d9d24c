"""``--security-opt`` as dockerd 28.5.2 has it: what a process sees, ``inspect``, texts."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"
RIGHTS = "awk '/^NoNewPrivs|^Seccomp:/ {print $2}' /proc/self/status"
"""no_new_privs, then 0 for no seccomp filter or 2 for one."""
CGROUP = "mkdir $(awk '/cgroup/ && $5 ~ /memory$|cgroup$/ {d = $5} END {print d}' " \
    "/proc/self/mountinfo)/made 2>/dev/null && echo writable || echo read-only"  # fmt: skip
PATHS = "grep -c -E ' /proc/(sys|keys|bus|irq) ' /proc/self/mountinfo; test -w /proc/sysrq-trigger"


def said(docker: Docker, script: str, *options: str) -> list[str]:
    opted = [word for option in options for word in
             ((option,) if option.startswith("--") else ("--security-opt", option))]  # fmt: skip
    done = docker("run", "--rm", *opted, BASE, "sh", "-c", f"{script}; true", check=False)
    return done.stdout.split() if done.returncode == 0 else [done.stderr]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), ["0", "2"]),
        (("no-new-privileges",), ["1", "2"]),
        (("no-new-privileges=true",), ["1", "2"]),
        (("no-new-privileges:true",), ["1", "2"]),
        (("no-new-privileges=false",), ["0", "2"]),
        (("no-new-privileges", "--privileged"), ["1", "0"]),
        (("seccomp=unconfined",), ["0", "0"]),
        (("seccomp:unconfined",), ["0", "0"]),
        (("seccomp=unconfined", "no-new-privileges"), ["1", "0"]),
        (("seccomp=builtin",), ["0", "2"]),
        (("seccomp=builtin", "--privileged"), ["0", "2"]),
    ],
)
def test_rights(docker: Docker, options: tuple[str, ...], wanted: list[str]) -> None:
    assert said(docker, RIGHTS, *options) == wanted


def test_no_new_privileges_holds_for_a_first_program_with_capabilities(
    docker: Docker, tmp_path: Path
) -> None:
    """It would keep what is permitted before execve(2)."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is missing")
    program = tmp_path / "grep"
    shutil.copy(busybox, program)
    program.chmod(0o755)
    net_raw = 1 << 13
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, net_raw, 0, 0, 0))
    run = ("run", "--rm", "-u", "1000", "-v", f"{program}:/grep:ro")
    show = (BASE, "/grep", "CapPrm", "/proc/self/status")
    for options, wanted in (((), net_raw), (("--security-opt", "no-new-privileges"), 0)):
        assert int(docker(*run, *options, *show).stdout.split()[1], 16) == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), "read-only"),
        (("writable-cgroups=true",), "writable"),
        (("writable-cgroups:true",), "writable"),
        (("writable-cgroups=false",), "read-only"),
        (("writable-cgroups=true", "--read-only"), "writable"),
        (("--privileged",), "writable"),
        (("--privileged", "--read-only"), "writable"),
        (("--privileged", "writable-cgroups=false"), "read-only"),
    ],
)
def test_control_groups(docker: Docker, options: tuple[str, ...], wanted: str) -> None:
    assert said(docker, CGROUP, *options) == [wanted]


def test_paths_of_the_system(docker: Docker) -> None:
    assert said(docker, PATHS) == ["4"]
    assert said(docker, PATHS, "systempaths=unconfined") == ["0"]
    assert said(docker, PATHS, "--privileged") == ["0"]
    docker("create", "--name", "open", "--security-opt", "systempaths=unconfined", BASE)
    try:
        shown = json.loads(docker("inspect", "open").stdout)[0]["HostConfig"]
        assert (shown["MaskedPaths"], shown["ReadonlyPaths"]) == ([], [])
        assert shown["SecurityOpt"] == []  # the command line has taken it apart
    finally:
        docker("rm", "open")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("no-new-privileges=maybe", 'invalid --security-opt 2: "no-new-privileges=maybe"'),
        ("no-new-privileges=", 'invalid --security-opt 2: "no-new-privileges="'),
        ("writable-cgroups=maybe", 'invalid --security-opt 2: "writable-cgroups=maybe"'),
        ("foo=bar", 'invalid --security-opt 2: "foo=bar"'),
        ("systempaths=foo", 'invalid --security-opt 2: "systempaths=foo"'),
    ],
)
def test_what_is_refused(docker: Docker, option: str, text: str) -> None:
    done = docker("run", "--rm", "--security-opt", option, BASE, "true", check=False)
    assert done.returncode == 125
    assert text in done.stderr


def test_who_shares_has_no_label(docker: Docker) -> None:
    """Told in ``SecurityOpt`` also where SELinux is off."""
    for options, wanted in (
        (("--privileged",), ["label=disable"]),
        (("--pid", "host"), ["label=disable"]),
        (("--ipc", "host", "--security-opt", "seccomp=builtin"),
         ["seccomp=builtin", "label=disable"]),
        (("--privileged", "--security-opt", "label=type:x"), ["label=type:x"]),
        ((), None),
    ):  # fmt: skip
        identifier = docker("create", *options, BASE).stdout.strip()
        shown = json.loads(docker("inspect", identifier).stdout)[0]
        docker("rm", identifier)
        assert shown["HostConfig"]["SecurityOpt"] == wanted
        assert shown["MountLabel"] == shown["ProcessLabel"] == ""


@pytest.mark.skipif(
    Path("/sys/fs/selinux/enforce").exists() or Path("/sys/kernel/security/apparmor").exists(),
    reason="needs a kernel with neither SELinux nor AppArmor on",
)
def test_where_the_kernel_has_neither(docker: Docker) -> None:
    """Labels are not looked at; a profile is told until the container has run once."""
    docker("run", "--rm", "--security-opt", "label=no-such-option", BASE, "true")
    docker("create", "--name", "plain", "--security-opt", "apparmor=unconfined", BASE, "true")
    try:
        profile = ("inspect", "-f", "{{.AppArmorProfile}}", "plain")
        assert docker(*profile).stdout.strip() == "unconfined"
        docker("start", "-a", "plain")
        assert docker(*profile).stdout.strip() == ""
    finally:
        docker("rm", "-f", "plain")
