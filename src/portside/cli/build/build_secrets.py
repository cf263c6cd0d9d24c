"""``--secret`` and ``--ssh``: what they name, and how the engine gets it over the connection."""

from __future__ import annotations

import os
import socket
import stat
import threading

from portside.cli.build import csv_options
from portside.cli.build.build_connection import RefusedAnswer
from portside.cli.session import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.build.build_connection import Channel

MAX_SECRET = 500 << 10
_PIECE = 64 << 10


class Secrets:
    """Read when a step needs them."""

    def __init__(self, texts: list[str]) -> None:
        """Raises Failed for what cannot be read."""
        self._places: dict[str, tuple[str, str]] = {}
        for text in texts:
            self._add(text)

    @property
    def ids(self) -> list[str]:
        return sorted(self._places)

    def _add(self, text: str) -> None:
        fields = {}
        for part in csv_options.fields(text):
            key, equals, value = part.partition("=")
            if not equals:
                raise Failed(1, f"ERROR: invalid field '{part}' must be a key=value pair")
            key = {"source": "src"}.get(key.lower(), key.lower())
            if key not in ("type", "id", "src", "env"):
                raise Failed(1, f"ERROR: unexpected key '{key}' in '{part}'")
            fields[key] = value
        kind = fields.get("type", "")
        if kind not in ("", "file", "env"):
            raise Failed(1, f'ERROR: unsupported secret type "{kind}"')
        identifier = fields.get("id", "")
        if not identifier:
            raise Failed(1, "ERROR: failed to build: secret missing ID")
        self._places[identifier] = self._place(identifier, kind, fields)

    def _place(self, identifier: str, kind: str, fields: dict[str, str]) -> tuple[str, str]:
        if kind == "env" or fields.get("env") or (
            not kind and "src" not in fields and identifier in os.environ
        ):  # fmt: skip
            return "env", fields.get("env") or fields.get("src") or identifier
        path = fields.get("src") or identifier
        try:
            size = os.stat(path).st_size
        except OSError as err:
            why = (err.strerror or "").lower()
            raise Failed(1, f"ERROR: failed to build: failed to stat {path}: stat {path}: "
                            f"{why}") from None  # fmt: skip
        if size > MAX_SECRET:
            raise Failed(1, f"ERROR: failed to build: secret {identifier} too big. max size "
                            "500KB")  # fmt: skip
        return "file", path

    def send(self, channel: Channel, identifier: str) -> None:
        kind, place = self._places[identifier]
        if kind == "env":
            data = os.environb.get(os.fsencode(place), b"")
        else:
            with open(place, "rb") as file:
                data = file.read(MAX_SECRET + 1)
        channel.send([data])
        channel.end()


class Agents:
    """ssh agents of this machine; keys are added to a separate agent for the build."""

    def __init__(self, texts: list[str]) -> None:
        self._paths: dict[str, list[str]] = {}
        for text in texts:
            identifier, _, places = text.partition("=")
            self._paths[identifier or "default"] = [p for p in places.split(",") if p]
        self._own: dict[str, _OwnAgent] = {}
        for identifier in list(self._paths):
            self._check(identifier)

    @property
    def ids(self) -> list[str]:
        return sorted(self._paths)

    def _check(self, identifier: str) -> None:
        paths = self._paths[identifier]
        if not paths:
            given = os.environ.get("SSH_AUTH_SOCK", "")
            if not given:
                raise Failed(1, "ERROR: failed to build: failed to convert agent config "
                                f"{{{identifier} [] false}}: invalid empty ssh agent socket: make "
                                "sure SSH_AUTH_SOCK is set")  # fmt: skip
            self._paths[identifier] = [given]
            return
        keys = []
        for path in paths:
            try:
                found = os.stat(path)
            except OSError as err:
                why = (err.strerror or "").lower()
                raise Failed(1, f"ERROR: failed to build: failed to convert agent config: open "
                                f"{path}: {why}") from None  # fmt: skip
            if not stat.S_ISSOCK(found.st_mode):
                keys.append(path)
        if keys and len(paths) != len(keys):
            raise Failed(1, "ERROR: failed to build: invalid combination of keys and sockets")
        if keys:
            self._own[identifier] = _OwnAgent(keys)

    def relay(self, channel: Channel, identifier: str) -> None:
        """One connection to the agent, until a side ends."""
        if identifier not in self._paths:
            raise RefusedAnswer(f"no agent {identifier!r}")
        own = self._own.get(identifier)
        path = own.path if own is not None else self._paths[identifier][0]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            thread = threading.Thread(target=_forward, args=(sock, channel), daemon=True)
            thread.start()
            for piece in channel.pieces():
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
            thread.join(10)

    def close(self) -> None:
        for own in self._own.values():
            own.close()


def _forward(sock: socket.socket, channel: Channel) -> None:
    try:
        while piece := sock.recv(_PIECE):
            channel.send([piece])
    finally:
        channel.end()


class _OwnAgent:
    """The program ssh-agent with some keys, for the length of the build."""

    def __init__(self, keys: list[str]) -> None:
        import subprocess
        import tempfile

        self._directory = tempfile.mkdtemp(prefix="portside-agent-")
        self.path = f"{self._directory}/agent"
        try:
            self._process = subprocess.Popen(
                ["ssh-agent", "-D", "-a", self.path],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except FileNotFoundError:
            os.rmdir(self._directory)
            raise Failed(1, "ERROR: failed to build: keys for --ssh need the programs ssh-agent "
                            "and ssh-add") from None  # fmt: skip
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it listens once it has said where
        done = subprocess.run(
            ["ssh-add", "-q", "--", *keys], env={**os.environ, "SSH_AUTH_SOCK": self.path},
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            self.close()
            raise Failed(1, f"ERROR: failed to build: ssh-add: {done.stderr.strip()}")

    def close(self) -> None:
        import shutil

        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
