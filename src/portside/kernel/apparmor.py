"""AppArmor (apparmor(7)): is it on, is a profile loaded, load one.

A profile is compiled and loaded by apparmor_parser(8), which comes with a system that uses
AppArmor; ``runtime/confinement.py`` enters one.
"""

from __future__ import annotations

import os

from portside.kernel.light_stdlib import cache
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
    if not enabled() or not profile or profile == UNCONFINED:
        return
    if os.path.exists(_PROFILES) and not is_loaded(profile):
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
