"""What a container is made of, as its own processes see it."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from runtimekit import CAPABILITIES, Bench, bench, is_root, specification

from portside.kernel.process import capability_bits, last_capability
from portside.model.errors import SystemFailure
from portside.model.ociruntime import Capabilities, Device, Mount, Namespace, Rlimit, User

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="containers need root here"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def made() -> AsyncIterator[Bench]:
    async with bench() as one:
        yield one


def links(text: str) -> dict[str, str]:
    """``pid:[4026531836]`` lines by type."""
    return {line.split(":[")[0]: line for line in text.splitlines() if ":[" in line}


LIST = "for n in pid mnt uts ipc net cgroup user; do readlink /proc/self/ns/$n; done"


async def test_every_namespace_is_its_own(made: Bench) -> None:
    code, text = await made.run("sh", "-c", f"{LIST}; echo pid $$")
    assert code == 0
    inside = links(text)
    for kind in ("pid", "mnt", "uts", "ipc", "net", "cgroup"):
        assert inside[kind] != os.readlink(f"/proc/self/ns/{kind}"), kind
    assert inside["user"] == os.readlink("/proc/self/ns/user")
    assert "pid 1\n" in text


async def test_namespaces_left_out_are_the_hosts(made: Bench) -> None:
    spec = specification("sh", "-c", LIST, without=("network", "uts", "ipc"), hostname="")
    _, text = await made.run(spec=spec)
    inside = links(text)
    for kind in ("net", "uts", "ipc"):
        assert inside[kind] == os.readlink(f"/proc/self/ns/{kind}"), kind


async def test_namespaces_of_another_container_are_joined(made: Bench) -> None:
    first = await made.start("sleep", "60")
    pid = first.client.pid
    spaces = tuple(
        Namespace(kind, f"/proc/{pid}/ns/{name}")
        for kind, name in (("network", "net"), ("ipc", "ipc"), ("pid", "pid"))
    )
    spec = specification(
        "sh", "-c", f"{LIST}; ps", linux={"namespaces": (*spaces, Namespace("mount"))}, hostname=""
    )
    _, text = await made.run(spec=spec)
    inside = links(text)
    for kind in ("net", "ipc", "pid"):
        assert inside[kind] == os.readlink(f"/proc/{pid}/ns/{kind}"), kind
    assert "sleep 60" in text
    await first.client.signal(9)
    await first.ended()


async def test_an_unknown_namespace_is_refused(made: Bench) -> None:
    spec = specification("true", linux={"namespaces": (Namespace("mount"), Namespace("moon"))})
    with pytest.raises(SystemFailure, match="unknown namespace type 'moon'"):
        await made.run(spec=spec)


async def test_names(made: Bench) -> None:
    code, text = await made.run(
        "sh", "-c", "hostname; echo $A; pwd", cwd="/made/here", hostname="h"
    )
    assert (code, text) == (0, "h\n1\n/made/here\n")


SETS = "grep ^Cap /proc/self/status | cut -f2"


async def test_capability_sets_of_root(made: Bench) -> None:
    _, text = await made.run("sh", "-c", SETS)
    inheritable, permitted, effective, bounding, ambient = (int(t, 16) for t in text.split())
    given = capability_bits(CAPABILITIES)
    assert (permitted, effective, bounding) == (given, given, given)
    assert (inheritable, ambient) == (0, 0)


async def test_capability_sets_of_a_user(made: Bench) -> None:
    _, text = await made.run("sh", "-c", SETS, user=User(1000, 1000))
    inheritable, permitted, effective, bounding, ambient = (int(t, 16) for t in text.split())
    assert (inheritable, permitted, effective, ambient) == (0, 0, 0, 0)
    assert bounding == capability_bits(CAPABILITIES)


async def test_ambient_capabilities_reach_a_user(made: Bench) -> None:
    names = ("CAP_NET_BIND_SERVICE", "CAP_KILL")
    sets = Capabilities(names, names, names, names, names)
    _, text = await made.run("sh", "-c", SETS, user=User(1000, 1000), capabilities=sets)
    assert [int(t, 16) for t in text.split()] == [capability_bits(names)] * 5


async def test_no_capability_at_all(made: Bench) -> None:
    _, text = await made.run("sh", "-c", SETS, capabilities=Capabilities())
    assert set(text.split()) == {"0" * 16}


async def test_all_capabilities(made: Bench) -> None:
    with open("/proc/self/status") as file:
        held = int(re.search(r"CapBnd:\s(\w+)", file.read())[1], 16)  # type: ignore[index]
    everything = tuple(f"CAP_{n}" for n in _names())
    sets = Capabilities(bounding=everything, effective=everything, permitted=everything)
    _, text = await made.run("sh", "-c", SETS, capabilities=sets)
    assert int(text.split()[2], 16) == held  # never more than this machine's root has


def _names() -> list[str]:
    from portside.kernel.process import CAPABILITIES as names

    return list(names[: last_capability() + 1])


async def test_masked_and_read_only_paths(made: Bench) -> None:
    script = (
        "exec 2>&1; wc -c < /proc/timer_list; wc -c < /proc/keys; ls /sys/firmware | wc -l; "
        "touch /proc/sys/kernel/domainname; echo x > /proc/sys/kernel/domainname; "
        "echo 1 > /sys/firmware/x; echo done"
    )
    settings = {
        "masked_paths": ("/proc/timer_list", "/proc/keys", "/sys/firmware", "/no/such"),
        "readonly_paths": ("/proc/sys", "/proc/bus", "/not/there"),
    }
    _, text = await made.run("sh", "-c", script, linux=settings)
    lines = text.splitlines()
    assert lines[:3] == ["0", "0", "0"], text
    assert text.count("Read-only file system") == 3, text
    assert lines[-1] == "done"


async def test_a_masked_path_that_is_a_link_stays_inside(made: Bench) -> None:
    """The image's link is followed beneath its own root, and what it hits is covered."""
    (made.root / "secret").write_text("secret")
    (made.root / "way").symlink_to("/secret")
    (made.root / "out").symlink_to("../../../../etc/passwd")
    settings = {"masked_paths": ("/way", "/out"), "readonly_paths": ()}
    _, text = await made.run("sh", "-c", "cat /secret /etc/passwd; echo end", linux=settings)
    assert text == "end\n"
    assert Path("/etc/passwd").read_text()


