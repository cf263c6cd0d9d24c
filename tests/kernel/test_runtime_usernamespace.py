"""User and time namespaces, hooks: what the runtime-spec promises beside the usual."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs
from runtimekit import (
    CAPABILITIES,
    NAMESPACES,
    Bench,
    bench,
    is_root,
    needs_idmapping,
    specification,
)

from portside.kernel.process import capability_bits
from portside.model.errors import SystemFailure
from portside.model.ociruntime import (
    Hook,
    Hooks,
    IDMapping,
    Mount,
    Namespace,
    Spec,
    TimeOffset,
    User,
)
from portside.runtime import init, userns
from portside.runtime.init_channel import Child, Outcome, Own

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="containers need root here"),
    pytest.mark.asyncio(loop_scope="module"),
]
MAPPED = (IDMapping(0, 100000, 65536),)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def made() -> AsyncIterator[Bench]:
    async with bench() as one:
        one.directory.chmod(0o700)  # what is above the root is out of the container's reach
        yield one


def remapped(*args: str, **changes: object) -> Spec:
    spaces = tuple(Namespace(kind) for kind in (*NAMESPACES, "user"))
    linux = {"namespaces": spaces, "uid_mappings": MAPPED, "gid_mappings": MAPPED}
    return specification(*args, linux=linux, **changes)


def mapped_root(made: Bench) -> dict[str, object]:
    """A root whose files are the container's root's, though they are the host's on disk."""
    rootfs = made.request(remapped("true")).rootfs
    return {"rootfs": structs.replace(rootfs, uid_mappings=MAPPED, gid_mappings=MAPPED)}


async def test_root_inside_is_somebody_outside(made: Bench) -> None:
    script = "id -u; cat /proc/self/uid_map; echo ready; sleep 60"
    box = await made.start(spec=remapped("sh", "-c", script))
    text = await box.until(b"ready\n")
    assert text.split()[:4] == [b"0", b"0", b"100000", b"65536"]
    status = Path(f"/proc/{box.client.pid}/status").read_text()
    assert "Uid:\t100000\t100000\t100000\t100000" in status
    for name in ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup"):
        assert os.readlink(f"/proc/{box.client.pid}/ns/{name}") != os.readlink(
            f"/proc/self/ns/{name}"
        )
    await box.client.signal(9)
    assert (await box.ended()).code == 137


async def test_its_mounts_devices_and_rights(made: Bench) -> None:
    script = (
        "exec 2>&1; echo $$; hostname; head -c 2 /dev/zero | wc -c; echo x > /dev/null; "
        "stat -c %t:%T /dev/null; mount | grep -cE ' (/proc|/sys|/dev/pts|/dev/mqueue|/dev/shm) '; "
        "echo 1 > /proc/sys/kernel/domainname; grep CapEff /proc/self/status"
    )
    code, text = await made.run(spec=remapped("sh", "-c", script, hostname="mapped"))
    lines = text.splitlines()
    assert code == 0, text
    assert lines[:5] == ["1", "mapped", "2", "1:3", "5"], text
    assert "Read-only file system" in lines[5]
    assert int(lines[-1].split()[1], 16) == capability_bits(CAPABILITIES)


async def test_files_of_the_host_stay_the_hosts(made: Bench) -> None:
    needs_idmapping(made.directory)
    source = made.directory / "share"
    source.mkdir(exist_ok=True)
    (source / "mine").write_text("root's")
    mount = Mount("/s", "bind", str(source), ("rbind",))
    script = "exec 2>&1; stat -c %u /s/mine; cat /s/mine; echo; echo x > /s/mine"
    _, text = await made.run(
        spec=remapped("sh", "-c", script, mounts=(mount,)), request=mapped_root(made)
    )
    assert text.splitlines()[:2] == ["65534", "root's"]
    assert "Permission denied" in text


async def test_an_idmapped_root(made: Bench) -> None:
    needs_idmapping(made.directory)
    script = (
        "exec 2>&1; stat -c %u /etc/passwd; echo new > /etc/made; chown 5 /etc/group; "
        "rm /etc/passwd"
    )
    request = mapped_root(made)
    code, text = await made.run(spec=remapped("sh", "-c", script), request=request)
    assert (code, text) == (0, "0\n")
    upper = Path(request["rootfs"].upper)  # type: ignore[attr-defined]
    assert (upper / "etc/made").stat().st_uid == 0
    assert (upper / "etc/group").stat().st_uid == 5
    assert (made.root / "etc/passwd").exists()


