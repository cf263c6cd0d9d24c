"""What BuildKit's clients get beside an image: attestations, caches for other engines, layouts, and
the history of builds."""

import base64
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from buildxkit import BASE, Builder, build
from enginekit import RunningEngine
from fakeregistry import FakeRegistry, served
from imagekit import build_image, docker_registry

from portside.model.platform import Platform

__all__ = ["build"]
Run = Callable[..., subprocess.CompletedProcess[Any]]
TEXT = f"FROM {BASE} AS one\nARG WORD=none\nRUN echo $WORD > /word\nFROM one\nCOPY a /dest/\n"
FILES = {"a": "a\n"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def saved(docker: Run, name: str) -> dict[str, bytes]:
    """The files of ``docker save``."""
    data = docker("save", name, text=False).stdout
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        files = {m.name: archive.extractfile(m) for m in archive if m.isreg()}
        return {key: file.read() for key, file in files.items() if file is not None}


def statements(docker: Run, name: str) -> dict[str, Any]:
    """An image's attestations by type, as an index has them."""
    files = saved(docker, name)

    def document(part: dict[str, Any]) -> Any:
        return json.loads(files["blobs/" + part["digest"].replace(":", "/")])

    outer = json.loads(files["index.json"])["manifests"]
    index = next(d for d in outer if d["mediaType"].endswith("index.v1+json"))
    image, attested = document(index)["manifests"]
    assert attested["annotations"] == {
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    found = [document(layer) for layer in document(attested)["layers"]]
    assert {s["subject"][0]["digest"]["sha256"] for s in found} == {image["digest"][7:]}
    return {statement["predicateType"]: statement["predicate"] for statement in found}


V02, V1 = "https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"


def test_an_image_says_where_it_comes_from(build: Builder, docker: Run) -> None:
    build(TEXT, "-t", "br-min", files=FILES)
    found = statements(docker, "br-min")[V02]
    assert set(found) == {"builder", "buildType", "materials", "invocation", "metadata"}
    assert found["invocation"] == {
        "configSource": {"entryPoint": "Dockerfile"},
        "parameters": {
            "frontend": "dockerfile.v0",
            "locals": [{"name": "context"}, {"name": "dockerfile"}],
        },
        "environment": {"platform": found["invocation"]["environment"]["platform"]},
    }
    assert found["materials"][0]["uri"].startswith("pkg:docker/portside/base@latest?platform=")
    assert found["metadata"]["completeness"] == {
        "parameters": True, "environment": True, "materials": False,
    }  # fmt: skip
    build(TEXT, "-t", "br-none", "--provenance=false")
    assert "index.json" in saved(docker, "br-none")
    assert len(json.loads(docker("image", "inspect", "br-none").stdout)) == 1


def test_an_image_without_a_name_is_called_dangling(build: Builder, tmp_path: Path) -> None:
    metadata = tmp_path / "metadata"
    for attrs, prefix, is_named in (
        ("", "moby-dangling", True), (",dangling-name-prefix=some/prefix", "some/prefix", True),
        (",store=false", "moby-dangling", False),
    ):  # fmt: skip
        done = build(TEXT, "-o", f"type=image{attrs}", f"--metadata-file={metadata}", files=FILES)
        found = json.loads(metadata.read_text())
        name = f"{prefix}@{found['containerimage.digest']}"
        assert found["image.name"] == name
        assert (f"naming to {name}" in done.stderr) == is_named
        assert (f"unpacking to {name}" in done.stderr) == is_named
    done = build(TEXT, "-t", "br-called", f"--metadata-file={metadata}", files=FILES)
    assert json.loads(metadata.read_text())["image.name"] == "docker.io/library/br-called:latest"
    assert "unpacking to docker.io/library/br-called:latest" in done.stderr


@pytest.mark.parametrize("version", ["v0.2", "v1"])
def test_the_whole_provenance(build: Builder, docker: Run, version: str) -> None:
    build(
        TEXT, "-t", "br-max", f"--provenance=mode=max,version={version}",
        "--build-arg", "WORD=said", "--label", "x=y", files=FILES,
    )  # fmt: skip
    found = statements(docker, "br-max")[V02 if version == "v0.2" else V1]
    if version == "v1":
        parameters = found["buildDefinition"]["externalParameters"]["request"]
        graph = found["buildDefinition"]["internalParameters"]["buildConfig"]
        metadata = found["runDetails"]["metadata"]["buildkit_metadata"]
    else:
        parameters, graph = found["invocation"]["parameters"], found["buildConfig"]
        metadata = found["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]
    assert parameters["args"] == {"build-arg:WORD": "said", "label:x": "y"}
    steps = graph["llbDefinition"]
    run = next(s for s in steps if "exec" in s["op"]["Op"])
    assert run["op"]["Op"]["exec"]["meta"]["args"] == ["/bin/sh", "-c", "echo $WORD > /word"]
    assert steps[-1]["op"] == {"Op": {}}
    assert len(steps) == len(graph["digestMapping"]) == 5
    assert metadata["source"]["infos"][0]["filename"] == "Dockerfile"
    assert len(metadata["layers"][f"{run['id']}:0"][0]) == 2


def test_what_is_attested_is_shown_by_imagetools(build: Builder, registry: str) -> None:
    name = f"{registry}/attested:1"
    build(TEXT, "-t", name, "--push", "--sbom=true", "--attest=type=provenance,mode=max",
          files=FILES)  # fmt: skip
    look = ("buildx", "imagetools", "inspect", name, "--format")
    found = json.loads(build.docker(*look, "{{json .Provenance}}").stdout)
    assert found["SLSA"]["buildType"] == "https://mobyproject.org/buildkit@v1"
    assert "buildConfig" in found["SLSA"]
    found = json.loads(build.docker(*look, "{{json .SBOM}}").stdout)
    assert found["SPDX"]["spdxVersion"] == "SPDX-2.3"


def test_a_wrong_attestation_is_refused(build: Builder) -> None:
    done = build(TEXT, "--provenance=mode=most", files=FILES, check=False)
    assert done.returncode == 1 and "of provenance: use min or max" in done.stderr
    done = build(TEXT, "--sbom=generator=other/scanner", check=False)
    assert "SBOM generator" in done.stderr


# -- caches --------------------------------------------------------------------------------


def forgotten(build: Builder) -> None:
    """Nothing of the cache is left."""
    build.docker("image", "rm", "-f", "br-cache")
    build.docker("builder", "prune", "-af")


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("kind", ["local", "registry"])
def test_a_cache_is_exported_and_imported(
    build: Builder, registry: str, tmp_path: Path, kind: str, mode: str
) -> None:
    text = (
        f"FROM {BASE} AS other\nRUN echo {kind}{mode} > /other\n"
        f"FROM {BASE}\nCOPY --from=other /other /got\nRUN date +%s%N > /stamp && cat /got\n"
    )
    place = {
        "local": (f"dest={tmp_path}/cache", f"src={tmp_path}/cache"),
        "registry": (f"ref={registry}/cache:{mode}",) * 2,
    }[kind]
    build(text, "-t", "br-cache", "--cache-to", f"type={kind},{place[0]},mode={mode}")
    stamp = build.docker("run", "--rm", "br-cache", "cat", "/stamp").stdout
    forgotten(build)
    done = build(text, "-t", "br-cache", "--cache-from", f"type={kind},{place[1]}")
    assert "importing cache manifest from" in done.stderr
    assert build.docker("run", "--rm", "br-cache", "cat", "/stamp").stdout == stamp
    assert done.stderr.count("CACHED") >= 2
    forgotten(build)
    changed = text.replace("date", "echo changed; date")
    done = build(changed, "-t", "br-cache", "--cache-from", f"type={kind},{place[1]}")
    # of other stages than the result's only mode=max has the layers
    other = f"RUN echo {kind}{mode} > /other\n"
    assert (f"{other}" in done.stderr) and ("CACHED" in done.stderr)


def test_an_inline_cache_comes_with_the_image(build: Builder, registry: str) -> None:
    name = f"{registry}/inline:1"
    text = f"FROM {BASE}\nRUN date +%s%N > /stamp\n"
    build(text, "-t", name, "--cache-to", "type=inline", "--push")
    build.docker("pull", name)
    stamp = build.docker("run", "--rm", name, "cat", "/stamp").stdout
    build.docker("image", "rm", "-f", name)
    forgotten(build)
    done = build(text, "-t", "br-cache", "--cache-from", name)
    assert "CACHED" in done.stderr
    assert build.docker("run", "--rm", "br-cache", "cat", "/stamp").stdout == stamp


def test_bad_caches(build: Builder, tmp_path: Path) -> None:
    for kind in ("azblob", "other"):
        done = build(TEXT, "--cache-to", f"type={kind},ref=x", files=FILES, check=False)
        assert done.returncode == 1
        assert f'unknown cache exporter: "{kind}"' in done.stderr
    build(TEXT, "--cache-to", f"type=local,dest={tmp_path}/c,mode=much")  # as mode=min
    # a cache that is not there, or of an unknown type, does not fail the build
    for source, name in (
        ("type=registry,ref=127.0.0.1:1/none", "127.0.0.1:1/none"),
        ("type=registry,ref=BAD", "BAD"), ("type=nope", "nope:"),
    ):  # fmt: skip
        done = build(TEXT, "-t", "br-cache", "--cache-from", source)
        assert f"importing cache manifest from {name}" in done.stderr
    done = build(TEXT, "--attest", "type=other", check=False)
    assert 'failed to solve: unknown attestation type "other"' in done.stderr
    done = build(TEXT, "--build-arg", "BUILDKIT_MULTI_PLATFORM=zz", check=False)
    assert "invalid boolean value for multi-platform: zz" in done.stderr


def test_a_layout_without_a_tar(build: Builder, tmp_path: Path) -> None:
    place = tmp_path / "layout"
    build(TEXT, "-o", f"type=oci,tar=false,dest={place}", files=FILES)
    index = json.loads((place / "index.json").read_text())
    (entry,) = index["manifests"]
    blobs = {f"sha256:{path.name}" for path in (place / "blobs/sha256").iterdir()}
    below = json.loads((place / "blobs/sha256" / entry["digest"][7:]).read_text())
    assert {part["digest"] for part in (below["config"], *below["layers"])} < blobs
    done = build(
        "FROM layout\nRUN cat /word\n", "--no-cache", "--build-context",
        f"layout=oci-layout://{place}",
    )  # fmt: skip
    assert "none" in done.stderr


# -- history -------------------------------------------------------------------------------


def test_the_history_of_builds(build: Builder) -> None:
    build(TEXT, "-t", "br-history", files=FILES)
    build(f"FROM {BASE}\nRUN echo gone; exit 4\n", check=False)
    rows = build.docker("buildx", "history", "ls", "--format", "json").stdout.splitlines()
    first, second = (json.loads(row) for row in rows[:2])
    assert (first["status"], second["status"]) == ("Error", "Completed")
    ref = second["ref"].rpartition("/")[2]
    logs = build.docker("buildx", "history", "logs", ref)
    assert "RUN echo none > /word" in logs.stderr + logs.stdout
    about = json.loads(build.docker("buildx", "history", "inspect", ref, "--format", "json").stdout)
    assert about["Status"] == "completed" and about["NumTotalSteps"] >= 3
    assert about["Materials"][0]["URI"].startswith("pkg:docker/portside/base")
    failed = first["ref"].rpartition("/")[2]
    about = json.loads(
        build.docker("buildx", "history", "inspect", failed, "--format", "json").stdout
    )
    assert about["Status"] == "failed" and "exit code: 4" in about["Error"]["Message"]
    assert build.docker("buildx", "history", "rm", ref).returncode == 0
    left = build.docker("buildx", "history", "ls", "--format", "json").stdout
    assert ref not in left and failed in left


# -- a socket of BuildKit's own ------------------------------------------------------------


def test_the_remote_driver(build: Builder, tmp_path: Path) -> None:
    """buildx over ``--buildkit-host``: sessions come inside of a call, results go to the client."""
    sock = tmp_path / "buildkitd.sock"
    running = RunningEngine("--buildkit-host", f"unix://{sock}")
    running.start()
    try:
        build.env = {**build.env, "DOCKER_HOST": running.host}
        made = build.docker("buildx", "create", "--name", "apart", "--driver", "remote",
                            f"unix://{sock}")  # fmt: skip
        assert made.stdout.strip() == "apart", made.stderr
        assert "running" in build.docker("buildx", "inspect", "apart").stdout
        base = running.request("POST", "/images/create?fromImage=portside/base&tag=latest")
        assert base[0] == 200
        out = tmp_path / "out"
        build(TEXT, "--builder", "apart", "-o", f"type=local,dest={out}", files=FILES,
              command=("buildx", "build"))  # fmt: skip
        assert (out / "word").read_text() == "none\n"
        build(TEXT, "--builder", "apart", "--load", "-t", "br-remote", command=("buildx", "build"))
        assert build.docker("run", "--rm", "br-remote", "cat", "/dest/a").stdout == "a\n"
        assert "br-remote" not in build.docker("buildx", "du", "--builder", "apart").stderr
    finally:
        running.remove()
    assert not sock.exists()


# -- registries that ask for tokens ----------------------------------------------------------


def test_credentials_stay_with_a_client_that_fetches_tokens(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """buildx gets the token at the realm; the engine does when its user turned that off, and
    for a registry with names and passwords alone."""
    config = Path(build.env["DOCKER_CONFIG"], "config.json")
    plain = json.loads(config.read_text())

    def agents(registry: FakeRegistry) -> set[str]:
        return {headers.get("User-Agent", "").partition("/")[0]
                for _, path, headers in registry.requests if path.startswith("/token")}  # fmt: skip

    with served() as registry:
        registry.add(
            "app", "1", build_image([{"x": b"x"}], architecture=Platform.host().architecture)
        )
        registry.token = "secret-token"
        text = f"FROM {registry.host}/app:1\nCOPY f /f\n"

        def pull(password: str = "password", check: bool = True) -> str:
            auth = base64.b64encode(f"user:{password}".encode()).decode()
            config.write_text(json.dumps({**plain, "auths": {registry.host: {"auth": auth}}}))
            registry.requests.clear()
            return build(text, "--pull", files={"f": "f"}, check=check).stderr

        pull()
        assert agents(registry) and "portside" not in agents(registry)
        assert "failed to authorize" in pull("wrong", check=False)
        monkeypatch.setitem(build.env, "BUILDKIT_NO_CLIENT_TOKEN", "1")
        pull()
        assert agents(registry) == {"portside"}
        monkeypatch.delitem(build.env, "BUILDKIT_NO_CLIENT_TOKEN")
        registry.token, registry.basic = None, ("user", "password")
        pull()
        assert not agents(registry)
