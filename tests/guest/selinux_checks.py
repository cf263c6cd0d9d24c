"""Runs inside the guest, as root, booted with ``security=selinux selinux=1 enforcing=0``.

Loads the policy of ``selinux_policy.py``, enforces it, starts an engine with SELinux on and looks
at what the kernel says of its containers. Prints ``ok NAME`` or ``FAIL NAME: what was found``.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import selinux_policy  # noqa: E402

PORTSIDE = str(HERE.parent.parent / "portside")
BASE = "portside/base"
FILE = f"system_u:object_r:{selinux_policy.FILE}"
NAMES = ("one", "two")
PRIVATE, SHARED, PLAIN = Path("/srv/private"), Path("/srv/shared"), Path("/srv/plain")


def prepare() -> None:
    for place in ("/tmp", "/run", "/var/lib/portside"):
        os.makedirs(place, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/srv"], check=True)
    subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", "/sys/fs/selinux"], check=True)
    selinux_policy.load(Path("/tmp"))
    Path("/sys/fs/selinux/enforce").write_text("1")
    for directory in (PRIVATE, SHARED, PLAIN):
        directory.mkdir()
        (directory / "inner").mkdir()
        (directory / "inner/file").write_text("content")
        (directory / "link").symlink_to("/etc/passwd")


def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [PORTSIDE, *words], capture_output=True, text=True, timeout=200, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{words}: {done.returncode} {done.stderr}")
    return done


def inspected(name: str) -> dict[str, object]:
    return dict(json.loads(run("inspect", name).stdout)[0])


def pid_of(name: str) -> int:
    return int(run("inspect", "-f", "{{.State.Pid}}", name).stdout)


def label_of(path: str | Path) -> str:
    return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()


def process_label(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")


def denials() -> list[str]:
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return [line for line in log.splitlines() if "avc:  denied" in line]


def equal(found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"{found!r}, wanted {wanted!r}")


def start_engine() -> subprocess.Popen[bytes]:
    with open("/tmp/engine.log", "ab") as log:
        engine = subprocess.Popen([PORTSIDE, "daemon", "--selinux-enabled"], stdout=log, stderr=log)
    for _ in range(400):  # the socket first: a command without an engine would start one
        if (
            os.path.exists("/run/portside/portside.sock")
            and run("version", check=False).returncode == 0
        ):
            return engine
        time.sleep(0.5)
    raise AssertionError(Path("/tmp/engine.log").read_text())


def two_containers() -> None:
    """Of one image, with what they share and what is one's alone."""
    command = ("-v", f"{SHARED}:/shared:z", "-v", "vol:/vol", BASE, "sleep", "100000")
    run("run", "-d", "--name", "one", "-v", f"{PRIVATE}:/data:Z", "-v", f"{PLAIN}:/plain",
        "--tmpfs", "/memory", *command)  # fmt: skip
    run("run", "-d", "--name", "two", "-v", f"{PRIVATE}:/data", *command)


def labels_of_processes() -> None:
    seen = set()
    for name in NAMES:
        found = inspected(name)
        equal(process_label(pid_of(name)), found["ProcessLabel"])
        own = str(found["ProcessLabel"])
        assert own.startswith(f"system_u:system_r:{selinux_policy.PROCESS}:s0:c"), own
        equal(run("exec", name, "cat", "/proc/self/attr/current").stdout.rstrip("\0\n"), own)
        equal(str(found["MountLabel"]).rpartition(f"{FILE}:")[2], own.split(":", 3)[3])
        seen.add(own)
    equal(len(seen), 2)


def labels_of_files() -> None:
    label, root = str(inspected("one")["MountLabel"]), f"/proc/{pid_of('one')}/root"
    for path in ("/", "/bin/busybox", "/dev", "/dev/null", "/dev/pts", "/dev/shm", "/memory",
                 "/dev/mqueue", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
                 "/sys/firmware", "/data", "/data/inner/file"):  # fmt: skip
        if os.path.exists(root + path):
            equal((path, label_of(root + path)), (path, label))
    run("exec", "one", "sh", "-c", "echo x > /new; echo x > /memory/new; echo x > /vol/new")
    equal(label_of(f"{root}/new"), label)
    equal(label_of(f"{root}/vol/new"), f"{FILE}:s0")
    equal(label_of(PRIVATE / "link"), label)
    for path in (SHARED, SHARED / "inner/file"):
        equal(label_of(path), f"{FILE}:s0")
    assert selinux_policy.FILE not in label_of(PLAIN)
    assert selinux_policy.FILE not in label_of("/etc/passwd")


def what_is_denied() -> None:
    equal(run("exec", "one", "cat", "/data/inner/file").stdout, "content")
    for name in NAMES:
        equal(run("exec", name, "cat", "/shared/inner/file").stdout, "content")
        run("exec", name, "sh", "-c", "ls /vol && echo x >> /vol/both")
    done = run("exec", "two", "cat", "/data/inner/file", check=False)
    assert done.returncode != 0 and "Permission denied" in done.stderr, done
    done = run("exec", "one", "ls", "/plain", check=False)
    assert done.returncode != 0 and "Permission denied" in done.stderr, done
    own, other = str(inspected("two")["ProcessLabel"]), str(inspected("one")["MountLabel"])
    found = denials()
    assert any(f"scontext={own}" in line and f"tcontext={other}" in line for line in found), found


