"""What a process inside a container tries while the runtime acts in it.

Each attack names the published weakness that it repeats. Where it is a race the container tries
in a loop, as fast as an interpreter can, while processes are executed beside it; the number of
hits has to be 0, and the number of tries is checked so that a loop that sees nothing fails.
"""

from __future__ import annotations

import ast
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from runtimekit import CAPABILITIES, MOUNTS, Bench, Box, bench, is_root, specification

from portside.kernel import mount as kernel
from portside.kernel.seccomp import compile_filter
from portside.model.errors import CommandNotExecutable, PortsideError
from portside.model.ociruntime import Capabilities, Mount, Namespace, Seccomp, SeccompSyscall
from portside.runtime.messages import Identity

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="containers need root here"),
    pytest.mark.asyncio(loop_scope="module"),
]
EXECS = 40
SECRET = "PORTSIDE_ATTACK_SECRET"
ALL = tuple(f"CAP_{name}" for name in ("SYS_PTRACE", "SYS_ADMIN", "DAC_READ_SEARCH"))

WATCH = r"""
import os, sys
marker, secret = sys.argv[1], sys.argv[2].encode()
def read(path, size=1 << 20):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, size)
    except OSError:
        return b""
    finally:
        os.close(fd)
own_mounts = read("/proc/self/mountinfo")
own_links = {n: os.readlink(f"/proc/self/ns/{n}") for n in ("mnt", "net", "uts", "ipc")}
devices = {os.makedev(*map(int, l.split()[2].split(b":"))) for l in own_mounts.splitlines()}
own_unix, hits, seen = read("/proc/self/net/dev"), {}, set()
def hit(what):
    hits[what] = hits.get(what, 0) + 1
def look(pid):
    base = f"/proc/{pid}"
    text = read(base + "/mountinfo")
    if b"/hostmount " in text:
        hit("mounts of the host")
    if text and text != own_mounts:
        hit("mountinfo")
    text = read(base + "/net/dev")
    if text and text.split(b"\n")[2:] and [l.split(b":")[0] for l in text.split(b"\n")] != \
            [l.split(b":")[0] for l in own_unix.split(b"\n")]:
        hit("net")
    if os.path.exists(base + "/root" + marker):
        hit("root")
    for name in own_links:
        try:
            if os.readlink(f"{base}/ns/{name}") != own_links[name]:
                hit("ns " + name)
        except OSError:
            pass
    if secret in read(base + "/environ"):
        hit("environ")
    try:
        for fd in os.listdir(base + "/fd"):
            target, about = os.readlink(f"{base}/fd/{fd}"), os.stat(f"{base}/fd/{fd}")
            if target.startswith("/") and target != "/dev/null" and about.st_dev not in devices:
                hit("fd " + target)
    except OSError:
        pass
print("ready", flush=True)
tries = 0
while not os.path.exists("/tmp/stop"):
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) > 1 and int(name) != os.getpid():
            tries += 1
            seen.add(name)
            look(name)
print("done", tries, len(seen), sorted(hits.items()), flush=True)
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """A bench whose launcher has a secret in its environment and a file only the host has."""
    os.environ[SECRET] = SECRET
    try:
        async with bench() as one:
            place = str(one.directory / "hostmount")
            os.mkdir(place)
            kernel.mount("tmpfs", place, "tmpfs")
            try:
                (one.directory / "hostmount/marker").write_text("the host's")
                yield one
            finally:
                kernel.umount2(place, kernel.MNT_DETACH)
    finally:
        del os.environ[SECRET]


def capable(*more: str) -> Capabilities:
    sets = (*CAPABILITIES, *more)
    return Capabilities(bounding=sets, effective=sets, permitted=sets)


def interpreter() -> tuple[list[str], tuple[Mount, ...]]:
    """The host's interpreter inside a container: a loop in a shell is too slow for races."""
    real = os.path.realpath(sys.executable)
    options = ("rbind", "ro")
    places = {d for d in ("/usr", "/lib", "/lib64") if Path(d).is_dir()}
    if not real.startswith("/usr/"):
        places.add(str(Path(real).parents[1]))
    mounts = tuple(Mount(place, "bind", place, options) for place in sorted(places))
    return [real, "-I", "-S", "-c"], mounts


