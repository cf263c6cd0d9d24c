"""Docker's client configuration: ``~/.docker/config.json`` and the files beside it."""

from __future__ import annotations

import os
import sys

from portside.model import jsontext
from portside.model.errors import InvalidParameter, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def directory(chosen: str = "") -> str:
    """Its directory: ``--config``, ``DOCKER_CONFIG``, else ``~/.docker``."""
    found = chosen or os.environ.get("DOCKER_CONFIG", "")
    return found or os.path.join(os.environ.get("HOME", "/root"), ".docker")


class ClientConfig:
    """The file, read at first use. A missing file counts as empty."""

    def __init__(self, chosen: str = "") -> None:
        self.directory = directory(chosen)
        self._values: dict[str, Any] | None = None
        self._broken = False
        """The file exists but could not be read: it is not overwritten."""

    @property
    def path(self) -> str:
        return f"{self.directory}/config.json"

    @property
    def values(self) -> dict[str, Any]:
        """The whole document; empty, with a warning, when it cannot be read."""
        if self._values is None:
            self._values = self._read()
        return self._values

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except OSError:
            return {}
        try:
            value = jsontext.loads(data) if data.strip() else {}
        except SystemFailure as err:
            value = str(err)
        if isinstance(value, dict):
            return value
        self._broken = True
        why = value if isinstance(value, str) else "no JSON object"
        sys.stderr.write(f"WARNING: Error parsing config file ({self.path}): {why}\n")
        return {}

    def text(self, name: str) -> str:
        value = self.values.get(name)
        return value if isinstance(value, str) else ""

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.values.get(name)
        return value if isinstance(value, dict) else {}

    def proxies(self, host: str) -> dict[str, str]:
        """Environment variables for containers, by the engine's address or ``default``."""
        table = self.mapping("proxies")
        chosen = table.get(host) or table.get("default") or {}
        found = {}
        for key, name in (
            ("httpProxy", "HTTP_PROXY"),
            ("httpsProxy", "HTTPS_PROXY"),
            ("ftpProxy", "FTP_PROXY"),
            ("noProxy", "NO_PROXY"),
            ("allProxy", "ALL_PROXY"),
        ):
            if value := chosen.get(key):
                found[name] = found[name.lower()] = value
        return found

    def save(self) -> None:
        """Write it back, readable for its owner only, whole or not at all."""
        if self._broken:
            raise InvalidParameter(f"correct or remove {self.path} first: the file is not JSON")
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        target = os.path.realpath(self.path)
        temporary = f"{target}.{os.getpid()}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(jsontext.dumps(self.values, "\t").encode())
                file.flush()
                os.fsync(fd)
            os.rename(temporary, target)
        except OSError:
            os.unlink(temporary)
            raise
