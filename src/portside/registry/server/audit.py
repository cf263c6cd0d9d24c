"""Who changed what: one JSON document a line, appended and never rewritten."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
from aiohttp import web

from portside.registry.server.request_context import IDENTITY

_TAIL = 256 << 10
"""Bytes read from the end of the log when looking for recent entries."""


class Entry(msgspec.Struct, frozen=True):
    time: str
    user: str
    remote: str
    action: str
    repository: str
    reference: str
    digest: str = ""
    size: int = 0
    agent: str = ""


class Audit:
    """The log at ``path``; with no path nothing is kept."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._fd = -1
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)

    def note(
        self,
        request: web.Request,
        action: str,
        repository: str,
        reference: str,
        *,
        digest: str = "",
        size: int = 0,
    ) -> None:
        """Append one entry; a single write(2) in append mode is never torn by another."""
        if self._fd < 0:
            return
        entry = Entry(
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            request[IDENTITY].user,
            request.remote or "",
            action,
            repository,
            reference,
            digest,
            size,
            request.headers.get("User-Agent", "")[:200],
        )
        os.write(self._fd, msgspec.json.encode(entry, enc_hook=str) + b"\n")

    def recent(self, repository: str, most: int = 50) -> list[Entry]:
        """The newest entries about a repository, newest first."""
        if self._path is None:
            return []
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL, 0))
            lines = file.read().splitlines()
        found = []
        for line in reversed(lines):
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except msgspec.MsgspecError:
                continue  # the first line of the tail may be cut
            if entry.repository == repository:
                found.append(entry)
            if len(found) == most:
                break
        return found

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
