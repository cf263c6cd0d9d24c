"""Users of an htpasswd file with bcrypt entries, read again when the file changes.

How long a refused login takes must not reveal whether the user exists: the password of an
unknown user is compared with another user's entry, so that the cost is a known user's.
Comparisons run in two threads of their own: guessing passwords leaves the threads
that read and write blobs alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_LOG = logging.getLogger("portside.serving")
_DECOY = b"$2b$10$Hl1c/HgBeFwoStCLXL/yuejj2h1D5LErupbaWfqfJKn9ZlsP.UgtS"
"""An entry nobody's password is compared with successfully, for a file without entries."""
_COMPARERS = ThreadPoolExecutor(2, "bcrypt")
_BCRYPT = (b"$2a$", b"$2b$", b"$2y$")


class Htpasswd:
    """The users of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] = (-1, 0, 0)
        self._users: dict[str, bytes] = {}
        self._passed: dict[str, str] = {}
        self._salt = secrets.token_bytes(16)

    def _load(self) -> dict[str, bytes]:
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            users = {}
            for line in self._path.read_text(errors="surrogateescape").splitlines():
                name, colon, entry = line.strip().partition(":")
                if colon and not name.startswith("#"):
                    users[name] = entry.encode(errors="surrogateescape")
            self._users, self._stamp = users, stamp
            self._passed.clear()
        return self._users

    def entry(self, user: str) -> bytes | None:
        """The user's entry as it is now; None when there is no such user."""
        return self._load().get(user)

    async def verify(self, user: str, password: str) -> bool:
        """Whether the password is the user's; other hashes than bcrypt are refused."""
        users = self._load()
        entry = users.get(user)
        is_usable = entry is not None and entry.startswith(_BCRYPT)
        # bcrypt is slow on purpose and clients send the password with every request:
        # remember, in memory only, what passed
        seen = hashlib.sha256(self._salt + password.encode()).hexdigest()
        if is_usable and hmac.compare_digest(self._passed.get(user, ""), seen):
            return True
        compared = entry if entry is not None and is_usable else self._decoy(user, users)
        secret = password.encode()[:72]  # bcrypt takes no more
        loop = asyncio.get_running_loop()
        matches = await loop.run_in_executor(_COMPARERS, _compare, secret, compared)
        if not (matches and is_usable):
            return False
        if self._load().get(user) != entry:
            return False  # changed while the password was compared
        self._passed[user] = seen
        return True

    def _decoy(self, user: str, users: dict[str, bytes]) -> bytes:
        """An entry to compare an unknown user's password with: always the same for one name."""
        entries = [entry for entry in users.values() if entry.startswith(_BCRYPT)]
        if not entries:
            return _DECOY
        chosen = hmac.digest(self._salt, user.encode(errors="surrogateescape"), "sha256")
        return entries[int.from_bytes(chosen[:8], "big") % len(entries)]


def _compare(secret: bytes, entry: bytes) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(secret, entry)
    except ValueError as err:  # a damaged entry
        _LOG.warning("htpasswd: an entry cannot be read: %s", err)
        return False
