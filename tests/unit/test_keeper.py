"""The keeper of an engine's namespaces: whom it counts among the living."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from portside.daemon.keeper import monitors
from portside.kernel.polling import readable
from portside.runtime.state_files import start_ticks


def _record(exec_root: Path, name: str, pid: int, began: int) -> None:
    place = exec_root / "containers" / name
    place.mkdir(parents=True)
    state = {"monitor_pid": pid, "monitor_started": began}
    (place / "state.json").write_text(json.dumps(state))


def test_only_monitors_that_run_are_found(tmp_path: Path) -> None:
    """Neither one that has ended without being waited for, nor one whose number is another's,
    nor one that has vanished; what cannot be read is passed over."""
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    try:
        fd = os.pidfd_open(ended.pid)
        readable(fd)
        os.close(fd)
        began = start_ticks(ended.pid)
        assert began  # it still has a place in the process table
        _record(tmp_path, "running", running.pid, start_ticks(running.pid))
        _record(tmp_path, "ended", ended.pid, began)
        _record(tmp_path, "gone", gone.pid, 1)
        _record(tmp_path, "another", os.getpid(), start_ticks(os.getpid()) - 1)
        (tmp_path / "containers/torn").mkdir()
        (tmp_path / "containers/torn/state.json").write_text('{"monitor_')
        before = set(os.listdir("/proc/self/fd"))
        found = list(monitors(tmp_path))
        assert [pid for pid, _ in found] == [running.pid]
        for _, fd in found:
            os.close(fd)
        assert set(os.listdir("/proc/self/fd")) == before
    finally:
        running.communicate(b"\n")
        ended.wait()
