"""AppArmor, where the kernel has it: containers live under a profile, unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"
LABEL = "cat /proc/self/attr/current"


def _is_on() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().startswith("Y")
    except OSError:
        return False


needs_apparmor = pytest.mark.skipif(not _is_on(), reason="needs a kernel with AppArmor on")


@needs_apparmor
def test_containers_and_execs_are_confined(docker: Docker) -> None:
    docker("run", "-d", "--name", "confined", BASE, "sleep", "1000")
    try:
        assert docker("exec", "confined", *LABEL.split()).stdout.strip() == (
            "docker-default (enforce)"
        )
        field = docker("inspect", "-f", "{{.AppArmorProfile}}", "confined").stdout.strip()
        assert field == "docker-default"
    finally:
        docker("rm", "-f", "confined")
    for option in ("--init", "--security-opt=no-new-privileges"):
        done = docker("run", "--rm", option, BASE, *LABEL.split())
        assert done.stdout.strip() == "docker-default (enforce)", option
    first = docker("run", "--rm", "--init", BASE, "cat", "/proc/1/attr/current")
    assert first.stdout.strip() == "docker-default (enforce)"


@needs_apparmor
def test_a_capability_does_not_undo_it(docker: Docker) -> None:
    mount = ("--cap-add", "SYS_ADMIN", BASE, "mount", "-t", "tmpfs", "x", "/mnt")
    assert docker("run", "--rm", *mount, check=False).returncode != 0
    docker("run", "--rm", "--security-opt", "apparmor=unconfined", *mount)


@needs_apparmor
def test_unconfined_and_unknown(docker: Docker) -> None:
    assert docker("run", "--rm", "--privileged", BASE, *LABEL.split()).stdout == "unconfined\n"
    option = "apparmor=no-such-profile"
    done = docker("run", "--rm", "--security-opt", option, BASE, "true", check=False)
    assert done.returncode == 125
    assert "'no-such-profile': it is not loaded" in done.stderr


@pytest.mark.skipif(_is_on(), reason="needs a kernel without AppArmor")
def test_without_it_a_profile_is_of_no_consequence(docker: Docker) -> None:
    docker("run", "--rm", "--security-opt", "apparmor=unconfined", BASE, "true")
    assert "apparmor" not in docker("info", "-f", "{{.SecurityOptions}}").stdout
