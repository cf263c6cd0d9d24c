"""skopeo and docker manifest against Debian's registry and ours, with images of this engine."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from imagekit import (
    await_port,
    build_image,
    build_index,
    certificate,
    digest,
    docker_registry,
    free_port,
    htpasswd_line,
)
from peerkit import Docker, image_of, publish, rich_layers

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
Skopeo = Callable[..., str]


@contextlib.contextmanager
def our_registry(
    root: Path, *, htpasswd: str = "", tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """This package's registry as a process, with the variables that people set."""
    port = free_port()
    environment = {
        **os.environ,
        "REGISTRY_HTTP_ADDR": f"127.0.0.1:{port}",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(root / "data"),
        "REGISTRY_STORAGE_DELETE_ENABLED": "true",
    }
    root.mkdir(parents=True, exist_ok=True)
    if htpasswd:
        (root / "htpasswd").write_text(htpasswd)
        environment["REGISTRY_AUTH_HTPASSWD_PATH"] = str(root / "htpasswd")
    if tls:
        environment["REGISTRY_HTTP_TLS_CERTIFICATE"] = str(tls[0])
        environment["REGISTRY_HTTP_TLS_KEY"] = str(tls[1])
    command = [sys.executable, "-m", "portside.registry.server", "serve"]
    with (root / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            await_port(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


KINDS = {"debian": docker_registry, "ours": our_registry}


@pytest.fixture(params=KINDS)
def serve(request: pytest.FixtureRequest) -> Callable[..., Any]:
    if request.param == "debian" and shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry")
    return KINDS[request.param]


@pytest.fixture
def skopeo(tmp_path: Path) -> Skopeo:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["skopeo", "--insecure-policy", *arguments],
            capture_output=True, text=True, timeout=60, cwd=tmp_path,
            env={**os.environ, "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")},
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    return run


@pytest.fixture
def forget(docker: Docker) -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        docker("rmi", "-f", name, check=False)


@pytest.mark.parametrize("mode", ["open", "tls+htpasswd"])
def test_copy_inspect_sync_delete(
    docker: Docker, skopeo: Skopeo, serve: Callable[..., Any], forget: list[str], tmp_path: Path,
    mode: str,
) -> None:  # fmt: skip
    users = htpasswd_line("joe", "secret") if mode != "open" else ""
    tls = certificate(tmp_path / "certs") if mode != "open" else None
    login = ("--creds", "joe:secret") if users else ()
    source = ("--src-tls-verify=false", *(("--src-creds", "joe:secret") if users else ()))
    target = ("--dest-tls-verify=false", *(("--dest-creds", "joe:secret") if users else ()))
    with serve(tmp_path / "registry", htpasswd=users, tls=tls) as host:
        if users:
            docker("login", "-u", "joe", "--password-stdin", host, input="secret")
        name = f"{host}/team/app:1"
        forget += [name, f"{host}/team/oci:1", f"{host}/team/zstd:1"]
        docker("tag", "portside/base", name)
        pushed = docker("push", name).stdout.rpartition("digest: ")[2].split()[0]
        seen = json.loads(skopeo("inspect", "--tls-verify=false", *login, f"docker://{name}"))
        assert seen["Digest"] == pushed and seen["RepoTags"] == ["1"]
        identifier = json.loads(docker("image", "inspect", name).stdout)[0]["Id"]
        config = skopeo("inspect", "--config", "--raw", "--tls-verify=false", *login,
                        f"docker://{name}")  # fmt: skip
        assert pushed == identifier
        known = docker("image", "inspect", "-f", "{{.Id}}", digest(config.encode())).stdout
        assert known.strip() == identifier, "by its configuration, too"
        # in other forms, and back into the engine
        for form, more in (("oci", ()), ("zstd", ("--dest-compress-format", "zstd"))):
            other = f"{host}/team/{form}:1"
            skopeo("copy", *source, *target, "--format", "oci", *more, f"docker://{name}",
                   f"docker://{other}")  # fmt: skip
            docker("pull", other)
            found = json.loads(docker("image", "inspect", other).stdout)[0]
            wanted = json.loads(docker("image", "inspect", "portside/base").stdout)[0]
            assert found["RootFS"] == wanted["RootFS"]
        skopeo("sync", "--src", "docker", "--dest", "dir", *source, f"{host}/team/app",
               str(tmp_path / "synced"))  # fmt: skip
        assert list((tmp_path / "synced").rglob("manifest.json"))
        tags = json.loads(skopeo("list-tags", "--tls-verify=false", *login,
                                 f"docker://{host}/team/app"))  # fmt: skip
        assert tags["Tags"] == ["1"]
        skopeo("delete", "--tls-verify=false", *login, f"docker://{name}")
        docker("rmi", name)
        gone = docker("pull", name, check=False)
        assert gone.returncode == 1 and "not found" in gone.stderr
        if users:
            docker("logout", host)


def test_manifest_lists(
    docker: Docker, skopeo: Skopeo, serve: Callable[..., Any], forget: list[str], tmp_path: Path
) -> None:
    """Made with ``docker manifest``, looked at by skopeo, pulled for each platform."""
    with serve(tmp_path / "registry") as host:
        for architecture in ("amd64", "arm64"):
            image = build_image([{f"is-{architecture}": b"1"}], architecture=architecture)
            publish(host, "multi", architecture, image)
        name = f"{host}/multi:all"
        forget += [name, f"{host}/multi"]
        parts = [f"{host}/multi:amd64", f"{host}/multi:arm64"]
        docker("manifest", "create", "--insecure", name, *parts)
        docker("manifest", "annotate", name, parts[1], "--arch", "arm64", "--variant", "v8")
        docker("manifest", "push", "--insecure", "--purge", name)
        raw = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}"))
        assert len(raw["manifests"]) == 2
        seen = json.loads(docker("manifest", "inspect", "--insecure", name).stdout)
        assert {m["platform"]["architecture"] for m in seen["manifests"]} == {"amd64", "arm64"}
        docker("pull", name)
        found = json.loads(docker("image", "inspect", name).stdout)[0]
        assert found["Architecture"] == "amd64"
        docker("rmi", name)
        docker("pull", "--platform", "linux/arm64", name)
        assert json.loads(docker("image", "inspect", name).stdout)[0]["Architecture"] == "arm64"
        missing = docker("pull", "--platform", "linux/s390x", name, check=False)
        assert missing.returncode == 1
        assert "no matching manifest for linux/s390x in the manifest list" in missing.stderr


