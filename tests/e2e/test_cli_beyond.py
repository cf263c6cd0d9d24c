"""What our command has that docker's lacks, manifests, and completion in real shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clikit import PORTSIDE, call
from imagekit import docker_registry

BASE = "portside/base"
Ours = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def ours(engine: Any, docker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """Our command, which must succeed unless ``status`` is given."""
    config = str(tmp_path_factory.mktemp("config"))

    def run(*words: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        env = {"DOCKER_HOST": engine.host, "DOCKER_CONFIG": config}
        done = call(PORTSIDE, *words, env=env, **options)
        assert done.returncode == status, done
        return done

    yield run
    for left in docker("ps", "-aq", "--filter", "label=beyond").stdout.split():
        docker("rm", "-fv", left)
    for left in docker("volume", "ls", "-q", "--filter", "name=beyond").stdout.split():
        docker("volume", "rm", "-f", left)


@pytest.fixture
def running(ours: Ours) -> Iterator[str]:
    name = "beyond-one"
    ours("run", "-d", "--name", name, "-l", "beyond", "-m", "64m", "-v", "beyond-v:/data",
         "-p", "127.0.0.1::80", BASE, "sleep", "100")  # fmt: skip
    yield name
    ours("rm", "-fv", name)


def test_the_oci_configuration(ours: Ours, running: str) -> None:
    (config,) = json.loads(ours("inspect", "--oci", running).stdout)
    assert config["process"]["args"] == ["sleep", "100"]
    assert {"pid", "mount", "network", "uts", "ipc"} <= {
        namespace["type"] for namespace in config["linux"]["namespaces"]
    }
    assert config["linux"]["resources"]["memory"]["limit"] == 64 << 20
    assert ours("inspect", "--oci", "-f", "{{.hostname}}", running).stdout.strip()
    assert "nosuch" in ours("inspect", "--oci", "nosuch", status=1).stderr


def test_published_ports_add_up(ours: Ours, running: str) -> None:
    for _ in range(2):
        ours("update", "-p", "127.0.0.2::80", running)
    addresses = [line.partition(":")[0] for line in ours("port", running, "80").stdout.splitlines()]
    assert addresses == ["127.0.0.1", "127.0.0.2"]
    refused = ours("update", "--publish-rm", "9999", running, status=1)
    assert "port 9999/tcp of the container is not published" in refused.stderr
    ours("update", "--publish-rm", "80", "-p", "127.0.0.3::80", running)
    assert ours("port", running, "80").stdout.startswith("127.0.0.3:")


def test_an_image_that_the_engine_makes_is_not_pulled(ours: Ours, docker: Any) -> None:
    docker("rmi", "-f", "portside/monitor", check=False)
    done = ours("create", "-l", "beyond", "portside/monitor")
    assert done.stderr.startswith("Making portside/monitor from this machine's busybox")
    assert "Pulling" not in done.stderr and "Unable to find" not in done.stderr


def test_explain(ours: Ours, running: str) -> None:
    text = ours("explain", running).stdout
    pid = ours("inspect", "-f", "{{.State.Pid}}", running).stdout.strip()
    for word in (pid, "mnt", "pid", "net", "memory", "overlay", "/data", "seccomp"):
        assert word.lower() in text.lower(), f"{word} not in\n{text}"
    inode = os.readlink(f"/proc/{pid}/ns/mnt").split("[")[1].rstrip("]")
    assert inode in text
    found = json.loads(ours("explain", "--format", "json", running).stdout)
    assert inode in json.dumps(found)
    assert "nosuch" in ours("explain", "nosuch", status=1).stderr


def test_timings(ours: Ours) -> None:
    """The engine's steps come with the answer to the start: the container is soon gone."""
    done = ours("run", "--rm", "--timings", BASE, "echo", "hi")
    assert done.stdout == "hi\n"
    assert "asked the engine to" in done.stderr and "create" in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("      ")]
    words = [line.strip().rsplit(maxsplit=1)[0] for line in lines]  # without what init does
    steps = ["create", "attach", "start", "network", "runtime", "wait for its end", "removal"]
    assert [word for word in words if word in steps] == steps
    assert words[-1] == "total"
    detached = ours("run", "--rm", "-d", "--timings", BASE, "true").stderr
    assert "asked the engine to" in detached and "    network" in detached


