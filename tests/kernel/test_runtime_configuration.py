"""What a bundle's configuration asks for, seen from inside: one property of config.json each."""

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
from typing import Any

import pytest
from bundlekit import OURS, SOURCE, Bundles, bundles
from runtimekit import is_root, refuse_all

from portside.kernel.cgroup import Cgroup

pytestmark = pytest.mark.skipif(not is_root(), reason="containers need root here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    with bundles(tmp_path_factory.mktemp("oci")) as found:
        yield found


def message(stderr: str) -> str:
    """What the runtime said, out of the line it has for a log."""
    found = re.search(r'level=error msg=("(?:[^"\\]|\\.)*")', stderr)
    return str(json.loads(found[1])) if found else stderr


def run(made: Bundles, script: str, **changes: Any) -> tuple[int, str, str]:
    """A shell in a container of its own: exit status, output, what the runtime complained of."""
    bundle = made.bundle("sh", "-c", script, **changes)
    done = made.call("run", "--bundle", str(bundle), made.name())
    return done.returncode, done.stdout, message(done.stderr)


def mounts(made: Bundles, *more: dict[str, Any]) -> dict[str, Any]:
    """A ``config`` with mounts besides the usual ones, and a root that can be written to."""
    place = made.bundle("true")
    usual = json.loads((place / "config.json").read_text())["mounts"]
    return {"mounts": [*usual, *more], "root": {"path": str(made.rootfs)}}


def test_no_capabilities_are_none(made: Bundles) -> None:
    code, out, _ = run(made, "grep Cap /proc/self/status", capabilities=None)
    assert code == 0
    assert {line.split()[1] for line in out.splitlines()} == {"0" * 16}


def test_unknown_capabilities_are_passed_over(made: Bundles) -> None:
    sets = {kind: ["CAP_KILL", "CAP_MOON"] for kind in ("bounding", "effective", "permitted")}
    code, out, err = run(made, "grep CapEff /proc/self/status", capabilities=sets)
    assert code == 0 and out.split()[1] == f"{1 << 5:016x}"
    assert "ignoring unknown or unavailable capabilities: [CAP_MOON]" in err


def test_devices_are_denied_without_rules(made: Bundles) -> None:
    script = "head -c 1 /dev/x > /dev/null"
    node = [{"path": "/dev/x", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]
    for resources in (None, {}, {"devices": [{"allow": True, "type": "c", "access": "m"}]}):
        linux = {"devices": node, "resources": resources}
        code, _, err = run(made, script, config={"linux": linux})
        assert code == 1 and "Operation not permitted" in err


def test_a_device_of_the_configuration_replaces_the_usual_one(made: Bundles) -> None:
    node = [{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 5}]
    _, out, _ = run(
        made, "stat -c '%a %u' /dev/full /dev/zero", config={"linux": {"devices": node}}
    )
    assert out.splitlines() == ["600 5", "666 0"]


@pytest.mark.parametrize("kind", ["private", "rslave", "shared", "rshared", "unbindable"])
def test_propagation_of_the_root(made: Bundles, kind: str) -> None:
    script = "grep ' / / \\| / rw\\| / ro' /proc/self/mountinfo | head -1"
    code, out, err = run(made, script, config={"linux": {"rootfsPropagation": kind}})
    assert code == 0, err
    assert ("shared:" in out) == ("shared" in kind)
    assert ("unbindable" in out) == (kind == "unbindable")


def test_the_working_directory_is_made_before_the_root_is_read_only(made: Bundles) -> None:
    config = {"root": {"path": str(made.rootfs), "readonly": True}}
    code, out, err = run(made, "pwd", cwd="/made/deep", config=config)
    assert (code, out) == (0, "/made/deep\n"), err
    shutil.rmtree(made.rootfs / "made")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("norelatime",), "rw,relatime"),
        (("nostrictatime",), "rw,relatime"),
        (("noatime", "atime"), "rw,relatime"),
        (("noatime", "ratime"), "rw,relatime"),
        (("strictatime",), "rw"),
        (("", "size=64k,,mode=700", "ro"), "ro,relatime"),
    ],
)
def test_access_times(made: Bundles, options: tuple[str, ...], shown: str) -> None:
    new = {"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": list(options)}
    script = "grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6"
    code, out, err = run(made, script, config=mounts(made, new))
    assert (code, out) == (0, f"{shown}\n"), err


