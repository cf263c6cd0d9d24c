"""AppArmor, where the kernel has it: containers live under a profile, unless set otherwise."""

from __future__ import annotations

import shutil
import socket as socketlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from portside.kernel import apparmor

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"
LABEL = "cat /proc/self/attr/current"


def _is_on() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().startswith("Y")
    except OSError:
        return False


needs_apparmor = pytest.mark.skipif(not _is_on(), reason="needs a kernel with AppArmor on")


@needs_apparmor
def test_containers_and_execs_are_confined(docker: Docker) -> None:
    docker("run", "-d", "--name", "confined", BASE, "sleep", "1000")
    try:
        assert docker("exec", "confined", *LABEL.split()).stdout.strip() == (
            "portside-default (enforce)"
        )
        field = docker("inspect", "-f", "{{.AppArmorProfile}}", "confined").stdout.strip()
        assert field == "portside-default"
    finally:
        docker("rm", "-f", "confined")
    for option in ("--init", "--security-opt=no-new-privileges"):
        done = docker("run", "--rm", option, BASE, *LABEL.split())
        assert done.stdout.strip() == "portside-default (enforce)", option
    first = docker("run", "--rm", "--init", BASE, "cat", "/proc/1/attr/current")
    assert first.stdout.strip() == "portside-default (enforce)"


@needs_apparmor
def test_a_capability_does_not_undo_it(docker: Docker) -> None:
    mount = ("--cap-add", "SYS_ADMIN", BASE, "mount", "-t", "tmpfs", "x", "/mnt")
    assert docker("run", "--rm", *mount, check=False).returncode != 0
    docker("run", "--rm", "--security-opt", "apparmor=unconfined", *mount)


@needs_apparmor
def test_unconfined_and_unknown(docker: Docker) -> None:
    assert docker("run", "--rm", "--privileged", BASE, *LABEL.split()).stdout == "unconfined\n"
    option = "apparmor=no-such-profile"
    done = docker("run", "--rm", "--security-opt", option, BASE, "true", check=False)
    assert done.returncode == 125
    assert "'no-such-profile': it is not loaded" in done.stderr
    docker("create", "--name", "profiled", "--security-opt", option, BASE, "true")
    try:
        before = docker("events", "--since", "0", "--until", "0s", "--filter", "type=network")
        done = docker("start", "profiled", check=False)
        assert done.returncode != 0
        assert "'no-such-profile': it is not loaded" in done.stderr
        after = docker("events", "--since", "0", "--until", "0s", "--filter", "type=network")
        assert after.stdout == before.stdout  # it was refused before it had a network
    finally:
        docker("rm", "-f", "profiled")
    option = "apparmor=docker-default"
    done = docker("run", "--rm", "--security-opt", option, BASE, *LABEL.split())
    assert done.stdout.split()[0] in ("docker-default", "portside-default")


DENIED = """\
mount -t tmpfs x /mnt
mount --bind /etc /mnt
mount -o remount,rw /
echo 1 > /proc/sysrq-trigger
cat /proc/kcore
echo 1 > /proc/sys/vm/drop_caches
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/fs/suid_dumpable
echo 1 > /proc/sys/kernel/panic
echo x > /proc/sys/kernel/core_pattern
echo 1 > /proc/sys/kernel/sysrq
echo x > /proc/sys/kernel/modprobe
echo x > /proc/sys/kernel/msgmax
echo 0 > /proc/sys/kernel/shell_is_not_there
echo 0 > /proc/timer_list
echo 0 > /proc/irq/default_smp_affinity
echo 0 > /sys/kernel/mm/transparent_hugepage/enabled
echo 0 > /sys/module/printk/parameters/time
echo 1 > /sys/block/vda/uevent
echo add > /sys/class/net/lo/uevent
echo 0 > /sys/fs/ext4/no_such_file
echo 1 > /proc/sys/kernel/shmmax_not
echo 1 > /proc/latency_stats
cat /sys/firmware/memmap/0/start
ls /sys/kernel/security/apparmor
ls /sys/firmware/acpi"""


ALLOWED = """\
cat /proc/1/status
cat /proc/meminfo
echo 5 > /proc/$$/oom_adj
echo x > /root/x
kill -0 1
ls /sys/class/net
ls /sys/fs/cgroup
umount /mnt"""