def test_explain_what_was_asked_for(ours: Ours, tmp_path: Path) -> None:
    """Sources of mounts, limits in a reader's units, devices; 100 columns unless --all."""
    name = "beyond-all"
    ours(
        "run", "-d", "--name", name, "-l", "beyond", "--pid", "host", "-v", f"{tmp_path}:/in it",
        "-v", "beyond-v:/vol", "--cpus", "0.5", "--cpuset-cpus", "0", "--ulimit", "nofile=99:100",
        "--device", "/dev/full:/dev/mine:r", BASE, "sleep", "100",
    )  # fmt: skip
    try:
        text, full = ours("explain", name).stdout, ours("explain", "--all", name).stdout
        facts = json.loads(ours("explain", "--format", "json", name).stdout)
    finally:
        ours("rm", "-fv", name)
    assert max(map(len, text.splitlines())) <= 100
    assert "it sees the machine's processes" in text and "0.5 CPUs" in text
    for words in (["open", "files", "99", "100"], ["/dev/mine", "/dev/full", "r"],
                  ["processors", "0"]):  # fmt: skip
        assert any(line.split() == words for line in text.splitlines()), words
    sources = {item["target"]: item["source"] for item in facts["mounts"]}
    assert sources["/in it"] == str(tmp_path)
    assert sources["/vol"].endswith("/volumes/beyond-v/_data")
    assert sources["/etc/hosts"].endswith("/hosts") and sources["/etc/hosts"] in full


def test_a_change_of_ports_keeps_the_container(ours: Ours, running: str) -> None:
    before = ours("inspect", "-f", "{{.ID}} {{.State.Pid}}", running).stdout
    ours("update", "--publish", "127.0.0.1::81", running)
    assert ours("port", running, "81").stdout.startswith("127.0.0.1:")
    assert ours("inspect", "-f", "{{.ID}} {{.State.Pid}}", running).stdout == before


def test_volumes_are_cloned_renamed_written_out_and_read_in(ours: Ours, tmp_path: Path) -> None:
    def content(volume: str) -> str:
        words = ("run", "--rm", "-v", f"{volume}:/v", BASE, "cat", "/v/file")
        return ours(*words).stdout

    ours("run", "--rm", "-v", "beyond-a:/v", BASE, "sh", "-c", "echo kept >/v/file")
    assert ours("volume", "clone", "beyond-a", "beyond-b").stdout == "beyond-b\n"
    assert content("beyond-b") == "kept\n"
    assert ours("volume", "rename", "beyond-b", "beyond-c").stdout == "beyond-c\n"
    assert "beyond-b" in ours("volume", "inspect", "beyond-b", status=1).stderr
    archive = tmp_path / "v.tar"
    ours("volume", "export", "-o", str(archive), "beyond-c")
    assert "file" in subprocess.run(["tar", "-tf", archive], capture_output=True, text=True).stdout
    ours("volume", "import", "beyond-d", str(archive))
    assert content("beyond-d") == "kept\n"
    ours("volume", "update", "--label", "a=b", "beyond-d")
    assert ours("volume", "ls", "-q", "--filter", "label=a=b").stdout == "beyond-d\n"
    assert "nosuch" in ours("volume", "clone", "nosuch", "beyond-e", status=1).stderr
    assert ours("volume", "rename", "beyond-a", "beyond-d", status=1).stderr


def test_the_store_is_checked(ours: Ours) -> None:
    assert ours("system", "check").stdout.startswith("Read ")


