"""An engine that can be told where to die: at a failpoint, with its launcher or monitors."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from enginekit import RunningEngine

BASE = "portside/base"
PATIENCE = 30

ARMED = """
import os, pathlib, signal, sys
from portside.store import failpoints

armed = pathlib.Path(os.environ["PORTSIDE_TEST_ARMED"])

def children():
    text = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]

def hook(name):
    try:
        wanted, _, victims = armed.read_text().partition(" ")
    except FileNotFoundError:
        return
    if wanted != name:
        return
    armed.unlink()
    for victim in victims.split():
        if victim == "launcher":
            for pid in children():
                if "portside-launch" in pathlib.Path(f"/proc/{pid}/comm").read_text():
                    os.kill(pid, signal.SIGKILL)
        elif victim == "monitors":
            for file in pathlib.Path(sys.argv[sys.argv.index("--exec-root") + 1]).glob(
                "containers/*/state.json"
            ):
                import json
                os.kill(json.loads(file.read_bytes())["monitor_pid"], signal.SIGKILL)
        elif victim == "fail":
            from portside.model.errors import SystemFailure
            raise SystemFailure("the container's monitor died before the start was done")
        elif victim == "engine":
            os.kill(os.getpid(), signal.SIGKILL)

failpoints.hook = hook
from portside.daemon.main import main
sys.exit(main())
"""


class Fragile(RunningEngine):
    """An engine that can be told where to kill whom."""

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self.entry = ["-c", ARMED]
        self.armed = self.root / "armed"
        os.environ["PORTSIDE_TEST_ARMED"] = str(self.armed)

    def arm(self, point: str, *victims: str) -> None:
        """Kill these when the engine next reaches the point."""
        self.armed.write_text(f"{point} {' '.join(victims or ('engine',))}")

    def try_request(self, method: str, path: str, body: Any = None) -> int:
        """The status; 0 when the engine died over it."""
        with suppress(OSError, http.client.HTTPException, ValueError):
            return self.request(method, path, body)[0]
        return 0

    def reborn(self) -> None:
        """Wait for the death that was arranged, and start the next engine."""
        assert self.process is not None
        self.process.wait(PATIENCE)
        assert not self.armed.exists(), "the point was not reached"
        self.start()

    # -- containers

    def create(self, name: str, *command: str, **more: Any) -> str:
        host = more.pop("host", {})
        body = {"Image": BASE, "Cmd": list(command), "HostConfig": host, **more}
        return str(self.json("POST", f"/containers/create?name={name}", body, 201)["Id"])

    def state(self, name: str) -> Any:
        return self.json("GET", f"/containers/{name}/json")["State"]

    def names(self) -> set[str]:
        return {item["Names"][0][1:] for item in self.json("GET", "/containers/json?all=1")}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.02)

    def monitor_of(self, identifier: str) -> int:
        path = self.exec_root / "containers" / identifier / "state.json"
        return int(json.loads(path.read_bytes())["monitor_pid"])

    def clean(self) -> None:
        """Remove all; nothing may be left of them anywhere."""
        for item in self.json("GET", "/containers/json?all=1"):
            self.json("DELETE", f"/containers/{item['Id']}?force=1&v=1", status=204)
        assert self.json("POST", "/portside/check")["problems"] == []
        assert list((self.data_root / "containers").iterdir()) == []
        assert list((self.exec_root / "containers").iterdir()) == []
        self.until(lambda: not [x for x in self.remains() if x.startswith(("cgroup", "mount"))])
        volumes = self.json("GET", "/volumes")["Volumes"] or []
        assert volumes == []
