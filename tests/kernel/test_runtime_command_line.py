"""``portside-runtime`` as other engines call it, and beside runc's command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundlekit import OURS, SOURCE, Bundles, bundles
from runtimekit import is_root

from portside.kernel.cgroup import Cgroup

pytestmark = pytest.mark.skipif(not is_root(), reason="containers need root here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    with bundles(tmp_path_factory.mktemp("oci")) as found:
        yield found


def test_a_whole_life(made: Bundles) -> None:
    pid_file = made.directory / "pid"
    script = "echo started; trap 'exit 7' TERM; while :; do sleep 0.05; done"
    name = made.create("sh", "-c", script, options=("--pid-file", str(pid_file)))
    created = made.state(name)
    assert (created["id"], created["status"]) == (name, "created")
    assert created["pid"] == int(pid_file.read_text())
    assert created["rootfs"] == str(made.rootfs) and created["created"].endswith("Z")
    assert made.call("start", name).returncode == 0
    assert made.state(name)["status"] == "running"
    assert "cannot start an already running container" in made.call("start", name).stderr
    assert json.loads(made.call("ps", "--format", "json", name).stdout)[0] == created["pid"]
    assert "sh -c" in made.call("ps", name).stdout
    assert name in made.call("list", "-q").stdout.split()
    assert "cannot delete container" in made.call("delete", name).stderr
    assert made.call("pause", name).returncode == 0
    assert made.state(name)["status"] == "paused"
    assert "cannot exec in a paused" in made.call("exec", name, "true").stderr
    assert made.call("resume", name).returncode == 0
    assert made.call("kill", name, "SIGKILL").returncode == 0
    made.until(name, "stopped")
    assert "container not running" in made.call("kill", name, "TERM").stderr
    assert made.call("delete", name).returncode == 0
    assert "container does not exist" in made.call("state", name).stderr


def test_run_in_the_foreground(made: Bundles) -> None:
    bundle = made.bundle("sh", "-c", "cat; echo err >&2; exit 9")
    with (made.directory / "in").open("w+") as file:
        file.write("typed\n")
        file.seek(0)
        done = made.call("run", made.name(), cwd=bundle, stdin=file)
    assert (done.returncode, done.stdout, done.stderr) == (9, "typed\n", "err\n")


def test_run_passes_signals(made: Bundles) -> None:
    bundle = made.bundle("sh", "-c", "trap 'exit 4' USR1; echo up; while :; do sleep 0.05; done")
    command = [*OURS, "--root", str(made.root), "run", "--bundle", str(bundle), made.name()]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 4


def test_exec(made: Bundles) -> None:
    name = made.create("sleep", "60")
    made.call("start", name)
    done = made.call(
        "exec", "--cwd", "/tmp", "-e", "B=2", "-u", "1000:10", name, "sh", "-c", "pwd; echo $B; id"
    )
    assert done.stdout.splitlines()[:2] == ["/tmp", "2"]
    assert "uid=1000(bob) gid=10(wheel)" in done.stdout
    assert made.call("exec", name, "sh", "-c", "exit 6").returncode == 6
    missing = made.call("exec", name, "nothing-here")
    assert missing.returncode == 255
    assert 'exec: \\"nothing-here\\": executable file not found in $PATH' in missing.stderr
    process = {"args": ["sh", "-c", "echo $A"], "env": ["A=file", "PATH=/bin"], "cwd": "/",
               "user": {"uid": 0, "gid": 0}}  # fmt: skip
    (made.directory / "process.json").write_text(json.dumps(process))
    done = made.call("exec", "--process", str(made.directory / "process.json"), name)
    assert done.stdout == "file\n"
    done = made.call(
        "exec", "--detach", "--pid-file", f"{made.directory}/xpid", name, "sleep", "50"
    )
    assert done.returncode == 0
    pid = int((made.directory / "xpid").read_text())
    assert pid in json.loads(made.call("ps", "--format", "json", name).stdout)
    for words, said in (
        (("ps", "--format", "xml", name), "invalid format option"),
        (("ps", name, "--no-such-option"), "exit status 1: "),
        (("exec", "--console-socket", "/x", name, "true"), "cannot use console socket"),
        (("exec", "--detach", "--tty", name, "true"), "cannot allocate tty"),
        (("update", "--memory", "-5", name), "invalid value for memory: invalid size: '-5'"),
        (("update", "--cpu-share", "1", name), "the minimum allowed cpu-shares is 2"),
    ):
        refused = made.call(*words)
        assert refused.returncode in (1, 255) and said in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    [listed] = [one for one in json.loads(made.call("list", "--format", "json").stdout)
                if one["id"] == name]  # fmt: skip
    assert listed["owner"] == "root"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", listed["created"])


def test_no_descriptor_reaches_the_container_but_what_is_preserved(made: Bundles) -> None:
    command = ("sh", "-c", "ls /proc/self/fd | tr '\\n' ' '")
    with open("/etc/hostname") as file:
        os.dup2(file.fileno(), 3) if file.fileno() != 3 else None
        assert made.call("run", made.name(), cwd=made.bundle(*command), pass_fds=(3,)).stdout == (
            "0 1 2 3 "
        )
        done = made.call(
            "run",
            "--preserve-fds",
            "1",
            made.name(),
            cwd=made.bundle("sh", "-c", "cat <&3"),
            pass_fds=(3,),
        )
    assert done.stdout == Path("/etc/hostname").read_text()
    name = made.create("sleep", "100")
    done = made.call("exec", "--preserve-fds", "20", name, "true")
    assert (done.returncode, "unable to stat preserved-fd 3 (of 20)" in done.stderr) == (255, True)
    done = made.call("exec", "-g", "x", name, "true")
    assert "for flag -g: strconv.ParseInt" in done.stderr


def test_a_console_socket(made: Bundles) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = made.directory / "console"
        listener.bind(str(path))
        listener.listen()
        name = made.create("tty", options=("--console-socket", str(path)), terminal=True)
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    assert made.call("start", name).returncode == 0
    assert os.read(fds[0], 100) == b"/dev/pts/0\r\n"
    os.close(fds[0])


def test_terminals_need_a_console_socket(made: Bundles) -> None:
    bundle = made.bundle("tty", terminal=True)
    done = made.call("create", "--bundle", str(bundle), "nope")
    assert "cannot allocate tty" in done.stderr
    bundle = made.bundle("true")
    done = made.call("create", "--bundle", str(bundle), "--console-socket", "/x", "nope")
    assert "cannot use console socket" in done.stderr


def test_errors_are_logged_as_engines_read_them(made: Bundles) -> None:
    log = made.directory / "log.json"
    bundle = made.bundle("nothing-here")
    done = made.call(
        "--log", str(log), "--log-format", "json", "create", "--bundle", str(bundle), made.name()
    )
    assert done.returncode == 1
    entry = json.loads(log.read_text().splitlines()[-1])
    assert entry["level"] == "error"
    assert 'exec: "nothing-here": executable file not found in $PATH' in entry["msg"]
    assert entry["msg"] in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--bundle", "/no/such", "x"), "config.json not found"),
        (("create", "../x"), "invalid container ID"),
        (("state", "no-such"), "container does not exist"),
        (("kill", "--moon", "x"), "flag provided but not defined: --moon"),
        (("start",), '"start" requires exactly 1 argument'),
        (("start", ""), "container id cannot be empty"),
        (("state", "a", "b"), '"state" requires exactly 1 argument'),
        (("list", "--format", "xml"), "invalid format option"),
        (("--log-format", "xml", "list"), "invalid log-format: xml"),
        (("checkpoint", "x"), "not supported"),
        (("create", "--preserve-fds", "20", "x"), "unable to stat preserved-fd 3 (of 20)"),
    ],
)
def test_bad_calls(made: Bundles, arguments: tuple[str, ...], said: str) -> None:
    done = made.call(*arguments)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize("arguments", [("dance",), ("dance", "--help"), ("help", "dance")])
def test_unknown_verbs(made: Bundles, arguments: tuple[str, ...]) -> None:
    """runc's words and status; its log gets them as well."""
    done = made.call(*arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.rstrip().endswith("level=error msg=\"No help topic for 'dance'\"")
    log = made.directory / "unknown-verb.log"
    assert made.call("--log", str(log), *arguments).returncode == 3
    assert "No help topic for 'dance'" in log.read_text()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json"),
        ("{}", "process property must not be empty"),
        ('{"ociVersion": "1.0.0"}', "process property must not be empty"),
        ('{"ociVersion": "1.0.0", "process": {"cwd": "/"}}', "process.args must not be empty"),
        ('{"ociVersion": "1.0.0", "process": {"args": ["a"], "cwd": "/"}}', "root is missing"),
        ('{"ociVersion": "1.0.0", "process": {"args": ["a"], "cwd": "x"}, "root": {"path": "/"}, '
         '"linux": {}}', "absolute"),
        ('{"ociVersion": "1.0.0", "process": {"args": ["a"], "cwd": "/"}, '
         '"root": {"path": "/no/such"}, "linux": {}}', "invalid rootfs"),
        ('{"ociVersion": "1.0.0", "process": {"args": ["a"], "cwd": "/"}, "root": {"path": "/"}, '
         '"linux": {}, "mounts": [{"destination": "", "type": "tmpfs"}]}',
         "mounts[0]: the destination is empty"),
    ],
)  # fmt: skip
def test_bad_bundles(made: Bundles, config: str, said: str) -> None:
    place = made.bundle("true")
    (place / "config.json").write_text(config)
    name = made.name()
    done = made.call("create", "--bundle", str(place), name)
    assert done.returncode == 1 and said in done.stderr
    assert not (made.root / name).exists()


