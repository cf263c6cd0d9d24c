"""Other users of the machine: nothing of the engine's roots is readable or reachable for them.

Repeats the classes of CVE-2021-41091 (a data root that others may walk: set-user-ID programs of
image layers run on the host), CVE-2021-41092 and CVE-2022-36109 (credentials in files with loose
modes).
"""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from enginekit import RunningEngine
from runtimekit import needs_idmapping

NOBODY = 65534
CONTENT = ("diff", "upper", "_data", "rootfs", "root")
"""Directories that hold files of images and containers, with modes of their own."""
PUBLIC = {"portside.pid": 0o644}
"""For whoever wants it. In the data root, behind a closed door: what containers see as files."""
BOUND = {"hosts": 0o644, "hostname": 0o644, "resolv.conf": 0o644}


def reached(paths: list[str], groups: list[int], user: int = NOBODY) -> set[tuple[str, str]]:
    """What a user, in these groups, can do with the paths; tried in a process of its own."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receive)
            os.setgroups(groups)
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            with os.fdopen(send, "w") as out:
                json.dump([(name, path) for path in paths for name in possible(path)], out)
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as answer:
        found = json.load(answer)
    os.waitpid(child, 0)
    return {(name, path) for name, path in found}


def possible(path: str) -> list[str]:
    done = []
    for name, attempt in ATTEMPTS.items():
        with suppress(OSError):
            attempt(path)
            done.append(name)
    return done


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK))


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


ATTEMPTS: dict[str, Callable[[str], object]] = {
    "stat": os.lstat,
    "list": os.listdir,
    "read": lambda path: _open(path, os.O_RDONLY),
    "write": lambda path: _open(path, os.O_WRONLY),
    "make": lambda path: _open(f"{path}/.made", os.O_WRONLY | os.O_CREAT),
    "connect": _connect,
}


def everything(root: Path) -> list[str]:
    found = [str(root)]
    for directory, directories, files in os.walk(root):
        found += [os.path.join(directory, name) for name in (*directories, *files)]
    return found


@pytest.fixture(scope="module", params=["", "--userns-remap=default"])
def busy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """An engine with a container that runs, a volume with a set-user-ID program, an exec, a log,
    a commit and a commit that fails; its directory is open, so that only its own roots protect
    them."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    if request.param:
        needs_idmapping(tmp_path_factory.mktemp("probe"))
    engine = RunningEngine(*filter(None, [request.param]))
    try:
        engine.start()
        fill(engine)
        yield engine
    finally:
        engine.remove()


def fill(engine: RunningEngine) -> None:
    engine.root.chmod(0o755)
    status, _, body = engine.request("POST", "/images/create?fromImage=portside/base&tag=latest")
    assert status == 200, body
    script = "cp /bin/busybox /v/su; chmod 4755 /v/su /bin/busybox; echo said; sleep 1000"
    created = engine.json(
        "POST",
        "/containers/create",
        {
            "Image": "portside/base",
            "Cmd": ["sh", "-c", script],
            "Env": ["SECRET=hunter2"],
            "StopSignal": "KILL",
            "HostConfig": {"Binds": ["vol:/v"]},
        },
        201,
    )["Id"]
    engine.json("POST", f"/containers/{created}/start", status=204)
    made = engine.json("POST", f"/containers/{created}/exec", {"Cmd": ["sleep", "1000"]}, 201)
    engine.json("POST", f"/exec/{made['Id']}/start", {"Detach": True}, 200)
    status, _, body = engine.request("POST", f"/commit?container={created}&repo=kept")
    assert status == 201, body
    status, _, _ = engine.request("POST", f"/commit?container={created}&repo=Not:Valid:")
    assert status == 400
    engine.request("POST", "/images/load", b"no archive at all" * 1000)


def test_roots_are_closed(busy: RunningEngine) -> None:
    """Every path below both roots is tried by name as nobody, as a member of the socket's group
    and as the user that a container's root is on the host: stat, list, read, write, connect, make.
    Nothing works but what is meant for others."""
    paths = [*everything(busy.data_root), *everything(busy.exec_root)]
    names = {Path(path).name for path in paths}
    assert {"metadata.db", "metadata.db-wal", "config.json", "monitor.sock", "su"} <= names
    allowed = {
        ("stat", str(busy.data_root)),
        ("stat", str(busy.exec_root)),
        ("stat", str(busy.exec_root / "portside.pid")),
        ("read", str(busy.exec_root / "portside.pid")),
        ("stat", str(busy.exec_root / "containers")),
        ("stat", str(busy.exec_root / "runtimes")),
    }
    with_group = [grp.getgrnam("docker").gr_gid] if _has_group("docker") else []
    for user, groups in ((NOBODY, []), (NOBODY, with_group), (root_outside(busy), [])):
        if user == 0:
            continue  # containers' root is the host's here
        more = {path for path in reached(paths, groups, user) if path not in allowed}
        assert not more, (user, sorted(more)[:20])


