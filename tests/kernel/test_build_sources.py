"""Sources and operations of the solver: git, OCI layouts, http, graphs of file actions, merges and
differences; several builds at once; eviction."""

import asyncio
import base64
import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from buildkit import Builder, MemorySink, builder
from imagekit import build_image

from portside.builder import llb
from portside.builder.llb import CopyAction, DiffOp, FileAction, FileOp, MakeDir, MakeFile, MergeOp
from portside.builder.results import BuildResult, ExportRequest, PlatformResult
from portside.builder.solver.agent_sockets import SocketAccess
from portside.builder.solver.git_source import GitSource, git_source
from portside.builder.solver.http_source import HttpSource
from portside.builder.solver.operations import action_runs
from portside.builder.solver.solver import Made
from portside.builder.solver.step_mounts import NoSecrets
from portside.builder.solver.step_runner import StepSettings
from portside.model.errors import InvalidParameter, NotFound, PortsideError, SystemFailure
from portside.model.git_urls import is_git_url, parse_git_url
from portside.model.platform import Platform

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")


@pytest.fixture
async def built(tmp_path: Path) -> AsyncIterator[Builder]:
    async with builder(tmp_path / "root") as found:
        yield found


async def files(built: Builder, output: llb.Output, **inputs: Any) -> dict[str, bytes]:
    """The regular files of a graph's result."""
    sink = MemorySink()
    async with built.session("FROM scratch", inputs=inputs) as session:
        tree = await session.build.solve(output)
        result = BuildResult(platforms=(PlatformResult(platform=Platform.host(), tree=tree),))
        request = ExportRequest(type="tar", sink=sink)
        await built.service.deliver(result, [request], session.lease)
    return sink.members()


def made(name: str, data: bytes, base: llb.Output | None = None) -> llb.Output:
    return llb.file_op(base, [(MakeFile(path=name, data=data), None)], llb.VertexMeta())


def vertex(op: llb.Op, *inputs: llb.Output) -> llb.Output:
    return llb.Vertex(op, inputs).output()


# -- file operations, merges, differences -----------------------------------------------------


async def test_a_graph_of_actions_with_several_outputs(built: Builder) -> None:
    op = FileOp(
        actions=(
            FileAction(action=MakeFile(path="/a", data=b"a"), output=0),
            FileAction(action=MakeFile(path="/b", data=b"b"), input=0),
            FileAction(action=MakeDir(path="/c"), input=1),
            # copies from one branch into another
            FileAction(action=CopyAction(src="/b", dest="/c/b"), input=2, secondary=1, output=1),
        )
    )
    whole = llb.Vertex(op)
    assert await files(built, whole.output(0)) == {"a": b"a"}
    assert await files(built, whole.output(1)) == {"a": b"a", "b": b"b", "c/b": b"b"}
    assert action_runs(op, 0) == [[0], [1], [2, 3]]


async def test_actions_on_a_client_directory(built: Builder, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "x").write_text("x")
    local = llb.local("c")
    from portside.builder.solver.tree import Tree

    inputs = {"local": {"c": Tree(directory=str(context))}}
    assert await files(built, made("/y", b"y", local), **inputs) == {"x": b"x", "y": b"y"}
    merged = vertex(MergeOp(), made("/z", b"z"), local)
    assert await files(built, merged, **inputs) == {"x": b"x", "z": b"z"}


async def test_merge_and_difference(built: Builder) -> None:
    base = made("/base", b"1")
    above = made("/top", b"2", base)
    assert await files(built, vertex(DiffOp(lower=0, upper=1), base, above)) == {"top": b"2"}
    one = made("/same", b"s", made("/old", b"o"))
    other = made("/same", b"t", made("/new", b"n"))
    unrelated = vertex(DiffOp(lower=0, upper=1), one, other)
    assert await files(built, unrelated) == {"same": b"t", "new": b"n"}
    # what the lower one has and the upper one has not is deleted when it is merged
    onto = vertex(MergeOp(), made("/old", b"o", made("/kept", b"k")), unrelated)
    assert await files(built, onto) == {"same": b"t", "new": b"n", "kept": b"k"}


# -- git --------------------------------------------------------------------------------------


