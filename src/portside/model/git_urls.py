"""URLs of git repositories as Docker writes them: ``URL#REF:FOLDER``, or BuildKit's query form
``URL?ref=REF&subdir=FOLDER``."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from portside.model.errors import InvalidParameter

_SCP = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:(?!//).+")
_SCHEME = re.compile(r"(https?|ssh|git)://", re.IGNORECASE)
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+@{}^~-]*")
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_QUERY = {"ref": "ref", "tag": "tag", "branch": "branch", "subdir": "subdir", "commit": "commit",
          "checksum": "commit", "keep-git-dir": "keep", "submodules": "submodules"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GitUrl:
    remote: str
    """The repository's address, as git takes it."""
    ref: str = ""
    """A branch, tag or commit; empty for the default branch."""
    subdir: str = ""
    commit: str = ""
    """The commit that the ref must resolve to; may be abbreviated."""
    keep_git_dir: bool | None = None
    submodules: bool = True
    known_hosts: str = ""
    """The keys that ssh hosts must have, as in ssh's known_hosts file; any key when empty."""
    agent: str = "default"
    """The client's ssh agent."""
    token_secret: str = "GIT_AUTH_TOKEN"
    header_secret: str = "GIT_AUTH_HEADER"
    """Names of the secrets that authenticate https."""

    @property
    def fragment(self) -> str:
        return f"#{self.ref}:{self.subdir}" if self.subdir else f"#{self.ref}" if self.ref else ""


def is_git_url(text: str) -> bool:
    """Whether a context or an ADD's source names a repository rather than a file."""
    if text.startswith(("git://", "ssh://", "github.com/")) or _SCP.fullmatch(text):
        return True
    path, _, query = text.partition("#")[0].partition("?")
    if not path.startswith(("http://", "https://")) or not path.endswith(".git"):
        return False
    return all(key in _QUERY for key, _ in parse_qsl(query, keep_blank_values=True))


def parse_git_url(text: str) -> GitUrl:
    """InvalidParameter for what git must not be given, such as options in place of a ref."""
    remote, _, fragment = text.partition("#")
    ref, _, subdir = fragment.partition(":")
    fields: dict[str, str] = {}
    if _SCHEME.match(remote) and "?" in remote:
        remote, _, query = remote.partition("?")
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in _QUERY:
                raise InvalidParameter(f"unexpected query {key!r} in the git URL {text}")
            fields[_QUERY[key]] = value
    if remote.startswith("github.com/"):
        remote = f"https://{remote}"
    if not (_SCHEME.match(remote) or _SCP.fullmatch(remote)) or remote.startswith("-"):
        raise InvalidParameter(
            f"{text!r} is not a git URL: use https://, ssh://, git:// or USER@HOST:"
        )
    ref = fields.get("ref") or ref
    if "tag" in fields:
        ref = f"refs/tags/{fields['tag']}"
    elif "branch" in fields:
        ref = f"refs/heads/{fields['branch']}"
    if ref and not _REF.fullmatch(ref):
        raise InvalidParameter(f"invalid git ref {ref!r} in {text}")
    commit = fields.get("commit", "")
    if commit and not re.fullmatch(r"[0-9a-f]{7,64}", commit):
        raise InvalidParameter(f"invalid git commit {commit!r} in {text}")
    subdir = posixpath.normpath("/" + (fields.get("subdir") or subdir)).strip("/")
    keep = fields.get("keep")
    return GitUrl(
        remote=remote,
        ref=ref,
        subdir=subdir,
        commit=commit,
        keep_git_dir=None if keep is None else keep not in ("0", "false"),
        submodules=fields.get("submodules", "1") not in ("0", "false"),
    )