async def test_a_false_null_device_is_not_trusted(made: Bench) -> None:
    """CVE-2025-31133: /dev/null of the image's making must not become what masks a file."""
    device = made.directory / "fakedev"
    device.mkdir(exist_ok=True)
    (device / "null").symlink_to("/proc/sysrq-trigger")
    spec = specification("cat", "/proc/keys", linux={"masked_paths": ("/proc/keys",)})
    spec.mounts = tuple(
        Mount("/dev", "bind", str(device), ("bind", "rw")) if m.destination == "/dev" else m
        for m in spec.mounts
        if not m.destination.startswith("/dev/")
    )
    with pytest.raises(SystemFailure):
        await made.run(spec=spec)


async def test_devices_and_links(made: Bench) -> None:
    names = "null zero full random urandom tty"
    script = (
        f"for d in {names}; do stat -c '%n %F %t:%T %a' /dev/$d; done; "
        "for l in fd stdin stdout stderr ptmx core; do echo $l $(readlink /dev/$l); done; "
        "head -c 4 /dev/zero | od -An -tx1; echo x > /dev/null; echo x > /dev/full"
    )
    _, text = await made.run("sh", "-c", script)
    for name, numbers in zip(names.split(), "1:3 1:5 1:7 1:8 1:9 5:0".split(), strict=True):
        assert f"/dev/{name} character special file {numbers} 666" in text
    for line in ("fd /proc/self/fd", "stdin /proc/self/fd/0", "ptmx pts/ptmx"):
        assert line in text
    assert "00 00 00 00" in text
    assert "No space left on device" in text


async def test_given_devices(made: Bench) -> None:
    devices = (
        Device("/dev/sub/mine", "c", 1, 3, 0o640, 1000, 29),
        Device("/dev/pipe", "p", file_mode=0o600),
    )
    _, text = await made.run(
        "stat", "-c", "%n %F %a %u %g", "/dev/sub/mine", "/dev/pipe", linux={"devices": devices}
    )
    assert text.splitlines() == [
        "/dev/sub/mine character special file 640 1000 29",
        "/dev/pipe fifo 600 0 0",
    ]


async def test_a_device_of_no_kind_is_refused(made: Bench) -> None:
    with pytest.raises(SystemFailure, match="unknown type 'x'"):
        await made.run("true", linux={"devices": (Device("/dev/a", "x", 1, 3),)})


async def test_limits(made: Bench) -> None:
    limits = (Rlimit("RLIMIT_NOFILE", 512, 256), Rlimit("RLIMIT_CORE", 0, 0))
    _, text = await made.run("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c", rlimits=limits)
    assert text.split() == ["256", "512", "0"]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Rlimit("RLIMIT_MOON", 1, 1), "unknown rlimit 'RLIMIT_MOON'"),
        (Rlimit("RLIMIT_NOFILE", 10, 20), "error setting rlimit RLIMIT_NOFILE to 20:10"),
    ],
)
async def test_bad_limits(made: Bench, limit: Rlimit, said: str) -> None:
    with pytest.raises(SystemFailure, match=said):
        await made.run("true", rlimits=(limit,))


async def test_kernel_parameters(made: Bench) -> None:
    values = {"net.ipv4.ip_forward": "1", "kernel.shmmni": "17", "net.ipv4.ping_group_range": "0 9"}
    _, text = await made.run(
        "cat",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/kernel/shmmni",
        "/proc/sys/net/ipv4/ping_group_range",
        linux={"sysctl": values},
    )
    assert text.split() == ["1", "17", "0", "9"]


