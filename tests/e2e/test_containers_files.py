"""cp both ways, diff, export, commit: Docker's rules, and roots that try to lead us astray."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine

Docker = Callable[..., "subprocess.CompletedProcess[Any]"]
BASE = "portside/base"


@pytest.fixture
def name(docker: Docker, request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = re.sub(r"[^a-z0-9_.-]", "-", request.node.name.lower())[:50]
    yield chosen
    docker("rm", "-f", "-v", chosen, check=False)
    docker("image", "rm", "-f", f"{chosen}:made", check=False)


@pytest.fixture(params=["running", "stopped"])
def box(docker: Docker, name: str, request: pytest.FixtureRequest) -> str:
    """A container with some files, in both states in which it can be asked."""
    script = "mkdir -p /d/sub; echo one > /d/one; ln -s one /d/link; ln -s /d /dirlink; "
    docker("run", "-d", "--name", name, BASE, "sh", "-c", script + "echo made; sleep 1000")
    while "made" not in docker("logs", name).stdout:
        pass
    if request.param == "stopped":
        docker("stop", "-t", "0", name)
    return name


def names_in(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return sorted(tar.getnames())


def out(docker: Docker, place: str, *options: str) -> bytes:
    return bytes(docker("cp", *options, place, "-", text=False).stdout)


# -- Docker's rules --------------------------------------------------------------------------------


def test_copy_out(docker: Docker, box: str, tmp_path: Path) -> None:
    docker("cp", f"{box}:/d", str(tmp_path / "new"))
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["link", "one", "sub"]
    (tmp_path / "old").mkdir()
    docker("cp", f"{box}:/d", str(tmp_path / "old"))
    assert (tmp_path / "old/d/one").read_text() == "one\n"
    docker("cp", f"{box}:/d/.", str(tmp_path / "old"))
    assert (tmp_path / "old/one").read_text() == "one\n"
    docker("cp", f"{box}:/d/link", str(tmp_path / "aslink"))
    assert os.readlink(tmp_path / "aslink") == "one"
    docker("cp", "-L", f"{box}:/d/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "one\n"
    docker("cp", f"{box}:dirlink/one", str(tmp_path / "through"))
    assert (tmp_path / "through").read_text() == "one\n"
    assert names_in(out(docker, f"{box}:/d/")) == ["d", "d/link", "d/one", "d/sub"]


def test_copy_out_what_is_not_there(docker: Docker, box: str, tmp_path: Path) -> None:
    done = docker("cp", f"{box}:/none", str(tmp_path), check=False)
    assert done.returncode == 1
    assert f"Could not find the file /none in container {box}" in done.stderr
    done = docker("cp", f"{box}:/d/one/", str(tmp_path / "x"), check=False)
    assert done.returncode == 1, "a file is no directory"
    done = docker("cp", f"{box}:/d", str(tmp_path / "no/such"), check=False)
    assert done.returncode == 1


def test_copy_in(docker: Docker, box: str, tmp_path: Path) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/file").write_text("inside\n")
    docker("cp", str(tmp_path / "tree"), f"{box}:/d")
    docker("cp", str(tmp_path / "tree"), f"{box}:/fresh")
    docker("cp", f"{tmp_path}/tree/.", f"{box}:/d/sub")
    docker("cp", str(tmp_path / "tree/file"), f"{box}:/d/renamed")
    docker("cp", str(tmp_path / "tree/file"), f"{box}:/dirlink")
    found = names_in(out(docker, f"{box}:/d"))
    assert {"d/tree/file", "d/tree/below", "d/sub/file", "d/renamed", "d/file"} <= set(found)
    assert names_in(out(docker, f"{box}:/fresh")) == ["fresh", "fresh/below", "fresh/file"]
    done = docker("cp", str(tmp_path / "tree"), f"{box}:/d/one", check=False)
    assert done.returncode == 1 and "cannot copy directory" in done.stderr
    done = docker("cp", str(tmp_path / "tree/file"), f"{box}:/no/such/", check=False)
    assert done.returncode == 1


def test_copy_through_tar(docker: Docker, box: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("from-tar")
        entry.size, entry.uid, entry.gid, entry.mode, entry.mtime = 3, 77, 88, 0o640, 1_000_000_000
        tar.addfile(entry, io.BytesIO(b"tar"))
    docker("cp", "-", f"{box}:/d", input=buffer.getvalue(), text=False)
    with tarfile.open(fileobj=io.BytesIO(out(docker, f"{box}:/d/from-tar"))) as tar:
        got = tar.getmember("from-tar")
        assert (got.size, got.mode, got.mtime) == (3, 0o640, 1_000_000_000)
        assert (got.uid, got.gid) == (77, 88)
    done = docker("cp", "-", f"{box}:/d/one", input=buffer.getvalue(), text=False, check=False)
    assert done.returncode == 1


def test_archive_mode_keeps_owners(docker: Docker, box: str, tmp_path: Path) -> None:
    (tmp_path / "owned").write_text("x")
    os.chown(tmp_path / "owned", 1234, 567)
    docker("cp", "-a", str(tmp_path / "owned"), f"{box}:/owned-a")
    with tarfile.open(fileobj=io.BytesIO(out(docker, f"{box}:/owned-a"))) as tar:
        assert (tar.getmembers()[0].uid, tar.getmembers()[0].gid) == (1234, 567)


def test_what_is_read_only_stays_so(docker: Docker, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "mounted").mkdir()
    options = ("--read-only", "-v", f"{tmp_path}/mounted:/ro:ro", "-v", f"{tmp_path}/mounted:/rw")
    docker("run", "-d", "--name", name, *options, BASE, "sleep", "1000")
    for place, words in (("/", "read-only"), ("/ro", "read-only")):
        done = docker("cp", str(tmp_path / "file"), f"{name}:{place}", check=False)
        assert done.returncode == 1 and words in done.stderr
    docker("cp", str(tmp_path / "file"), f"{name}:/rw")
    assert (tmp_path / "mounted/file").read_text() == "x"


# -- hostile roots ---------------------------------------------------------------------------------


def test_links_never_lead_out(docker: Docker, name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the host's own")
    script = (
        f"ln -s {secret} /absolute; ln -s ../../../../../../..{secret} /climbing; "
        f"ln -s {tmp_path} /dir; ln -s /proc/1/root{secret} /magic; ln -s self /self; echo made; "
        "sleep 1000"
    )
    docker("run", "-d", "--name", name, BASE, "sh", "-c", script)
    while "made" not in docker("logs", name).stdout:
        pass
    for state in ("running", "stopped"):
        for link in ("absolute", "climbing", "dir/secret", "magic", "self"):
            done = docker("cp", "-L", f"{name}:/{link}", "-", check=False, text=False)
            assert done.returncode != 0, (state, link)
            assert b"the host's own" not in done.stdout
        (tmp_path / "planted").write_text("planted")
        docker("cp", str(tmp_path / "planted"), f"{name}:/dir/planted2", check=False)
        docker("cp", str(tmp_path / "planted"), f"{name}:/absolute", check=False)
        assert secret.read_text() == "the host's own"
        assert not (tmp_path / "planted2").exists()
        docker("stop", "-t", "0", name)


def test_links_that_are_swapped_while_we_look(docker: Docker, name: str, tmp_path: Path) -> None:
    """A path that is now a directory, now a link to the host's: it is read as one or the other
    inside the container, never outside."""
    (tmp_path / "bait").write_text("the host's own")
    script = (
        f"mkdir -p /real {tmp_path}; echo inside > /real/bait; echo inside > {tmp_path}/bait; "
        f"echo made; while true; do rm -rf /spot; ln -s {tmp_path} /spot; rm /spot; "
        "cp -r /real /spot; done"
    )
    docker("run", "-d", "--name", name, BASE, "sh", "-c", script)
    while "made" not in docker("logs", name).stdout:
        pass
    for _ in range(12):
        done = docker("cp", f"{name}:/spot/bait", "-", check=False, text=False)
        assert b"the host's own" not in done.stdout
        docker("cp", "/etc/hostname", f"{name}:/spot/planted", check=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bait"]


@pytest.mark.parametrize(
    "member", ["../../outside", "/../../outside", "link/outside"], ids=["dots", "rooted", "link"]
)
def test_a_tar_cannot_write_outside(docker: Docker, box: str, tmp_path: Path, member: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        entry = tarfile.TarInfo(member)
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    docker("cp", "-", f"{box}:/d/sub", input=buffer.getvalue(), text=False, check=False)
    assert list(tmp_path.iterdir()) == []


# -- diff, export, commit --------------------------------------------------------------------------


def test_diff_reports_the_container_s_changes_only(docker: Docker, name: str) -> None:
    script = "echo x >> /etc/passwd; rm /etc/group; mkdir -p /a/b; echo 1 > /a/b/c; touch /volume/x"
    docker("create", "--name", name, "-v", "/volume", BASE, "sh", "-c", script)
    assert docker("diff", name).stdout == ""
    docker("start", "-a", name)
    lines = set(docker("diff", name).stdout.splitlines())
    assert {"C /etc", "C /etc/passwd", "D /etc/group", "A /a", "A /a/b", "A /a/b/c"} <= lines
    assert not any(part in line for line in lines for part in ("hosts", "hostname", "resolv", "x"))


def test_an_idle_container_has_no_changes(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, BASE, "sleep", "1000")
    assert docker("diff", name).stdout == ""
    assert docker("exec", name, "ls", "/.dockerenv").stdout == "/.dockerenv\n"
    assert docker("exec", name, "readlink", "/etc/mtab").stdout == "/proc/mounts\n"
    assert docker("exec", name, "df", "/").stdout.splitlines()[1].split()[0] == "overlay"


def test_export_is_the_root_without_what_is_mounted(
    docker: Docker, name: str, tmp_path: Path
) -> None:
    (tmp_path / "mounted").write_text("x")
    docker("run", "-d", "--name", name, "-v", f"{tmp_path}:/outside", BASE, "sh", "-c",
           "echo kept > /kept; echo made; sleep 1000")  # fmt: skip
    while "made" not in docker("logs", name).stdout:
        pass
    data = docker("export", name, text=False).stdout
    found = names_in(data)
    assert "kept" in found and "bin/busybox" in found
    assert not any(each.startswith(("outside/", "proc/", "sys/")) for each in found)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.extractfile("kept")
        assert member is not None and member.read() == b"kept\n"


def test_commit_is_the_same_files_again(docker: Docker, name: str) -> None:
    script = (
        "echo hard > /h1; ln /h1 /h2; mkfifo /fifo; mknod /null2 c 1 3 || true; rm /etc/group; "
        "chown 12:34 /h1; chmod 4755 /h1; dd if=/dev/zero of=/sparse bs=1 count=1 seek=10000000 "
        "2>/dev/null; rm -rf /var; mkdir /var; echo new > /var/new"
    )
    docker("run", "--name", name, "--cap-add", "MKNOD", BASE, "sh", "-c", script)
    image = docker("commit", "-a", "me", "-m", "why", name, f"{name}:made").stdout.strip()
    again = docker("commit", "-a", "me", "-m", "why", name).stdout.strip()
    layers = [json.loads(docker("inspect", each).stdout)[0]["RootFS"] for each in (image, again)]
    assert layers[0] == layers[1], "the same changes are the same layer"
    docker("image", "rm", again, check=False)
    look = (
        "stat -c '%n %a %u:%g %h %F %s' /h1 /h2 /fifo /null2 /sparse; ls /var /etc/group 2>&1; "
        "cat /var/new; [ $(stat -c %b /sparse) -lt 1000 ] && echo holes"
    )
    text = docker("run", "--rm", f"{name}:made", "sh", "-c", look).stdout
    assert "/h1 4755 12:34 2 regular file 5" in text and "/h2 4755 12:34 2 regular file 5" in text
    assert "/fifo" in text and "fifo" in text and "/null2" in text and "character special" in text
    assert "/sparse 644 0:0 1 regular file 10000001" in text
    assert "/etc/group: No such file" in text and "new" in text


def test_commit_changes_configuration(docker: Docker, name: str) -> None:
    docker("create", "--name", name, "-e", "A=1", "--label", "own=1", BASE, "sleep", "5")
    changes = ("ENV B=2", 'CMD ["echo", "hi"]', "EXPOSE 80/udp", "LABEL more=2", "USER 12",
               "WORKDIR /work", "VOLUME /vol", 'ENTRYPOINT ["/bin/sh", "-c"]', "STOPSIGNAL INT",
               "ONBUILD RUN true", "HEALTHCHECK --interval=9s CMD true")  # fmt: skip
    options = [word for change in changes for word in ("-c", change)]
    docker("commit", *options, name, f"{name}:made")
    config = json.loads(docker("inspect", f"{name}:made").stdout)[0]["Config"]
    assert {"A=1", "B=2"} <= set(config["Env"])
    assert (config["Cmd"], config["Entrypoint"]) == (["echo", "hi"], ["/bin/sh", "-c"])
    assert config["ExposedPorts"] == {"80/udp": {}} and config["Volumes"] == {"/vol": {}}
    assert config["Labels"] == {"own": "1", "more": "2"}
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("12", "/work", "INT")
    assert config["OnBuild"] == ["RUN true"]
    assert config["Healthcheck"]["Interval"] == 9_000_000_000
    done = docker("commit", "-c", "RUN true", name, check=False)
    assert done.returncode == 1 and "is not a valid change command" in done.stderr


def test_commit_pauses_unless_disabled(engine: RunningEngine, docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, BASE, "sleep", "1000")
    identifier = engine.json("GET", f"/containers/{name}/json")["Id"]
    seen: list[str] = []
    watching = threading.Event()

    def watch() -> None:
        done = subprocess.Popen(
            ["docker", "-H", engine.host, "events", "--filter", f"container={identifier}",
             "--format", "{{.Action}}"], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        watching.set()
        assert done.stdout is not None
        for line in done.stdout:
            seen.append(line.strip())
            if "unpause" in seen:
                break
        done.kill()
        done.wait()
        done.stdout.close()

    thread = threading.Thread(target=watch)
    thread.start()
    watching.wait()
    import time

    time.sleep(0.5)
    docker("commit", "--pause=false", name, f"{name}:made")
    docker("commit", name, f"{name}:made")
    thread.join(30)
    assert seen == ["commit", "pause", "commit", "unpause"]  # in dockerd's order
