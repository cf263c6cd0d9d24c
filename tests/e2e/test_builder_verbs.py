"""buildx ls, inspect, du, prune and history of our own command, beside docker's buildx."""

import json
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from buildxkit import BASE, Builder, build

__all__ = ["build"]
Ours = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ours(build: Builder, tmp_path: Path) -> Ours:
    """``ours("buildx", "du", check=True)``."""

    def run(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([sys.executable, "-m", "portside", *args], env=build.env,
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        if check and done.returncode:
            pytest.fail(f"{args}: {done.stdout}\n{done.stderr}")
        return done

    return run


def test_the_one_builder(build: Builder, ours: Ours) -> None:
    assert "default*" in ours("buildx", "ls").stdout
    found = json.loads(ours("buildx", "ls", "--format", "json").stdout)
    theirs = json.loads(build.docker("buildx", "ls", "--format", "json").stdout.splitlines()[0])
    assert found["Name"] == theirs["Name"] == "default"
    for key in ("Platforms", "GCPolicy", "Status"):
        assert found["Nodes"][0][key] == (theirs["Nodes"][0].get(key)), key
    for format in ("{{.Name}}|{{.DriverEndpoint}}|{{.Status}}|{{.Error}}",
                   r"table {{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}"):  # fmt: skip
        listed = [run("buildx", "ls", "--format", format).stdout for run in (ours, build.docker)]
        assert listed[0] == listed[1] and len(listed[0].splitlines()) >= 2
    done = ours("buildx", "ls", "--format", "{{.Foo}}", check=False)
    assert done.returncode == 1 and "can't evaluate field Foo" in done.stderr
    shown = ours("buildx", "inspect").stdout
    assert "Driver:        docker" in shown and "GC Policy rule#0:" in shown
    for args, told in (
        (("inspect", "nope"), 'no builder "nope" found'),
        (("use", "nope"), 'failed to find instance "nope"'),
        (("rm",), "failed to remove one or more builders"),
        (("create", "--driver", "docker"), 'driver "docker" cannot be created'),
        (("du", "--builder", "nope"), 'no builder "nope" found'),
    ):
        done = ours("buildx", *args, check=False)
        assert done.returncode == 1 and told in done.stderr, done.stderr
    assert ours("buildx", "use", "default").stdout == ours("buildx", "stop").stdout == ""
    assert ours("buildx", "version").stdout.startswith("portside/buildx v")


def test_what_the_cache_takes(build: Builder, ours: Ours) -> None:
    build(
        f"FROM {BASE}\nRUN --mount=type=cache,target=/c echo usage > /c/f; echo u > /usage\n"
        "COPY sent /\n",
        files={"sent": "of the client"},
    )
    shown, theirs = ours("buildx", "du").stdout, build.docker("buildx", "du").stdout

    def rows(text: str) -> dict[str, list[str]]:
        found = [line.split() for line in text.splitlines() if "true" in line or "false" in line]
        return {row[0]: row[1:3] for row in found}

    assert rows(shown) == rows(theirs) and len(rows(shown)) >= 2
    assert shown.splitlines()[0].split() == theirs.splitlines()[0].split()
    verbose = ours("builder", "du", "--verbose").stdout
    assert "Type:         exec.cachemount" in verbose and "Usage count:" in verbose
    only = ours("buildx", "du", "--filter", "type=exec.cachemount", "--format", "json").stdout
    template = "{{.ID}} {{.Size}} {{.Mutable}} {{.Parents}} {{.Type}} {{.UsageCount}} {{.Shared}}"
    for format in (template, "table {{.ID}}\t{{.Description}}", "{{.Nothing}}"):
        same = ("buildx", "du", "--format", format)
        asked, answered = ours(*same, check=False), build.docker(*same)
        assert (asked.returncode, asked.stdout, asked.stderr) == (
            answered.returncode, answered.stdout, answered.stderr), format  # fmt: skip
    assert {json.loads(line)["Type"] for line in only.splitlines() if line.startswith("{")} == {
        "exec.cachemount"
    }
    sent = build.docker("buildx", "du", "--verbose", "--filter", "type=source.local").stdout
    assert "Description:  local source for context" in sent and "Size:         13B" in sent
    assert sent.count("Mutable:      true") == sent.count("ID:") >= 2
    found = json.loads(build.docker("system", "df", "--format", "json", "-v").stdout)["BuildCache"]
    total = sum(int(record["Size"].rstrip("B") or 0) for record in found
                if record["CacheType"] == "source.local")  # fmt: skip
    assert total >= 13
    assert ours("buildx", "prune", "-f", "--filter", "type=source.local").stdout.count("B") >= 2
    assert "source.local" not in ours("builder", "du", "--verbose").stdout
    gone = ours("buildx", "prune", "-af").stdout
    assert "RECLAIMABLE" in gone and gone.splitlines()[-1].startswith("Total:")
    assert rows(ours("buildx", "du").stdout) == {}


def test_the_history_of_all_clients(build: Builder, ours: Ours) -> None:
    text = f"FROM {BASE}\nRUN echo remembered\n"
    build(text, "-t", "bv-theirs", "--no-cache")
    (build.path / "Dockerfile").write_text(text)
    ours("build", "-t", "bv-ours", "--no-cache", str(build.path))
    ours("build", "--no-cache", "--build-arg", "TOKEN=hidden", "-f", "-", str(build.path),
         check=False)  # fmt: skip
    rows = [json.loads(line) for line in
            ours("buildx", "history", "ls", "--format", "json").stdout.splitlines()]  # fmt: skip
    shown = ours("buildx", "history", "ls", "--format", "{{.Ref}} {{.Status}}").stdout
    assert [line.split() for line in shown.splitlines()] == [
        [row["ref"].rpartition("/")[2], row["status"]] for row in rows
    ]
    known = {row["name"]: row for row in rows}
    assert known["docker.io/library/bv-ours:latest"]["status"] == "Completed"
    for name in ("bv-ours", "bv-theirs"):
        ref = known[f"docker.io/library/{name}:latest"]["ref"].rpartition("/")[2]
        assert "RUN echo remembered" in ours("buildx", "history", "logs", ref).stderr
        logs = build.docker("buildx", "history", "logs", ref)
        assert "remembered" in logs.stdout + logs.stderr
        about: Any = json.loads(
            ours("buildx", "history", "inspect", ref, "--format", "json").stdout
        )
        theirs: Any = json.loads(
            build.docker("buildx", "history", "inspect", ref, "--format", "json").stdout
        )
        for key in ("Ref", "Status", "NumTotalSteps", "NumCachedSteps", "Materials"):
            assert about[key] == theirs.get(key, 0), key
        assert {a["Digest"] for a in about["Attachments"]} <= {
            a["Digest"] for a in theirs["Attachments"]
        }
        assert ours("buildx", "history", "rm", ref[:12]).returncode == 0
    left = ours("buildx", "history", "ls", "--format", "json").stdout
    assert "bv-" not in left and "hidden" not in left
    done = ours("buildx", "history", "logs", "nothing", check=False)
    assert done.returncode == 1 and "no record found" in done.stderr


def test_builds_of_two_clients_share_a_step(build: Builder, tmp_path: Path) -> None:
    """What docker and our command build at the same time runs once."""
    mark = tmp_path.name
    build.files(f"FROM {BASE}\nRUN : {mark}; sleep 2; cat /proc/sys/kernel/random/uuid > /once\n")
    commands = (
        ["docker", "build", "-t", "bv-first", str(build.path)],
        [sys.executable, "-m", "portside", "build", "-t", "bv-second", str(build.path)],
    )
    running = [
        subprocess.Popen(command, env=build.env, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in running:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    found = [
        build.docker("run", "--rm", name, "cat", "/once").stdout
        for name in ("bv-first", "bv-second")
    ]
    assert found[0] == found[1] != ""


def test_builds_are_imported_into_docker_desktop(
    build: Builder, ours: Ours, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Without one, the words are buildx's; with one, it gets the bundle's bytes."""
    bundle = tmp_path / "bundle.dockerbuild"
    bundle.write_bytes(b"a bundle" * 100_000)
    short = tempfile.TemporaryDirectory(prefix="ps-", dir="/tmp")  # of a socket's path
    request.addfinalizer(short.cleanup)
    build.env["HOME"] = short.name
    args = ("buildx", "history", "import", "-f", str(bundle))
    failed = ours(*args, check=False)
    theirs = build.docker(*args)
    assert (failed.returncode, failed.stderr) == (theirs.returncode, theirs.stderr)
    assert "check if Docker Desktop is running" in failed.stderr
    received = []

    class Desktop(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            while size := int(self.rfile.readline(), 16):
                received.append(self.rfile.read(size + 2)[:-2])
            self.rfile.readline()
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["a","b"]')

    place = Path(short.name) / ".docker/desktop/docker-desktop-build.sock"
    place.parent.mkdir(parents=True)
    with socketserver.UnixStreamServer(str(place), Desktop) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        done = ours(*args)
        server.shutdown()
        thread.join()
    assert b"".join(received) == bundle.read_bytes()
    assert done.stderr.splitlines() == [
        f"docker-desktop://dashboard/build/.imported/_/{ref}" for ref in "ab"
    ]
