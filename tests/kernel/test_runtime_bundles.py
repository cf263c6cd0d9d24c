"""Bundles whose configuration is odd but allowed: what runc makes of them is what we do."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundlekit import OURS, SOURCE, Bundles, bundles
from runtimekit import is_root

from portside.runtime import state_files

pytestmark = pytest.mark.skipif(not is_root(), reason="containers need root here")
RUNTIMES = [
    pytest.param(OURS, id="portside"),
    pytest.param(
        ["runc"], id="runc", marks=pytest.mark.skipif(not shutil.which("runc"), reason="no runc")
    ),
]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Bundles]:
    with bundles(tmp_path) as found:
        yield found


def output(made: Bundles, bundle: Path, runtime: list[str], **more: object) -> str:
    done = made.call("run", "--bundle", str(bundle), made.name(), runtime=runtime, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_loopback_is_up(made: Bundles, runtime: list[str]) -> None:
    found = output(made, made.bundle("ip", "addr", "show", "lo"), runtime)
    assert "inet 127.0.0.1/8" in found
    assert ",UP" in found


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("propagation", ["rprivate", "rshared"])
def test_two_mounts_on_one_destination(made: Bundles, runtime: list[str], propagation: str) -> None:
    mounts = []
    for name in ("first", "second"):
        (made.directory / name).mkdir()
        (made.directory / name / name).touch()
        mounts.append(
            {"destination": "/here", "type": "bind", "source": str(made.directory / name),
             "options": ["rbind", propagation]}
        )  # fmt: skip
    bundle = made.bundle("ls", "/here")
    document = json.loads((bundle / "config.json").read_text())
    document["mounts"] += mounts
    (bundle / "config.json").write_text(json.dumps(document))
    assert output(made, bundle, runtime) == "second\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_hooks_see_the_mounts_at_the_roots_path(made: Bundles, runtime: list[str]) -> None:
    place = made.directory / "seen"
    script = f"grep -c ' {made.rootfs}/proc ' /proc/self/mountinfo > {place}"
    hooks = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    output(made, made.bundle("true", config={"hooks": hooks}), runtime)
    assert place.read_text() == "1\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_hooks_inherit_what_they_are_not_given(made: Bundles, runtime: list[str]) -> None:
    place = made.directory / "env"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"echo [$GIVEN] >> {place}"]}
    hooks = {"createRuntime": [hook, hook | {"env": []}, hook | {"env": ["GIVEN=2"]}]}
    bundle = made.bundle("true", config={"hooks": hooks})
    output(made, bundle, runtime, env=os.environ | {"PYTHONPATH": str(SOURCE), "GIVEN": "1"})
    assert place.read_text().split() == ["[1]", "[]", "[2]"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_devices_path_may_end_in_a_slash(made: Bundles, runtime: list[str]) -> None:
    device = {"path": "/dev/mine/", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666}
    bundle = made.bundle(
        "stat", "-c", "%n %t %T", "/dev/mine", config={"linux": {"devices": [device]}}
    )
    assert output(made, bundle, runtime) == "/dev/mine 1 5\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_tun_may_be_opened(made: Bundles, runtime: list[str]) -> None:
    bundle = made.bundle("sh", "-c", "mknod /tmp/tun c 10 200; : <> /tmp/tun; true")
    document = json.loads((bundle / "config.json").read_text())
    for names in document["process"]["capabilities"].values():
        names.append("CAP_MKNOD")
    document["root"]["readonly"] = False
    (bundle / "config.json").write_text(json.dumps(document))
    (made.rootfs / "tmp/tun").unlink(missing_ok=True)
    done = made.call("run", "--bundle", str(bundle), made.name(), runtime=runtime)
    assert "not permitted" not in done.stderr


@pytest.mark.skipif(not shutil.which("runc"), reason="no runc")
def test_a_rootless_example(made: Bundles) -> None:
    found = []
    for name, runtime in (("ours", OURS), ("theirs", ["runc"])):
        place = made.directory / name
        place.mkdir()
        done = made.call("spec", "--rootless", "--bundle", str(place), runtime=runtime)
        assert done.returncode == 0, done.stderr
        document = json.loads((place / "config.json").read_text())
        kinds = {item["type"] for item in document["linux"]["namespaces"]} - {"cgroup"}
        mounts = {m["destination"]: set(m.get("options", ())) for m in document["mounts"]}
        ids = document["linux"]["uidMappings"], document["linux"]["gidMappings"]
        found.append((kinds, mounts["/sys"], ids, "resources" in document["linux"]))
        assert not any(o.startswith("gid=") for o in mounts["/dev/pts"])
    assert found[0] == found[1]


def test_readiness_is_passed_on(made: Bundles) -> None:
    """sd_notify(3) from inside; ``start`` returns once the container is ready."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(made.directory / "up"))
        supervisor.settimeout(30)
        env = os.environ | {"PYTHONPATH": str(SOURCE), "NOTIFY_SOCKET": str(made.directory / "up")}
        name = made.name()
        script = "test -S $NOTIFY_SOCKET && touch /tmp/asked; sleep 100"
        bundle = made.bundle("sh", "-c", script, config={"root": {"path": str(made.rootfs)}})
        assert made.call("create", "--bundle", str(bundle), name, env=env).returncode == 0
        command = [*OURS, "--root", str(made.root), "start", name]
        starting = subprocess.Popen(command, env=env)
        thread = threading.Thread(target=lambda: heard.append(supervisor.recv(4096)))
        thread.start()
        place = made.root / name / "notify/notify.sock"
        asked = made.rootfs / "tmp/asked"
        while not asked.exists():
            assert starting.poll() is None, "it did not wait"
        assert starting.poll() is None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inside:
            inside.sendto(b"STATUS=nearly\nREADY=1\n", str(place))
        assert starting.wait(30) == 0
        thread.join()
        asked.unlink()
        pid = json.loads(made.call("state", name).stdout)["pid"]
        lines = heard[0].split()
        assert lines == [b"READY=1", b"MAINPID=%d" % pid]
        made.call("delete", "--force", name)


