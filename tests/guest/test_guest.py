"""What only another kernel can show: SELinux, AppArmor, delegated control groups of version 2.

``PORTSIDE_TEST_GUEST`` names a program that runs a command as root in a guest which sees this
machine's files::

    PROGRAM [-c "KERNEL ARGUMENTS"] [-t SECONDS] -- COMMAND [ARG ...]

Without it these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
GUEST = os.environ.get("PORTSIDE_TEST_GUEST", "")
TIMEOUT = 3000
"""Seconds: the guest's processor may be emulated."""

pytestmark = [
    pytest.mark.skipif(not GUEST, reason="PORTSIDE_TEST_GUEST names no guest"),
    pytest.mark.timeout(TIMEOUT + 60),
]


def guest(*command: str, kernel: str = "") -> str:
    """What a command says in the guest, which has to succeed."""
    options = ["-c", kernel] if kernel else []
    done = subprocess.run(
        [GUEST, *options, "-t", str(TIMEOUT), "--", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parent.parent,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("secilc") is None, reason="secilc is missing")
def test_selinux() -> None:
    said = guest(
        sys.executable, str(HERE / "selinux_checks.py"), kernel="security=selinux selinux=1"
    )
    assert "FAIL" not in said
    assert said.count("\nok ") + said.startswith("ok ") == 10, said


def test_rootless_with_delegated_control_groups() -> None:
    said = guest(str(HERE / "run-tests"), "tests/e2e/test_rootless_delegated.py")
    assert said.count("PASSED") == 5, said


def test_a_users_service_with_delegated_control_groups() -> None:
    said = guest(str(HERE / "run-tests"), "tests/e2e/test_systemd_delegated.py")
    assert said.count("PASSED") == 8, said


@pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="apparmor_parser is missing")
def test_apparmor() -> None:
    said = guest(str(HERE / "run-tests"), "tests/e2e/test_apparmor.py")
    assert said.count("PASSED") >= 6, said