def test_the_same_name_twice(made: Bundles) -> None:
    name = made.create("sleep", "60")
    done = made.call("create", "--bundle", str(made.bundle("true")), name)
    assert "container with given ID already exists" in done.stderr
    assert made.state(name)["status"] == "created"


def test_limits_events_and_update(made: Bundles) -> None:
    limits = {"resources": {"pids": {"limit": 33}, "memory": {"limit": 64 << 20}}}
    name = made.create("sleep", "60", config={"linux": limits})
    made.call("start", name)
    found = json.loads(made.call("events", "--stats", name).stdout)
    assert (found["type"], found["id"]) == ("stats", name)
    assert found["data"]["pids"]["limit"] == 33
    assert found["data"]["memory"]["usage"]["limit"] == 64 << 20
    assert made.call("update", "--pids-limit", "44", "--memory", "80m", name).returncode == 0
    (made.directory / "r.json").write_text('{"cpu": {"shares": 512}}')
    assert made.call("update", "--resources", f"{made.directory}/r.json", name).returncode == 0
    found = json.loads(made.call("events", "--stats", name).stdout)
    assert found["data"]["pids"]["limit"] == 44
    assert found["data"]["memory"]["usage"]["limit"] == 80 << 20


def test_hooks(made: Bundles) -> None:
    place = made.directory / "order"
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    hooks = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat >> {place}; echo {kind} >> {place}"]}]
        for kind in kinds
    }
    hooks["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", "echo in > /mark"],
                                "env": ["PATH=/bin"]}]  # fmt: skip
    name = made.create("cat", "/mark", config={"hooks": hooks})
    made.call("start", name)
    made.until(name, "stopped")
    made.call("delete", name)
    lines = place.read_text().replace("}", "}\n").splitlines()
    assert [line for line in lines if line in kinds] == list(kinds)
    states = [json.loads(line)["status"] for line in lines if line.startswith("{")]
    assert states == ["creating", "creating", "creating", "running", "stopped"]


