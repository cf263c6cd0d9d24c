"""A git repository as a context: ``URL[#REF[:FOLDER]]``, checked out by the program git here,
with the caller's own credentials, into a directory that goes when the build is over."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from portside.cli.session import Failed

_SAFE = ("-c", "protocol.ext.allow=never", "-c", "core.hooksPath=/dev/null",
         "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main")  # fmt: skip


def clone(url: str) -> tuple[str, str]:
    """The directory that was made, and the context in it. Raises Failed."""
    if shutil.which("git") is None:
        raise Failed(1, "ERROR: failed to build: a git context needs the program git")
    address, _, fragment = url.partition("#")
    reference, _, folder = fragment.partition(":")
    if address.startswith("github.com/"):
        address = f"https://{address}"
    if address.startswith("-") or reference.startswith("-"):
        raise Failed(1, f"ERROR: failed to build: invalid git context: {url}")
    root = tempfile.mkdtemp(prefix="portside-git-")
    try:
        _git(root, "init", "-q")
        _git(root, "remote", "add", "origin", "--", address)
        _git(root, "fetch", "-q", "--depth", "1", "--no-tags", "origin", "--",
             reference or "HEAD")  # fmt: skip
        _git(root, "checkout", "-q", "FETCH_HEAD", "--")
        if os.path.exists(os.path.join(root, ".gitmodules")):
            _git(root, "submodule", "update", "-q", "--init", "--recursive", "--depth", "1")
        shutil.rmtree(os.path.join(root, ".git"))
        return root, _inside(root, folder)
    except BaseException:
        remove(root)
        raise


def _inside(root: str, folder: str) -> str:
    """The folder of the repository, which no link of it may lead out of."""
    place = os.path.realpath(os.path.join(root, folder.strip("/") or "."))
    if place != os.path.realpath(root) and not place.startswith(os.path.realpath(root) + "/"):
        raise Failed(1, f"ERROR: failed to build: {folder} leads out of the repository")
    if not os.path.isdir(place):
        raise Failed(1, f"ERROR: failed to build: the repository has no folder {folder}")
    return place


def _git(root: str, *words: str) -> None:
    done = subprocess.run(
        ["git", *_SAFE, "-C", root, *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="replace", check=False, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
    )  # fmt: skip
    if done.returncode:
        raise Failed(1, f"ERROR: failed to build: git {words[0]}: {done.stderr.strip()}")


def remove(root: str) -> None:
    shutil.rmtree(root, ignore_errors=True)
