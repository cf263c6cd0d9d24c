"""A control group for a user's containers that a restart of the engine's service leaves in peace.

A service manager starts a service's process in the service's own group. With control groups
of version 2 that fails (EBUSY) while the group limits groups below it, which it does as long as
containers run there (cgroup-v2.rst, "No Internal Process Constraint"). systemd starts it in a group
below since version 254 (``DelegateSubgroup=``, systemd.exec(5)). An older one is asked for a scope
beside the service (org.freedesktop.systemd1(5), ``StartTransientUnit``), to which the engine moves
with everything it starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from portside.kernel.cgroup.layout import OWN_LEAF, detect, own_path

_PATIENCE = 10.0
"""Seconds that systemd may take."""
_RETRIES = 1.0
"""Seconds for which a scope is asked for again that systemd is about to remove."""
_PAUSE = 0.05


def enter() -> None:
    """Move this process to the scope, where it needs one. What fails is said, and it stays."""
    layout = detect()
    above, _, service = own_path().rpartition("/")
    if not layout.unified_controllers or not service.endswith(".service"):
        return  # nothing that limits, no service, or one whose process is in a group below
    if f"/user@{os.geteuid()}.service" not in above:
        return  # not of the user's systemd
    slice_ = Path(layout.unified).parent
    scope = f"{service.removesuffix('.service')}-containers.scope"
    deadline = time.monotonic() + _RETRIES
    while why := _join(slice_ / scope) and _make(scope, service, slice_.name):
        if time.monotonic() > deadline:
            print(
                f"portside: WARNING: containers stay in the control group of {service}, which "
                f"cannot be restarted while they run: {why}",
                file=sys.stderr,
                flush=True,
            )
            return
        time.sleep(_PAUSE)


def _join(path: Path) -> str:
    """Why that fails; empty when it does not. The group above is the user's, which the kernel
    asks for (cgroup-v2.rst, "Delegation Containment")."""
    try:
        if "populated 0" in (path / "cgroup.events").read_text():
            return "systemd removes it"
        (path / OWN_LEAF).mkdir(exist_ok=True)
        (path / OWN_LEAF / "cgroup.procs").write_text("0")
    except OSError as err:
        return str(err)
    return ""


def _make(scope: str, service: str, slice_: str) -> str:
    """Why that fails; empty when it does not. At a logout the service ends first: it stops the
    containers in their order."""
    properties = [
        ("PIDs", "au", "1", str(os.getpid())),
        ("Slice", "s", slice_),
        ("Delegate", "b", "true"),
        ("TasksMax", "t", str(2**64 - 1)),
        ("Before", "as", "1", service),
        ("Description", "s", f"Containers of {service}"),
        ("CollectMode", "s", "inactive-or-failed"),
    ]
    words = [word for each in properties for word in each]
    where = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
    command = ["busctl", "--user", "call", *where, "org.freedesktop.systemd1.Manager",
               "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail",
               str(len(properties)), *words, "0"]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return str(err)
    if done.returncode:
        return done.stderr.strip()
    deadline = time.monotonic() + _PATIENCE
    while not own_path().endswith(f"/{scope}"):  # systemd moves the process after its answer
        if time.monotonic() > deadline:
            return f"systemd does not start {scope}"
        time.sleep(0.005)
    return ""