def test_a_read_only_tmpfs_has_places_for_what_lies_in_it(made: Bundles) -> None:
    """Podman's infra containers have a read-only /dev, and its pods a read-only /run."""
    place = made.bundle("true")
    config = json.loads((place / "config.json").read_text())
    new: list[dict[str, Any]] = [
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
        {"destination": "/run/below", "type": "bind", "source": "/tmp", "options": ["bind"]},
    ]
    for each in config["mounts"]:
        if each["destination"] == "/dev":
            each["options"].append("ro")
    script = (
        "ls -d /dev/null /dev/pts /run/below; pwd; for at in /dev /run; do touch $at/x && echo BAD;"
        " done; grep -E ' /(dev|run) ' /proc/self/mountinfo | cut -d' ' -f6 | cut -c1-3;"
        " echo >/dev/null"
    )
    code, out, err = run(
        made,
        script,
        config={"mounts": [*config["mounts"], *new], "root": {"path": str(made.rootfs)}},
        cwd="/run/work",
    )
    shown = "/dev/null /dev/pts /run/below /run/work ro, ro,".split()
    assert (code, out.split()) == (0, shown), err


def test_file_systems_are_named_as_they_are_asked_for(made: Bundles) -> None:
    new = {"destination": "/m", "type": "tmpfs", "source": "mine", "options": ["sync", "ro"]}
    _, out, _ = run(made, "cat /proc/self/mounts", config=mounts(made, new))
    lines = {line.split()[1]: line for line in out.splitlines()}
    assert lines["/proc"].startswith("proc /proc proc rw")
    assert lines["/sys"].startswith("sysfs /sys sysfs ro")
    assert lines["/m"].startswith("mine /m tmpfs ro,sync")


def test_tmpcopyup(made: Bundles) -> None:
    below = made.rootfs / "copied/sub"
    below.mkdir(parents=True)
    (below / "file").write_text("text")
    (below / "link").symlink_to("file")
    os.chown(below / "file", 7, 8)
    (below / "file").chmod(0o4755)
    new = {"destination": "/copied", "type": "tmpfs", "source": "tmpfs",
           "options": ["tmpcopyup", "nosuid"]}  # fmt: skip
    script = "cd /copied/sub; stat -c '%a %u %g' file; cat link; echo > more; stat -f -c %T ."
    code, out, err = run(made, script, config=mounts(made, new))
    assert (code, out.split()) == (0, ["4755", "7", "8", "texttmpfs"]), err
    assert not (below / "more").exists()
    shutil.rmtree(made.rootfs / "copied")


@pytest.mark.parametrize("place", ["/proc", "/proc/sys", "/into"])
def test_proc_cannot_be_covered(made: Bundles, place: str) -> None:
    """CVE-2019-16884: labels and masks are written and read through it."""
    link = made.rootfs / "into"
    if not link.is_symlink():
        link.symlink_to("proc/sys")
    new = {"destination": place, "type": "bind", "source": str(made.directory),
           "options": ["rbind"]}  # fmt: skip
    code, out, err = run(made, "echo got here", config=mounts(made, new))
    assert (code, out) == (1, "") and "cannot be mounted because it is" in err


def test_a_file_of_proc_can_be_covered(made: Bundles) -> None:
    (made.directory / "mine").write_text("1.00 1.00\n")
    new = {"destination": "/proc/uptime", "type": "bind", "source": str(made.directory / "mine"),
           "options": ["bind"]}  # fmt: skip
    assert run(made, "cat /proc/uptime", config=mounts(made, new))[1] == "1.00 1.00\n"


def test_proc_is_mounted_on_no_link(made: Bundles, tmp_path: Path) -> None:
    """CVE-2023-27561."""
    root = tmp_path / "root"
    shutil.copytree(made.rootfs, root, symlinks=True)
    (root / "proc").rmdir()
    (root / "proc").symlink_to("tmp")
    code, _, err = run(made, "true", config={"root": {"path": str(root)}})
    assert code == 1 and 'filesystem "proc" must be mounted on ordinary directory' in err