CAREFUL = (
    "--user 1000 --health-cmd true --cap-drop ALL --memory 64m --cpus 0.5 --read-only "
    "--security-opt no-new-privileges --pids-limit 50 --network beyond-net"
).split()
CARELESS = (
    "--privileged --pid host --ipc host --uts host --network host --restart always -v /etc:/e "
    "-v /run/docker.sock:/s --cap-add NET_ADMIN --security-opt seccomp=unconfined "
    "--ulimit nofile=99 --device /dev/null:/dev/other"
).split()
TOLD = {"4.1", "4.6", "5.4", "5.5", "5.6", "5.10", "5.11", "5.12", "5.13", "5.15", "5.16", "5.17",
        "5.18", "5.19", "5.21", "5.22", "5.26", "5.29", "5.32"}  # fmt: skip


def test_an_audit_distinguishes_the_careful_from_the_careless(ours: Ours) -> None:
    ours("network", "create", "beyond-net")
    ours("run", "-d", "--name", "careful", *CAREFUL, "-p", "127.0.0.1:8089:80", BASE, "sleep", "99")
    ours("run", "-d", "--name", "careless", *CARELESS, BASE, "sleep", "99")
    try:
        findings = json.loads(ours("system", "audit", "--json").stdout)
        told = {
            name: {f["id"]: f for f in findings if f["subject"] == name and f["verdict"] != "pass"}
            for name in ("careful", "careless")
        }
        assert told["careful"] == {}
        assert set(told["careless"]) >= TOLD
        assert all(f["reason"] and f["fix"] for f in findings if f["verdict"] != "pass")
        engine = {f["id"]: f["verdict"] for f in findings if not f["subject"]}
        assert (engine["2.2"], engine["2.4"], engine["2.9"]) == ("warn", "pass", "warn")
        text = ours("system", "audit").stdout
        assert "WARN  5.5   It is not privileged [careless]" in text
        assert "PASS" not in text
        assert "PASS" in ours("system", "audit", "--all").stdout
    finally:
        ours("rm", "-f", "careful", "careless")
        ours("network", "rm", "beyond-net")


def test_what_an_audit_advises_for_a_running_container(ours: Ours) -> None:
    """Pasted as it is printed, it changes the verdict."""
    ours("run", "-d", "--name", "audited", "--restart", "always", BASE, "sleep", "99")
    try:

        def told() -> dict[str, str]:
            findings = json.loads(ours("system", "audit", "--json").stdout)
            return {f["id"]: f["fix"] for f in findings if f["subject"] == "audited" and f["fix"]}

        live = {number: fix for number, fix in told().items() if " update " in fix}
        assert set(live) == {"5.11", "5.12", "5.15", "5.29"}
        for fix in live.values():
            ours(*fix.split()[1:])
        assert not set(live) & set(told())
    finally:
        ours("rm", "-f", "audited")


def _stopped(found: list[dict[str, Any]]) -> int:
    """How many containers an audit has found that do not run."""
    (finding,) = [f for f in found if f["id"] == "6.2"]
    return int(finding["reason"].split()[0]) if finding["reason"] else 0


def test_an_audit_finds_a_way_in(ours: Ours) -> None:
    script = "printf '#!/bin/sh\\nsleep 99\\n' > /tmp/sshd; chmod +x /tmp/sshd; exec /tmp/sshd"
    ours("run", "-d", "--name", "way-in", "-p", "8088:80", BASE, "sh", "-c", script)
    try:
        ours("exec", "way-in", "sh", "-c", "until grep -q sshd /proc/1/comm; do sleep 0.1; done")
        found = json.loads(ours("system", "audit", "--json").stdout)
        told = {f["id"]: f for f in found if f["subject"] == "way-in" and f["verdict"] != "pass"}
        assert told["5.7"]["verdict"] == "warn"
        assert told["5.9"]["reason"] == "reachable from outside: 80/tcp"
        numbers = {f["id"] for f in found}
        assert numbers >= {"1.1.1", "1.1.2", "2.6", "2.11", "2.12", "5.1", "5.27", "5.28", "6.1"}
        before = _stopped(found)
        ours("stop", "-t", "0", "way-in")
        found = json.loads(ours("system", "audit", "--json").stdout)
        assert _stopped(found) == before + 1
        (finding,) = [f for f in found if f["id"] == "6.2"]
        assert (finding["verdict"], finding["fix"]) == ("info", "portside container prune")
    finally:
        ours("rm", "-f", "way-in")


