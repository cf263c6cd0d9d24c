"""An engine with ``userns-remap``: containers' root is nobody on the host."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from enginekit import RunningEngine, docker_runner
from runtimekit import needs_idmapping

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"
USER = "dockremap"


def ranges(name: str) -> tuple[int, int]:
    """The user's first range in /etc/subuid."""
    for line in Path("/etc/subuid").read_text().splitlines():
        owner, first, count = line.split(":")
        if owner == name:
            return int(first), int(count)
    pytest.fail(f"{name} has no range")


@pytest.fixture(scope="module")
def remapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    needs_idmapping(tmp_path_factory.mktemp("probe"))
    running = RunningEngine("--userns-remap", "default")
    running.start()
    yield running
    running.remove()


@pytest.fixture(scope="module")
def box(
    remapped: RunningEngine, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Docker:
    config = tmp_path_factory.mktemp("docker-config")
    run = docker_runner(
        docker_command, {**os.environ, "DOCKER_HOST": remapped.host, "DOCKER_CONFIG": str(config)}
    )
    run("pull", "-q", BASE)
    return run


@pytest.fixture(scope="module")
def first() -> int:
    return ranges(USER)[0]


@pytest.mark.parametrize("network", ["bridge", "none"])
def test_root_inside_is_another_outside(
    box: Docker, first: int, remapped: RunningEngine, network: str
) -> None:
    name = f"long-{network}"
    box("run", "-d", "--name", name, "--network", network, BASE, "sleep", "1000")
    try:
        pid = int(box("inspect", "-f", "{{.State.Pid}}", name).stdout)
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{first}\t{first}" in status
        spaces = {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("user", "net", "mnt")}
        assert all(spaces[kind] != os.readlink(f"/proc/self/ns/{kind}") for kind in spaces)
        line = box("exec", name, "cat", "/proc/self/uid_map").stdout.split()
        assert line == ["0", str(first), "65536"]
        mapping = json.loads(box("inspect", name).stdout)[0]["IDMappings"]
        assert mapping["UidMap"] == [f"0:{first}:65536"]
        told = remapped.json("GET", f"/portside/containers/{name}/explain")
        assert told["id_mappings"]["users"] == [f"0:{first}:65536"]
        assert told["uid"] == first
    finally:
        box("rm", "-f", name)


def test_files_of_the_engine_belong_to_root_inside(box: Docker) -> None:
    places = "/ /etc /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /t /v".split()
    done = box("run", "--rm", "--tmpfs", "/t", "-v", "/v", BASE, "stat", "-c", "%n %u:%g", *places)
    assert done.stdout.splitlines() == [f"{place} 0:0" for place in places]
    done = box(
        "run", "--rm", BASE, "sh", "-c", "echo 1.2.3.4 x >> /etc/hosts && tail -1 /etc/hosts"
    )
    assert done.stdout == "1.2.3.4 x\n"


def test_its_network_is_its_own(box: Docker) -> None:
    script = (
        "cat /proc/sys/net/ipv4/ip_forward; ip addr add 10.9.9.9/32 dev lo && "
        "ip addr show dev lo | grep -c 10.9.9.9;"
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; stat -c %u /sys/class/net/eth0/mtu"
    )
    options = ("--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.ip_forward=1")
    done = box("run", "--rm", *options, BASE, "sh", "-c", script)
    assert done.stdout.split() == ["1", "1", "0", "0"]


def test_ports_names_and_neighbours(box: Docker) -> None:
    box("network", "create", "mapped")
    try:
        box("run", "-d", "--name", "server", "--network", "mapped", "--network-alias", "www", BASE,
            "sh", "-c", "mkdir /w; echo hello > /w/index.html; httpd -f -p 80 -h /w")  # fmt: skip
        try:
            script = "for i in 1 2 3 4 5; do wget -qO- http://www/ && break; sleep 1; done"
            done = box("run", "--rm", "--network", "mapped", BASE, "sh", "-c", script)
            assert done.stdout == "hello\n"
            share = ("--network", "container:server", "--pid", "container:server")
            script = "wget -qO- http://127.0.0.1/; cat /proc/self/uid_map; ls -l /proc/1/exe"
            shared = box("run", "--rm", *share, BASE, "sh", "-c", script)
            assert shared.stdout.startswith("hello\n")
            assert "65536" in shared.stdout
        finally:
            box("rm", "-f", "server")
    finally:
        box("network", "rm", "mapped")


def test_volumes_keep_the_containers_ids_and_can_be_used_without(
    box: Docker, remapped: RunningEngine
) -> None:
    box("volume", "create", "kept")
    try:
        script = "echo x > /v/file; chown 7:8 /v/file; stat -c %u:%g /v/file"
        assert box("run", "--rm", "-v", "kept:/v", BASE, "sh", "-c", script).stdout == "7:8\n"
        place = json.loads(box("volume", "inspect", "kept").stdout)[0]["Mountpoint"]
        found = Path(place, "file").stat()
        assert (found.st_uid, found.st_gid) == (7, 8)
        show = ("-v", "kept:/v", BASE, "stat", "-c", "%u:%g", "/v/file")
        assert box("run", "--rm", "--userns", "host", *show).stdout == "7:8\n"
    finally:
        box("volume", "rm", "kept")


def test_binds_are_the_hosts(box: Docker, first: int, tmp_path: Path) -> None:
    place = tmp_path / "bind"
    place.mkdir()
    for path in (place, *place.parents):
        if str(path).startswith(str(tmp_path.parent.parent)):
            path.chmod(0o755)
    (place / "roots").write_text("x")
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    script = "stat -c %u /b/roots; echo y > /b/open/made; stat -c %u /b/open/made; rm /b/roots"
    done = box("run", "--rm", "-v", f"{place}:/b", BASE, "sh", "-c", script, check=False)
    assert done.stdout.split() == ["65534", "0"]
    assert done.returncode != 0
    assert (place / "open/made").stat().st_uid == first
    missing = tmp_path / "missing"
    box("run", "--rm", "-v", f"{missing}:/m", BASE, "sh", "-c", "echo z > /m/file")
    assert missing.stat().st_uid == first
    done = box("run", "--rm", "-v", f"{place}:/b:idmap", BASE, "sh", "-c", "stat -c %u /b/roots")
    assert done.stdout == "0\n"


def test_cp_export_and_commit_have_the_containers_ids(
    box: Docker, first: int, tmp_path: Path
) -> None:
    script = "echo a > /made; chown 5:6 /made; mkdir /d; echo ready; sleep 1000"
    volume = ("-v", "cp-volume:/v")
    box("run", "-d", "--name", "files", *volume, BASE, "sh", "-c", script)
    try:
        for _ in range(2):  # running, then stopped
            tar = subprocess.run(
                ["tar", "-tvf", "-", "--numeric-owner"], capture_output=True, text=True,
                input=None, stdin=_tar_of(box, "files", "/made", tmp_path), check=True,
            )  # fmt: skip
            assert " 5/6 " in tar.stdout
            whole = tmp_path / "whole.tar"
            box("export", "-o", str(whole), "files")
            listed = subprocess.run(
                ["tar", "-tvf", str(whole), "--numeric-owner"], capture_output=True, text=True,
                check=True,
            ).stdout.splitlines()  # fmt: skip
            owners = {line.split()[5]: line.split()[1] for line in listed}
            assert owners["made"] == "5/6"
            assert owners["etc/"] == "0/0"
            source = tmp_path / "source"
            source.write_text("in")
            os.chown(source, 9, 10)
            for target in ("/d/in", "/v/in"):
                box("cp", "-a", str(source), f"files:{target}")
            box("stop", "-t", "0", "files")
        box("commit", "files", "files:1")
        done = box("run", "--rm", *volume, "files:1", "stat", "-c", "%n %u:%g", "/made", "/d/in",
                   "/v/in")  # fmt: skip
        assert done.stdout.splitlines() == ["/made 5:6", "/d/in 9:10", "/v/in 9:10"]
        box("rmi", "files:1")
    finally:
        box("rm", "-f", "files")
        box("volume", "rm", "-f", "cp-volume")


def _tar_of(box: Docker, name: str, path: str, tmp_path: Path) -> int:
    target = tmp_path / "one.tar"
    target.write_bytes(box("cp", f"{name}:{path}", "-", text=False).stdout)
    return os.open(target, os.O_RDONLY)


def test_build_steps_are_remapped(box: Docker, first: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {BASE}\n"
        "COPY --chown=3:4 file /file\n"
        "RUN cat /proc/self/uid_map > /map; stat -c %u:%g /file > /owner; chown 11:12 /map\n"
        "RUN --mount=type=cache,target=/c --mount=type=bind,target=/ctx,source=. "
        "stat -c %u:%g / /c /ctx/file >> /owner\n"
        "RUN --mount=type=cache,target=/owned,uid=7,gid=8,mode=0710 "
        "stat -c %u:%g:%a /owned >> /owner\n"
        "USER 33\nRUN id -u; echo y > /tmp/mine\n"
    )
    box("build", "-q", "-t", "mapped-build", str(tmp_path))
    try:
        show = "cat /owner /map; stat -c %u:%g /map /tmp/mine"
        done = box("run", "--rm", "-u", "0", "mapped-build", "sh", "-c", show)
        lines = done.stdout.split("\n")
        assert lines[:5] == ["3:4", "0:0", "0:0", "0:0", "7:8:710"]
        assert lines[5].split() == ["0", str(first), "65536"]
        assert lines[6:8] == ["11:12", "33:33"]
    finally:
        box("rmi", "-f", "mapped-build")


REFUSED = [
    (("--privileged",), "privileged mode is incompatible with user namespaces.  You must run the "
     "container in the host namespace when running privileged mode"),
    (("--network", "host"),
     "cannot share the host's network namespace when user namespaces are enabled"),
    (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
    (("--security-opt", "writable-cgroups=true"),
     "option WritableCgroups conflicts with user namespaces and rootless mode"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_conflicts_is_refused_in_dockers_words(
    box: Docker, options: tuple[str, ...], words: str
) -> None:
    done = box("run", "--rm", *options, BASE, "true", check=False)
    assert done.returncode == 125
    assert words in done.stderr
    if "--security-opt" not in options:
        box("run", "--rm", "--userns", "host", *options, BASE, "true")


def test_what_a_mapped_root_may_not_do(box: Docker) -> None:
    script = (
        "mknod /x c 1 3; mknod /y b 8 0; mount -t ext4 /dev/vda /mnt; "
        "echo 1 > /proc/sys/kernel/panic; echo 1 > /proc/sys/vm/drop_caches; date -s @1; "
        "chown 70000 /etc"
    )
    options = ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined")
    open_paths = ("--security-opt", "systempaths=unconfined")
    done = box("run", "--rm", *options, *open_paths, BASE, "sh", "-c", script, check=False)
    failures = done.stderr.lower()
    assert failures.count("not permitted") + failures.count("denied") >= 6, done.stderr
    assert box("run", "--rm", "-u", "70000", BASE, "id", check=False).returncode != 0


def test_host_for_one_container_and_what_info_reports(box: Docker, first: int) -> None:
    line = box("run", "--rm", "--userns", "host", BASE, "cat", "/proc/self/uid_map").stdout
    assert line.split() == ["0", "0", "4294967295"]
    info = json.loads(box("info", "-f", "{{json .}}").stdout)
    assert "name=userns" in info["SecurityOptions"]
    assert ["uid mapping", f"0:{first}:65536"] in info["DriverStatus"]


def test_image_mounts_and_devices(box: Docker) -> None:
    mount = ("--mount", f"type=image,source={BASE},target=/img")
    script = "stat -c %u /img /img/bin /dev/null; echo x > /dev/null; mount | grep -c ' /img '"
    done = box("run", "--rm", *mount, BASE, "sh", "-c", script)
    assert done.stdout.split() == ["0", "0", "65534", "1"]


def test_a_copy_of_somebody_without_a_mapping_leaves_nothing(
    remapped: RunningEngine, box: Docker
) -> None:
    box("run", "-d", "--name", "strict", BASE, "sleep", "1000")
    try:
        for owner, kind in (((70000, 0), tarfile.REGTYPE), ((0, 70000), tarfile.DIRTYPE)):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode="w") as archive:
                info = tarfile.TarInfo("stranger")
                info.uid, info.gid, info.type = *owner, kind
                archive.addfile(info)
            status, _, said = remapped.request(
                "PUT", "/containers/strict/archive?path=/tmp&copyUIDGID=1", data.getvalue()
            )
            assert status == 500
            assert b"container ID 70000 cannot be mapped to a host ID" in said
            assert box("exec", "strict", "ls", "/tmp").stdout == ""
    finally:
        box("rm", "-f", "strict")


def test_a_device_may_have_another_name(box: Docker) -> None:
    """Nodes cannot be made: the host's is shown, which has a name of its own."""
    script = "echo x > /dev/other && stat -c %t:%T /dev/other"
    done = box("run", "--rm", "--device", "/dev/null:/dev/other", BASE, "sh", "-c", script)
    assert done.stdout == "1:3\n"


def test_sources_of_binds_that_are_made_are_the_containers_roots(
    box: Docker, first: int, tmp_path: Path
) -> None:
    box("run", "--rm", "-v", f"{tmp_path}/made/below:/x", BASE, "touch", "/x/y")
    for name in ("made", "made/below", "made/below/y"):
        assert (tmp_path / name).stat().st_uid == first
    assert tmp_path.stat().st_uid == 0


def test_an_engine_killed_meanwhile_keeps_its_containers(
    remapped: RunningEngine, box: Docker, first: int
) -> None:
    box("run", "-d", "--name", "kept", BASE, "sleep", "1000")
    try:
        remapped.kill()
        remapped.start()
        assert box("exec", "kept", "id", "-u").stdout == "0\n"
        box("restart", "-t", "0", "kept")
        assert box("exec", "kept", "cat", "/proc/self/uid_map").stdout.split()[1] == str(first)
    finally:
        box("rm", "-f", "kept")


# -- a range for each container --------------------------------------------------------------


def _create(engine: RunningEngine, name: str, mode: str, *command: str) -> list[str]:
    body = {"Image": BASE, "Cmd": list(command), "HostConfig": {"UsernsMode": mode}}
    engine.json("POST", f"/containers/create?name=auto-{name}", body)
    found: list[str] = engine.json("GET", f"/containers/auto-{name}/json")["IDMappings"]["UidMap"]
    return found


def test_auto_gives_each_container_a_range_and_takes_it_back(
    private_engine: RunningEngine, tmp_path: Path
) -> None:
    needs_idmapping(tmp_path)
    engine = private_engine
    engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    given = {name: _create(engine, name, "auto:size=1000", "sleep", "1000") for name in "abc"}
    starts = sorted(int(mapping[0].split(":")[1]) for mapping in given.values())
    assert [high - low for low, high in pairwise(starts)] == [1000, 1000]
    for name in "ab":
        engine.json("POST", f"/containers/auto-{name}/start")
        pid = engine.json("GET", f"/containers/auto-{name}/json")["State"]["Pid"]
        mapped = Path(f"/proc/{pid}/uid_map").read_text().split()
        assert ":".join(mapped) == given[name][0]
    engine.kill()
    engine.start()
    assert _create(engine, "d", "auto:size=1000", "true") not in given.values()
    engine.json("DELETE", "/containers/auto-b?force=1")
    assert _create(engine, "e", "auto:size=1000", "true") == given["b"]
    fixed = _create(engine, "f", "auto:size=10,uidmapping=3:5000:2", "cat", "/proc/self/uid_map")
    assert "3:5000:2" in fixed
    for name in "acdef":
        engine.json("DELETE", f"/containers/auto-{name}?force=1")
    status, _, told = engine.request(
        "POST", "/containers/create", {"Image": BASE, "HostConfig": {"UsernsMode": "auto:x=1"}}
    )
    assert status == 400
    assert b"auto has the options size, uidmapping and gidmapping" in told
