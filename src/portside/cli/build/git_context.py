"""A git repository as a context: ``URL[#REF[:FOLDER]]``, checked out by the program git here,
with the caller's own credentials, into a directory that goes when the build is over."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from portside.cli.session import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SAFE = ("-c", "protocol.ext.allow=never", "-c", "core.hooksPath=/dev/null",
         "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main")  # fmt: skip


def clone(url: str, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The directory that was made, and the context in it. ``environment``: more variables for
    git, such as credentials. Raises Failed."""
    if shutil.which("git") is None:
        raise Failed(1, "ERROR: failed to build: a git context needs the program git")
    address, _, fragment = url.partition("#")
    reference, _, folder = fragment.partition(":")
    if address.startswith("github.com/"):
        address = f"https://{address}"
    if address.startswith("-") or reference.startswith("-"):
        raise Failed(1, f"ERROR: failed to build: invalid git context: {url}")
    root = tempfile.mkdtemp(prefix="portside-git-")
    more = environment or {}
    try:
        _git(root, more, "init", "-q")
        _git(root, more, "remote", "add", "origin", "--", address)
        _fetch(root, more, reference or "HEAD")
        _git(root, more, "checkout", "-q", "FETCH_HEAD", "--")
        if os.path.exists(os.path.join(root, ".gitmodules")):
            _git(root, more, "submodule", "update", "-q", "--init", "--recursive", "--depth", "1")
        shutil.rmtree(os.path.join(root, ".git"))
        return root, _inside(root, folder)
    except BaseException:
        remove(root)
        raise


def _fetch(root: str, more: Mapping[str, str], reference: str) -> None:
    words = ("fetch", "-q", "--no-tags", "--depth", "1", "origin", "--", reference)
    try:
        _git(root, more, *words)
    except Failed:  # a plain web server has no shallow copies; any other reason appears again
        _git(root, more, *(word for word in words if word not in ("--depth", "1")))


def is_within(path: str, directory: str) -> bool:
    """Whether a path is a directory or in it, links of both followed."""
    path, directory = os.path.realpath(path), os.path.realpath(directory)
    return os.path.commonpath((path, directory)) == directory


def _inside(root: str, folder: str) -> str:
    """The folder of the repository, which no link of it may lead out of."""
    place = os.path.realpath(os.path.join(root, folder.strip("/") or "."))
    if not is_within(place, root):
        raise Failed(1, f"ERROR: failed to build: {folder} leads out of the repository")
    if not os.path.isdir(place):
        raise Failed(1, f"ERROR: failed to build: the repository has no folder {folder}")
    return place


def _git(root: str, more: Mapping[str, str], *words: str) -> None:
    done = subprocess.run(
        ["git", *_SAFE, "-C", root, *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="replace", check=False,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **more},
    )  # fmt: skip
    if done.returncode:
        raise Failed(1, f"ERROR: failed to build: git {words[0]}: {done.stderr.strip()}")


def remove(root: str) -> None:
    shutil.rmtree(root, ignore_errors=True)