def root_outside(engine: RunningEngine) -> int:
    """The user on the host that the running container's root is (user_namespaces(7))."""
    (running,) = engine.json("GET", "/containers/json")
    pid = engine.json("GET", f"/containers/{running['Id']}/json")["State"]["Pid"]
    return int(Path(f"/proc/{pid}/uid_map").read_text().split()[1])


def test_a_remapped_container_works_behind_closed_doors(busy: RunningEngine) -> None:
    """It runs although its root may not walk to its files by name, and writes to its layer and
    its volume."""
    if "--userns-remap=default" not in busy.options:
        pytest.skip("containers' root is the host's")
    assert root_outside(busy) > 0
    for root in (busy.data_root, busy.exec_root):
        assert stat.S_IMODE(root.stat().st_mode) & 0o066 == 0
        assert root.stat().st_uid == 0
    body = {
        "Image": "portside/base", "Cmd": ["sh", "-c", "echo a > /f && echo b > /v/f"],
        "HostConfig": {"Binds": ["vol:/v"]},
    }  # fmt: skip
    made = busy.json("POST", "/containers/create", body, 201)["Id"]
    busy.json("POST", f"/containers/{made}/start", status=204)
    assert busy.json("POST", f"/containers/{made}/wait")["StatusCode"] == 0
    busy.json("DELETE", f"/containers/{made}", status=204)


def test_only_the_group_reaches_the_socket(busy: RunningEngine) -> None:
    paths = [str(busy.socket)]
    assert ("connect", paths[0]) not in reached(paths, [])
    if _has_group("docker"):
        assert ("connect", paths[0]) in reached(paths, [grp.getgrnam("docker").gr_gid])


def test_modes(busy: RunningEngine) -> None:
    """Behind the closed door the modes are narrow, too: someone may open it."""
    wrong = []
    for path in [*everything(busy.data_root), *everything(busy.exec_root)]:
        found = os.lstat(path)
        parts = Path(path).parts
        if any(name in parts for name in CONTENT) or stat.S_ISLNK(found.st_mode):
            continue
        if Path(path) == busy.data_root / "l" / "empty":
            continue  # a root's lowest layer
        mode, name = stat.S_IMODE(found.st_mode), Path(path).name
        wanted = {**PUBLIC, **BOUND}.get(name, 0o700 if stat.S_ISDIR(found.st_mode) else 0o640)
        if Path(path) == busy.exec_root:
            wanted = 0o711
        if mode & ~wanted:
            wrong.append(f"{mode:o} {path}")
    assert not wrong, "\n".join(wrong)


def test_umask_of_every_process(busy: RunningEngine) -> None:
    """Whatever the umask of who started the engine: 0077 where files of ours are made, 0022 where
    mount points and control groups are."""
    found = {}
    for line in busy.processes():
        pid = line.split()[1]
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(part.split(":\t", 1) for part in status.splitlines() if ":\t" in part)
        found[fields["Name"]] = fields["Umask"]
    assert found, "no process found"
    engine = dict(
        part.split(":\t", 1)
        for part in Path(f"/proc/{busy.pid}/status").read_text().splitlines()
        if ":\t" in part
    )
    assert engine["Umask"] == "0077"
    for child in Path(f"/proc/{busy.pid}/task/{busy.pid}/children").read_text().split():
        fields = dict(
            part.split(":\t", 1)
            for part in Path(f"/proc/{child}/status").read_text().splitlines()
            if ":\t" in part
        )
        wanted = "0022" if fields["Name"].startswith("portside-launch") else "0077"
        assert fields["Umask"] == wanted, fields["Name"]


def test_modes_inside_do_not_follow_the_umask(busy: RunningEngine, tmp_path: Path) -> None:
    """What a user sees is as wide as ever: sources that are made, mount points, control groups,
    files of the engine in a container."""
    source = tmp_path / "new" / "source"
    script = (
        "stat -c '%a %n' /.dockerenv /m/point /etc/hosts /etc/hostname /etc/resolv.conf / /dev "
        "/sys/fs/cgroup; su nobody -s /bin/cat /etc/hosts; umask"
    )
    created = busy.json(
        "POST",
        "/containers/create",
        {
            "Image": "portside/base",
            "Cmd": ["sh", "-c", script],
            "HostConfig": {"Binds": [f"{source}:/m/point", "fresh:/volume"]},
        },
        201,
    )["Id"]
    busy.json("POST", f"/containers/{created}/start", status=204)
    busy.json("POST", f"/containers/{created}/wait")
    status, _, raw = busy.request("GET", f"/containers/{created}/logs?stdout=1&stderr=1")
    assert status == 200
    text = raw.decode(errors="replace")
    for line in ("755 /.dockerenv", "755 /m/point", "644 /etc/hosts", "644 /etc/hostname",
                 "644 /etc/resolv.conf", "755 /\n", "755 /dev", "0022"):  # fmt: skip
        assert line in text, text
    for path in (source, source.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    busy.json("DELETE", f"/containers/{created}?force=1", status=204)
    data = busy.data_root / "volumes" / "fresh" / "_data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o755


def _has_group(name: str) -> bool:
    return any(entry.gr_name == name for entry in grp.getgrall())