async def test_an_idmapped_bind_mount(made: Bench) -> None:
    """Files owned by the host's root are the container's root's, and stay so on disk."""
    needs_idmapping(made.directory)
    source = made.directory / "idmapped"
    source.mkdir(exist_ok=True)
    (source / "mine").write_text("root's\n")
    mount = Mount("/s", "bind", str(source), ("rbind", "idmap"), MAPPED, MAPPED)
    script = "exec 2>&1; stat -c %u /s/mine; echo new > /s/made; echo more >> /s/mine"
    code, text = await made.run(
        spec=remapped("sh", "-c", script, mounts=(mount,)), request=mapped_root(made)
    )
    assert (code, text) == (0, "0\n")
    assert (source / "made").stat().st_uid == 0
    assert (source / "mine").read_text() == "root's\nmore\n"


async def test_an_idmapped_bind_mount_without_a_user_namespace(made: Bench) -> None:
    needs_idmapping(made.directory)
    source = made.directory / "plain"
    source.mkdir(exist_ok=True)
    (source / "mine").write_text("x")
    mapping = (IDMapping(0, 1000, 1000),)
    mount = Mount("/s", "bind", str(source), ("rbind", "idmap"), mapping, mapping)
    code, text = await made.run("stat", "-c", "%u %g", "/s/mine", mounts=(mount,))
    assert (code, text) == (0, "1000 1000\n")


@pytest.mark.parametrize(("option", "below"), [("idmap", "0"), ("ridmap", "1000")])
async def test_owners_are_mapped_below_an_idmapped_mount_on_request_only(
    made: Bench, option: str, below: str
) -> None:
    needs_idmapping(made.directory)
    source = made.directory / f"tree-{option}"
    (source / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "below"], check=True)
    try:
        mapping = (IDMapping(0, 1000, 1000),)
        options = ("rbind", option, "norelatime")
        mount = Mount("/s", "bind", str(source), options, mapping, mapping)
        code, text = await made.run("stat", "-c", "%u", "/s", "/s/below", mounts=(mount,))
    finally:
        subprocess.run(["umount", source / "below"], check=True)
    assert (code, text) == (0, f"1000\n{below}\n")


async def test_exec_and_terminal_in_a_user_namespace(made: Bench) -> None:
    box = await made.start(spec=remapped("sleep", "60"))
    code, text = await box.exec("sh", "-c", "id -u; readlink /proc/self/ns/user")
    assert (code, text.splitlines()[0]) == (0, b"0")
    assert text.splitlines()[1] == os.readlink(f"/proc/{box.client.pid}/ns/user").encode()
    assert (await box.exec("tty", terminal=True))[1] == b"/dev/pts/0\r\n"
    code, text = await box.exec("id", "-u", user=User(1000, 1000))
    assert text == b"1000\n"
    await box.client.signal(9)
    await box.ended()
    code, output = await made.run(
        spec=remapped("sh", "-c", "tty; ls -l /dev/console", terminal=True)
    )
    assert code == 0 and output.startswith("/dev/pts/0")


async def test_mappings_are_needed(made: Bench) -> None:
    spaces = tuple(Namespace(kind) for kind in (*NAMESPACES, "user"))
    with pytest.raises(SystemFailure, match="needs uidMappings"):
        await made.run("true", linux={"namespaces": spaces})


async def test_joining_a_user_namespace(made: Bench) -> None:
    first = await made.start(spec=remapped("sleep", "60"))
    paths = {
        "user": f"/proc/{first.client.pid}/ns/user",
        "network": f"/proc/{first.client.pid}/ns/net",
    }
    spaces = tuple(Namespace(kind, paths.get(kind, "")) for kind in (*NAMESPACES, "user"))
    _, text = await made.run("readlink", "/proc/self/ns/user", linux={"namespaces": spaces})
    assert text.strip() == os.readlink(paths["user"])
    await first.client.signal(9)
    await first.ended()