def git(where: Path, *args: str) -> str:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(where), "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip
    done = subprocess.run(
        ["git", *args], cwd=where, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Any:
    """A repository on loopback, by git's own daemon: (URL, folder)."""
    folder = tmp_path / "git" / "repo.git"
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "sub").mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY sub /\n")
    (folder / "sub" / "f").write_text("first")
    (folder / "out").symlink_to("/etc")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    git(folder, "tag", "-a", "v1", "-m", "v1")
    (folder / "sub" / "f").write_text("second")
    git(folder, "commit", "-qam", "second")
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["git", "daemon", f"--port={port}", "--listen=127.0.0.1", "--export-all", "--reuseaddr",
         f"--base-path={folder.parent}", str(folder.parent)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                import time

                time.sleep(0.05)
        yield f"git://127.0.0.1:{port}/repo.git", folder
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def source(url: str, **attrs: str) -> llb.Output:
    op = llb.SourceOp(identifier=llb.GIT + url.removeprefix(llb.GIT), attrs=attrs)
    return llb.Vertex(op).output()


async def test_git_sources(built: Builder, repository: Any) -> None:
    url, folder = repository
    first, second = git(folder, "rev-parse", "v1^{}"), git(folder, "rev-parse", "HEAD")
    assert (await files(built, source(url)))["sub/f"] == b"second"
    assert (await files(built, source(url + "#v1")))["sub/f"] == b"first"
    assert await files(built, source(url + "#v1:sub")) == {"f": b"first"}
    assert (await files(built, source(url + f"#{first}")))["sub/f"] == b"first"
    kept = await files(built, source(url, **{"git.keepgitdir": "true"}))
    assert kept[".git/HEAD"].strip().decode() == second
    assert (await files(built, source(url, **{"git.checksum": second[:12]})))["sub/f"] == b"second"
    with pytest.raises(SystemFailure, match="expected checksum"):
        await files(built, source(url + "#v1", **{"git.checksum": second}))
    with pytest.raises(NotFound, match="does not contain ref nothere"):
        await files(built, source(url + "#nothere"))
    for outside in ("out", "sub/f", "missing"):
        with pytest.raises(NotFound, match="no folder"):
            assert await files(built, source(f"{url}#main:{outside}")) is None
    left = list((built.root / "contexts").iterdir())
    assert left == []


async def test_what_a_repository_has_is_reported(built: Builder, repository: Any) -> None:
    """Names in full, tags of their own apart from their commits, and the objects as they are."""
    url, folder = repository
    first, second = git(folder, "rev-parse", "v1^{}"), git(folder, "rev-parse", "HEAD")
    tag = git(folder, "rev-parse", "v1")
    service = GitSource(built.service.store, NoSecrets())
    for ref, whole, checksum, commit in (
        ("", "refs/heads/main", second, ""), ("#v1", "refs/tags/v1", tag, first),
        ("#main", "refs/heads/main", second, ""), (f"#{first}", first, first, ""),
    ):  # fmt: skip
        found = await service.described(parse_git_url(url + ref), objects=True)
        assert (found.ref, found.checksum, found.commit) == (whole, checksum, commit)
        raw = git(folder, "cat-file", "commit", commit or checksum)
        assert found.objects[0] == raw + "\n"
    assert (await service.described(parse_git_url(url + "#v1"), objects=True)).objects[1:] == (
        git(folder, "cat-file", "tag", tag) + "\n",
    )
    assert not (await service.described(parse_git_url(url), objects=False)).objects
    assert list((built.root / "contexts").iterdir()) == []


class _Agent(NoSecrets):
    """A client with an agent named ``work``, and a token for one host."""

    async def ssh_socket(self, identifier: str, access: SocketAccess) -> str | None:
        return "/run/agent" if identifier == "work" else None

    async def secret(self, identifier: str) -> bytes | None:
        return {"TOK.there": b"for-there", "TOK": b"for-all"}.get(identifier)


async def test_ssh_checks_the_keys_that_the_client_knows(
    built: Builder, repository: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``git.knownsshhosts`` and ``git.mountsshsock``, with a program in place of ssh."""
    _, folder = repository
    told = tmp_path / "told"
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
for word; do case $word in UserKnownHostsFile=*) cat "${{word#*=}}" >{told}.hosts;; esac; done
echo "$SSH_AUTH_SOCK $*" >{told}
while [ $# -gt 1 ]; do shift; done
exec sh -c "$1"
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    address = f"ssh://git@there{folder}"
    settings = StepSettings(secrets=_Agent())
    known = "there ssh-ed25519 AAAA"
    attrs = {"git.fullurl": address, "git.knownsshhosts": known, "git.mountsshsock": "work"}
    content = await files(built, source("git@there:repo.git#v1", **attrs), settings=settings)
    assert content["sub/f"] == b"first"
    assert Path(f"{told}.hosts").read_text() == known + "\n"
    assert told.read_text().startswith("/run/agent ")
    assert "StrictHostKeyChecking=yes" in told.read_text()
    await files(built, source("git@there:repo.git", **{"git.fullurl": address}), settings=settings)
    assert told.read_text().startswith(" ")  # the agent "default", which there is none of
    assert "StrictHostKeyChecking=accept-new" in told.read_text()


async def test_tokens_by_the_name_that_the_client_gives_them(built: Builder) -> None:
    service = GitSource(built.service.store, _Agent())
    for host, token in (("there", b"for-there"), ("elsewhere", b"for-all")):
        op = llb.SourceOp(
            identifier=f"git://{host}/r.git",
            attrs={"git.fullurl": f"https://{host}/r.git", "git.authtokensecret": "TOK"},
        )
        url, _ = git_source(op)
        found = await service._environment(url, Path("/"))
        value = found["GIT_CONFIG_VALUE_0"].removeprefix("Authorization: basic ")
        assert base64.b64decode(value) == b"x-access-token:" + token


async def test_add_of_a_repository_is_cached_by_its_commit(
    built: Builder, repository: Any, tmp_path: Path
) -> None:
    url, folder = repository
    text = f"FROM scratch\nADD {url}#main:sub /in/\n"

    async def image() -> str:
        (answer,) = await built.build(text, tmp_path, ExportRequest(type="image"))
        return answer["containerimage.digest"]

    before = await image()
    (folder / "unrelated").write_text("")
    assert await image() == before
    (folder / "sub" / "f").write_text("third")
    git(folder, "commit", "-qam", "third")
    assert await image() != before


def test_urls_of_repositories() -> None:
    for text, remote, ref, subdir in [
        ("https://h/r.git", "https://h/r.git", "", ""),
        ("https://h/r.git#b:d/e", "https://h/r.git", "b", "d/e"),
        ("git@h:o/r.git#v1", "git@h:o/r.git", "v1", ""),
        ("github.com/o/r", "https://github.com/o/r", "", ""),
        ("https://h/r.git?ref=x&subdir=/d", "https://h/r.git", "x", "d"),
        ("https://h/r.git?tag=v2", "https://h/r.git", "refs/tags/v2", ""),
    ]:
        assert is_git_url(text)
        found = parse_git_url(text)
        assert (found.remote, found.ref, found.subdir) == (remote, ref, subdir)
    for text in ("https://h/x.tar", "https://h/r.git?download=1", "./x", "ext::sh -c id"):
        assert not is_git_url(text)
    for text in ("https://h/r.git#--upload-pack=x", "-oProxyCommand=x", "ext::sh", "file:///x"):
        with pytest.raises(InvalidParameter):
            parse_git_url(text)


# -- OCI layouts and http ---------------------------------------------------------------------


async def test_an_image_of_a_client_layout(built: Builder) -> None:
    image = build_image([{"a": b"1"}, {"b": b"2"}])
    sink = MemorySink()
    sink.store.blobs = {**image.blobs, image.digest: image.manifest}
    op = llb.SourceOp(identifier=f"oci-layout://base@{image.digest}")
    output = vertex(op)
    inputs: dict[str, Any] = {"content": {"base": sink.store}.get}
    assert await files(built, output, **inputs) == {"a": b"1", "b": b"2"}
    with pytest.raises(NotFound, match="offers no OCI layout"):
        await files(built, vertex(llb.SourceOp(identifier=f"oci-layout://x@{image.digest}")),
                    **inputs)  # fmt: skip
    other = build_image([{"c": b"3"}])
    layer = json.loads(other.manifest)["layers"][0]["digest"]
    sink.store.blobs |= {**other.blobs, other.digest: other.manifest, layer: b"wrong"}
    with pytest.raises((PortsideError, ExceptionGroup)):
        await files(built, vertex(llb.SourceOp(identifier=f"oci-layout://base@{other.digest}")),
                    **inputs)  # fmt: skip


class _Server(BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        if self.path == "/missing":
            self.send_error(404)
            return
        data = b"content"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) + (5 if self.path == "/short" else 0)))
        self.send_header("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def web() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


async def test_add_of_a_url(built: Builder, web: str, tmp_path: Path) -> None:
    checksum = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    sink = MemorySink()
    request = ExportRequest(type="tar", sink=sink)
    await built.build(f"FROM scratch\nADD {web}/f /in/\n", tmp_path, request)
    with tarfile.open(fileobj=__import__("io").BytesIO(bytes(sink.data))) as archive:
        member = archive.getmember("in/f")
    assert (member.mode, member.mtime, member.size) == (0o600, 1_000_000_000, 7)
    text = f"FROM scratch\nADD --checksum={checksum} {web}/f /f\n"
    await built.build(text, tmp_path, ExportRequest(type="cacheonly"))
    before = _Server.requests
    await built.build(text, tmp_path, ExportRequest(type="cacheonly"))
    assert _Server.requests == before  # what the checksum promises is in the cache
    for path, checked, told in [
        ("/f", f"sha256:{'0' * 64}", "digest mismatch"), ("/missing", "", "404"),
        ("/short", "", "unexpected EOF"),
    ]:  # fmt: skip
        flag = f"--checksum={checked} " if checked else ""
        with pytest.raises(PortsideError, match=told):
            await built.build(f"FROM scratch\nADD {flag}{web}{path} /f\n", tmp_path,
                              ExportRequest(type="cacheonly"))  # fmt: skip
    assert list((built.root / "containers").iterdir()) == []


async def test_what_a_file_of_the_web_is_is_reported(built: Builder, web: str) -> None:
    source = HttpSource(built.service.store)
    op = llb.SourceOp(identifier=f"{web}/f?x=/y")
    found = await source.described(op, "sha512", b"more")
    assert found.checksum == f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    assert found.other == f"sha512:{hashlib.sha512(b'contentmore').hexdigest()}"
    assert (found.filename, found.modified) == ("f", 1_000_000_000)
    attrs = {"http.filename": "given", "http.checksum": f"sha256:{'0' * 64}"}
    with pytest.raises(SystemFailure, match="digest mismatch"):
        await source.described(llb.SourceOp(identifier=f"{web}/f", attrs=attrs))
    with pytest.raises(NotFound, match="404"):
        await source.described(llb.SourceOp(identifier=f"{web}/missing"))


# -- sharing and eviction ---------------------------------------------------------------------


async def test_identical_vertices_of_builds_at_once_run_once(
    built: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from portside.builder.solver.operations import OperationSet

    ran: list[str] = []
    original = OperationSet.run
    begun = asyncio.Event()

    async def run(self: Any, vertex: llb.Vertex, *args: Any) -> Made:
        ran.append(vertex.digest)
        begun.set()
        await asyncio.sleep(0.2)
        return await original(self, vertex, *args)

    monkeypatch.setattr(OperationSet, "run", run)
    graphs = [made("/b", b"b", made("/a", b"a")) for _ in range(4)]
    tasks = [asyncio.create_task(files(built, output)) for output in graphs]
    await begun.wait()
    tasks[0].cancel()  # the others need it still
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert found[1:] == [{"a": b"a", "b": b"b"}] * 3
    assert len(ran) == 2 and len(set(ran)) == 2


async def test_the_least_recently_used_goes_first_and_leaves_before_their_base(
    built: Builder,
) -> None:
    data = os.urandom(1 << 20)
    base = made("/base", data)
    ends = [made(f"/{number}", data, base) for number in range(3)]
    for output in ends:
        await files(built, output)
    await files(built, ends[0])  # used again
    cache = built.service.cache
    assert len(cache.all()) == 4
    size = max(record.size for record in cache.all())
    gone = cache.evict(cache.all(), 3 * size)
    assert [record.description for record in gone] == ["mkfile /1"]
    gone = cache.evict(cache.all(), 0)
    assert [record.description for record in gone] == ["mkfile /2", "mkfile /0", "mkfile /base"]
    await built.service.store.collect()
    assert built.service.store.layers.all() == []