def test_scheduling(made: Bundles) -> None:
    script = "cut -d ' ' -f 19,41 /proc/self/stat; ionice"
    code, out, err = run(
        made,
        script,
        scheduler={"policy": "SCHED_BATCH", "nice": 5},
        ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 0},
    )
    assert (code, out.splitlines()) == (0, ["5 3", "idle"]), err


def test_the_execution_domain(made: Bundles) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86_64 has another name then")
    linux = {"personality": {"domain": "LINUX32"}}
    assert run(made, "uname -m", config={"linux": linux})[1] == "i686\n"


def test_processors_of_an_exec(made: Bundles) -> None:
    name = made.create("sleep", "60")
    process = json.loads((made.root / name / "config.json").read_text())["process"]
    process["args"] = ["grep", "Cpus_allowed_list", "/proc/self/status"]
    process |= {"cwd": "/", "user": {"uid": 0, "gid": 0}, "execCPUAffinity": {"final": "0"}}
    (made.directory / "p.json").write_text(json.dumps(process))
    done = made.call("exec", "--process", f"{made.directory}/p.json", name)
    assert done.stdout.split() == ["Cpus_allowed_list:", "0"], done.stderr


def _bound(*options: str) -> dict[str, Any]:
    return {"destination": "/m", "type": "bind", "source": "/tmp", "options": options}


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        ("1", {}),
        ("9.9.9", {}),
        ("1.0.0", {"linux": {"intelRdt": {"closID": "x"}}}),
        ("1.0.0", {"linux": {"devices": [{"path": "dev/q", "type": "c", "major": 1, "minor": 3}]}}),
        ("1.0.0", {"mounts": [_bound("bind", "sync", "lazytime", "ro")]}),
    ],
)
def test_what_runc_passes_over_is_no_error(
    made: Bundles, version: str, changes: dict[str, Any]
) -> None:
    code, out, _ = run(made, "echo got here", config={"ociVersion": version, **changes})
    assert (code, out) == (0, "got here\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"env": ["NOTHING"]}, 'invalid environment variable: "NOTHING"'),
        ({"env": ["=x"]}, 'invalid environment variable: "=x"'),
        ({"user": {"uid": -1, "gid": 0}}, "uids and gids must be in range"),
        ({"user": {"uid": 1 << 31, "gid": 0}}, "uids and gids must be in range"),
        ({"rlimits": [{"type": "RLIMIT_X", "hard": 1, "soft": 1}]}, "wrong rlimit value: RLIMIT_X"),
        ({"rlimits": [{"type": "RLIMIT_CORE", "hard": 1, "soft": 1}] * 2}, "RLIMIT_CORE twice"),
        ({"scheduler": {"policy": "SCHED_X"}}, "invalid scheduler policy"),
        ({"scheduler": {"policy": "SCHED_OTHER", "priority": 3}}, "scheduler.priority"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 9}}, "ioPriority.priority"),
        ({"execCPUAffinity": {"initial": "3-1"}}, "invalid CPU list"),
        ({"linux": {"personality": {"domain": "BSD"}}}, "unknown personality domain"),
        ({"linux": {"intelRdt": {"l3CacheSchema": "L3:0=f"}}}, "Intel RDT/CAT is not supported"),
        ({"linux": {"intelRdt": {"memBwSchema": "MB:0=9"}}}, "Intel RDT/MBA is not supported"),
        ({"mounts": [_bound("bind", "size=4k")]}, "filesystem-specific options applied: size=4k"),
        ({"mounts": [_bound("rbind", "ro", "hello")]}, "options applied: hello"),
        ({"mounts": [_bound("bind", "idmap")]}, "must have both uid and gid mappings"),
        ({"linux": {"namespaces": [{"type": "mount"}] * 2}}, "duplicated ns"),
        ({"linux": {"namespaces": [{"type": "mount"}]}}, "without a private UTS namespace"),
        ({"linux": {"namespaces": [{"type": "moon"}]}}, "does not exist"),
        ({"linux": {"sysctl": {"vm.swappiness": "1"}}}, "not in a separate kernel namespace"),
        ({"linux": {"sysctl": {"kernel.hostname": "x"}}}, "conflicts with the OCI"),
        ({"linux": {"devices": [{"path": "/dev/q", "type": "q"}]}}, "unknown type 'q'"),
        ({"linux": {"resources": {"network": {"classID": 5}}}}, "net_cls"),
        ({"hooks": {"poststop": [{"path": "bin/true"}]}}, "hook path must be absolute"),
        ({"hooks": {"poststop": [{"path": "/bin/true", "timeout": 0}]}}, "greater than zero"),
    ],
)
def test_what_makes_no_sense_is_refused(made: Bundles, changes: dict[str, Any], said: str) -> None:
    config = {key: changes[key] for key in ("linux", "hooks", "mounts") if key in changes}
    process = {key: value for key, value in changes.items() if key not in config}
    if "net_cls" in said and os.path.isdir("/sys/fs/cgroup/net_cls"):
        pytest.skip("this machine has net_cls")
    code, out, err = run(made, "echo got here", config=config, **process)
    assert (code, out) == (1, "") and said in err


