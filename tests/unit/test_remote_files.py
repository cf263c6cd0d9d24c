"""Compose files of registries and repositories: names, the cache, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from portside.cli.compose.remote_sources import RemoteSources
from portside.client.config import ClientConfig
from portside.compose import artifact_types as types
from portside.compose.compose_errors import ComposeError
from portside.compose.project_loading import FILES, Request, load
from portside.compose.remote_files import Artifact, RemoteFiles
from portside.images import artifacts
from portside.images.artifacts import pull_artifact
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.model.image import OCI_MANIFEST
from portside.registry.client.repository import FetchedManifest

if TYPE_CHECKING:
    from portside.compose.remote_files import Sources

DIGEST = f"sha256:{'a' * 64}"
COMMIT = "c" * 40


class Fakes:
    """Sources with given contents; counts what is fetched."""

    def __init__(self) -> None:
        self.files: list[tuple[str, dict[str, str], bytes]] = []
        self.kind = types.ARTIFACT
        self.tree: dict[str, str | Path] = {}
        self.fetched = 0

    def artifact(self, name: str) -> Artifact:
        layers = [{"mediaType": kind, "annotations": notes} for kind, notes, _ in self.files]
        return Artifact(DIGEST, {"artifactType": self.kind, "layers": layers})

    def layers(self, name: str, digest: str) -> list[bytes]:
        self.fetched += 1
        return [data for _, _, data in self.files]

    def commit(self, remote: str, reference: str) -> str:
        return COMMIT

    def check_out(self, remote: str, commit: str, directory: str) -> None:
        self.fetched += 1
        for name, content in self.tree.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(content) if isinstance(content, Path) else path.write_text(content)


def _remotes(tmp_path: Path, sources: Sources, **more: str) -> RemoteFiles:
    return RemoteFiles(lambda: sources, {"XDG_CACHE_HOME": str(tmp_path / "cache"), **more}, FILES)


def _layer(text: str, **notes: str) -> tuple[str, dict[str, str], bytes]:
    named = {f"com.docker.compose.{key}": value for key, value in notes.items()}
    return types.ENV_FILE if "envfile" in notes else types.FILE, named, text.encode()


def _load(remotes: RemoteFiles, *files: str) -> Any:
    return load(Request(files=list(files), remotes=remotes, name="p", environment={}))


def test_names() -> None:
    remotes = _remotes(Path("/nowhere"), Fakes())
    for path in ("oci://host/a:1", "https://host/a.git#main:sub", "git@host:a.git",
                 "ssh://git@host/a", "git://host/a", "github.com/a/b"):  # fmt: skip
        assert remotes.accepts(path), path
    for path in ("-", "compose.yaml", "/a.git", "oci:host/a", "https://host/compose.yaml", "a@b"):
        assert not remotes.accepts(path), path


def test_an_artifact(tmp_path: Path) -> None:
    """Files that others do not name are one file; it is fetched once."""
    fakes = Fakes()
    fakes.files = [
        _layer("services: {a: {extends: {file: b.yaml, service: base}, env_file: e.env}}",
               file="compose.yaml"),
        _layer("services: {base: {image: i, volumes: ['./d:/d']}}", file="b.yaml", extends="true"),
        _layer("services: {a: {command: [x]}}", file="more.yaml"),
        _layer("A=1\n", envfile="e.env"),
    ]  # fmt: skip
    for _ in range(2):
        project = _load(_remotes(tmp_path, fakes), "oci://host/a:1")
        service = project.services["a"]
        assert (service["image"], service["command"]) == ("i", ["x"])
        assert service["environment"] == {"A": "1"}
        root = tmp_path / "cache/docker-compose" / ("a" * 64)
        assert service["volumes"][0]["source"] == f"{root}/d"
        assert project.working_dir == str(root)
        assert project.files == [f"{root}/compose.yaml"]
    assert fakes.fetched == 1
    assert sorted(os.listdir(root.parent)) == [root.name]
    (root / "compose.yaml").unlink()  # a call of another program was killed
    _load(_remotes(tmp_path, fakes), "oci://host/a:1")
    assert fakes.fetched == 2


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", ".", "", "a\\b", "compose.yaml",
                                  "n" * 300])  # fmt: skip
def test_a_file_of_an_artifact_has_a_plain_name(tmp_path: Path, name: str) -> None:
    for hostile in (_layer("", file=name, extends="true"), _layer("", envfile=name)):
        fakes = Fakes()
        fakes.files = [_layer("services: {a: {image: i}}", file="compose.yaml"), hostile]
        with pytest.raises(ComposeError, match="invalid name"):
            _load(_remotes(tmp_path, fakes), "oci://host/a:1")
    assert list(tmp_path.rglob("*.yaml")) == []
    assert os.listdir(tmp_path / "cache/docker-compose") == []


def test_another_kind_of_artifact_is_refused(tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.kind = "application/x"
    with pytest.raises(ComposeError, match="not a compose project OCI artifact, but application/x"):
        _load(_remotes(tmp_path, fakes), "oci://host/a:1")
    assert fakes.fetched == 0


@pytest.mark.parametrize(
    ("tree", "folder", "error"),
    [
        ({"compose.yaml": Path("/etc/passwd")}, "", "a link leads out"),
        ({"sub": Path("/etc")}, "sub/passwd", "a link leads out"),
        ({"compose.yaml": "include: [/etc/passwd]"}, "", "outside of the remote project"),
        ({"sub/compose.yaml": "include: [../../../x]"}, "sub", "outside of the remote project"),
        ({"compose.yaml": "include: [link]", "link": Path("/etc/passwd")}, "", "outside of"),
        ({"compose.yaml": "include: [{path: a.yaml, env_file: /etc/passwd}]", "a.yaml": ""}, "",
         "outside of"),
        ({"compose.yaml": "services: {a: {extends: {file: /etc/passwd, service: a}}}"}, "",
         "outside of"),
        ({"a": ""}, "../..", "path traversal"),
        ({"a": ""}, "/etc", "must be relative"),
        ({"a": ""}, "", "no configuration file"),
        ({"a": ""}, "none", "has no none"),
    ],
)  # fmt: skip
def test_a_repository_leads_nowhere(
    tmp_path: Path, tree: dict[str, str | Path], folder: str, error: str
) -> None:
    fakes = Fakes()
    fakes.tree = tree
    with pytest.raises(ComposeError, match=error):
        _load(_remotes(tmp_path, fakes), f"git://host/a#main:{folder}")


def test_a_file_here_includes_remote_ones(tmp_path: Path) -> None:
    """A remote file in turn includes its neighbours and remote files."""
    fakes = Fakes()
    fakes.tree = {
        "sub/compose.yaml": "include: [../b.yaml, 'oci://host/a']\nservices: {g: {image: g}}",
        "b.yaml": "services: {b: {image: b, volumes: ['./d:/d']}}",
    }
    fakes.files = [_layer("services: {o: {image: o}}", file="compose.yaml")]
    (tmp_path / "compose.yaml").write_text("include: ['git://host/r#main:sub']\n")
    project = _load(_remotes(tmp_path, fakes), str(tmp_path / "compose.yaml"))
    assert sorted(project.services) == ["b", "g", "o"]
    assert project.working_dir == str(tmp_path)
    root = tmp_path / "cache/docker-compose" / COMMIT
    assert project.services["b"]["volumes"][0]["source"] == f"{root}/d"


def test_each_kind_can_be_turned_off(tmp_path: Path) -> None:
    for name, path in (("OCI", "oci://host/a"), ("GIT", "git://host/a")):
        variable = f"COMPOSE_EXPERIMENTAL_{name}_REMOTE"
        with pytest.raises(ComposeError, match=f'is disabled by "{variable}"'):
            _load(_remotes(tmp_path, Fakes(), **{variable: "false"}), path)
        with pytest.raises(ComposeError, match=f"{variable} environment variable expects"):
            _load(_remotes(tmp_path, Fakes(), **{variable: "maybe"}), path)
    assert not (tmp_path / "cache").exists()


def test_git(tmp_path: Path) -> None:
    """The program git finds branches, tags and commits; submodules are not fetched."""
    repository = tmp_path / "r"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e"]
    (repository / "compose.yaml").write_text("services: {a: {image: one}}\n")
    (repository / ".gitmodules").write_text('[submodule "m"]\npath = m\nurl = /nowhere\n')
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "m"],
                  ["tag", "-a", "-m", "t", "v1"], ["branch", "more/main"]):  # fmt: skip
        subprocess.run([*git, *words], check=True)
    sources = RemoteSources(ClientConfig(), lambda: pytest.fail("the engine is not needed"))
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    assert sources.commit(str(repository), "main") == head
    assert sources.commit(str(repository), "HEAD") == head
    for name in ("main", "v1"):
        place = tmp_path / name
        place.mkdir()
        sources.check_out(str(repository), sources.commit(str(repository), name), str(place))
        assert sorted(os.listdir(place)) == [".gitmodules", "compose.yaml"]
    with pytest.raises(ComposeError, match="does not contain ref none"):
        sources.commit(str(repository), "none")
    with pytest.raises(ComposeError, match="failed to access repository"):
        sources.commit(str(tmp_path / "nowhere"), "main")


def test_the_files_of_a_repository_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that a few trees name many times."""
    from portside.cli.build import git_context

    repository = tmp_path / "r"
    subprocess.run(["git", "init", "-q", "-b", "main", str(repository)], check=True)
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e"]

    def write(*words: str, text: str) -> str:
        done = subprocess.run(
            [*git, *words], input=text, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    found = write("hash-object", "-w", "--stdin", text="x")
    line = f"100644 blob {found}"
    for _ in range(10):
        found = write("mktree", text="".join(f"{line}\t{name}\n" for name in "abcdefghij"))
        line = f"040000 tree {found}"
    commit = write("commit-tree", found, text="bomb")
    write("update-ref", "refs/heads/main", commit, text="")
    sources = RemoteSources(ClientConfig(), lambda: pytest.fail("the engine is not needed"))
    (tmp_path / "place").mkdir()
    monkeypatch.setattr(git_context, "_MAX_FILES", 1000)
    with pytest.raises(ComposeError, match="more than 1000 files"):
        sources.check_out(str(repository), commit, str(tmp_path / "place"))


class Held:
    """A repository of a registry with one manifest."""

    path = "a"

    def __init__(self, sizes: list[int]) -> None:
        layers = [{"digest": DIGEST, "size": size} for size in sizes]
        document = {"schemaVersion": 2, "config": {"digest": DIGEST, "size": 2}, "layers": layers}
        self.data = json.dumps(document).encode()
        self.limits: list[int] = []

    async def get_manifest(self, target: str) -> FetchedManifest:
        return FetchedManifest(OCI_MANIFEST, Digest.of(self.data), self.data)

    async def get_blob(self, digest: str, limit: int) -> bytes:
        self.limits.append(limit)
        return b"x"


async def test_the_layers_of_an_artifact_are_bounded() -> None:
    """By what the manifest says of each, and all together."""
    held = Held([3, 4])
    fetched, blobs = await pull_artifact(cast("Any", held), "1", with_blobs=True)
    assert (blobs, held.limits) == ([b"x", b"x"], [3, 4])
    assert fetched.digest == Digest.of(held.data)
    half = artifacts.MAX_CONTENT // 2
    for sizes in ([half, half + 1], [1] * (artifacts.MAX_LAYERS + 1), [-1, 5]):
        held = Held(sizes)
        assert (await pull_artifact(cast("Any", held), "1", with_blobs=False))[1] == []
        with pytest.raises(InvalidParameter, match="too large"):
            await pull_artifact(cast("Any", held), "1", with_blobs=True)
        assert held.limits == []
