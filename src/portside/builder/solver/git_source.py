"""Git repositories as trees: fetched by the git program, which knows every transport.

The repository is hostile: git runs without configuration, hooks, prompts or the transports that
start programs, and what it checked out is moved by descriptors.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from portside.builder import llb
from portside.builder.solver.agent_sockets import SocketAccess
from portside.builder.solver.layer_commit import LayerCommitter
from portside.builder.solver.solver import Made
from portside.builder.solver.step_mounts import Secrets
from portside.builder.solver.tree import Tree
from portside.model.errors import InvalidParameter, NotFound, SystemFailure, Unavailable
from portside.model.git_urls import COMMIT, GitUrl, parse_git_url
from portside.model.ids import new_id

if TYPE_CHECKING:
    from portside.store.store import Store

PATIENCE = 600.0
"""Seconds for one git command."""
MAX_ERROR = 2000
"""Characters of git's errors that are shown."""
_SETTINGS = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "protocol.allow=never",
    "protocol.https.allow=always", "protocol.http.allow=always", "protocol.git.allow=always",
    "protocol.ssh.allow=always", "core.symlinks=true", "advice.detachedHead=false",
    "init.defaultBranch=main", "gc.auto=0", "submodule.recurse=false",
)  # fmt: skip


class GitMetadata(NamedTuple):
    """What a URL leads to."""

    ref: str
    """The whole name of the branch or tag, or the commit."""
    checksum: str
    """The object that the ref names."""
    commit: str = ""
    """The commit, where the object is a tag of its own."""
    objects: tuple[str, ...] = ()
    """The commit's text, and the tag's; bytes that are not UTF-8 by surrogateescape."""


class GitSource:
    """One for a build: a ref is resolved once, and every use of it is the same commit."""

    def __init__(self, store: Store, secrets: Secrets) -> None:
        self._store, self._secrets = store, secrets
        self._commits: dict[tuple[str, str], asyncio.Task[str]] = {}
        self._named: dict[tuple[str, str], tuple[str, str]] = {}
        """The whole name of a ref, and the object that it names: a tag's, or a commit."""

    async def commit_of(self, url: GitUrl) -> str:
        """The commit that a URL leads to now. NotFound for a missing ref, SystemFailure when it
        is another commit than the URL asks for, Unavailable."""
        key = (url.remote, url.ref)
        if key not in self._commits:
            self._commits[key] = asyncio.create_task(self._resolve(url))
        found = await asyncio.shield(self._commits[key])
        if url.commit and not found.startswith(url.commit):
            raise SystemFailure(f"expected checksum to match {url.commit}, got {found}")
        return found

    async def _resolve(self, url: GitUrl) -> str:
        if COMMIT.fullmatch(url.ref):
            return url.ref
        wanted = url.ref or "HEAD"
        listing = await self._git(
            None, url, "ls-remote", "--symref", "--", url.remote, wanted, f"{wanted}^{{}}"
        )
        found, named = {}, ""
        for line in listing.splitlines():
            commit, _, name = line.partition("\t")
            if commit.startswith("ref: "):  # the branch that HEAD is
                named = commit.removeprefix("ref: ")
            else:
                found[name] = commit
        for name in (f"refs/heads/{wanted}", f"refs/tags/{wanted}", wanted):
            if name in found and COMMIT.fullmatch(found[name]):
                self._named[(url.remote, url.ref)] = named or name, found[name]
                peeled = found.get(f"{name}^{{}}", "")
                return peeled if COMMIT.fullmatch(peeled) else found[name]
        raise NotFound(f"repository {url.remote} does not contain ref {wanted}")

    async def fetch(self, op: llb.SourceOp, committer: LayerCommitter) -> Made:
        """The tree of a source."""
        url, keep = git_source(op)
        identifier = new_id()
        writables = self._store.writables
        rootfs = await writables.create_copy(identifier, None, for_build=True)
        try:
            await self.check_out(url, Path(rootfs.upper), keep=keep)
            made = await committer.commit(identifier, Tree())
        finally:
            writables.remove(identifier)
            self._store.trash.discard(writables.containers_dir / identifier)
        # a checkout has the times of the fetch: the commit identifies the tree
        return made

    async def check_out(self, url: GitUrl, target: Path, *, keep: bool = False) -> str:
        """Put the files of a commit into the directory ``target``; the commit."""
        commit = await self.commit_of(url)
        work = self._store.root / "contexts" / f"git-{new_id()}"
        work.mkdir(mode=0o700, parents=True)
        try:
            await self._fetch(url, commit, work)
            if not keep or url.subdir:
                shutil.rmtree(work / ".git")
            await asyncio.to_thread(_move, work, url.subdir, target)
        finally:
            self._store.trash.discard(work)
        return commit

    async def _fetch(self, url: GitUrl, commit: str, work: Path) -> None:
        await self._git(work, url, "init", "-q")
        await self._git(work, url, "remote", "add", "origin", url.remote)
        try:
            await self._git(work, url, "fetch", "-q", "--depth=1", "--no-tags", "origin", commit)
        except Unavailable:  # a server that gives refs only
            refs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
            await self._git(work, url, "fetch", "-q", "origin", *refs)
        await self._git(work, url, "checkout", "-q", "-f", commit, "--")
        if url.submodules and (work / ".gitmodules").is_file():
            await self._git(work, url, "submodule", "update", "-q", "--init", "--recursive",
                            "--depth=1")  # fmt: skip
            for file in work.rglob(".git"):
                if file.parent != work and file.is_file():
                    file.unlink()

    async def described(self, url: GitUrl, *, objects: bool) -> GitMetadata:
        """What a URL leads to now, with the objects themselves when asked for."""
        commit = await self.commit_of(url)
        ref, checksum = self._named.get((url.remote, url.ref), (url.ref, commit))
        found = GitMetadata(ref, checksum, commit if commit != checksum else "")
        if not objects:
            return found
        work = self._store.root / "contexts" / f"git-{new_id()}"
        work.mkdir(mode=0o700, parents=True)
        try:
            await self._git(work, url, "init", "-q", "--bare")
            wanted = url.ref if COMMIT.fullmatch(url.ref) else ref
            fetch = ("fetch", "-q", "--no-tags")
            try:
                await self._git(work, url, *fetch, "--depth=1", url.remote, wanted)
            except Unavailable:  # a server that gives whole histories only
                await self._git(work, url, *fetch, url.remote, wanted)
            bodies = [await self._git(work, url, "cat-file", "commit", commit)]
            if found.commit:
                bodies.append(await self._git(work, url, "cat-file", "tag", checksum))
        finally:
            self._store.trash.discard(work)
        return found._replace(objects=tuple(bodies))

    async def _git(self, work: Path | None, url: GitUrl, *args: str) -> str:
        with tempfile.TemporaryDirectory(prefix="portside-git-") as private:
            return await self._run(work, url, Path(private), *args)

    async def _run(self, work: Path | None, url: GitUrl, private: Path, *args: str) -> str:
        """``private``: a directory of this command, for what it must read."""
        program = shutil.which("git")
        if program is None:
            raise Unavailable(f"cannot fetch {url.remote}: git is not installed on this host")
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        environment = await self._environment(url, private)
        process = await asyncio.create_subprocess_exec(
            program, *settings, *args, cwd=work or "/", env=environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
        except TimeoutError:
            raise Unavailable(f"{url.remote}: git {args[0]} took too long") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 9)
                await process.wait()
        if process.returncode:
            failure = err.decode(errors="replace").strip()[-MAX_ERROR:]
            raise Unavailable(f"failed to fetch remote {url.remote}: git {args[0]}: {failure}")
        return out.decode("utf-8", "surrogateescape")

    async def _environment(self, url: GitUrl, private: Path) -> dict[str, str]:
        found = {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false",
        }  # fmt: skip
        for name in ("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY"):
            if name in os.environ:
                found[name] = os.environ[name]
        if url.remote.startswith("http"):
            return found | await self._credentials(url)
        return found | await self._ssh(url, private)

    async def _ssh(self, url: GitUrl, private: Path) -> dict[str, str]:
        socket = await self._secrets.ssh_socket(url.agent, SocketAccess())
        hosts, check = "/dev/null", "accept-new"
        if url.known_hosts:
            (private / "known_hosts").write_text(url.known_hosts + "\n")
            hosts, check = f"{private}/known_hosts", "yes"
        command = f"ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking={check} " \
                  f"-o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile={hosts}"  # fmt: skip
        return {"GIT_SSH_COMMAND": command} | ({"SSH_AUTH_SOCK": socket} if socket else {})

    async def _secret(self, name: str, url: GitUrl) -> bytes | None:
        """A secret for the URL's host, or for all hosts."""
        host = urlsplit(url.remote).hostname or ""
        found = await self._secrets.secret(f"{name}.{host}") if host else None
        return found if found is not None else await self._secrets.secret(name)

    async def _credentials(self, url: GitUrl) -> dict[str, str]:
        """Credentials go by environment: every user can read a process's arguments."""
        header = await self._secret(url.header_secret, url)
        if header is None:
            token = await self._secret(url.token_secret, url)
            if token is None:
                return {}
            import base64

            header = b"basic " + base64.b64encode(b"x-access-token:" + token.strip())
        host = "/".join(url.remote.split("/")[:3])
        return {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{host}/.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: {header.decode().strip()}",
        }


