"""A real, headless Chromium for tests of the pages."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip

_CHANGED = "ERR_NETWORK_CHANGED"


class Driver:
    """Chromium through chromedriver, in the words of the WebDriver protocol."""

    def __init__(self, profile: Path) -> None:
        program, browser = shutil.which("chromedriver"), shutil.which("chromium")
        if program is None or browser is None:
            pytest.skip("needs chromium and chromedriver (Debian: chromium chromium-driver)")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        home = {**os.environ, "HOME": str(profile)}
        self._process = subprocess.Popen(
            [program, f"--port={self._port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home,
        )  # fmt: skip
        options = {
            "binary": browser,
            "args": [*FLAGS, f"--user-data-dir={profile}"],
        }
        self._session = ""
        logged = {"browser": "ALL"}
        wanted = {
            "capabilities": {
                "alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logged}
            }
        }
        self._session = self._begin(wanted)["sessionId"]

    def _begin(self, wanted: Any) -> Any:
        until = time.monotonic() + 60
        while True:
            try:
                return self("POST", "/session", wanted)
            except ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=200)
        where = path if path == "/session" else f"/session/{self._session}{path}"
        data = json.dumps(body if body is not None else {}) if method == "POST" else None
        connection.request(method, where, data, {"Content-Type": "application/json"})
        value = json.loads(connection.getresponse().read())["value"]
        connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{method} {path}: {value['error']}: {value['message']}")
        return value

    def run(self, script: str) -> Any:
        return self("POST", "/execute/sync", {"script": script, "args": []})

    def until(self, script: str) -> Any:
        """What the script returns once that is true."""
        deadline = time.monotonic() + 30
        while not (value := self.run(f"return {script}")):
            page = str(self.run("return document.body?.innerText"))
            if time.monotonic() > deadline:
                raise AssertionError(f"never true: {script}\n{page}")
            if _CHANGED in page:  # it came after the page had been opened
                self("POST", "/refresh", {})
            time.sleep(0.05)
        return value

    def open(self, url: str) -> None:
        """Chromium breaks off what it loads when a link of the machine changes, and containers
        change links: then it is loaded again."""
        for _ in range(10):
            try:
                self("POST", "/url", {"url": url})
            except AssertionError as err:
                if _CHANGED not in str(err):
                    raise
                continue
            if not self.run(f"return document.body?.innerText.includes('{_CHANGED}')"):
                return

    def tools(self, command: str, **values: Any) -> Any:
        """A command of the browser's own protocol."""
        return self("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    def screen(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Pixels of the window, and which colours the user prefers."""
        self.tools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tools("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """The page as a PNG file."""
        found = self.tools("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def press(self, *keys: str) -> None:
        """Keys as a user presses them, to what has the focus; single characters, or names of
        the WebDriver standard's table in its private characters."""
        actions = []
        for key in keys:
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self("POST", "/actions", {"actions": [source]})

    def problems(self) -> list[str]:
        """What the console said at the level of warnings and errors since the last time."""
        entries = self("POST", "/se/log", {"type": "browser"})
        said = [e["message"] for e in entries if e["level"] in ("WARNING", "SEVERE")]
        return [message for message in said if _CHANGED not in message]

    def close(self) -> None:
        try:
            if self._session:
                self("DELETE", "")
        finally:
            self._process.terminate()
            self._process.wait()