async def watched(made: Bench, *more: str, **changes: Any) -> Box:
    """A container whose first process looks at every other one."""
    command, mounts = interpreter()
    marker = made.directory / "hostmount/marker"
    box = await made.start(
        *command, WATCH, str(marker), SECRET, mounts=mounts, capabilities=capable(*more), **changes
    )
    await box.until(b"ready\n", 60)
    return box


async def verdict(box: Box) -> tuple[int, int, str]:
    """Tries, processes seen, and hits."""
    await box.exec("touch", "/tmp/stop")
    words = (await box.until(b"]\n", 60)).split(None, 3)
    await box.ended()
    return int(words[1]), int(words[2]), words[3].decode().strip()


@pytest.mark.parametrize("more", [(), ("CAP_SYS_PTRACE",)], ids=["default", "ptrace"])
async def test_host_is_not_seen_while_execs_run(made: Bench, more: tuple[str, ...]) -> None:
    """CVE-2016-9962: a process that enters a container is looked into on its way."""
    box = await watched(made, *more)
    for number in range(EXECS):
        code, output = await box.exec("sh", "-c", "echo $0", str(number))
        assert (code, output) == (0, f"{number}\n".encode())
    tries, seen, hits = await verdict(box)
    assert seen >= EXECS / 2, f"{tries} tries at {seen} processes"
    assert hits == "[]", f"{tries} tries at {seen} processes"


async def test_host_is_not_seen_while_a_container_joins(made: Bench) -> None:
    """The same for a container that is started into the PID namespace of another."""
    box = await watched(made, "CAP_SYS_PTRACE")
    pid = box.client.pid
    spec = specification("cat", "/proc/self/mountinfo")
    assert spec.linux is not None
    joined = [n for n in spec.linux.namespaces if n.type != "pid"]
    spec.linux.namespaces = (*joined, Namespace("pid", f"/proc/{pid}/ns/pid"))
    own = 0
    for _ in range(15):
        code, output = await made.run(spec=msgspec.convert(msgspec.to_builtins(spec), type(spec)))
        assert code == 0
        assert " /proc " in output
        own += 1
    tries, seen, hits = await verdict(box)
    # a container has mounts and a network of its own, which are not the host's
    found = {name for name, _ in ast.literal_eval(hits)}
    told = f"{tries} tries at {seen} processes: {hits}"
    assert not found & {"root", "environ", "mounts of the host"}, told
    assert not [n for n in found if n.startswith(("fd /sys/fs", "fd /tmp", "fd /usr"))], told
    assert seen >= own / 2


async def test_first_process_of_init_is_nothing_of_ours(made: Bench) -> None:
    """PID 1 shows no environment and no memory but that of the program it is."""
    command, mounts = interpreter()
    code = (
        "import os,re\n"
        "print(os.readlink('/proc/1/exe'), open('/proc/1/comm').read().strip())\n"
        f"print({SECRET!r} in open('/proc/1/environ').read())\n"
        "size = found = 0\n"
        "mem = open('/proc/1/mem', 'rb', 0)\n"
        "for line in open('/proc/1/maps'):\n"
        "  low, high = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "  try:\n"
        "    mem.seek(low); data = mem.read(high - low)\n"
        "  except (OSError, ValueError, OverflowError): continue\n"
        "  size += len(data); found += data.count(b'ports' + b'ide')\n"
        "print(size > 100000, found)\n"
    )
    code_, output = await made.run(
        *command, code, mounts=mounts, capabilities=capable("CAP_SYS_PTRACE"),
        request={"init": True},
    )  # fmt: skip
    assert code_ == 0, output
    assert (code_, output.split()) == (0, ["/docker-init", "docker-init", "False", "True", "0"])