def root_of_another_container() -> None:
    """Even the host's root with every capability, when it has the label of a container."""
    run("run", "-d", "--name", "three", "--cap-add", "ALL", "--pid", "container:one",
        "--security-opt", "label=level:s0:c1,c2", BASE, "sleep", "100000")  # fmt: skip
    done = run("exec", "three", "cat", "/proc/1/root/etc/passwd", check=False)
    assert done.returncode != 0 and "Permission denied" in done.stderr, done
    run("rm", "-f", "three")
    run("run", "--rm", "--pid", "container:one", BASE, "cat", "/proc/1/root/etc/passwd")


def options() -> None:
    current = ("cat", "/proc/self/attr/current")
    for option, wanted in (
        ("disable", "kernel_t"), ("type:container_other_t", ":container_other_t:s0:c"),
        ("level:s0:c7,c9", ":s0:c7,c9"),
    ):  # fmt: skip
        found = run("run", "--rm", "--security-opt", f"label={option}", BASE, *current).stdout
        assert wanted in found, (option, found)
    assert "kernel_t" in run("run", "--rm", "--privileged", BASE, *current).stdout
    done = run("run", "--rm", "--security-opt", "label=type:no_such_t", BASE, "true", check=False)
    equal(done.returncode, 125)
    assert "the policy does not know it" in done.stderr, done.stderr
    done = run("run", "--rm", "--security-opt", "label=color:red", BASE, "true", check=False)
    assert done.returncode == 125 and "bad label option" in done.stderr, done.stderr
    done = run("run", "--rm", "-v", "/etc:/data:Z", BASE, "true", check=False)
    assert "SELinux relabeling of /etc is not allowed" in done.stderr, done.stderr
    enforce = ("cat", "/sys/fs/selinux/enforce")
    assert run("run", "--rm", BASE, *enforce, check=False).returncode != 0
    equal(run("run", "--rm", "--security-opt", "label=nested", BASE, *enforce).stdout, "1")


def keys_are_labelled() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    found = set()
    buffer = ctypes.create_string_buffer(256)
    for line in Path("/proc/keys").read_text().splitlines():
        if libc.syscall(250, 17, int(line.split()[0], 16), buffer, 256) > 0:  # KEYCTL_GET_SECURITY
            found.add(buffer.value.decode())
    assert inspected("one")["ProcessLabel"] in found, found


def labels_outlive_the_engine() -> None:
    before = [inspected(name)["ProcessLabel"] for name in NAMES]
    engine.kill()
    engine.wait()
    start_engine()
    equal([inspected(name)["ProcessLabel"] for name in NAMES], before)
    run("restart", "-t", "0", "one")
    equal(process_label(pid_of("one")), before[0])
    equal(run("exec", "one", "cat", "/data/inner/file").stdout, "content")


def shown_in_info() -> None:
    found = run("info", "-f", "{{.SecurityOptions}}").stdout
    assert "name=selinux" in found, found


def bundles() -> None:
    """``portside-runtime`` with ``mountLabel`` and ``selinuxLabel``."""
    bundle = Path("/run/bundle")
    (bundle / "rootfs/bin").mkdir(parents=True)
    for name in ("proc", "dev", "sys"):
        (bundle / "rootfs" / name).mkdir()
    subprocess.run(["cp", "/bin/busybox", str(bundle / "rootfs/bin/busybox")], check=True)
    level = "s0:c31,c32"
    for path in (bundle / "rootfs", *(bundle / "rootfs").rglob("*")):
        os.setxattr(path, "security.selinux", f"{FILE}:{level}\0".encode())
    runtime = [str(HERE.parent.parent / ".venv/bin/portside-runtime"), "--root", "/run/rt"]
    subprocess.run([*runtime, "spec", "--bundle", str(bundle)], check=True)
    config = json.loads((bundle / "config.json").read_text())
    label = f"system_u:system_r:{selinux_policy.PROCESS}:{level}"
    script = "busybox cat /proc/self/attr/current; echo; busybox ls -Zd /dev/shm 2>/dev/null; true"
    config["process"] |= {"terminal": False, "selinuxLabel": label,
                          "args": ["/bin/busybox", "sh", "-c", script]}  # fmt: skip
    config["linux"]["mountLabel"] = f"{FILE}:{level}"
    (bundle / "config.json").write_text(json.dumps(config))
    done = subprocess.run([*runtime, "run", "--bundle", str(bundle), "x"], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0 and label in done.stdout, done


CHECKS: tuple[Callable[[], None], ...] = (
    shown_in_info, two_containers, labels_of_processes, labels_of_files, what_is_denied,
    root_of_another_container, options, keys_are_labelled, bundles, labels_outlive_the_engine,
)  # fmt: skip

if __name__ == "__main__":
    prepare()
    engine = start_engine()
    failed = 0
    for check in CHECKS:
        begun = time.monotonic()
        try:
            check()
            print(f"ok {check.__name__} ({time.monotonic() - begun:.0f} s)", flush=True)
        except Exception as err:
            failed += 1
            print(f"FAIL {check.__name__}: {err or traceback.format_exc()}", flush=True)
    if failed:
        print("\n".join(dict.fromkeys(denials())))
        print(Path("/tmp/engine.log").read_text()[-3000:])
    sys.exit(bool(failed))