@pytest.mark.parametrize("name", ["net.no.such", "kernel/../../../etc/x"])
async def test_bad_kernel_parameters(made: Bench, name: str) -> None:
    with pytest.raises(SystemFailure, match="sysctl"):
        await made.run("true", linux={"sysctl": {name: "1"}})


async def test_no_new_privileges(made: Bench) -> None:
    show = ("grep", "NoNewPrivs", "/proc/self/status")
    assert (await made.run(*show))[1].split() == ["NoNewPrivs:", "0"]
    assert (await made.run(*show, no_new_privileges=True))[1].split() == ["NoNewPrivs:", "1"]


async def test_a_read_only_root(made: Bench) -> None:
    mount = Mount("/tmp", "tmpfs", "tmpfs", ("nosuid", "nodev", "size=1m"))
    spec = specification(
        "sh",
        "-c",
        "exec 2>&1; touch /x; touch /tmp/y && echo written",
        readonly=True,
        mounts=(mount,),
    )
    _, text = await made.run(spec=spec)
    assert "/x: Read-only file system" in text
    assert text.endswith("written\n")


async def test_the_hosts_mounts_are_gone(made: Bench) -> None:
    _, text = await made.run("cut", "-d ", "-f5", "/proc/self/mountinfo")
    places = text.split()
    assert places[0] == "/"
    beneath = ("/proc", "/sys", "/dev")
    assert all(p == "/" or p.startswith(beneath) for p in places), places


async def test_the_root_is_written_in_a_layer_of_its_own(made: Bench) -> None:
    box = await made.start("sh", "-c", "echo new > /etc/made; rm /etc/group")
    assert (await box.ended()).code == 0
    upper = Path(box.request.rootfs.upper)
    assert (upper / "etc/made").read_text() == "new\n"
    assert (made.root / "etc/group").exists()


async def test_bind_mounts(made: Bench) -> None:
    source = made.directory / "share"
    source.mkdir(exist_ok=True)
    (source / "file").write_text("shared")
    mounts = (
        Mount("/a", "bind", str(source), ("rbind", "rprivate")),
        Mount("/deep/down/b", "bind", str(source), ("rbind", "ro")),
        Mount("/f", "bind", str(source / "file"), ("bind", "ro", "noexec")),
    )
    script = "cat /a/file /f; touch /a/new; touch /deep/down/b/no; echo x > /f"
    _, text = await made.run("sh", "-c", script, mounts=mounts)
    assert text.startswith("sharedshared")
    assert text.count("Read-only file system") == 2
    assert (source / "new").exists()


async def test_mounts_through_hostile_links_stay_inside(made: Bench) -> None:
    """CVE-2021-30465 and similar: the image's links lead nowhere on the host."""
    (made.root / "evil").symlink_to("/../../../../../../etc")
    before = sorted(os.listdir("/etc"))
    mount = Mount("/evil/inner", "tmpfs", "tmpfs", ())
    _, text = await made.run("sh", "-c", "ls -d /etc/inner && df /etc/inner", mounts=(mount,))
    assert "/etc/inner" in text
    assert sorted(os.listdir("/etc")) == before


@pytest.mark.parametrize("place", ["/proc/self/x", "/a/../../b"])
async def test_mount_places_that_make_no_sense(made: Bench, place: str) -> None:
    with pytest.raises(SystemFailure):
        await made.run("true", mounts=(Mount(place, "tmpfs", "tmpfs", ()),))


async def test_a_missing_source_is_named(made: Bench) -> None:
    mount = Mount("/a", "bind", "/no/such/source", ("rbind",))
    with pytest.raises(SystemFailure, match='error mounting "/no/such/source" to rootfs at "/a"'):
        await made.run("true", mounts=(mount,))


async def test_no_descriptor_is_inherited(made: Bench) -> None:
    """CVE-2024-21626: nothing but the three streams is open, at start and by exec."""
    box = await made.start("sh", "-c", "ls /proc/self/fd; sleep 60")
    text = await box.until(b"\n3\n")  # 3 is what ls reads the directory by
    assert text.split() == [b"0", b"1", b"2", b"3"]
    assert await box.exec("ls", "/proc/self/fd") == (0, b"0\n1\n2\n3\n")
    await box.client.signal(9)
    await box.ended()


async def test_a_working_directory_outside_is_refused(made: Bench) -> None:
    for place in ("/proc/self/fd/7", "/proc/1/fd/8/../.."):
        with pytest.raises(SystemFailure):
            await made.run("true", cwd=place)


async def test_the_kernel_shows_nothing_of_the_runtime(made: Bench) -> None:
    """CVE-2019-5736: the container's executable and maps are its own from the first line on."""
    _, text = await made.run("sh", "-c", "readlink /proc/self/exe; cat /proc/self/maps")
    assert text.splitlines()[0] == "/bin/busybox"
    assert "python" not in text


async def test_oom_score_and_umask(made: Bench) -> None:
    _, text = await made.run(
        "sh",
        "-c",
        "cat /proc/self/oom_score_adj; umask",
        oom_score_adj=321,
        user=User(0, 0, umask=0o077),
    )
    assert text.split() == ["321", "0077"]