def test_a_hooks_timeout_counts_from_its_start(made: Bundles) -> None:
    script = "while echo still here; do sleep 0.1; done"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}
    bundle = made.bundle("true", config={"hooks": {"createRuntime": [hook]}})
    name = made.name()
    done = made.call("run", "--bundle", str(bundle), name)
    assert done.returncode == 1
    assert "hook ran past specified timeout of 1.0s" in done.stderr
    assert not (made.root / name).exists()


def test_a_failed_hook_leaves_nothing(made: Bundles) -> None:
    hooks = {"createRuntime": [{"path": "/bin/false"}]}
    bundle = made.bundle("true", config={"hooks": hooks})
    name = made.name()
    done = made.call("create", "--bundle", str(bundle), name)
    assert "error running createRuntime hook #0" in done.stderr
    assert not (made.root / name).exists()
    assert not Cgroup(f"/portside-t{os.getpid()}/{bundle.name}").exists()


def test_a_user_namespace(made: Bundles) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    kinds = ("pid", "network", "ipc", "uts", "cgroup", "mount", "user")
    linux = {
        "namespaces": [{"type": kind} for kind in kinds],
        "uidMappings": mapping,
        "gidMappings": mapping,
    }
    made.directory.chmod(0o755)
    bundle = made.bundle("sh", "-c", "id -u; cat /proc/self/uid_map", config={"linux": linux})
    done = made.call("run", made.name(), cwd=bundle)
    assert done.stdout.split() == ["0", "0", "100000", "65536"], done.stderr


