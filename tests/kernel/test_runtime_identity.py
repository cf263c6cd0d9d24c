"""Users and groups, from files that a stranger wrote."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from runtimekit import Bench, bench, is_root, process

from portside.model.errors import SystemFailure
from portside.model.ociruntime import User
from portside.runtime.messages import Identity

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="containers need root here"),
    pytest.mark.asyncio(loop_scope="module"),
]
ID = "exec 2>/dev/null; id -u; id -g; id -G; echo $HOME"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def made() -> AsyncIterator[Bench]:
    async with bench() as one:
        yield one


@pytest.fixture(autouse=True)
def files(made: Bench) -> None:
    """The files as they were made, whatever the test before did to them."""
    for name in ("passwd", "group"):
        path = made.root / "etc" / name
        if path.is_symlink() or path.exists():
            path.unlink()
    write(made, "passwd", "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000:Bob:/home/bob:/bin/sh\n")
    write(made, "group", "root:x:0:\nbob:x:1000:\nwheel:x:10:bob\naudio:x:29:bob,root\n")


def write(made: Bench, name: str, text: str) -> None:
    (made.root / "etc" / name).write_text(text)


async def who(made: Bench, user: str, *groups: str) -> list[str]:
    code, text = await made.run("sh", "-c", ID, request={"identity": Identity(user, groups)})
    assert code == 0, text
    return text.splitlines()


@pytest.mark.parametrize(
    ("user", "groups", "answer"),
    [
        ("", (), ["0", "0", "0", "/root"]),
        ("root", (), ["0", "0", "0 29", "/root"]),
        ("bob", (), ["1000", "1000", "1000 10 29", "/home/bob"]),
        ("1000", (), ["1000", "1000", "1000 10 29", "/home/bob"]),
        ("bob:wheel", (), ["1000", "10", "10", "/home/bob"]),
        ("bob:77", (), ["1000", "77", "77", "/home/bob"]),
        ("4242", (), ["4242", "0", "0", "/"]),
        ("4242:4343", (), ["4242", "4343", "4343", "/"]),
        ("bob", ("audio", "55"), ["1000", "1000", "1000 10 29 55", "/home/bob"]),
        (":wheel", (), ["0", "10", "10", "/root"]),
    ],
)
async def test_names_and_numbers(
    made: Bench, user: str, groups: tuple[str, ...], answer: list[str]
) -> None:
    assert await who(made, user, *groups) == answer


@pytest.mark.parametrize(
    ("user", "groups", "said"),
    [
        ("alice", (), "unable to find user alice: no matching entries in passwd file"),
        ("bob:nobody", (), "unable to find group nobody: no matching entries in group file"),
        ("bob", ("moon",), "unable to find group moon: no matching entries in group file"),
        ("4294967295", (), "uids and gids must be in range"),
        ("-1", (), "uids and gids must be in range 0-2147483647"),
    ],
)
async def test_who_is_not_there(made: Bench, user: str, groups: tuple[str, ...], said: str) -> None:
    with pytest.raises(SystemFailure, match=said):
        await who(made, user, *groups)


async def test_files_full_of_nonsense(made: Bench) -> None:
    junk = "\n".join(
        [
            "",
            "::::::",
            "bob",
            "bob:x:notanumber:1000::/:",
            "bob:x:99999999999999999999:1::/:/bin/sh",
            "bob:x:-1:-1::/:/bin/sh",
            "+nis",
            "\0\0\0",
            "bob:x:1001:1002:Real:/real:/bin/sh",
            "",
        ]
    )
    write(made, "passwd", junk)
    write(made, "group", "wheel:x:no:bob\nwheel:x:99999999999999999999:bob\naudio:x:29:bob\n")
    assert await who(made, "bob") == ["1001", "1002", "1002 29", "/real"]


async def test_bytes_that_are_no_text(made: Bench) -> None:
    (made.root / "etc/passwd").write_bytes(b"\xff\xfe:x:1:1::/:\nbob:x:5:6:\xff:/h:/bin/sh\n")
    assert await who(made, "bob") == ["5", "6", "6 10 29", "/h"]


async def test_no_files_at_all(made: Bench) -> None:
    (made.root / "etc/passwd").unlink()
    (made.root / "etc/group").unlink()
    assert await who(made, "12:34") == ["12", "34", "34", "/"]
    with pytest.raises(SystemFailure, match="unable to find user bob"):
        await who(made, "bob")


async def test_a_link_to_the_hosts_file_shows_the_containers(made: Bench) -> None:
    host = next(
        line.split(":")
        for line in Path("/etc/passwd").read_text().splitlines()
        if line.split(":")[0] not in ("root", "bob")
    )
    (made.root / "etc/passwd").unlink()
    (made.root / "etc/passwd").symlink_to("../../../../../../../../etc/passwd")
    with pytest.raises(SystemFailure):
        await who(made, host[0])


async def test_a_fifo_or_a_device_blocks_nobody(made: Bench) -> None:
    (made.root / "etc/passwd").unlink()
    os.mkfifo(made.root / "etc/passwd")
    with pytest.raises(SystemFailure, match="unable to find user bob"):
        await who(made, "bob")
    (made.root / "etc/passwd").unlink()
    (made.root / "etc/passwd").symlink_to("/dev/zero")
    with pytest.raises(SystemFailure, match="unable to find user bob"):
        await who(made, "bob")


async def test_a_huge_file_is_read_so_far_as_is_sane(made: Bench) -> None:
    with (made.root / "etc/passwd").open("w") as file:
        file.truncate(1 << 40)  # a hole of a terabyte
    with pytest.raises(SystemFailure, match="unable to find user bob"):
        await who(made, "bob")


async def test_a_user_of_the_specification(made: Bench) -> None:
    user = User(1000, 10, additional_gids=(5, 6))
    _, text = await made.run("sh", "-c", ID, user=user)
    assert text.splitlines() == ["1000", "10", "10 5 6", "/home/bob"]


async def test_the_streams_belong_to_the_user(made: Bench) -> None:
    identity = {"identity": Identity("bob")}
    code, text = await made.run("sh", "-c", "echo ok > /dev/stdout", request=identity)
    assert (code, text) == (0, "ok\n")


async def test_exec_as_another_user(made: Bench) -> None:
    box = await made.start("sleep", "60")
    what = process("sh", "-c", ID)
    code, output, _ = await box.exec_as(Identity("bob", ("77",)), what)
    assert (code, output.split(b"\n")[:4]) == (
        0,
        [b"1000", b"1000", b"1000 10 29 77", b"/home/bob"],
    )
    with pytest.raises(SystemFailure, match="unable to find user moon"):
        await box.exec_as(Identity("moon"), what)
    await box.client.signal(9)
    await box.ended()