@pytest.mark.skipif(not Path("/proc/self/ns/time").exists(), reason="no time namespaces")
@pytest.mark.parametrize("user", [False, True])
async def test_a_clock_of_its_own(made: Bench, user: bool) -> None:
    kinds = (*NAMESPACES, "time", *(("user",) if user else ()))
    linux = {
        "namespaces": tuple(Namespace(kind) for kind in kinds),
        "time_offsets": {"boottime": TimeOffset(1_000_000), "monotonic": TimeOffset(500_000)},
    }
    if user:
        linux |= {"uid_mappings": MAPPED, "gid_mappings": MAPPED}
    outside = float(Path("/proc/uptime").read_text().split()[0])
    _, text = await made.run("cat", "/proc/uptime", linux=linux)
    assert float(text.split()[0]) >= outside + 999_999


def hook(path: Path, name: str) -> Hook:
    """A hook that writes its name, its state and its PID namespace."""
    text = (
        f"cat > {path}.state; cd /proc/self/ns; readlink pid pid_for_children > {path}.ns;"
        f"echo {name} >> {path.parent}/order"
    )
    return Hook("/bin/sh", ("sh", "-c", text), ("PATH=/bin:/usr/bin",))


async def test_hooks_run_in_their_places(made: Bench) -> None:
    place = made.directory / "hooks"
    place.mkdir()
    found = Hooks(
        prestart=(hook(place / "prestart", "prestart"),),
        create_runtime=(hook(place / "runtime", "createRuntime"),),
        create_container=(hook(place / "create", "createContainer"),),
        start_container=(Hook("/bin/sh", ("sh", "-c", "cat > /state")),),
        poststart=(hook(place / "poststart", "poststart"),),
        poststop=(hook(place / "poststop", "poststop"),),
    )
    spec = specification("cat", "/state", hooks=found)
    box = await made.start(spec=spec)
    text = (await box.output()).decode()
    await box.ended()

    def order() -> list[str]:
        return (place / "order").read_text().split()

    async with asyncio.timeout(20):
        while len(order()) < 5:
            await asyncio.sleep(0.01)
    own = os.readlink("/proc/self/ns/pid")
    assert order() == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    assert '"status":"creating"' in (place / "runtime.state").read_text()
    assert f'"id":"{box.request.id}"' in text
    assert (place / "prestart.ns").read_text().split() == [own, own]
    assert f'"pid":{box.client.pid}' in (place / "prestart.state").read_text()
    assert '"status":"running"' in (place / "poststart.state").read_text()
    assert '"status":"stopped"' in (place / "poststop.state").read_text()


@pytest.mark.parametrize(
    "kind", ["prestart", "create_runtime", "create_container", "start_container"]
)
async def test_a_hook_that_fails_fails_the_start(made: Bench, kind: str) -> None:
    found = Hooks(**{kind: (Hook("/bin/sh", ("sh", "-c", "echo sad >&2; exit 3")),)})
    with pytest.raises(SystemFailure, match=r"exit status 3, output: sad"):
        await made.run(spec=specification("true", hooks=found))


async def test_a_hook_that_does_not_end(made: Bench) -> None:
    found = Hooks(create_runtime=(Hook("/bin/sleep", ("sleep", "60"), timeout=1),))
    with pytest.raises(SystemFailure, match=r"hook ran past specified timeout of 1\.0s"):
        await made.run(spec=specification("true", hooks=found))


async def test_a_hook_that_is_not_there(made: Bench) -> None:
    found = Hooks(create_runtime=(Hook("/no/such/hook"),))
    with pytest.raises(SystemFailure, match="error running createRuntime hook #0: /no/such/hook"):
        await made.run(spec=specification("true", hooks=found))


async def test_the_new_pid_is_known_before_what_its_process_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine the sibling ran first: the start failed without a word."""

    def late(channel: socket.socket, pid: int, used: list[int]) -> None:
        time.sleep(0.3)
        introduce(channel, pid, used)

    def body(own: Own) -> None:
        init._continue_as_sibling(own, [])
        own.steps.enter("done")
        own.report(Outcome(uid=7))
        os.execv("/bin/sleep", ["sleep", "100"])

    introduce = userns.introduce
    monkeypatch.setattr(userns, "introduce", late)
    child = Child.fork(body, terminal=False, stdin=False)
    try:
        first = child.pid
        child.settle(remapped("true"))
        assert child.pid != first
        assert child.outcome().uid == 7
    finally:
        child.kill()