def test_manifests(ours: Ours, docker: Any, tmp_path: Path) -> None:
    """A list made here is what docker and others read from the registry."""
    with docker_registry(tmp_path) as host:
        one, two, made = f"{host}/a/one:v1", f"{host}/b/two:v1", f"{host}/a/list:v1"
        for name in (one, two):
            ours("tag", BASE, name)
            ours("push", "-q", name)
            ours("rmi", name)
        mine = ours("manifest", "inspect", one).stdout
        assert mine == docker("manifest", "inspect", "--insecure", one).stdout
        verbose = json.loads(ours("manifest", "inspect", "-v", one).stdout)
        theirs = json.loads(docker("manifest", "inspect", "-v", "--insecure", one).stdout)
        assert verbose["Descriptor"]["digest"] == theirs["Descriptor"]["digest"]
        assert verbose["Ref"] == theirs["Ref"]
        missing = ours("manifest", "inspect", f"{host}/no/such:v1", status=1).stderr
        assert missing == f"no such manifest: {host}/no/such:v1\n"

        assert ours("manifest", "create", made, one).stdout == f"Created manifest list {made}\n"
        ours("manifest", "create", made, two, status=1)
        ours("manifest", "create", "--amend", made, two)
        ours("manifest", "annotate", "--arch", "arm", "--variant", "v7", made, two)
        digest = ours("manifest", "push", "--purge", made).stdout.strip()
        assert digest.startswith("sha256:")
        assert ours("manifest", "rm", made, status=1).stderr == f"No such manifest: {made}\n"
        listed = ours("manifest", "inspect", made).stdout
        assert listed == docker("manifest", "inspect", "--insecure", made).stdout
        platforms = [entry["platform"] for entry in json.loads(listed)["manifests"]]
        assert {"architecture": "arm", "os": "linux", "variant": "v7"} in platforms
        _look_with_imagetools(ours, made, digest)
        ours("pull", "-q", made)
        assert ours("run", "--rm", made, "echo", "pulled").stdout == "pulled\n"
        ours("rmi", made)


def _look_with_imagetools(ours: Ours, name: str, digest: str) -> None:
    import hashlib

    def look(*flags: str) -> str:
        return ours("buildx", "imagetools", "inspect", *flags, name).stdout

    told = look()
    assert told.startswith(f"Name:      {name}\nMediaType: application/vnd.")
    assert f"\nDigest:    {digest}\n\nManifests:\n" in told and "linux/arm/v7" in told
    assert "sha256:" + hashlib.sha256(look("--raw").encode()).hexdigest() == digest
    assert look("--format", "{{.Manifest.Digest}}") == f"{digest}\n"
    whole = json.loads(look("--format", "{{json .}}"))
    assert whole["manifest"]["digest"] == digest and "Digest" not in whole["manifest"]
    assert {config["os"] for config in whole["image"].values()} == {"linux"}
    missing = ours("buildx", "imagetools", "inspect", f"{name}-not", status=1).stderr
    assert missing == f"ERROR: {name}-not: not found\n"