def test_tree_of_an_index_with_attestations(
    docker: Docker, docker_py: Any, forget: list[str], tmp_path: Path
) -> None:
    with our_registry(tmp_path / "registry") as host:
        image = build_image([{"a": b"1"}], oci=True)
        attested = build_image([{"b": b"2"}], oci=True, architecture="unknown")
        publish(host, "attested", "x", image)
        publish(host, "attested", "y", attested)
        index = json.loads(
            build_index(
                [
                    (image, {"architecture": "amd64", "os": "linux"}),
                    (attested, {"architecture": "unknown", "os": "unknown"}),
                ]
            )
        )
        index["manifests"][1]["annotations"] = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image.digest,
        }  # fmt: skip
        data = json.dumps(index).encode()
        headers = {"Content-Type": index["mediaType"]}
        urlopen(
            Request(f"http://{host}/v2/attested/manifests/1", method="PUT", data=data,
                    headers=headers)
        ).close()  # fmt: skip
        name = f"{host}/attested:1"
        forget.append(name)
        assert f"Digest: {digest(data)}" in docker("pull", name).stdout
        listed = docker_py.api._get(
            docker_py.api._url("/images/json"), params={"manifests": "1"}
        ).json()
        mine = next(entry for entry in listed if name in (entry["RepoTags"] or ()))
        assert [m["Kind"] for m in mine["Manifests"]] == ["image", "attestation"]
        assert all(m["Available"] for m in mine["Manifests"])
        tree = docker("images", "--tree").stdout
        assert "attested:1" in tree and "linux/amd64" in tree
        docker("rmi", name)
        # pushed with everything that attests it
        docker("pull", "-q", name)
        docker("tag", name, f"{host}/again:1")
        forget.append(f"{host}/again:1")
        assert digest(data) in docker("push", f"{host}/again:1").stdout


@pytest.mark.parametrize("packed", ["tar", "xz", "gz", "zst"])
def test_load_what_others_saved(
    docker: Docker, skopeo: Skopeo, forget: list[str], tmp_path: Path, packed: str
) -> None:
    """An OCI archive by skopeo, compressed in any way, and read from a pipe."""
    with our_registry(tmp_path / "registry") as host:
        publish(host, "rich", "1", image_of(rich_layers(b"load")))
        skopeo("copy", "--src-tls-verify=false", f"docker://{host}/rich:1",
               f"oci-archive:{tmp_path}/image.tar:loaded:1")  # fmt: skip
    data = (tmp_path / "image.tar").read_bytes()
    if packed == "xz":
        data = lzma.compress(data, preset=0)
    elif packed != "tar":
        program = {"gz": "gzip", "zst": "zstd"}[packed]
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
        data = subprocess.run([program, "-c"], input=data, capture_output=True, check=True).stdout
    forget.append("loaded:1")
    said = docker("load", input=data, text=False).stdout
    assert said == b"Loaded image: loaded:1\n"
    docker("save", "--platform", "linux/amd64", "-o", str(tmp_path / "again.tar"), "loaded:1")
    wrong = docker("save", "--platform", "linux/arm64", "-o", "/dev/null", "loaded:1", check=False)
    assert wrong.returncode == 1
    assert json.loads(skopeo("inspect", f"docker-archive:{tmp_path}/again.tar"))["Os"] == "linux"
    listing = docker("image", "inspect", "-f", "{{.Id}}", "loaded:1").stdout.strip()
    docker("rmi", "loaded:1")
    docker("load", "-q", "-i", str(tmp_path / "again.tar"))
    assert docker("image", "inspect", "-f", "{{.Id}}", "loaded:1").stdout.strip() == listing
