"""Before a user's engine is started: its directories, and what the system lacks, in one message."""

from __future__ import annotations

import os
import shutil
import sys

from portside.model.errors import SystemFailure

_PATH = ":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def check(exec_root: str, data_root: str) -> None:
    """Make the directories; print which packages are missing. Raises SystemFailure."""
    for path in (exec_root, data_root):
        mask = os.umask(0o077)
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as err:
            raise SystemFailure(f"cannot make {path}: {err.strerror}") from err
        finally:
            os.umask(mask)
        if os.lstat(path).st_uid != os.geteuid():
            raise SystemFailure(f"{path} belongs to another user")
    packages = missing_packages()
    if packages:
        sys.stderr.write(
            "portside: some system packages for engines without root are missing: without them "
            "containers have one user ID only, or no way out to other networks. Install them "
            f"once with:  sudo apt-get install {' '.join(packages)}\n"
        )


def missing_packages() -> list[str]:
    """Names on Debian of what an engine without root uses and this system does not have."""
    path = os.environ.get("PATH", "") + _PATH
    found = []
    if not (shutil.which("newuidmap", path=path) and shutil.which("newgidmap", path=path)):
        found.append("uidmap")
    if not (shutil.which("pasta", path=path) or shutil.which("slirp4netns", path=path)):
        found.append("passt")
    return found
