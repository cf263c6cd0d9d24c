"""Git repositories, checked out by the program git here, with the caller's own credentials: as
contexts, in a directory that goes when the build is over, and for
Compose."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from portside.cli.session import Failed
from portside.model.errors import PortsideError
from portside.model.paths import is_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from portside.model.git_urls import GitUrl

_SAFE = ("-c", "protocol.ext.allow=never", "-c", "core.hooksPath=/dev/null",
         "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main")  # fmt: skip


_MAX_FILES = 200_000
_MAX_CHECK_OUT = 2 << 30
"""Files of a commit and their bytes, where these are bounded."""


class GitFailed(PortsideError):
    """The program git is missing or says that a command failed."""


def clone(url: GitUrl, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The directory that was made, and the context in it. ``environment``: more variables for
    git, such as credentials. Raises Failed."""
    root = tempfile.mkdtemp(prefix="portside-git-")
    try:
        found = check_out(url.remote, url.ref or "HEAD", root, environment,
                          keep_git_dir=bool(url.keep_git_dir),
                          submodules=url.submodules)  # fmt: skip
        if not found.startswith(url.commit):
            raise GitFailed(f"expected checksum to match {url.commit}, got {found}")
        return root, _inside(root, url.subdir)
    except GitFailed as err:
        remove(root)
        raise Failed(1, f"ERROR: failed to build: {err}") from None
    except BaseException:
        remove(root)
        raise


def commit_of(address: str, reference: str) -> str:
    """The commit (of a tag, its object) that a repository has under a name, empty when it has no
    such name. Raises GitFailed."""
    output = _git(".", {}, "ls-remote", "--", address, reference)
    found = {name: digest for digest, _, name in
             (line.partition("\t") for line in output.splitlines())}  # fmt: skip
    places = (reference, f"refs/{reference}", f"refs/tags/{reference}", f"refs/heads/{reference}")
    return next((found[place] for place in places if place in found), "")


def check_out(
    address: str, reference: str, root: str, environment: Mapping[str, str] | None = None, *,
    is_bounded: bool = False, submodules: bool = True, keep_git_dir: bool = False,
) -> str:  # fmt: skip
    """The files of a reference into an empty directory, and the reference's commit;
    ``is_bounded``: not more than 200,000 files and 2 GiB. Raises GitFailed."""
    more = environment or {}
    _git(root, more, "init", "-q")
    _git(root, more, "remote", "add", "origin", "--", address)
    _fetch(root, more, reference)
    if is_bounded:
        _check_size(root)
    _git(root, more, "checkout", "-q", "FETCH_HEAD", "--")
    commit = _git(root, more, "rev-parse", "HEAD").strip()
    if submodules and os.path.exists(os.path.join(root, ".gitmodules")):
        _git(root, more, "submodule", "update", "-q", "--init", "--recursive", "--depth", "1")
    if not keep_git_dir:
        shutil.rmtree(os.path.join(root, ".git"))
    return commit


def _check_size(root: str) -> None:
    """The list of files is read while git writes it, because a small repository can name any
    number of them. Raises GitFailed."""
    words = ["git", *_SAFE, "-C", root, "ls-tree", "-r", "-l", "FETCH_HEAD"]
    count = size = 0
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            length = line.partition(b"\t")[0].split()[-1]
            count, size = count + 1, size + (int(length) if length.isdigit() else 0)
            if count > _MAX_FILES or size > _MAX_CHECK_OUT:
                process.kill()
                raise GitFailed(f"the repository has more than {_MAX_FILES} files or "
                                f"{_MAX_CHECK_OUT >> 30} GiB")  # fmt: skip


def _fetch(root: str, more: Mapping[str, str], reference: str) -> None:
    words = ("fetch", "-q", "--no-tags", "--depth", "1", "origin", "--", reference)
    try:
        _git(root, more, *words)
    except GitFailed:  # a plain web server has no shallow copies; other reasons appear again
        _git(root, more, *(word for word in words if word not in ("--depth", "1")))


def _inside(root: str, folder: str) -> str:
    """The folder of the repository, which no link of it may lead out of."""
    place = os.path.realpath(os.path.join(root, folder.strip("/") or "."))
    if not is_within(place, root):
        raise Failed(1, f"ERROR: failed to build: {folder} leads out of the repository")
    if not os.path.isdir(place):
        raise Failed(1, f"ERROR: failed to build: the repository has no folder {folder}")
    return place


def _git(root: str, more: Mapping[str, str], *words: str) -> str:
    if shutil.which("git") is None:
        raise GitFailed("a git context needs the program git")
    done = subprocess.run(
        ["git", *_SAFE, "-C", root, *words], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, errors="replace", check=False,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **more},
    )  # fmt: skip
    if done.returncode:
        raise GitFailed(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout


def remove(root: str) -> None:
    shutil.rmtree(root, ignore_errors=True)