@needs_apparmor
def test_what_it_denies_to_a_container_with_everything_else_open(docker: Docker) -> None:
    """With every capability, no seccomp and open paths the profile alone is left; without it most
    of these work, so that it is the profile which is tested."""
    lines = DENIED.splitlines()
    script = "\n".join(f"({line}) >/dev/null 2>&1 && echo 'DONE {line}'" for line in lines)
    options = ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined",
               "--security-opt", "systempaths=unconfined")  # fmt: skip
    ready = "mount -o remount,rw /sys; mount -o remount,rw /proc/sys; true"
    done = docker("run", "--rm", *options, BASE, "sh", "-c", f"{script}\ntrue")
    assert done.stdout == ""
    free = ("--security-opt", "apparmor=unconfined")
    safe = [line for line in lines if line.startswith(("mount -t", "mount --bind", "ls"))]
    script = "\n".join(f"({line}) >/dev/null 2>&1 && echo 'DONE {line}'" for line in safe)
    done = docker("run", "--rm", *options, *free, BASE, "sh", "-c", f"{ready}\n{script}\ntrue")
    assert len(done.stdout.splitlines()) >= 3


def _let_dockerd_load_it(place: str) -> None:
    """dockerd waits 15 s for the containerd that it starts, which is too short where the processor
    is emulated: it gets one that is ready."""
    socket = f"{place}/c.sock"
    containerd = ["containerd", "--root", f"{place}/c", "--state", f"{place}/cs", "-a", socket]
    dockerd = ["dockerd", "--data-root", f"{place}/d", "--exec-root", f"{place}/x", "-p",
               f"{place}/pid", "-H", f"unix://{place}/s", "--bridge", "none", "--iptables=false",
               "--storage-driver", "vfs", "--containerd", socket]  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []
    with open(f"{place}/log", "wb") as log:
        try:
            started.append(subprocess.Popen(containerd, stdout=log, stderr=log))
            _await(lambda: _answers(socket), started[-1])
            started.append(subprocess.Popen(dockerd, stdout=log, stderr=log))
            _await(lambda: apparmor.is_loaded("docker-default"), started[-1])
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(120)
    if not apparmor.is_loaded("docker-default"):
        pytest.skip(f"dockerd loaded no profile: {Path(f'{place}/log').read_text()[-900:]}")


def _answers(path: str) -> bool:
    with socketlib.socket(socketlib.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


def _await(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Until it holds, the process has ended, or five minutes are over."""
    deadline = time.monotonic() + 300
    while not holds() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)


@pytest.fixture(scope="module")
def docker_default() -> Iterator[None]:
    """Docker's own profile, loaded by a dockerd that is ended again; it stays in the kernel."""
    if not shutil.which("dockerd") or not shutil.which("containerd"):
        pytest.skip("no dockerd with its containerd")
    if not apparmor.is_loaded("docker-default"):
        place = tempfile.mkdtemp(prefix="ps-", dir="/tmp")
        try:
            _let_dockerd_load_it(place)
        finally:
            for mount in (f"{place}/d", f"{place}/x"):  # dockerd mounts them over themselves
                subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
            shutil.rmtree(place, ignore_errors=True)
    yield


@needs_apparmor
def test_as_strict_as_dockers(docker: Docker, docker_default: None) -> None:
    """The same operations are denied, and the same are allowed, with either profile."""
    lines = (*DENIED.splitlines(), *ALLOWED.splitlines())
    script = "mount -t tmpfs x /mnt 2>/dev/null; " + "\n".join(
        f"({line}) >/dev/null 2>/tmp/said && echo 'DONE {line}' || "
        f"echo \"FAILED {line}: $(tail -c 60 /tmp/said | tr '\\n' ' ')\""
        for line in lines
    )
    found = {}
    for profile in ("portside-default", "docker-default"):
        options = ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined", "--security-opt",
                   "systempaths=unconfined", "--security-opt", f"apparmor={profile}")  # fmt: skip
        done = docker("run", "--rm", *options, BASE, "sh", "-c", script)
        found[profile] = done.stdout.replace(profile, "PROFILE").splitlines()
    assert found["portside-default"] == found["docker-default"]
    assert sum(line.startswith("FAILED") for line in found["docker-default"]) >= 21


@needs_apparmor
def test_what_it_leaves_alone(docker: Docker) -> None:
    script = (
        "set -e; echo 5 > /proc/self/oom_score_adj; kill -0 1; sleep 9 & kill $!; "
        "ls /proc /sys/fs/cgroup /sys/class > /dev/null; umount /mnt 2>/dev/null || true; "
        "echo x > /tmp/x; echo $$ > /dev/null; cat /proc/1/cmdline > /dev/null"
    )
    docker("run", "--rm", "--cap-add", "ALL", BASE, "sh", "-c", script)


@pytest.mark.skipif(_is_on(), reason="needs a kernel without AppArmor")
def test_without_it_a_profile_is_of_no_consequence(docker: Docker) -> None:
    docker("run", "--rm", "--security-opt", "apparmor=unconfined", BASE, "true")
    assert "apparmor" not in docker("info", "-f", "{{.SecurityOptions}}").stdout