def test_an_index_of_images_that_registries_have(ours: Ours, tmp_path: Path) -> None:
    """imagetools create; what it pushes is pulled, with its attestations."""
    (tmp_path / "f").write_text("f")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n")
    tools = ("buildx", "imagetools")
    with docker_registry(tmp_path / "r") as host, docker_registry(tmp_path / "o") as other:
        arm, own, made = f"{host}/a/arm:1", f"{other}/b/own:1", f"{host}/made:1"
        attested = ("--attest=type=provenance,mode=min", "--attest=type=sbom")
        for name, platform, more in (
            (arm, "linux/arm64", ("--provenance=false",)), (own, "linux/amd64", attested),
        ):  # fmt: skip
            ours("build", "-q", "--platform", platform, "-o", f"type=registry,name={name}",
                 *more, str(tmp_path))  # fmt: skip

        def dry(*args: str) -> Any:
            return json.loads(ours(*tools, "create", "--dry-run", *args).stdout)

        def look(name: str, format: str) -> Any:
            return json.loads(ours(*tools, "inspect", "--format", format, name).stdout)

        (entry,) = dry(arm)["manifests"]
        assert entry["platform"] == {"architecture": "arm64", "os": "linux"}
        assert "layers" in dry("--prefer-index=false", arm)
        notes = dry(arm, own, "--annotation=index:k=v",
                    "--annotation=manifest-descriptor[linux/arm64]:a=b")  # fmt: skip
        assert notes["annotations"] == {"k": "v"} and len(notes["manifests"]) == 3
        assert [e.get("annotations", {}).get("a") for e in notes["manifests"]] == ["b", None, None]
        few = dry("-p", "linux/amd64", arm, own)["manifests"]
        assert [e["platform"]["os"] for e in few] == ["linux", "unknown"]

        (tmp_path / "source").write_text(entry["digest"])
        ours(*tools, "create", "-t", made, "-f", str(tmp_path / "source"), arm)
        assert look(made, "{{json .Provenance}}") == {}
        ours(*tools, "create", "-t", made, "--append", own)
        assert len(look(made, "{{json .Manifest}}")["manifests"]) == 3
        said = look(made, "{{json .Provenance}}")
        assert list(said) == ["linux/amd64"] and "buildType" in said["linux/amd64"]["SLSA"]
        assert look(own, "{{json .SBOM.SPDX.spdxVersion}}") == "SPDX-2.3"
        assert look(made, "{{json .}}")["image"]["linux/arm64"]["architecture"] == "arm64"
        ours("pull", "-q", "--platform", "linux/amd64", made)
        ours("rmi", made)

        for args, told in (
            ((), "no sources specified"), ((arm,), "can't push with no tags specified"),
            (("--dry-run", f"{host}/no:1"), f"{host}/no:1: not found"),
            (("--dry-run", arm, own, "sha256:" + "0" * 64), "multiple repositories"),
            (("--dry-run", arm, "--annotation=a=b"), '"" annotations are not supported yet'),
            (("--dry-run", arm, "--platform=linux/s390x"), "no image of the sources is for"),
        ):  # fmt: skip
            assert told in ours(*tools, "create", *args, status=1).stderr


# -- completion --------------------------------------------------------------------------------


def test_candidates(ours: Ours, running: str) -> None:
    def candidates(*words: str) -> list[str]:
        lines = ours("__complete", *words).stdout.splitlines()
        assert lines[-1].startswith(":")
        return [line.partition("\t")[0] for line in lines[:-1]]

    assert {"run", "runner"} & set(candidates("ru")) == {"run"}
    assert "container" in candidates("") and "prune" in candidates("container", "")
    assert candidates("stop", "beyond-o") == [running]
    assert candidates("stop", running, "beyond-o") == []
    assert candidates("exec", "-it", "beyond") == [running]
    assert candidates("start", "beyond") == []
    assert BASE in candidates("run", "--rm", "portside/b")
    assert candidates("run", "--netw") == ["--network", "--network-alias"]
    assert "bridge" in candidates("run", "--network", "b")
    assert "--network=bridge" in candidates("run", "--network=b")
    assert f"container:{running}" in candidates("run", "--network", "container:")
    assert candidates("cp", "beyond") == [f"{running}:"]
    assert candidates("volume", "rm", "beyond-v") == ["beyond-v"]
    assert candidates("logs", "--ta") == ["--tail"]
    assert candidates("ps", "--filter", "sta") == ["status="]
    assert candidates("run", "--pull", "") == ["always", "missing", "never"]
    assert candidates("nosuchverb", "") == []
    assert candidates("completion", "") == ["bash", "fish", "zsh"]
    nowhere = call(PORTSIDE, "__complete", "-H", "unix:///nonexistent", "stop", "")
    assert (nowhere.returncode, nowhere.stdout) == (0, ":4\n")


