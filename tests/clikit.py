"""For tests of the command line: a scripted engine that writes down what it is asked."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parent.parent
PORTSIDE = str(ROOT / "portside")
_EMPTY = tempfile.TemporaryDirectory(prefix="config-", dir="/tmp")
"""A configuration directory with nothing in it."""


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    """Without the version."""
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, head_only: bool) -> bytes:
        data = self.body
        if data is None:
            data = b""
        elif not isinstance(data, bytes):
            data = json.dumps(data).encode()
        lines = [f"HTTP/1.1 {self.status} X", "Api-Version: 1.50", "Ostype: linux"]
        if self.status != 204:
            lines.append(f"Content-Length: {len(data)}")
        if isinstance(self.body, (dict, list)) and "Content-Type" not in self.headers:
            lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head_only else data)


class FakeEngine:
    """Answers by ``answers[method, path]`` (a value, an Answer or a function of Asked)."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="fake-", dir="/tmp")
        self.path = f"{self.directory.name}/s"
        self.host = f"unix://{self.path}"
        self.asked: list[Asked] = []
        self.answers: dict[tuple[str, str], Any] = {
            ("HEAD", "/_ping"): Answer(),
            ("GET", "/_ping"): Answer(body=b"OK"),
        }
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.directory.cleanup()

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        file = sock.makefile("rwb")
        try:
            while line := file.readline():
                method, target, _ = line.decode().split(" ", 2)
                headers = {}
                while (field := file.readline().strip()) != b"":
                    name, _, value = field.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = self._body(file, headers)
                parts = urlsplit(target)
                path = parts.path
                if path.startswith("/v1."):
                    path = "/" + path.split("/", 2)[2]
                asked = Asked(method, path, parse_qs(parts.query), headers, body)
                self.asked.append(asked)
                answer = self.answers.get((method, path), Answer(404, {"message": "not here"}))
                if callable(answer):
                    answer = answer(asked)
                if not isinstance(answer, Answer):
                    answer = Answer(body=answer, headers={"Content-Type": "application/json"})
                file.write(answer.encode(method == "HEAD"))
                file.flush()
        except OSError:
            pass
        finally:
            file.close()
            sock.close()

    @staticmethod
    def _body(file: Any, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            found = b""
            while size := int(file.readline(), 16):
                found += file.read(size)
                file.readline()
            file.readline()
            return found
        return bytes(file.read(int(headers.get("content-length", 0))))

    def bodies(self, method: str, path: str) -> list[Any]:
        return [asked.json for asked in self.asked if (asked.method, asked.path) == (method, path)]


def call(
    command: str, *arguments: str, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command line with a clean configuration; standard input is empty unless given."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DOCKER", "COLUMNS"))
    }
    environment["DOCKER_CONFIG"] = _EMPTY.name
    environment.update(env or {})
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(
        [command, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        **options,
    )


Runner = Callable[..., "subprocess.CompletedProcess[str]"]


# -- beside the real docker CLI ----------------------------------------------------------------

_CHANGING = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<ID>"),
    (re.compile(r'time="[^"]*" level=error msg=.*\n'), ""),  # only when a race goes one way
    (re.compile(r"\b[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?"), "<time>"),
    (re.compile(r"Less than a second|(About )?\b(an?|\d+) (second|minute|hour)s?\b"), "<ago>"),
    (re.compile(r" {2,}"), "  "),  # columns are as wide as what was replaced
)
"""What differs between any two runs."""


@dataclass
class Said:
    """How a command ended and what it said, without what changes from run to run."""

    status: int
    out: str
    err: str


class Pair:
    """Runs each command line by the docker CLI and by ours, against one engine.

    ``{n}`` in a line is a name of each one's own, so that they do not meet. Ours is called
    through a link named ``docker``, for the messages that name the command.
    """

    def __init__(self, docker: str, host: str, directory: Path) -> None:
        self.link = directory / "docker"
        self.link.symlink_to(PORTSIDE)
        self.programs = ((docker, "ndocker"), (str(self.link), "nours"))
        self.directory = directory
        self.env = {
            "DOCKER_HOST": host,
            "DOCKER_CONFIG": str(directory / "config"),
            "DOCKER_API_VERSION": "1.50",
        }  # the docker command's own

    def run(self, line: str, input: str | None = None) -> tuple[Said, Said]:
        """Both answers, the docker CLI's first."""
        first, second = (self.one(number, line, input) for number in (0, 1))
        return first, second

    def one(self, number: int, line: str, input: str | None = None) -> Said:
        program, name = self.programs[number]
        words = [word.replace("{n}", name) for word in shlex.split(line)]
        given = {} if input is None else {"input": input}
        done = call(program, *words, env=self.env, cwd=self.directory, **given)
        return Said(done.returncode, _plain(done.stdout, name), _plain(done.stderr, name))

    def same(self, line: str, input: str | None = None) -> Said:
        """Run it by both; the answers must be the same."""
        theirs, ours = self.run(line, input)
        assert ours == theirs, f"{line}\ndocker: {theirs}\nours:   {ours}"
        return ours

    def all_same(self, lines: str) -> None:
        """Every line of a text; what differs is told together at the end."""
        wrong = []
        for line in filter(None, map(str.strip, lines.splitlines())):
            line, _, input = line.partition(" <<< ")
            given = input.encode().decode("unicode_escape") if input else None
            theirs, ours = self.run(line, given)
            if ours != theirs:
                wrong.append(f"{line}\n  docker: {theirs}\n  ours:   {ours}")
        assert not wrong, "\n".join(wrong)


def _plain(text: str, name: str) -> str:
    for pattern, plain in _CHANGING:
        text = pattern.sub(plain, text)
    return text.replace(name, "NAME")