@pytest.fixture
def link() -> Iterator[str]:
    """An interface with addresses and an MTU of its own, in this network namespace."""
    name, peer = f"nd{os.getpid()}", f"np{os.getpid()}"
    for command in (
        f"link add {name} type veth peer name {peer}",
        f"link set {peer} up",
        f"link set {name} mtu 1400 address 02:00:5e:00:53:01 up",
        f"addr add 192.0.2.9/28 dev {name}",
        f"addr add 169.254.7.7/16 scope link dev {name}",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    yield name
    # gone with the container's namespace, at a time of the kernel's own choice
    subprocess.run(["ip", "link", "del", peer], capture_output=True, check=False)


def _with_devices(devices: dict[str, Any], **more: Any) -> dict[str, Any]:
    kinds = ("mount", "uts", "ipc", "pid", "network")
    namespaces = [{"type": kind} for kind in kinds]
    return {"linux": {"namespaces": namespaces, "netDevices": devices}, **more}


def test_a_network_device_is_moved_and_keeps_its_addresses(made: Bundles, link: str) -> None:
    seen = made.directory / "links"
    hook = {
        "path": "/bin/sh",
        "args": [
            "sh",
            "-c",
            f"nsenter -t $(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/') -n ip -o link > {seen}",
        ],
    }
    config = _with_devices({link: {"name": "sriov0"}}, hooks={"createRuntime": [hook]})
    code, out, err = run(made, "ip addr show sriov0; ls /sys/class/net", config=config)
    assert code == 0, err
    assert "mtu 1400" in out and "02:00:5e:00:53:01" in out and ",UP" in out
    assert "192.0.2.9/28" in out and "169.254" not in out
    assert "sriov0" in seen.read_text()
    assert not os.path.exists(f"/sys/class/net/{link}")


def test_a_network_device_keeps_its_name(made: Bundles, link: str) -> None:
    code, out, err = run(made, f"ip addr show {link}", config=_with_devices({link: {}}))
    assert code == 0 and "192.0.2.9/28" in out, err


def test_a_refused_network_device_stays(made: Bundles, link: str) -> None:
    for devices, said in (
        ({link: {"name": "lo"}}, "a device named lo exists there"),
        ({link: {"name": "a/b"}}, "invalid network device name"),
        ({link: {"name": "n" * 16}}, "invalid network device name"),
        ({link: {"name": "e0"}, "lo": {"name": "e0"}}, "e0 twice"),
        ({"none-such": {}}, "none-such (linux.netDevices) does not exist"),
    ):
        code, out, err = run(made, "echo got here", config=_with_devices(devices))
        assert (code, out) == (1, "") and said in err
        assert os.path.exists(f"/sys/class/net/{link}")
    config = _with_devices({link: {}})
    del config["linux"]["namespaces"][-1]
    code, out, err = run(made, "echo got here", config=config)
    assert (code, out) == (1, "") and "without a private NET namespace" in err


def test_a_mount_may_lie_beneath_the_control_groups(made: Bundles) -> None:
    (made.directory / "over").mkdir()
    (made.directory / "over/seen").touch()
    group = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
    place = next((n for n in ("memory", "pids") if os.path.isdir(f"/sys/fs/cgroup/{n}")), "")
    if not place:
        pytest.skip("no hierarchies of version 1 here")
    over = {"destination": f"/sys/fs/cgroup/{place}", "source": f"{made.directory}/over",
            "type": "bind", "options": ["bind"]}  # fmt: skip
    config = mounts(made, over)
    if not any(mount["type"] == "cgroup" for mount in config["mounts"]):
        config = mounts(made, group, over)
    code, out, err = run(made, f"ls /sys/fs/cgroup/{place}", config=config)
    assert (code, out) == (0, "seen\n"), err


def test_a_later_mount_covers_the_control_groups(made: Bundles) -> None:
    """As ``-v /sys:/sys`` of an engine does: what is listed last is what is seen."""
    (made.directory / "sys/fs/cgroup").mkdir(parents=True)
    (made.directory / "sys/fs/cgroup/seen").touch()
    group = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
    over = {"destination": "/sys", "source": f"{made.directory}/sys", "type": "bind",
            "options": ["bind"]}  # fmt: skip
    config = mounts(made, group, over)
    code, out, err = run(made, "ls /sys/fs/cgroup", config=config)
    assert (code, out) == (0, "seen\n"), err


def test_a_sysctl_may_be_a_path(made: Bundles) -> None:
    linux = {"sysctl": {"net/ipv4/ip_forward": "1"}}
    assert run(made, "cat /proc/sys/net/ipv4/ip_forward", config={"linux": linux})[1] == "1\n"


def test_hooks_at_start_run_when_it_is_started(made: Bundles) -> None:
    command = "cat > /tmp/hooked"
    hooks = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", command]}]}
    name = made.create("cat", "/tmp/hooked", config={"hooks": hooks})
    seen = made.rootfs / "tmp/hooked"
    assert not seen.exists() and made.state(name)["status"] == "created"
    assert made.call("start", name).returncode == 0
    assert json.loads(seen.read_text())["status"] == "created"
    seen.unlink()


def test_a_hook_that_fails_at_start_stops_the_container(made: Bundles) -> None:
    hooks = {"startContainer": [{"path": "/bin/false"}]}
    name = made.create("sleep", "60", config={"hooks": hooks})
    done = made.call("start", name)
    assert done.returncode == 1 and "error running startContainer hook #0" in done.stderr
    made.until(name, "stopped")


def test_start_reports_why_execve_failed(made: Bundles) -> None:
    (made.rootfs / "bin/bad").write_text("no program")
    (made.rootfs / "bin/bad").chmod(0o755)
    name = made.create("/bin/bad")
    done = made.call("start", name)
    assert done.returncode == 1 and "exec format error" in done.stderr
    made.until(name, "stopped")


def test_a_created_container_can_be_ended_and_paused(made: Bundles) -> None:
    name = made.create("sleep", "60")
    assert made.call("kill", name, "0").returncode == 0
    assert made.call("pause", name).returncode == 0
    assert made.state(name)["status"] == "paused"
    assert "in the paused state" in made.call("start", name).stderr
    assert made.call("resume", name).returncode == 0
    assert made.call("kill", name, "TERM").returncode == 0
    made.until(name, "stopped")
    assert "container not running" in made.call("kill", name, "0").stderr


def test_too_little_memory_is_named(made: Bundles) -> None:
    config = {"linux": {"resources": {"memory": {"limit": 4096}}}}
    code, _, err = run(made, "true", config=config)
    # or it is killed just after execve(2)
    assert code == 137 or (code == 1 and "memory limit too low?" in err), (code, err)


def test_an_agent_decides_on_system_calls(made: Bundles) -> None:
    """SCMP_ACT_NOTIFY: the agent at ``listenerPath`` gets the descriptor and the state."""
    path = str(made.directory / "agent.sock")
    told: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        agent = threading.Thread(target=refuse_all, args=(listener, told), daemon=True)
        agent.start()
        seccomp = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "about",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        }
        config = {"linux": {"seccomp": seccomp}, "annotations": {"a": "b"}}
        code, _, err = run(made, "mkdir /tmp/new", config=config)
        agent.join(30)
    assert code == 1 and "No medium found" in err
    assert told[0]["fds"] == ["seccompFd"] and told[0]["metadata"] == "about"
    assert told[0]["state"]["status"] == "creating" and told[0]["state"]["annotations"] == {
        "a": "b"
    }
    assert told[0]["pid"] == told[0]["state"]["pid"] > 0