def test_systemds_names_of_groups(made: Bundles) -> None:
    from portside.runtime.oci.bundle import cgroup_path
    from portside.runtime.oci.spec_file import read_spec

    spec = read_spec(f"{made.bundle('true')}/config.json")
    assert spec.linux is not None
    spec.linux.cgroups_path = "machine-a.slice:libpod:abc"
    assert cgroup_path(spec, "x", True) == "/machine.slice/machine-a.slice/libpod-abc.scope"
    spec.linux.cgroups_path = ""
    assert cgroup_path(spec, "x", True) == "/system.slice/portside-x.scope"
    assert cgroup_path(spec, "x", False) == "/x"


def test_describing(made: Bundles) -> None:
    features = json.loads(made.call("features").stdout)
    assert "user" in features["linux"]["namespaces"]
    assert features["ociVersionMin"] == "1.0.0"
    assert made.call("--version").stdout.startswith("portside-runtime version ")


@pytest.mark.skipif(not shutil.which("runc"), reason="runc is not installed")
def test_beside_runc(made: Bundles) -> None:
    """The same calls have the same outcome with both."""
    answers = []
    for runtime in (OURS, ["runc"]):
        name = made.name()
        bundle = made.bundle("sh", "-c", "id; echo $HOME; pwd; ls /; exit 5")
        run = made.call("run", "--bundle", str(bundle), name, runtime=runtime)
        gone = made.call("state", name, runtime=runtime)
        name = made.name()
        bundle = made.bundle("sleep", "60")
        created = made.call("create", "--bundle", str(bundle), name, runtime=runtime)
        state = json.loads(made.call("state", name, runtime=runtime).stdout)
        made.call("start", name, runtime=runtime)
        listed = made.call("exec", name, "ls", "-l", "/dev", runtime=runtime)
        held = made.call("exec", name, "grep", "Cap", "/proc/1/status", runtime=runtime)
        made.call("delete", "--force", name, runtime=runtime)
        kinds = sorted((line[:10], line.split()[-1]) for line in listed.stdout.splitlines()[1:])
        answers.append((run.returncode, run.stdout, gone.returncode, created.returncode,
                        sorted(state), held.stdout, kinds))  # fmt: skip
    assert answers[0] == answers[1]