SHARED = {
    "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "network")],
    "maskedPaths": [],
    "readonlyPaths": [],
}


def mounted(made: Bundles) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(made.rootfs) in line]


def test_without_a_mount_namespace_the_callers_is_inherited(made: Bundles) -> None:
    """config-linux.md, "Namespaces": what is not listed is the runtime's own."""
    name = made.create("sleep", "1000", config={"linux": SHARED})
    pid = made.state(name)["pid"]
    assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert made.call("start", name).returncode == 0
    made.until(name, "running")
    assert os.readlink(f"/proc/{pid}/root") == str(made.rootfs) and mounted(made)
    done = made.call("exec", name, "sh", "-c", "ls / && ls /proc/1/root/ && pwd")
    assert done.returncode == 0 and "proc" in done.stdout.split(), done.stderr
    assert not set(done.stdout.split()) & {"boot", "srv", "work"}, "the host's root is seen"
    assert made.call("delete", "--force", name).returncode == 0
    assert mounted(made) == []
    refused = {**SHARED, "maskedPaths": ["/proc/kcore"]}
    done = made.call("run", "-b", str(made.bundle("true", config={"linux": refused})), made.name())
    assert "unable to restrict sys entries without a private MNT namespace" in done.stderr
    failing = made.bundle("true", config={"linux": SHARED, "mounts": [
        {"destination": "/x", "type": "bind", "source": "/nonexistent", "options": ["bind"]}
    ]})  # fmt: skip
    assert made.call("run", "-b", str(failing), made.name()).returncode == 1
    assert mounted(made) == []


def test_without_pivot_root(made: Bundles) -> None:
    name = made.create("sleep", "1000", options=("--no-pivot",))
    assert made.call("start", name).returncode == 0
    pid = made.state(name)["pid"]
    assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    script = "ls / /proc/1/root/; cat /proc/1/comm; awk '{print $5}' /proc/self/mountinfo"
    for where in (("exec", name), ("run",)):
        if where == ("run",):
            bundle = made.bundle("sh", "-c", script)
            done = made.call("run", "--no-pivot", "-b", str(bundle), made.name())
        else:
            done = made.call(*where, "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        words = done.stdout.split()
        assert "/proc" in words and "/dev/pts" in words
        assert not set(words) & {"boot", "srv", "work"}, "the host's root is seen"
        assert ("sleep" in words) is (where != ("run",))


def test_a_poststart_hook_that_fails_ends_the_container(made: Bundles, tmp_path: Path) -> None:
    """runtime.md, "Lifecycle": an error, the container is stopped and destroyed, poststop runs."""
    over = tmp_path / "over"
    hooks = {
        "poststart": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 3"]}],
        "poststop": [{"path": "/bin/touch", "args": ["touch", str(over)]}],
    }
    name = made.create("sleep", "1000", config={"hooks": hooks})
    pid = made.state(name)["pid"]
    done = made.call("start", name)
    assert done.returncode == 1
    assert "error running poststart hook #0" in done.stderr and "no" in done.stderr
    assert not state_files.is_alive(pid)
    assert over.exists() and "does not exist" in made.call("state", name).stderr
    done = made.call("run", "-b", str(made.bundle("sleep", "1", config={"hooks": hooks})),
                     made.name())  # fmt: skip
    assert done.returncode == 1 and "poststart" in done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_errors_are_reported_in_one_form(made: Bundles, tmp_path: Path, runtime: list[str]) -> None:
    def told(*options: str) -> str:
        return made.call(*options, "state", "nobody", runtime=runtime).stderr

    form = r'time="[0-9T:Z+-]+" level=error msg="container does not exist"\n'
    assert re.fullmatch(form, told())
    assert json.loads(told("--log-format", "json"))["msg"] == "container does not exist"
    log = tmp_path / "log"
    assert told("--log", str(log)) == "container does not exist\n"
    assert re.fullmatch(form, log.read_text())