@pytest.mark.parametrize("image_makes_it", [False, True])
async def test_working_directory_never_leaves_the_root(made: Bench, image_makes_it: bool) -> None:
    """CVE-2024-21626: -w /proc/N/root and /proc/self/fd/N, of the host's processes as well."""
    paths = [f"/proc/{os.getpid()}/root", f"/proc/{os.getpid()}/cwd", "/proc/1/root", "/link"]
    paths += [f"/proc/self/fd/{number}" for number in range(3, 24)]
    link = made.root / "link"
    link.symlink_to(f"/proc/{os.getpid()}/root")
    kept = made.directory / "not-made"
    paths.append(f"/proc/{os.getpid()}/root{kept}")
    script = 'pwd; ls -di . / | sort -u; ls "$0" 2>/dev/null && echo HIT'
    rights = [capable(), capable(*ALL)] if image_makes_it else [capable()]
    try:
        for path in paths:
            for sets in rights:
                try:
                    _, output = await made.run(
                        "sh", "-c", script, f"./{str(made.directory).lstrip('/')}",
                        cwd=path, capabilities=sets, without=("pid",),
                    )  # fmt: skip
                except PortsideError:
                    continue
                assert "HIT" not in output, path
    finally:
        link.unlink()
    assert not kept.exists()


async def test_working_directory_of_an_exec(made: Bench) -> None:
    """CVE-2024-21626 by ``exec -w``; also with all that is needed to follow such links."""
    box = await made.start(
        "sleep", "100", without=("pid",), capabilities=capable(*ALL), attach=False
    )
    script = 'ls "$0" >/dev/null 2>&1 && echo HIT; pwd'
    for path in (f"/proc/{os.getpid()}/root", "/proc/1/root", "/proc/1/cwd"):
        with pytest.raises(CommandNotExecutable, match=r"outside of container|permission denied"):
            await box.exec(
                "sh", "-c", script, f"./{str(made.directory).lstrip('/')}",
                cwd=path, capabilities=capable(*ALL),
            )  # fmt: skip
    await box.client.signal(9)
    await box.ended()


async def test_numbers_are_no_names(made: Bench) -> None:
    """CVE-2016-3697: a user of the image called 1000 who is root."""
    etc = made.root / "etc"
    passwd, group = (etc / "passwd").read_text(), (etc / "group").read_text()
    try:
        (etc / "passwd").write_text("1000:x:0:0:root:/root:/bin/sh\n" + passwd)
        (etc / "group").write_text("1000:x:0:\n29:x:0:\n" + group)
        for user, groups in (("1000", ()), ("1000:1000", ()), ("4242:1000", ("29",))):
            _, output = await made.run("id", request={"identity": Identity(user, groups)})
            uid, gid = (user.partition(":")[0], user.partition(":")[2] or "1000")
            assert output.startswith(f"uid={uid}"), output
            assert f"gid={gid}" in output
            assert "=0" not in output
    finally:
        (etc / "passwd").write_text(passwd)
        (etc / "group").write_text(group)


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "device", "huge", "line", "binary"])
async def test_odd_user_files_decide_nothing(made: Bench, kind: str) -> None:
    """A passwd file that is none: a number still is that number, and nothing hangs."""
    path = made.root / "etc/passwd"
    before = path.read_text()
    path.unlink()
    secret = made.directory / "passwd"
    secret.write_text("eve:x:0:0::/:\n5000:x:0:0::/:\nx:x:5000:0::/:\n")
    try:
        if kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to(f"/proc/{os.getpid()}/root{secret}")
        elif kind == "device":
            os.mknod(path, 0o20666, os.makedev(1, 5))
        elif kind == "huge":
            with path.open("wb") as file:
                file.write(b"x:x:1:1::/:\n" * 100)
                file.truncate(3 << 30)
        elif kind == "line":
            path.write_bytes(b"eve:x:5000:" + b"0" * (1 << 17) + b"\n")
        else:
            path.write_bytes(bytes(range(256)) * 64 + b"\nx:x:5000\n:::::\n5000:\n")
        without = ("pid",) if kind == "link" else ()
        _, output = await made.run(
            "grep", "^[UG]id:", "/proc/self/status", without=without,
            request={"identity": Identity("5000:5000")},
        )  # fmt: skip
        assert output.split()[1::5] == ["5000", "5000"]
        with pytest.raises(PortsideError, match="unable to find user eve"):
            await made.run("true", request={"identity": Identity("eve")}, without=without)
    finally:
        if kind == "directory":
            path.rmdir()
        else:
            path.unlink()
        path.write_text(before)