def test_a_creation_that_was_killed_can_be_deleted(made: Bundles) -> None:
    mark = made.directory / "hooked"
    os.mkfifo(mark)
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"echo > {mark}; cat {mark}"]}
    bundle = made.bundle("sleep", "60", config={"hooks": {"createRuntime": [hook]}})
    name = made.name()
    command = [*OURS, "--root", str(made.root), "create", "--bundle", str(bundle), name]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as creating:
        mark.read_text()  # the hook is there
        assert made.state(name)["status"] == "creating"
        assert "still being created" in made.call("start", name).stderr
        creating.kill()
    mark.write_text("on")  # the hook ends
    made.until(name, "stopped")
    assert made.call("delete", name).returncode == 0
    assert not Cgroup(f"/portside-t{os.getpid()}/{bundle.name}").exists()


def test_sockets_of_systemd_are_passed_on(made: Bundles) -> None:
    bundle = made.bundle("sh", "-c", "env | grep LISTEN | sort; ls /proc/self/fd")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "LISTEN_FDS": "1"}
    with open("/etc/hostname") as file:
        os.dup2(file.fileno(), 3) if file.fileno() != 3 else None
        done = made.call("run", made.name(), cwd=bundle, pass_fds=(3,), env=environment)
    assert done.stdout.split() == ["LISTEN_FDS=1", "LISTEN_PID=1", "0", "1", "2", "3", "4"]


