"""Images travel between this engine and a real dockerd and stay what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine, docker_runner
from imagekit import certificate, docker_registry, htpasswd_line
from peerkit import (
    Docker,
    Peer,
    config_digest,
    image_of,
    our_lowers,
    publish,
    rich_layers,
    snapshot,
)


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    running = Peer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def theirs(
    peer: Peer, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Docker:
    """The docker CLI talking to the real dockerd."""
    import os

    config = tmp_path_factory.mktemp("their-config")
    env = {**os.environ, "DOCKER_HOST": peer.host, "DOCKER_CONFIG": str(config)}
    return docker_runner(docker_command, env)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def forget(docker: Docker) -> Iterator[list[str]]:
    """Names to remove from our engine in the end."""
    names: list[str] = []
    yield names
    for name in names:
        docker("rmi", "-f", name, check=False)


def identity(docker: Docker, name: str) -> dict[str, Any]:
    """What must be the same wherever an image is."""
    found = json.loads(docker("image", "inspect", name).stdout)[0]
    keys = ("Created", "Architecture", "Os", "Author", "RootFS")
    return {key: found[key] for key in keys} | {
        "Labels": found["Config"].get("Labels"),
        "Cmd": found["Config"].get("Cmd"),
    }


def same(
    name: str, docker: Docker, theirs: Docker, engine: RunningEngine, peer: Peer
) -> dict[str, Any]:
    """Assert that both engines have the same image and the same tree; the tree."""
    assert identity(docker, name) == identity(theirs, name)
    found = json.loads(theirs("image", "inspect", name).stdout)[0]
    assert config_digest(engine.data_root, docker, name) == found["Id"]
    assert json.loads(docker("image", "inspect", found["Id"]).stdout), "found by that, too"
    mine = json.loads(docker("image", "inspect", name).stdout)[0]["RepoDigests"]
    repository = name.rpartition(":")[0]
    assert {text for text in found["RepoDigests"] if text.startswith(f"{repository}@")} <= set(mine)
    ours = snapshot(our_lowers(engine.data_root, docker, name))
    same_tree(ours, snapshot(peer.lowers(theirs, name)))
    return ours


def same_tree(ours: dict[str, Any], other: dict[str, Any]) -> None:
    for path in ours["tree"].keys() | other["tree"].keys():
        assert ours["tree"].get(path) == other["tree"].get(path), path
    assert ours["links"] == other["links"]


def test_every_kind_of_entry_is_unpacked_as_dockerd_does(
    docker: Docker, theirs: Docker, engine: RunningEngine, peer: Peer, registry: str,
    forget: list[str],
) -> None:  # fmt: skip
    publish(registry, "rich", "1", image_of(rich_layers(b"seed")))
    name = f"{registry}/rich:1"
    forget.append(name)
    for run in (docker, theirs):
        run("pull", name)
    tree = same(name, docker, theirs, engine, peer)["tree"]
    assert "gone" not in tree and "opaque/lower" not in tree and "bin/alias" not in tree
    assert tree["bin/ping"][-1] == {"security.capability": "01000002" + "00040000" + "00" * 12}
    assert tree["shared/attributes"][-1] == {"user.note": b"kept".hex()}
    assert tree["old"][3] == 0


def changed(docker: Docker, name: str, tmp_path: Path, target: str) -> None:
    """Commit changes above ``name`` as ``target``, without running anything."""
    (tmp_path / "new").mkdir(exist_ok=True)
    (tmp_path / "new" / "file").write_text("copied in")
    container = docker("create", name, "true").stdout.strip()
    try:
        docker("cp", f"{tmp_path}/new", f"{container}:/added")
        docker("commit", "-m", "more", "-a", "joe", "-c", "ENV A=b", container, target)
    finally:
        docker("rm", container)


def test_ours_goes_to_dockerd_and_back(
    docker: Docker, theirs: Docker, engine: RunningEngine, peer: Peer, registry: str,
    forget: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    name, back = f"{registry}/ours:1", f"{registry}/ours:back"
    forget += [name, back]
    script = (
        "rm -rf /home /etc/group; mkdir -p /new/deep; echo x > /new/deep/f; ln /new/deep/f /new/g;"
        "rm -r /var/cache; mkdir /var/cache; echo 1 > /var/cache/only; mknod /new/node c 1 3;"
        "mkfifo /new/pipe; chown 12:34 /new; chmod 2750 /new; ln -s /nowhere /new/link;"
        "chmod u+s /new/deep/f; touch -d '2001-02-03 04:05:06' /new/deep/f"
    )
    docker("run", "--name", "changing", "portside/base", "sh", "-c", script)
    try:
        docker("commit", "-m", "changes", "changing", name)
    finally:
        docker("rm", "changing")
    pushed = docker("push", name).stdout.rpartition("digest: ")[2].split()[0]
    assert f"Digest: {pushed}" in theirs("pull", name).stdout
    tree = same(name, docker, theirs, engine, peer)["tree"]
    assert "home" not in tree and [p for p in tree if p.startswith("var/cache/")] == [
        "var/cache/only"
    ]
    changed(theirs, name, tmp_path, back)
    theirs("push", back)
    docker("pull", back)
    assert "added/file" in same(back, docker, theirs, engine, peer)["tree"]


def test_save_and_load_both_ways(
    docker: Docker, theirs: Docker, engine: RunningEngine, peer: Peer, registry: str,
    forget: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    publish(registry, "archived", "1", image_of(rich_layers(b"archive")))
    name = f"{registry}/archived:1"
    forget += [name, "copy:ours", "copy:theirs"]
    for run in (docker, theirs):
        run("pull", name)
    docker("tag", name, "copy:ours")
    theirs("tag", name, "copy:theirs")
    docker("save", "-o", str(tmp_path / "ours.tar"), "copy:ours")
    theirs("save", "-o", str(tmp_path / "theirs.tar"), "copy:theirs")
    docker("rmi", name, "copy:ours")
    theirs("rmi", name, "copy:theirs")
    assert theirs("load", "-i", str(tmp_path / "ours.tar")).stdout == "Loaded image: copy:ours\n"
    said = docker("load", "-i", str(tmp_path / "theirs.tar")).stdout
    assert said == "Loaded image: copy:theirs\n"
    docker("tag", "copy:theirs", "copy:ours")
    theirs("tag", "copy:ours", "copy:theirs")
    same("copy:ours", docker, theirs, engine, peer)


def test_imports_are_equal(
    docker: Docker, theirs: Docker, engine: RunningEngine, peer: Peer, forget: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    archive = tmp_path / "root.tar"
    archive.write_bytes(rich_layers(b"import")[0])
    forget.append("imported")
    trees = []
    for run in (docker, theirs):
        run("import", "-c", "CMD /bin/true", "-m", "from a tar", str(archive), "imported")
        found = json.loads(run("image", "inspect", "imported").stdout)[0]
        lines = json.loads(
            "[" + ",".join(run("history", "--format", "json", "imported").stdout.split("\n")[:-1])
            + "]"
        )  # fmt: skip
        trees.append((found["RootFS"], found["Config"]["Cmd"], lines[0]["Comment"]))
    assert trees[0] == trees[1]
    ours = snapshot(our_lowers(engine.data_root, docker, "imported"))
    same_tree(ours, snapshot(peer.lowers(theirs, "imported")))


MODES = ("open", "htpasswd", "tls", "tls+htpasswd")


@pytest.mark.parametrize("mode", MODES)
def test_real_registry_with_authentication_and_tls(
    docker: Docker, theirs: Docker, engine: RunningEngine, peer: Peer, forget: list[str],
    tmp_path: Path, mode: str,
) -> None:  # fmt: skip
    """Pushed by us and pulled by dockerd, pushed by dockerd and pulled by us."""
    users = htpasswd_line("joe", "secret") if "htpasswd" in mode else ""
    tls = certificate(tmp_path / "certs") if "tls" in mode else None
    with docker_registry(tmp_path / "registry", htpasswd=users, tls=tls) as host:
        name, other = f"{host}/some/app:1", f"{host}/some/app:2"
        forget += [name, other]
        docker("tag", "portside/base", name)
        if users:
            refused = docker("push", name, check=False)
            assert refused.returncode and "no basic auth credentials" in refused.stderr
            bad = docker("login", "-u", "joe", "--password-stdin", host, input="x", check=False)
            assert bad.returncode and "unauthorized" in bad.stderr.lower()
            for run in (docker, theirs):
                run("login", "-u", "joe", "--password-stdin", host, input="secret")
        digest = docker("push", name).stdout.rpartition("digest: ")[2].split()[0]
        assert f"Digest: {digest}" in theirs("pull", name).stdout
        same(name, docker, theirs, engine, peer)
        theirs("tag", name, other)
        again = theirs("push", other).stdout.rpartition("digest: ")[2].split()[0]
        assert f"Digest: {again}" in docker("pull", other).stdout
        manifest = json.loads(docker("manifest", "inspect", "--insecure", name).stdout)
        assert manifest["schemaVersion"] == 2
        for run in (docker, theirs):
            run("logout", host)


def test_a_debian_root_is_equal(
    docker: Docker, theirs: Docker, engine: RunningEngine, peer: Peer, registry: str,
    forget: list[str], debian: Callable[[], Path],
) -> None:  # fmt: skip
    """Thousands of real files: pushed by us, pulled by dockerd."""
    archive = debian()
    name = f"{registry}/debian:1"
    forget.append(name)
    docker("import", str(archive), name)
    docker("push", "-q", name)
    theirs("pull", "-q", name)
    assert len(same(name, docker, theirs, engine, peer)["tree"]) > 5000