def git_source(op: llb.SourceOp) -> tuple[GitUrl, bool]:
    """A source's URL, and whether ``.git`` stays. The remote is the attribute ``git.fullurl``
    where a client gives one, else the identifier's."""
    attrs: Mapping[str, str] = op.attrs
    name = op.name
    if not name.startswith(("https://", "http://", "ssh://", "github.com/")) and "@" not in name:
        name = llb.GIT + name
    full = attrs.get("git.fullurl", "")
    if full:
        name = full.partition("#")[0] + ("#" + name.partition("#")[2] if "#" in name else "")
    url = parse_git_url(name)
    url = replace(
        url, known_hosts=attrs.get("git.knownsshhosts", ""),
        agent=attrs.get("git.mountsshsock") or url.agent,
        token_secret=attrs.get("git.authtokensecret") or url.token_secret,
        header_secret=attrs.get("git.authheadersecret") or url.header_secret,
    )  # fmt: skip
    checksum = attrs.get("git.checksum", "")
    if checksum:
        if not all(c in "0123456789abcdef" for c in checksum) or len(checksum) < 7:
            raise InvalidParameter(f"invalid checksum {checksum!r} for git source: give a commit")
        url = replace(url, commit=checksum)
    keep = attrs.get("git.keepgitdir") == "true" or bool(url.keep_git_dir)
    return url, keep


def _move(work: Path, subdir: str, target: Path) -> None:
    """Everything in a folder of the checkout; links on the way to it lead nowhere outside."""
    from portside.kernel.openat2 import openat2
    from portside.store.roots import OPEN_DIR
    from portside.store.trees import BELOW

    top = os.open(work, OPEN_DIR)
    try:
        source = openat2(top, os.fsencode(subdir or "."), OPEN_DIR, resolve=BELOW)
    except OSError as err:
        raise NotFound(f'the repository has no folder "{subdir}"') from err
    finally:
        os.close(top)
    into = os.open(target, OPEN_DIR)
    try:
        for name in os.listdir(source):
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=into)
    finally:
        os.close(source)
        os.close(into)
