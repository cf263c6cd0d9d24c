"""AppArmor (apparmor(7)): is it on, is a profile loaded, load one, and enter one at execve.

A profile is compiled and loaded by apparmor_parser(8), which comes with a system that uses
AppArmor; entering one is a line written to ``/proc/thread-self/attr/apparmor/exec``.
"""

from __future__ import annotations

import os
from functools import cache

from portside.model.errors import SystemFailure

_ENABLED = "/sys/module/apparmor/parameters/enabled"
_PROFILES = "/sys/kernel/security/apparmor/profiles"
_PARSER_TIMEOUT = 60
UNCONFINED = "unconfined"


@cache
def enabled() -> bool:
    """Whether the running kernel enforces AppArmor."""
    try:
        with open(_ENABLED) as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def is_loaded(profile: str) -> bool:
    """Whether the kernel knows a profile; False as well when it may not be asked."""
    try:
        with open(_PROFILES) as file:
            return any(line.startswith(f"{profile} (") for line in file)
    except OSError:
        return False


def check(profile: str) -> None:
    """Raise SystemFailure for a profile that cannot be entered since it is not loaded."""
    if profile and profile != UNCONFINED and os.path.exists(_PROFILES) and not is_loaded(profile):
        raise SystemFailure(
            f"cannot apply the AppArmor profile {profile!r}: it is not loaded (load it with "
            "apparmor_parser --replace FILE)"
        )


def load(text: str) -> None:
    """Compile and load a profile, in place of one of the same name.

    Raises SystemFailure with what apparmor_parser says, or that there is none.
    """
    import shutil
    import subprocess

    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if parser is None:
        raise SystemFailure("apparmor_parser is missing (install the package apparmor)")
    try:
        subprocess.run(
            [parser, "--replace", "--skip-cache", "--quiet"],
            input=text.encode(),
            check=True,
            capture_output=True,
            timeout=_PARSER_TIMEOUT,
        )
    except subprocess.TimeoutExpired as err:
        raise SystemFailure(f"apparmor_parser did not end in {err.timeout:g} s") from None
    except subprocess.CalledProcessError as err:
        said = err.stderr.decode(errors="replace").strip()
        raise SystemFailure(f"apparmor_parser: {said or err}") from None


def enter_at_exec(profile: str) -> None:
    """Have the calling thread, and what it forks, enter a profile at the next execve(2).

    To be called while /proc is the host's: a container's could be anything. Raises
    SystemFailure when the profile is not loaded.
    """
    if profile in ("", UNCONFINED) or not enabled():
        return
    path = "/proc/thread-self/attr/apparmor/exec"  # Linux 5.1; before, shared with others
    if not os.path.exists(path):
        path = "/proc/thread-self/attr/exec"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"exec {profile}".encode())
        finally:
            os.close(fd)
    except OSError as err:
        why = "it is not loaded" if not is_loaded(profile) else err.strerror
        raise SystemFailure(f"cannot apply the AppArmor profile {profile!r}: {why}") from err