def test_poststop_hooks_follow_a_creation_that_failed(made: Bundles) -> None:
    seen = made.directory / "poststop"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {seen}"]}
    code, _, err = run(made, "true", config={"hooks": {"poststop": [hook]}}, args=["no-such"])
    assert code == 1 and "executable file not found" in err
    assert json.loads(seen.read_text())["status"] == "stopped"


def test_a_pidfd_for_the_caller(made: Bundles) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(made.directory / "pidfd")
        listener.bind(path)
        listener.listen()
        name = made.create("sleep", "60", options=("--pidfd-socket", path))
        with listener.accept()[0] as connection:
            _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    text = Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
    os.close(fds[0])
    assert f"Pid:\t{made.state(name)['pid']}\n" in text


def test_exec_in_a_group_below(made: Bundles) -> None:
    name = made.create("sleep", "60")
    saved = json.loads((made.root / name / "state.json").read_text())
    group = Cgroup(saved["cgroup"])
    below = [f"{directory}/below" for directory in group.directories()]
    for directory in below:
        os.mkdir(directory)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if "/cpuset/" in directory:
                above = Path(directory).parent / file
                (Path(directory) / file).write_text(above.read_text())
    command = (name, "sh", "-c", "cat /proc/self/cgroup")
    done = made.call("exec", "--cgroup", "below", *command)
    assert {line.rpartition(":")[2] for line in done.stdout.splitlines()} == {"/below"}, done.stderr
    for bad in ("nowhere", "..", "../.."):
        done = made.call("exec", "--cgroup", bad, *command)
        assert done.returncode == 255 and "not a sub cgroup path" in done.stderr


def test_figures_and_features_have_runcs_shape(made: Bundles) -> None:
    name = made.create("sleep", "60")
    figures = json.loads(made.call("events", "--stats", name).stdout)["data"]
    assert 0 in figures["cpuset"]["cpus"] or figures["cpuset"]["cpus"] == []
    members = "blkio cpu cpuset hugetlb intel_rdt memory network_interfaces pids".split()
    assert sorted(figures) == members
    features = json.loads(made.call("features").stdout)
    assert features["linux"]["intelRdt"] == {"enabled": False}
    assert {"tmpcopyup", "rro", "sync"} <= set(features["mountOptions"])


def test_exec_is_like_the_containers_process(made: Bundles) -> None:
    name = made.create("sleep", "60", oomScoreAdj=321)
    assert made.call("exec", name, "cat", "/proc/self/oom_score_adj").stdout == "321\n"
    said = message(made.call("exec", name, "").stderr)
    assert 'exec: "": executable file not found in $PATH' in said
    assert "Cwd must be an absolute path" in made.call("exec", "--cwd", "x", name, "true").stderr