COMPLETED = """
name: completed
services:
  web: {image: portside/base}
  worker: {image: portside/base, profiles: [extra]}
  db: {image: portside/base, profiles: [extra, data]}
"""


def test_candidates_of_compose(ours: Ours, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(COMPLETED)
    files = ("compose", "-f", str(tmp_path / "compose.yaml"))

    def candidates(*words: str) -> list[str]:
        lines = ours("__complete", *words).stdout.splitlines()
        assert lines[-1].startswith(":")
        return [line.partition("\t")[0] for line in lines[:-1]]

    assert "run" in candidates(*files, "ru") and "--profile" in candidates("compose", "--p")
    assert candidates(*files, "up", "") == ["db", "web", "worker"]
    assert candidates(*files, "up", "web", "w") == ["worker"]
    assert candidates(*files, "up", "--exit-code-from", "d") == ["db"]
    assert candidates(*files, "exec", "-T", "w") == ["web", "worker"]
    assert candidates(*files, "run", "web", "d") == []
    assert candidates(*files, "cp", "d") == ["db:"] and candidates(*files, "scale", "d") == ["db="]
    assert candidates(*files, "--profile", "") == ["data", "extra"]
    assert candidates(*files, "--profile=d") == ["--profile=data"]
    assert candidates("compose", "--progress", "p") == ["plain"]
    assert candidates("compose", "-f", "/nonexistent/compose.yaml", "up", "") == []
    link = tmp_path / "docker-compose"
    link.symlink_to(PORTSIDE)
    found = call(str(link), "__complete", *files[1:], "up", "w").stdout
    assert found == "web\tportside/base\nworker\tportside/base\n:4\n"
    assert "complete -c docker-compose" in call(str(link), "completion", "fish").stdout


@pytest.fixture
def in_path(engine: Any, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/portside").symlink_to(PORTSIDE)
    return {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "DOCKER_HOST": engine.host,
        "HOME": str(tmp_path),
    }


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def test_bash(running: str, in_path: dict[str, str]) -> None:
    script = """
        source <(portside completion bash)
        try() { COMP_LINE=$1 COMP_POINT=${#1}; COMP_WORDS=("${@:2}")
                COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _portside_complete 2>/dev/null
                echo "${COMPREPLY[@]}"; }
        try "portside stop beyond-" portside stop beyond-
        try "portside run portside/base:la" portside run portside/base : la
        try "portside run --network=brid" portside run --network = brid
        complete -p portside
    """
    done = subprocess.run(
        [shell("bash"), "-c", script], capture_output=True, text=True, env=in_path
    )
    assert done.stdout.splitlines() == [
        running, "latest", "bridge", "complete -F _portside_complete portside"
    ], done  # fmt: skip


def test_zsh(running: str, in_path: dict[str, str]) -> None:
    script = """
        autoload -Uz compinit; compinit -u -D
        source <(portside completion zsh)
        _describe() { print -l "${(@P)3}" }
        words=(portside stop beyond-) CURRENT=3; _portside
        words=(portside container pru) CURRENT=3; _portside
        print ${_comps[portside]}
    """
    done = subprocess.run([shell("zsh"), "-f", "-c", script], capture_output=True, text=True,
                          env=in_path)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{running}:{BASE}, Up"), done
    assert lines[1].startswith("prune:") and lines[2] == "_portside", done


def test_fish(running: str, in_path: dict[str, str]) -> None:
    script = (
        "portside completion fish | source; complete -C 'portside stop beyond-';"
        "complete -C 'portside container pru'"
    )
    done = subprocess.run([shell("fish"), "--no-config", "-c", script], capture_output=True,
                          text=True, env=in_path)  # fmt: skip
    names = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert names == [running, "prune"], done