async def test_terminal_and_null_are_the_real_ones(made: Bench, tmp_path: Path) -> None:
    """CVE-2025-31133 and CVE-2025-52565: /dev/null, /dev/console and ptmx of the image's own."""
    dev = tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    victim = made.directory / "victim"
    victim.write_text("untouched")
    evil = f"/proc/{os.getpid()}/root{victim}"
    for name in ("null", "console", "pts/ptmx"):
        (dev / name).symlink_to(evil)
    keep = tuple(m for m in MOUNTS if not m.destination.startswith("/dev"))
    for terminal in (False, True):
        spec = specification("sh", "-c", "cat; mount", terminal=terminal, without=("pid",))
        spec.mounts = (*keep, Mount("/dev", "bind", str(dev), ("rbind", "rw")))
        try:
            _, output = await made.run(spec=spec)
        except PortsideError:
            continue
        assert "untouched" not in output
    assert victim.read_text() == "untouched"


async def test_swapped_links_under_mounts(made: Bench, tmp_path: Path) -> None:
    """CVE-2021-30465: the destination of a mount is exchanged with a link while it is made."""
    mark = f"portside-attack-{os.getpid()}"  # not in /tmp by any other way
    volume = tmp_path / "volume"
    (volume / "a").mkdir(parents=True)
    (volume / "b").symlink_to("/../../../../../../tmp")
    source = tmp_path / "source"
    (source / mark).mkdir(parents=True)
    (source / f"{mark}-inside").write_text("1")
    stop = False

    async def swap() -> None:
        spare = volume / "c"
        while not stop:
            for first, second in (("a", "b"), ("a", "b")):
                os.rename(volume / first, spare)
                os.rename(volume / second, volume / first)
                os.rename(spare, volume / second)
                await asyncio.sleep(0.0005)
            await asyncio.sleep(0)

    before = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    task = asyncio.create_task(swap())
    try:
        for _ in range(25):
            mounts = (
                Mount("/vol", "bind", str(volume), ("rbind",)),
                Mount("/vol/a", "bind", str(source), ("rbind",)),
                Mount(f"/vol/a/{mark}", "tmpfs", "tmpfs", ()),
            )
            with suppress(PortsideError):
                await made.run("true", mounts=mounts)
    finally:
        stop = True
        await task
    after = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    assert after == before
    assert not Path(f"/tmp/{mark}-inside").exists()
    assert not Path(f"/tmp/{mark}").exists()


async def test_masked_paths_are_covered_for_execs(made: Bench) -> None:
    """Masks and read-only paths hold for every process, whichever way it came in."""
    box = await made.start("sleep", "100", attach=False)
    code, output = await box.exec(
        "sh", "-c",
        "cat /proc/kcore | head -c 1; ls /sys/firmware; echo 1 > /proc/sys/kernel/panic; true",
        capabilities=capable(*ALL),
    )  # fmt: skip
    assert code == 0
    assert b"Read-only file system" in output
    assert output.startswith((b"sh: can't create", b"cat: "))
    await box.client.signal(9)
    await box.ended()


async def test_exec_keeps_the_filter(made: Bench) -> None:
    """seccomp stays on in an exec, with all capabilities as well (Docker's ``--privileged``)."""
    profile = Seccomp("SCMP_ACT_ALLOW", syscalls=(SeccompSyscall(("acct",), "SCMP_ACT_ERRNO"),))
    box = await made.start("sleep", "100", attach=False, seccomp=compile_filter(profile))
    code, output = await box.exec(
        "grep", "Seccomp:", "/proc/self/status", capabilities=capable(*ALL)
    )
    assert (code, output.split()) == (0, [b"Seccomp:", b"2"])
    await box.client.signal(9)
    await box.ended()


@pytest.mark.parametrize("field", ["args", "env", "cwd", "user", "exec"])
async def test_null_bytes_are_refused(made: Bench, field: str) -> None:
    """An embedded NUL cuts a C string short: what was checked would not be what is used."""
    with pytest.raises(PortsideError, match="null byte"):
        if field == "args":
            await made.run("echo", "a\0b")
        elif field == "env":
            await made.run("env", env=("A=1\0B=2",))
        elif field == "cwd":
            await made.run("pwd", cwd="/tmp\0/x")
        elif field == "user":
            await made.run("id", request={"identity": Identity("bob\0x")})
        else:
            box = await made.start("sleep", "100", attach=False)
            try:
                await box.exec("echo", "a\0b")
            finally:
                await box.client.signal(9)
                await box.ended()
